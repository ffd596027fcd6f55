import time

import numpy as np
import pytest
import torch
from align_phantom import (
    Phantom,
    affine,
    error_mm,
    flat_grid,
    image,
    rotation,
)
from spaces import make_geometry

from autoreg.errors import DataError, UsageError
from autoreg.geometry.volume import Volume
from autoreg.registration.align import align
from autoreg.registration.align_settings import AlignmentSettings

GRID = make_geometry("LPS", (48, 48, 48), (4.0, 4.0, 4.0))
FAR = affine(rotation(50, (1, 2, 3)), (25, -25, 20))
RIGID = AlignmentSettings(kind="rigid")


def around(matrix, orientation="LPS", size=(48, 48, 48), spacing_mm=(4.0, 4.0, 4.0)):
    return make_geometry(orientation, size, spacing_mm, matrix[:3, 3])


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    "contrast",
    [None, lambda v: np.where(v > 0.05, 1 - v, 0), lambda v: 1 - v, lambda v: 4 * v * (1.1 - v)],
    ids=["same", "foreground inverted", "all inverted", "other modality"],
)
def test_a_far_rigid_motion_is_found_whatever_the_contrast(contrast):
    phantom = Phantom(1)
    moving = image(phantom, around(FAR), FAR, contrast=contrast, noise=0.03)
    found = align(image(phantom, GRID, noise=0.03, seed=5), moving, RIGID)
    assert error_mm(found.transform, FAR) < 1.0
    np.testing.assert_allclose(np.linalg.svd(found.transform.matrix[:3, :3])[1], 1, atol=1e-9)
    assert found.kept == "aligned"
    assert found.similarity_after > found.similarity_before
    assert found.overlap_after > max(0.9, found.overlap_before)


@pytest.mark.parametrize("seed", [0, 1])
def test_scales_and_shears_are_found(seed):
    random = np.random.default_rng(seed)
    linear = rotation(30, random.normal(size=3)) @ (np.eye(3) + 0.06 * random.normal(size=(3, 3)))
    truth = affine(linear, random.uniform(-40, 40, 3))
    phantom = Phantom(seed)
    found = align(image(phantom, GRID), image(phantom, around(truth), truth), AlignmentSettings())
    assert error_mm(found.transform, truth) < 0.5
    assert found.warnings == ()


@pytest.mark.parametrize("orientation", ["RAS", "PSR", "oblique"])
def test_orientation_and_thick_slices_do_not_matter(orientation):
    phantom = Phantom(3)
    grid = around(FAR, orientation, (90, 90, 28), (2.2, 2.2, 7.0))
    found = align(image(phantom, GRID), image(phantom, grid, FAR), AlignmentSettings())
    assert error_mm(found.transform, FAR) < 1.0


def test_a_field_of_view_with_60_percent_of_the_object_suffices():
    phantom, truth = Phantom(4), affine(rotation(35, (0, 1, 1)), (10, 20, -15))
    part = make_geometry("LPS", (48, 48, 18), (4.0, 4.0, 4.0), truth[:3, 3] + (0, 0, 24))
    found = align(image(phantom, GRID), image(phantom, part, truth), AlignmentSettings())
    assert error_mm(found.transform, truth) < 1.5


def test_headers_that_are_right_are_hardly_touched_and_cost_little():
    phantom = Phantom(5)
    fixed = image(phantom, GRID, noise=0.05)
    moving = image(phantom, make_geometry("RAS", (50, 50, 50), (4.0, 4.0, 4.0)), noise=0.05, seed=1)
    align(fixed, moving, AlignmentSettings())
    start = time.process_time()
    found = align(fixed, moving, AlignmentSettings())
    assert time.process_time() - start < 2.0  # 0.2 measured
    assert found.starts == 1
    assert error_mm(found.transform, np.eye(4)) < 0.3
    assert found.warnings == ()


def test_what_the_headers_say_is_kept_where_nothing_is_better():
    fixed = image(Phantom(6), GRID)
    found = align(fixed, fixed, AlignmentSettings())
    assert found.kept == "headers"
    np.testing.assert_array_equal(found.transform.matrix, np.eye(4))
    assert found.similarity_after == found.similarity_before > 0.99
    assert found.overlap_after == 1.0


