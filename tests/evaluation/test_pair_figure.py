"""Pictures: right way up, true proportions, every orientation."""

import itertools

import numpy as np
import pytest
from matplotlib.image import imread

from autoreg.evaluation import figures
from autoreg.evaluation.figures import pair_figure
from autoreg.geometry.grid import Geometry
from autoreg.geometry.volume import Volume

X, Y, Z = np.eye(3)
AXES = {"L": X, "R": -X, "P": Y, "A": -Y, "S": Z, "I": -Z}
# A body of 30 x 40 x 50 mm whose brightness grows to the left, back and top.
EXTENT_MM = {"L": 30.0, "P": 40.0, "S": 50.0}


def head(orientation):
    """A volume with array axes along these directions, sampled at 2 mm."""
    directions = np.array([AXES[letter] for letter in orientation])
    extents = np.array([sum(abs(d) * list(EXTENT_MM.values())) for d in directions])
    shape = tuple(int(n) for n in extents / 2)
    matrix = np.eye(4)
    matrix[:3, :3] = 2 * directions.T
    matrix[:3, 3] = -matrix[:3, :3] @ (np.array(shape) - 1) / 2
    geometry = Geometry(shape, matrix)
    points = geometry.to_world(np.moveaxis(np.indices(shape), 0, -1))
    body = (np.abs(points) < 0.4 * np.array(list(EXTENT_MM.values()))).all(-1)
    return Volume.intensity(body * (2 + points @ [0.03, 0.01, 0.02]), geometry), points


ORIENTATIONS = ["LPS", "RAS", "SPL", "AIL", "PSR", "IAR"]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_slices_look_the_same_for_every_orientation(orientation):
    reference, points = head("SPL")
    volume, points = head(orientation)
    assert volume.geometry.orientation == orientation
    u_mm = (0.1 * points @ np.array([[1, 0.2, 0], [0, 0.5, 0.1], [0.3, 0, 1]])).astype(np.float32)
    _, reference_points = head("SPL")
    reference_u = (
        0.1 * reference_points @ np.array([[1, 0.2, 0], [0, 0.5, 0.1], [0.3, 0, 1]])
    ).astype(np.float32)
    found = figures._views(volume, volume, volume, u_mm)
    expected = figures._views(reference, reference, reference, reference_u)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.images[0], other.images[0], atol=1e-5)
        np.testing.assert_allclose(one.log2_jacobian, other.log2_jacobian, atol=1e-4)
        # Places are counted from another corner of the grid when an axis is mirrored.
        for name in ("rows_mm", "columns_mm"):
            gap = getattr(one, name) - getattr(other, name)
            np.testing.assert_allclose(gap, gap.mean(), atol=1e-3)
        assert one.letters == other.letters


def test_views_are_radiological():
    volume, points = head("RAS")
    axial, coronal, sagittal = figures._views(volume, volume, volume, 0 * points.astype(np.float32))
    for view, (up, left) in zip(
        (axial, coronal, sagittal), (("A", "R"), ("S", "R"), ("S", "A")), strict=True
    ):
        assert (view.letters[0], view.letters[2]) == (up, left)
        image = view.images[0]
        rows, columns = (image.shape[0] // 2, image.shape[1] // 2)
        top, bottom = image[:rows].sum(), image[-rows:].sum()
        west, east = image[:, :columns].sum(), image[:, -columns:].sum()
        # brightness grows to L, P and S
        assert (top < bottom) == (up == "A")
        assert (west < east) == (left in "RA")
    assert axial.size_mm == (40, 30)
    assert coronal.size_mm == (50, 30)
    assert sagittal.size_mm == (50, 40)


def test_folds_are_marked(tmp_path):
    volume, points = head("SPL")
    u_mm = np.zeros_like(points, np.float32)
    u_mm[..., 0] = -2 * points[..., 0]  # mirrored
    view = figures._views(volume, volume, volume, u_mm)[0]
    assert np.isnan(view.log2_jacobian).all()
    pair_figure(volume, volume, volume, u_mm, tmp_path / "folds.png", "mirrored")
    green = np.all(np.abs(imread(tmp_path / "folds.png")[..., :3] - (0.224, 1, 0.078)) < 0.02, -1)
    assert green.mean() > 0.05


@pytest.mark.parametrize("shape", [(12, 40, 40), (3, 8, 64), (1, 16, 16)])
def test_odd_shapes_and_constant_images_are_drawn(tmp_path, shape):
    matrix = np.diag([5.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]]
    geometry = Geometry(shape, matrix)
    volume = Volume.intensity(np.zeros(shape), geometry)
    path = tmp_path / "figures" / "pair.png"
    pair_figure(volume, volume, volume, np.zeros((*shape, 3), np.float32), path, "flat")
    assert imread(path).ndim == 3
    assert [p.name for p in path.parent.iterdir()] == ["pair.png"]


def test_canonical_order_covers_all_48_orientations():
    for axes in itertools.permutations(("SI", "PA", "LR")):
        for letters in itertools.product(*axes):
            order, flips = figures._canonical("".join(letters))
            turned = [letters[axis] for axis in order]
            flipped = [
                {"S": "I", "I": "S", "P": "A", "A": "P", "L": "R", "R": "L"}[a] if f else a
                for a, f in zip(turned, flips, strict=True)
            ]
            assert flipped == ["S", "P", "L"]
