"""How well images agree, and whether they show one contrast."""

import numpy as np
import pytest

from autoreg.geometry.grid import Geometry
from autoreg.geometry.transforms import Affine
from autoreg.geometry.volume import Volume
from autoreg.registration.contrast import coarse_pair

SHAPE = (30, 34, 32)


def volume(array, offset=0.0):
    matrix = np.diag([2.0, 2, 2, 1])
    matrix[:3, 3] = offset
    return Volume.intensity(array, Geometry(array.shape[-3:], matrix))


def texture(seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.random((8, 9, 8))
    array = coarse.repeat(4, 0).repeat(4, 1).repeat(4, 2)[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    return array + 0.02 * rng.random(SHAPE)


def agreement(one, other, shift=0.0):
    matrix = np.eye(4)
    matrix[:3, 3] = shift
    return coarse_pair(one, other, None, None).agreement(Affine(matrix))


def test_an_image_agrees_with_itself_and_its_negative():
    image = volume(texture())
    same, negative = (agreement(image, volume(a)) for a in (texture(), 1 - texture()))
    assert same.correlation > 0.999
    assert same.one_contrast
    assert negative.correlation < -0.999
    assert negative.absolute > 0.999
    assert not negative.one_contrast


def test_brightness_and_scale_do_not_matter():
    image = volume(texture())
    assert agreement(image, volume(300 * texture() - 50)).correlation > 0.999


def test_what_is_compared_lies_where_the_transform_says():
    shifted = volume(texture(), offset=7.0)
    assert agreement(volume(texture()), shifted, 7.0).correlation > 0.999
    assert agreement(volume(texture()), shifted).correlation < 0.9


def test_images_that_do_not_meet_have_no_agreement():
    found = agreement(volume(texture()), volume(texture()), 1000.0)
    assert found.windows == 0
    assert found.one_contrast


def test_only_the_mask_counts():
    array = texture()
    array[15:] = texture(1)[15:]
    mask = np.zeros(SHAPE, dtype=bool)
    mask[:12] = True
    masked = coarse_pair(
        volume(texture()), volume(array), Volume(mask[None], volume(array).geometry, "mask"), None
    )
    whole = coarse_pair(volume(texture()), volume(array), None, None)
    identity = Affine(np.eye(4))
    assert masked.agreement(identity).correlation > 0.999
    assert whole.agreement(identity).correlation == pytest.approx(0.5, abs=0.25)


def test_every_channel_counts():
    """A first channel without information does not hide what the second one says."""
    rng = np.random.default_rng(0)
    noise = [rng.random(SHAPE) for _ in range(2)]
    same, other = (
        volume(np.stack([n, texture(seed)])) for n, seed in zip(noise, (0, 5), strict=True)
    )
    again = volume(np.stack([noise[1], texture()]))
    assert agreement(same, again).correlation > 0.4
    assert abs(agreement(same, other).correlation) < 0.1
    negative = volume(np.stack([noise[1], 1 - texture()]))
    assert not agreement(same, negative).one_contrast
    alone = agreement(volume(texture()), volume(texture()))
    assert agreement(same, again).windows > 1.3 * alone.windows


def test_what_the_moving_mask_hides_does_not_count():
    array = texture()
    array[15:] = 30 * texture(1)[15:]
    mask = np.zeros(SHAPE, dtype=bool)
    mask[:14] = True
    moving = volume(array)
    inside = Volume(mask[None], moving.geometry, "mask")
    masked = coarse_pair(volume(texture()), moving, None, inside).agreement(Affine(np.eye(4)))
    assert masked.correlation > 0.999
    assert 0 < masked.windows < mask.sum()


@pytest.mark.parametrize("shape", [(4, 34, 32), (1, 4, 32)])
def test_thin_images_are_compared(shape):
    """An axis of four voxels is shorter than a window."""
    array = texture()[tuple(slice(n) for n in shape)]
    assert agreement(volume(array), volume(array)).correlation > 0.99