def test_the_same_pair_gives_the_same_map():
    phantom = Phantom(7)
    pair = image(phantom, GRID, noise=0.1), image(phantom, around(FAR), FAR, noise=0.1, seed=2)
    first, second = (align(*pair, AlignmentSettings()) for _ in range(2))
    np.testing.assert_array_equal(first.transform.matrix, second.transform.matrix)
    assert first.stages == second.stages


def test_masks_keep_another_object_out():
    phantom, truth = Phantom(8), affine(rotation(15), (12, 0, 0))
    fixed, moving = image(phantom, GRID), image(phantom, around(truth), truth)
    masks = []
    # A bright block that stays with the scanner.
    for volume in (fixed, moving):
        volume.array[0, :, :14, :] = 3.0
        seen = np.ones(volume.array.shape, dtype=bool)
        seen[0, :, :15, :] = False
        masks.append(Volume(seen, volume.geometry, "mask"))
    without = align(fixed, moving, RIGID)
    within = align(fixed, moving, RIGID, fixed_mask=masks[0], moving_mask=masks[1])
    assert error_mm(within.transform, truth) < 1.0
    assert error_mm(without.transform, truth) > 2 * error_mm(within.transform, truth)


def test_centres_shift_and_no_more():
    truth = affine(np.eye(3), (60, -40, 30))
    phantom = Phantom(9)
    found = align(
        image(phantom, GRID),
        image(phantom, around(truth), truth),
        AlignmentSettings(kind="centres"),
    )
    np.testing.assert_array_equal(found.transform.matrix[:3, :3], np.eye(3))
    assert error_mm(found.transform, truth) < 2.0


def test_none_trusts_the_headers():
    phantom = Phantom(10)
    moving = image(phantom, GRID, affine(np.eye(3), (20, 0, 0)))
    found = align(image(phantom, GRID), moving, AlignmentSettings(kind="none"))
    np.testing.assert_array_equal(found.transform.matrix, np.eye(4))
    assert found.starts == 0
    assert 0 < found.overlap_after < 1


@pytest.mark.parametrize("height_mm", [0.0, 30.0])
def test_an_image_of_one_layer_moves_within_its_plane(height_mm):
    phantom, truth = Phantom(11), affine(rotation(40), (15, -25, 0))
    fixed = image(phantom, flat_grid((90, 90), 2.0))
    moving = image(phantom, flat_grid((100, 80), 2.0, (15, -25, 0)), truth)
    moving = Volume.intensity(moving.array, flat_grid((100, 80), 2.0, (15, -25, height_mm)))
    found = align(fixed, moving, AlignmentSettings())
    truth[2, 3] = height_mm
    np.testing.assert_allclose(found.transform.matrix[2], [0, 0, 1, height_mm], atol=1e-9)
    np.testing.assert_allclose(found.transform.matrix[:2, 2], 0, atol=1e-9)
    assert error_mm(found.transform, truth, radii_mm=(65, 80, 0)) < 0.5


def test_a_mirrored_object_is_not_mirrored_back():
    phantom = Phantom(12)
    moving = image(phantom, GRID, affine(np.diag([-1.0, 1.0, 1.0])))
    found = align(image(phantom, GRID), moving, AlignmentSettings())
    assert np.linalg.det(found.transform.matrix[:3, :3]) > 0


def stacked(*channels):
    return Volume.intensity(np.concatenate([c.array for c in channels]), channels[0].geometry)


def test_a_channel_without_information_does_not_mislead():
    phantom, random = Phantom(3), np.random.default_rng(0)
    grids = GRID, around(FAR)
    noise = [Volume.intensity(random.normal(size=grid.shape), grid) for grid in grids]
    fixed = stacked(noise[0], image(phantom, GRID))
    moving = stacked(noise[1], image(phantom, grids[1], FAR))
    found = align(fixed, moving, RIGID)
    assert error_mm(found.transform, FAR) < 1.0
    constant = Volume.intensity(np.full(GRID.shape, 2.0), GRID)
    found = align(stacked(constant, image(phantom, GRID)), moving, RIGID)
    assert error_mm(found.transform, FAR) < 1.0
    with pytest.raises(DataError, match="2 channels and the moving image 1"):
        align(fixed, image(phantom, GRID), RIGID)


