"""Interpolation of images and labels, judged by SimpleITK and by indicators made one by one."""

import numpy as np
import pytest
import SimpleITK as sitk
from known_transforms import itk_field, sampled_mm, smooth_field
from spaces import make_geometry, smooth_image

from autoreg.errors import GeometryError
from autoreg.geometry.grid import Geometry
from autoreg.geometry.resampling import (
    resample_known,
    resample_volume,
    sample_displacement_known,
)
from autoreg.geometry.transforms import DisplacementField
from autoreg.geometry.volume import Volume
from autoreg.io.images import to_sitk
from autoreg.io.transforms import write_displacement


@pytest.fixture
def fixed():
    return make_geometry("oblique", (17, 13, 11), (1.0, 1.5, 2.0), (7, -20, 30))


@pytest.fixture
def moving():
    return make_geometry("LAS", (16, 14, 12), (1.2, 1.1, 1.4), (8, -21, 31))


@pytest.fixture
def itk(tmp_path, fixed):
    """The same field as SimpleITK's transform."""
    path = tmp_path / "u.nrrd"
    write_displacement(path, sampled_mm(smooth_field(fixed), fixed), fixed)
    return itk_field(path)


def _resampled(volume, fixed, transform, interpolator, outside):
    reference = to_sitk(Volume.intensity(np.zeros(fixed.shape), fixed))
    image = sitk.Resample(to_sitk(volume), reference, transform, interpolator, outside)
    return sitk.GetArrayFromImage(image)


@pytest.mark.parametrize(
    ("interpolation", "interpolator"),
    [
        ("linear", sitk.sitkLinear),
        ("cubic", sitk.sitkBSpline),
        ("nearest", sitk.sitkNearestNeighbor),
    ],
)
def test_images_are_interpolated_as_by_itk(fixed, moving, itk, interpolation, interpolator):
    image = Volume.intensity(smooth_image(moving), moving)
    ours = resample_volume(
        image, smooth_field(fixed), fixed, outside=-7, interpolation=interpolation
    )
    theirs = _resampled(image, fixed, itk, interpolator, -7)
    outside = theirs == -7
    assert 0.02 < outside.mean() < 0.9
    np.testing.assert_array_equal(ours.single == -7, outside)
    np.testing.assert_allclose(ours.single, theirs, atol=1e-4 * np.ptp(image.array))


def test_cubic_interpolation_follows_what_linear_cannot(fixed):
    fine = fixed.subdivided(2)
    image = Volume.intensity(smooth_image(fixed), fixed)
    truth = smooth_image(fine)
    inner = np.s_[6:-6, 6:-6, 6:-6]
    errors = {
        mode: np.abs(resample_volume(image, None, fine, interpolation=mode).single - truth)[inner]
        for mode in ("linear", "cubic")
    }
    assert errors["cubic"].mean() < 0.2 * errors["linear"].mean()


def test_label_votes_are_the_largest_indicator(fixed, moving, itk):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 6, (4, 5, 6)) * 11  # 0 to 55, in blocks
    labels = coarse.repeat(3, 0).repeat(3, 1).repeat(3, 2)[:12, :14, :16].astype(np.int32)
    volume = Volume(labels[None], moving, "label")
    field = smooth_field(fixed)
    found = resample_known(volume, field, fixed, outside=99, interpolation="linear")
    ours = found.volume.single
    assert ours.dtype == np.int32
    assert found.inside == np.count_nonzero(ours != 99)
    ids = np.unique(labels)
    shares = np.stack(
        [
            resample_volume(Volume.intensity(labels == i, moving), field, fixed, outside=-1).single
            for i in ids
        ]
    )
    inside = shares[0] >= 0
    np.testing.assert_array_equal(ours != 99, inside)
    ordered = np.sort(shares, axis=0)
    clear = inside & (ordered[-1] - ordered[-2] > 1e-4)
    assert clear.sum() > 500
    np.testing.assert_array_equal(ours[clear], ids[shares.argmax(0)][clear])
    theirs = _resampled(volume, fixed, itk, sitk.sitkLabelLinear, 99)
    np.testing.assert_array_equal(ours[clear], theirs[clear])
    nearest = resample_volume(volume, field, fixed, outside=99).single
    assert (nearest != ours).any()


def test_of_labels_that_meet_half_way_the_smaller_one_wins(fixed):
    """Rounding does not decide: here the other one is ahead by 1e-7."""
    labels = np.full((1, *fixed.shape), 7, np.int32)
    labels[..., ::2] = 3
    half = fixed.subdivided(2)
    matrix = half.index_to_world.copy()
    matrix[:3, 3] = fixed.to_world((0.137, 0.291, 1e-7))
    shape = (half.shape[0] - 2, half.shape[1] - 2, half.shape[2])
    grid = Geometry(shape, matrix)
    out = resample_volume(Volume(labels, fixed, "label"), None, grid, interpolation="linear")
    assert set(np.unique(out.single[..., 1::2])) == {3}


def test_masks_vote_too_and_cubic_labels_are_refused(fixed):
    mask = np.zeros((1, *fixed.shape), bool)
    mask[:, 4:8, 4:9, 4:10] = True
    volume = Volume(mask, fixed, "mask")
    out = resample_volume(volume, None, fixed, interpolation="linear")
    assert out.array.dtype == bool
    np.testing.assert_array_equal(out.array, mask)
    with pytest.raises(GeometryError, match="cannot be interpolated cubically"):
        resample_volume(volume, None, fixed, interpolation="cubic")


def test_one_layer_is_interpolated_in_its_plane():
    plane = make_geometry("LPS", (9, 8, 1), (1.0, 1.5, 1.0))
    image = Volume.intensity(smooth_image(plane), plane)
    for mode in ("linear", "cubic", "nearest"):
        same = resample_volume(image, smooth_field(plane, 0.0), plane, interpolation=mode)
        np.testing.assert_allclose(same.array, image.array, atol=1e-5)


def test_where_a_field_folds_its_inverse_is_counted_as_unknown(fixed):
    u_vox = np.zeros((3, *fixed.shape), np.float32)
    u_vox[2, 4:7, 4:9, 6], u_vox[2, 4:7, 4:9, 10] = 4, -4  # they pass each other
    inverse = DisplacementField(u_vox, fixed).inverse()
    image = Volume.intensity(np.ones(fixed.shape), fixed)
    with pytest.raises(GeometryError, match="no inverse"):
        resample_volume(image, inverse, fixed)
    found = resample_known(image, inverse, fixed, outside=-1)
    _, known = sample_displacement_known(inverse, fixed)
    assert 0 < len(found.unknown) < 0.3 * known.size
    np.testing.assert_array_equal(found.unknown, np.argwhere(~known))
    assert (found.volume.single[~known] == -1).all()
    assert not known[5, 6, 8]


def test_a_field_on_the_very_grid_is_sampled_at_its_nodes(fixed):
    field = smooth_field(fixed, 2.0)
    u_mm, known = sample_displacement_known(field, fixed)
    assert known.all()
    expected = np.einsum("xa,adhw->dhwx", fixed.index_to_world[:3, :3], field.u_vox)
    np.testing.assert_allclose(u_mm, expected, atol=1e-6)
    nodes = fixed.to_world(np.moveaxis(np.indices(fixed.shape), 0, -1)).reshape(-1, 3)
    by_points = (field.map_points(nodes) - nodes).reshape(u_mm.shape)
    np.testing.assert_allclose(u_mm, by_points, atol=1e-4)
