"""Transforms of points, their inverses, and what is sampled from them."""

import numpy as np
import pytest
import torch
from known_transforms import sampled_mm
from spaces import DIRECTIONS, make_geometry, smooth_image
from torch.nn import functional

from autoreg.errors import GeometryError
from autoreg.geometry.resampling import resample_volume
from autoreg.geometry.transforms import (
    Affine,
    Composite,
    DisplacementField,
    invert_on_grid,
)
from autoreg.geometry.volume import Volume

SIZE, SPACING, CENTRE = (18, 14, 10), (1.0, 1.5, 3.0), (7.0, -20.0, 30.0)


def _shift_matrix(x, y, z):
    matrix = np.eye(4)
    matrix[:3, 3] = (x, y, z)
    return matrix


def _smooth_field(geometry, amplitude_vox, seed=0):
    coarse = torch.randn(1, 3, 4, 4, 4, generator=torch.Generator().manual_seed(seed))
    u_vox = functional.interpolate(
        coarse * amplitude_vox, size=geometry.shape, mode="trilinear", align_corners=True
    )
    return DisplacementField(u_vox[0].numpy(), geometry)


def _points(geometry, count=50, seed=1):
    rng = np.random.default_rng(seed)
    return geometry.to_world(rng.uniform(0, np.array(geometry.shape) - 1, size=(count, 3)))