def test_channels_of_contradicting_contrasts_agree():
    """Each channel is compared with its own counterpart."""
    phantom = Phantom(4)
    fixed = stacked(*(image(phantom, GRID, contrast=c) for c in (None, lambda v: 1 - v)))
    moving = stacked(
        *(image(phantom, around(FAR), FAR, contrast=c) for c in (lambda v: 1 - v, None))
    )
    assert error_mm(align(fixed, moving, RIGID).transform, FAR) < 1.0


def test_unrelated_images_get_a_warning_with_figures():
    random = np.random.default_rng(0)
    fixed, moving = (Volume.intensity(random.normal(size=GRID.shape), GRID) for _ in range(2))
    found = align(fixed, moving, AlignmentSettings(max_rotation_deg=25))
    assert any("hardly explain" in line and "0.0" in line for line in found.warnings)


def test_a_symmetric_object_gets_a_warning_of_the_other_placement():
    ball = Phantom(13, radii_mm=(40.0, 40.0, 85.0))
    ball.parts = []
    truth = affine(rotation(90, (1, 0, 0)))
    found = align(image(ball, GRID), image(ball, GRID, truth), AlignmentSettings())
    assert any("ambiguous" in line and "degrees" in line for line in found.warnings)


def test_images_that_cannot_be_aligned_are_refused():
    good = image(Phantom(0), GRID)
    constant = Volume.intensity(np.full(GRID.shape, 7.0), GRID)
    with pytest.raises(DataError, match=r"moving image is constant \(7\)"):
        align(good, constant, AlignmentSettings())
    broken = Volume.intensity(good.array.copy(), GRID)
    broken.array[0, 3, 3, 3] = np.nan
    with pytest.raises(DataError, match="fixed image has NaN"):
        align(broken, good, AlignmentSettings())
    flat = image(Phantom(0), flat_grid((48, 48), 4.0))
    with pytest.raises(DataError, match="single layer"):
        align(flat, good, AlignmentSettings())


def test_masks_that_cannot_be_used_are_refused():
    good = image(Phantom(0), GRID)
    empty = Volume(np.zeros((1, *GRID.shape), dtype=bool), GRID, "mask")
    with pytest.raises(DataError, match="moving image's mask has no voxel"):
        align(good, good, AlignmentSettings(), moving_mask=empty)
    elsewhere = Volume(np.ones((1, *GRID.shape), dtype=bool), around(FAR), "mask")
    with pytest.raises(DataError, match="fixed image's mask lies elsewhere"):
        align(good, good, AlignmentSettings(), fixed_mask=elsewhere)
    background = np.zeros((1, *GRID.shape), dtype=bool)
    background[0, 0] = True
    dark = Volume(background, GRID, "mask")
    flat = Volume.intensity(np.where(good.array > 0.05, good.array, 0), GRID)
    with pytest.raises(DataError, match="constant where it is compared"):
        align(flat, good, AlignmentSettings(), fixed_mask=dark)


def test_headers_without_overlap_are_refused_only_where_they_are_trusted():
    far = affine(np.eye(3), (500, 0, 0))
    phantom = Phantom(2)
    fixed, moving = image(phantom, GRID), image(phantom, around(far), far)
    with pytest.raises(DataError, match="do not overlap: the headers are trusted"):
        align(fixed, moving, AlignmentSettings(kind="none"))
    found = align(fixed, moving, AlignmentSettings())
    assert found.overlap_before == 0
    assert error_mm(found.transform, far) < 0.5


@pytest.mark.parametrize(
    "changes",
    [{"kind": "rigidd"}, {"max_rotation_deg": 190}, {"samples": (1, 2, 3)}, {"steps": (0, 1, 1)}],
)
def test_impossible_settings_are_refused(changes):
    with pytest.raises(UsageError):
        AlignmentSettings(**changes)
