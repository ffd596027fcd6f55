import numpy as np
import pytest

from autoreg.geometry.foreground import (
    bright_background,
    foreground_centre_mm,
    foreground_mask,
)
from autoreg.geometry.grid import Geometry
from autoreg.geometry.volume import Volume

SHAPE = (24, 28, 20)


def ball(centre, radius, shape=SHAPE):
    grid = np.indices(shape).reshape(3, -1).T
    return (np.linalg.norm(grid - np.array(centre), axis=1) <= radius).reshape(shape)


def noise(low, high, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).uniform(low, high, shape)


def stripped(body):
    return np.where(body, noise(5, 100), 0.0)


def noisy_background(body):
    return np.where(body, noise(60, 100), noise(0, 20, seed=1))


def hounsfield(body):
    """Soft tissue in air inside a round field of view that is padded with -3024."""
    padded = ~ball((11.5, 13.5, 9.5), 13.5)
    return np.where(body, noise(-120, 60), np.where(padded, -3024.0, noise(-1010, -990, seed=1)))


def negative(body):
    return 100 - stripped(body)


def wide_negative(body):
    """Its negative would look like Hounsfield units."""
    return 40 * (100 - stripped(body))


def noisy_negative(body):
    return 100 - np.where(body, noise(60, 100), noise(0, 8, seed=1))


@pytest.mark.parametrize(
    "make",
    [stripped, noisy_background, hounsfield, negative, wide_negative, noisy_negative],
)
def test_the_foreground_is_the_body_whatever_the_intensities(make):
    body = ball((11, 14, 9), 7)
    mask = foreground_mask(make(body).astype(np.float32))
    np.testing.assert_array_equal(mask, body)


def test_only_a_background_of_one_bright_value_is_bright():
    body = ball((11, 14, 9), 7)
    assert bright_background(negative(body)) == 100
    assert bright_background(wide_negative(body)) == 4000
    assert bright_background(noisy_negative(body)) == pytest.approx(96, abs=2)
    for dark in (stripped, noisy_background, hounsfield):
        assert bright_background(dark(body)) is None
    assert bright_background(np.full(SHAPE, 7.0)) is None
    assert bright_background(noise(0, 100)) is None  # a field of view within the body
    assert bright_background(negative(body)[9:10]) == 100


def test_one_bright_voxel_does_not_make_a_background_bright():
    """Tissue fills the field of view; beside an outlier its intensities seem all alike."""
    rng = np.random.default_rng(3)
    tissue = 300 + 40 * rng.standard_normal(SHAPE)
    tissue[8:14, 8:14, 8:14] = 40
    tissue[4, 4, 4] = 20000
    assert bright_background(tissue) is None


def test_holes_belong_to_it_and_small_parts_do_not():
    body, lung, tube = ball((11, 14, 9), 7), ball((11, 14, 9), 3), ball((2, 2, 2), 1)
    image = np.where(tube | (body & ~lung), noise(-100, 60), -1000.0)
    np.testing.assert_array_equal(foreground_mask(image), body)


def test_two_legs_both_belong_to_it():
    legs = ball((6, 14, 9), 4) | ball((17, 14, 9), 4)
    np.testing.assert_array_equal(foreground_mask(stripped(legs)), legs)


def test_a_constant_image_has_everything_as_foreground():
    assert foreground_mask(np.full(SHAPE, 7.0)).all()


def test_the_centre_is_a_world_point():
    centre = (11.0, 14.0, 9.0)
    matrix = np.array([[0, 0, 2, 5], [0, -1.5, 0, 6], [3, 0, 0, 7], [0, 0, 0, 1.0]])
    geometry = Geometry(SHAPE, matrix)
    volume = Volume.intensity(stripped(ball(centre, 6)), geometry)
    np.testing.assert_allclose(foreground_centre_mm(volume), geometry.to_world(centre), atol=1e-9)


def test_large_images_are_sampled_without_moving_the_centre():
    shape, centre = (150, 24, 20), (70.0, 12.0, 9.0)
    grid = np.indices(shape).reshape(3, -1).T - np.array(centre)
    body = (np.linalg.norm(grid / (40, 8, 6), axis=1) <= 1).reshape(shape)
    geometry = Geometry(shape, np.eye(4))
    volume = Volume.intensity(np.where(body, 50.0, 0.0), geometry)
    np.testing.assert_allclose(foreground_centre_mm(volume), centre, atol=0.05)
    assert np.count_nonzero(foreground_mask(volume.single) ^ body) < 0.1 * body.sum()