@pytest.mark.parametrize("orientation", DIRECTIONS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_voxel_displacement_has_its_size_in_mm_along_its_axis(orientation, axis):
    geometry = make_geometry(orientation, SIZE, SPACING, CENTRE)
    u_vox = np.zeros((3, *geometry.shape), np.float32)
    u_vox[axis] = 2
    points = _points(geometry)
    moved = DisplacementField(u_vox, geometry).map_points(points) - points
    # array axis d is ITK's k, the third column
    expected = DIRECTIONS[orientation][:, 2 - axis] * 2 * SPACING[2 - axis]
    np.testing.assert_allclose(moved, np.broadcast_to(expected, moved.shape), atol=1e-5)
    assert np.linalg.norm(moved[0]) == pytest.approx((6.0, 3.0, 2.0)[axis], abs=1e-5)


@pytest.mark.parametrize("orientation", DIRECTIONS)
def test_a_translation_pulls_back(orientation):
    """out(p) = moving(p + t): the content moves by -t, in mm, whatever the grids are."""
    fixed = make_geometry(orientation, SIZE, SPACING, CENTRE)
    moving = make_geometry("RAS", (24, 22, 20), (2.0, 2.0, 2.0), CENTRE)
    image = Volume.intensity(smooth_image(moving), moving)
    warped = resample_volume(image, Affine(_shift_matrix(3, -4, 5)), fixed)
    expected = smooth_image(fixed, shift_mm=(3, -4, 5))
    index = np.moveaxis(np.indices(fixed.shape), 0, -1)
    inside = moving.contains(fixed.to_world(index) + np.array([3, -4, 5]), -0.5)
    assert inside.mean() > 0.5
    # what is left is the error of linear interpolation on a 2 mm grid
    np.testing.assert_allclose(warped.single[inside], expected[inside], atol=0.03)
    other_sign = smooth_image(fixed, shift_mm=(-3, 4, -5))
    assert np.abs(warped.single[inside] - other_sign[inside]).mean() > 0.2


@pytest.mark.parametrize("orientation", DIRECTIONS)
def test_zero_field_and_empty_composite_are_the_identity(orientation):
    geometry = make_geometry(orientation, SIZE, SPACING, CENTRE)
    zero = DisplacementField(np.zeros((3, *geometry.shape), np.float32), geometry)
    points = _points(geometry)
    np.testing.assert_allclose(zero.map_points(points), points, atol=1e-9)
    np.testing.assert_array_equal(Composite(()).map_points(points), points)
    image = Volume.intensity(smooth_image(geometry), geometry)
    for transform in (zero, Composite(()), None):
        same = resample_volume(image, transform, geometry)
        np.testing.assert_allclose(same.array, image.array, atol=1e-5)


def test_edge_displacements_are_held_outside():
    geometry = make_geometry("LPS", (4, 4, 4), (1.0, 1.0, 1.0))
    u_vox = np.zeros((3, 4, 4, 4), np.float32)
    u_vox[2] = np.arange(4)  # along x: 0, 1, 2, 3
    field = DisplacementField(u_vox, geometry)
    moved = field.map_points([[-30.0, 0, 0], [30.0, 0, 0]])
    np.testing.assert_allclose(moved[:, 0], [-30.0, 33.0], atol=1e-5)


def test_a_composite_applies_the_first_transform_first():
    scale, shift = Affine(np.diag([2.0, 2, 2, 1])), Affine(_shift_matrix(1, 0, 0))
    np.testing.assert_allclose(Composite((scale, shift)).map_points([[1.0, 1, 1]]), [[3, 2, 2]])
    np.testing.assert_allclose(Composite((shift, scale)).map_points([[1.0, 1, 1]]), [[4, 2, 2]])
    back = Composite((shift, scale)).inverse()
    np.testing.assert_allclose(back.map_points([[4.0, 2, 2]]), [[1, 1, 1]])


@pytest.mark.parametrize("orientation", DIRECTIONS)
def test_field_and_inverse_undo_each_other(orientation):
    geometry = make_geometry(orientation, SIZE, SPACING, CENTRE)
    field = _smooth_field(geometry, 0.5)
    points = _points(geometry)
    tolerance_mm = 1e-3 * max(SPACING)
    there = field.map_points(points)
    assert np.abs(there - points).max() > 1.5
    np.testing.assert_allclose(field.inverse().map_points(there), points, atol=tolerance_mm)
    np.testing.assert_allclose(
        field.map_points(field.inverse().map_points(points)), points, atol=tolerance_mm
    )
    assert field.inverse().inverse() is field


def _folding_field():
    geometry = make_geometry("LPS", (12, 12, 12), (1.0, 1.0, 1.0))
    u_vox = np.zeros((3, 12, 12, 12), np.float32)
    u_vox[0, 4:8] = np.array([4, 1, -2, -5], np.float32)[:, None, None]
    return DisplacementField(u_vox, geometry)


def test_the_inverse_of_a_fold_is_refused_or_reported():
    field = _folding_field()
    points = _points(field.geometry)
    with pytest.raises(GeometryError, match="no inverse at"):
        field.inverse().map_points(points)
    assert not field.inverse().solve(points)[1].all()
    _, residual_mm = invert_on_grid(Composite((field,)), field.geometry)
    assert np.isinf(residual_mm[4:8]).all()
    assert np.isfinite(residual_mm[10:]).all()


@pytest.mark.parametrize("orientation", ["RAS", "oblique"])
def test_inverse_is_sampled_on_the_moving_grid(orientation):
    fixed = make_geometry(orientation, SIZE, SPACING, CENTRE)
    moving = make_geometry("LAS", (12, 10, 16), (1.5, 2.0, 1.5), (10.0, -22.0, 28.0))
    transform = Composite((_smooth_field(fixed, 0.5), Affine(_shift_matrix(3, -2, 1))))
    u_mm, residual_mm = invert_on_grid(transform, moving)
    assert u_mm.shape == (*moving.shape, 3)
    assert residual_mm.max() < 1e-3 * max(SPACING)
    points = moving.to_world(np.moveaxis(np.indices(moving.shape), 0, -1)).reshape(-1, 3)
    back = transform.map_points(points + u_mm.reshape(-1, 3))
    np.testing.assert_allclose(back, points, atol=1e-3 * max(SPACING))


@pytest.mark.parametrize("orientation", DIRECTIONS)
def test_sampled_displacement_is_what_points_do(orientation):
    fixed = make_geometry(orientation, SIZE, SPACING, CENTRE)
    coarse = fixed.resized((5, 8, 9))
    transform = Composite((_smooth_field(coarse, 0.5), Affine(_shift_matrix(3, -2, 1))))
    u_mm = sampled_mm(transform, fixed)
    assert u_mm.dtype == np.float32
    voxel = (7, 3, 11)
    point = fixed.to_world(voxel)[None]
    np.testing.assert_allclose(u_mm[voxel], (transform.map_points(point) - point)[0], atol=1e-4)


def test_labels_keep_their_values_and_type():
    fixed = make_geometry("oblique", (9, 9, 9), (1.0, 1.0, 1.0))
    moving = make_geometry("LAS", (12, 10, 11), (1.5, 2.0, 1.5))
    rng = np.random.default_rng(0)
    for dtype in (np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64):
        labels = rng.choice([3, 17, 120], size=(1, *moving.shape)).astype(dtype)
        out = resample_volume(Volume(labels, moving, "label"), None, fixed)
        assert out.array.dtype == dtype
        assert set(np.unique(out.array)) == {3, 17, 120}
    mask = rng.random((1, *moving.shape)) > 0.5
    out = resample_volume(Volume(mask, moving, "mask"), None, fixed)
    assert out.array.dtype == np.bool_


def test_beyond_the_moving_box_lies_the_outside_value():
    moving = make_geometry("LPS", (4, 4, 4), (1.0, 1.0, 1.0))
    line = make_geometry("LPS", (13, 1, 1), (0.5, 1.0, 1.0), (0.0, 0.5, 0.5))
    image = Volume.intensity(np.full((2, 4, 4, 4), 5.0), moving)
    out = resample_volume(image, None, line, outside=-1000)
    x = line.to_world([(0, 0, w) for w in range(13)])[:, 0]
    # voxel centres from -1.5 to 1.5, faces at -2 (inside) and 2 (outside), as in ITK
    expected = np.where((x >= -2) & (x < 2), 5.0, -1000.0)
    np.testing.assert_array_equal(out.array[:, 0, 0], np.stack([expected, expected]))
    each = resample_volume(image, None, line, outside=(-1000, 7)).array[:, 0, 0]
    np.testing.assert_array_equal(each, np.stack([expected, np.where(expected > 0, 5.0, 7.0)]))
    with pytest.raises(GeometryError, match="3 outside values for 2 channels"):
        resample_volume(image, None, line, outside=(0, 1, 2))


def test_what_does_not_fit_is_refused():
    geometry = make_geometry("LPS", (4, 5, 6), (1.0, 1.0, 1.0))
    with pytest.raises(GeometryError, match=r"\(3, 6, 5, 4\)"):
        DisplacementField(np.zeros((3, 4, 5, 6), np.float32), geometry)
    with pytest.raises(GeometryError, match="NaN"):
        DisplacementField(np.full((3, 6, 5, 4), np.nan, np.float32), geometry)
    with pytest.raises(GeometryError, match="singular"):
        Affine(np.diag([1.0, 0, 1, 1]))
    with pytest.raises(GeometryError, match="last row"):
        Affine(np.ones((4, 4)))
    with pytest.raises(GeometryError, match="4x4"):
        Affine(np.eye(3))
