"""Geometry: ITK's description, points, boxes."""

import numpy as np
import pytest
import SimpleITK as sitk
from spaces import DIRECTIONS, make_geometry

from autoreg.errors import GeometryError
from autoreg.geometry.grid import Geometry

SIZE, SPACING, CENTRE = (4, 5, 6), (1.0, 1.5, 3.0), (7.0, -20.0, 30.0)


def _itk_image(geometry):
    image = sitk.Image([int(n) for n in geometry.shape[::-1]], sitk.sitkUInt8)
    _, spacing, origin, direction = geometry.to_itk()
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(direction)
    return image


@pytest.mark.parametrize("orientation", DIRECTIONS)
def test_world_points_are_those_of_simpleitk(orientation):
    geometry = make_geometry(orientation, SIZE, SPACING, CENTRE)
    image = _itk_image(geometry)
    for index in [(0, 0, 0), (5, 0, 0), (0, 4, 0), (0, 0, 3), (1.5, 2.25, 0.5)]:
        theirs = image.TransformContinuousIndexToPhysicalPoint([float(i) for i in index[::-1]])
        np.testing.assert_allclose(geometry.to_world(index), theirs, atol=1e-9)
        np.testing.assert_allclose(geometry.to_index(theirs), index, atol=1e-9)


@pytest.mark.parametrize("orientation", DIRECTIONS)
def test_itk_description_round_trips(orientation):
    geometry = make_geometry(orientation, SIZE, SPACING, CENTRE)
    again = Geometry.from_itk(*geometry.to_itk())
    np.testing.assert_allclose(again.index_to_world, geometry.index_to_world, atol=1e-12)
    assert again.shape == (6, 5, 4)


@pytest.mark.parametrize("orientation", DIRECTIONS)
def test_derived_values(orientation):
    geometry = make_geometry(orientation, SIZE, SPACING, CENTRE)
    assert geometry.spacing_mm == pytest.approx((3.0, 1.5, 1.0))
    assert geometry.extent_mm == pytest.approx((18.0, 7.5, 4.0))
    np.testing.assert_allclose(geometry.centre_mm, CENTRE, atol=1e-9)


@pytest.mark.parametrize(
    ("orientation", "letters"),
    [("LPS", "SPL"), ("RAS", "SAR"), ("LAS", "SAL"), ("PSR", "RSP"), ("oblique", "SPR")],
)
def test_orientation_names_the_directions_of_the_array_axes(orientation, letters):
    assert make_geometry(orientation, SIZE, SPACING).orientation == letters


def test_contains_counts_voxel_faces():
    geometry = make_geometry("oblique", SIZE, SPACING, CENTRE)
    inside = [(-0.5, -0.5, -0.5), (5.5, 4.5, 3.5), (2, 2, 2)]
    outside = [(-0.6, 0, 0), (0, 4.6, 0), (0, 0, 3.6)]
    result = geometry.contains(geometry.to_world(inside + outside))
    assert result.tolist() == [True] * 3 + [False] * 3


@pytest.mark.parametrize("orientation", DIRECTIONS)
def test_resized_keeps_the_voxel_box(orientation):
    geometry = make_geometry(orientation, SIZE, SPACING, CENTRE)
    coarse = geometry.resized((3, 10, 4))
    assert coarse.extent_mm == pytest.approx(geometry.extent_mm)
    for corner in np.ndindex(2, 2, 2):
        ours = coarse.to_world(np.array(corner) * coarse.shape - 0.5)
        np.testing.assert_allclose(
            ours, geometry.to_world(np.array(corner) * geometry.shape - 0.5), atol=1e-9
        )


def test_difference_says_what_differs():
    geometry = make_geometry("LPS", SIZE, SPACING)
    assert geometry.difference(geometry) is None
    assert geometry.difference(make_geometry("LPS", SIZE, SPACING, (0.005, 0, 0))) is None
    assert "shape" in geometry.difference(make_geometry("LPS", (4, 5, 7), SPACING))
    assert "spacing" in geometry.difference(make_geometry("LPS", SIZE, (1, 1.5, 3.1)))
    assert "origin" in geometry.difference(make_geometry("LPS", SIZE, SPACING, (1, 0, 0)))
    turned = geometry.index_to_world.copy()
    turned[:3, :3] = DIRECTIONS["oblique"] @ turned[:3, :3]
    assert "direction" in geometry.difference(Geometry(geometry.shape, turned))


def test_impossible_geometries_are_refused():
    with pytest.raises(GeometryError, match="positive sizes"):
        Geometry((0, 2, 2), np.eye(4))
    with pytest.raises(GeometryError, match="singular"):
        Geometry((2, 2, 2), np.diag([1.0, 0, 1, 1]))
    with pytest.raises(GeometryError, match="finite"):
        Geometry((2, 2, 2), np.full((4, 4), np.nan))


def test_a_geometry_cannot_be_changed_from_outside():
    matrix = np.eye(4)
    geometry = Geometry((2, 2, 2), matrix)
    matrix[0, 3] = 5
    assert geometry.index_to_world[0, 3] == 0
    with pytest.raises(ValueError, match="read-only"):
        geometry.index_to_world[0, 3] = 5
