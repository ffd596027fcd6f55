import dataclasses

import numpy as np
import pytest
from align_phantom import Phantom, affine, image, rotation
from spaces import make_geometry

from autoreg.registration.align_optimise import affine_generators, is_anatomical, moved
from autoreg.registration.align_pair import make_pyramid
from autoreg.registration.align_settings import AlignmentSettings
from autoreg.registration.align_similarity import similarity, slope
from autoreg.registration.align_starts import rotations

GRID = make_geometry("LPS", (48, 48, 48), (4.0, 4.0, 4.0))
NEAR = affine(rotation(6, (1, 0, 2)) * 1.03, (4, -3, 2))


@pytest.fixture(scope="module")
def pair():
    phantom = Phantom(1)
    grid = make_geometry("oblique", (60, 60, 40), (3.5, 3.5, 5.0))
    moving = image(phantom, grid, NEAR, contrast=lambda v: v * (1.2 - v))
    levels = make_pyramid(image(phantom, GRID), moving, AlignmentSettings(), None, None).levels
    return dataclasses.replace(levels[1], generators=affine_generators(None))


def test_the_gradient_is_that_of_the_information(pair):
    start = affine(rotation(3), (2, 0, 1))
    found = slope(pair, start)
    alone = dataclasses.astuple(similarity(pair, start))
    assert dataclasses.astuple(found.similarity) == pytest.approx(alone, rel=1e-9)
    step = 0.01  # shorter ones see the kinks of linear interpolation
    numerical = [
        -(
            similarity(pair, moved(pair, start, change)).information
            - similarity(pair, moved(pair, start, -change)).information
        )
        / (2 * step)
        for change in step * np.eye(12)
    ]
    cosine = found.gradient @ numerical / np.linalg.norm(found.gradient) / np.linalg.norm(numerical)
    assert cosine > 0.98
    assert np.linalg.norm(found.gradient) == pytest.approx(np.linalg.norm(numerical), rel=0.1)


def test_the_truth_is_better_than_its_neighbours(pair):
    best = similarity(pair, NEAR).information
    for change in 0.05 * np.concatenate([np.eye(12), -np.eye(12)]):
        assert similarity(pair, moved(pair, NEAR, change)).information < best


def test_swapped_images_have_the_same_similarity(pair):
    swapped = dataclasses.replace(pair, channels=tuple(both[::-1] for both in pair.channels))
    there, back = similarity(pair, NEAR), similarity(swapped, np.linalg.inv(NEAR))
    assert there.information == pytest.approx(back.information, rel=1e-12)
    assert there.share == back.share


def test_little_overlap_counts_for_little(pair):
    assert similarity(pair, affine(np.eye(3), (500, 0, 0))).information == 0
    aside = similarity(pair, affine(np.eye(3), (90, 0, 0)))
    assert aside.share < 0.9
    # In either direction it is the share times what the ratio alone would say.
    alone = -0.5 * np.log(1 - aside.ratio)
    assert 0 < aside.information < 0.9 * alone


def test_mirrors_and_absurd_scales_are_no_anatomy():
    assert is_anatomical(NEAR)
    assert not is_anatomical(np.diag([-1.0, 1, 1, 1]))
    assert not is_anatomical(np.diag([2.1, 1, 1, 1]))
    assert not is_anatomical(np.diag([0.45, 1, 1, 1]))


def test_starting_rotations_leave_no_gap():
    turns = rotations(180, None)
    random = np.random.default_rng(0)
    for _ in range(50):
        wanted = rotation(random.uniform(0, 180), random.normal(size=3))
        traces = np.einsum("nij,ij->n", [np.eye(3), *turns], wanted)
        assert np.rad2deg(np.arccos((traces.max() - 1) / 2)) < 25
    np.testing.assert_allclose(np.linalg.det(turns), 1)
    assert len(rotations(60, None)) < len(turns) / 4


def test_in_a_plane_rotations_keep_its_normal():
    normal = np.array([0.0, 0.6, 0.8])
    turns = rotations(60, normal)
    assert len(turns) == 4
    np.testing.assert_allclose(turns @ normal, np.tile(normal, (4, 1)), atol=1e-12)
