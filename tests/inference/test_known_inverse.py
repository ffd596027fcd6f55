"""The inverse from a guess: as exact as that from nothing, and as honest where there is none."""

import numpy as np
import pytest

from autoreg.geometry.grid import Geometry
from autoreg.geometry.transforms import Affine, Composite, DisplacementField, invert_on_grid
from autoreg.inference.known_inverse import inverse_on_grid

SHAPE = (20, 18, 22)
# Voxel sizes and places of two grids that cover the same, and what follows the displacement.
GRID = Geometry(SHAPE, np.array([[0, 0, 1.5, 3], [0, 1, 0, 2], [2, 0, 0, -5], [0, 0, 0, 1]]))
MOVING = Geometry((30, 20, 32), np.array([[0, 0, 1.1, 3.2], [0, 1, 0, 0.7], [1.3, 0, 0, -3],
                                         [0, 0, 0, 1]]))  # fmt: skip
REST = Affine(np.array([[1.05, 0.1, 0, 1], [0, 0.97, 0, -1], [0.02, 0, 1, 1], [0, 0, 0, 1]]))


def bump(height):
    """A displacement along w by a bell of a width of two voxels; it folds from about 3.6 on."""
    axes = np.meshgrid(*(np.arange(n, dtype=np.float64) for n in SHAPE), indexing="ij")
    centre = (np.array(SHAPE) - 1) / 2
    squares = sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True))
    u_vox = np.zeros((3, *SHAPE), dtype=np.float32)
    u_vox[2] = height * np.exp(-squares / 8)
    return DisplacementField(u_vox, GRID)


def guess(field):
    return DisplacementField(-field.u_vox, GRID)


@pytest.mark.parametrize("height", [3.9, 4.5, 8.0])
def test_where_the_field_folds_the_inverse_counts_as_missing(height):
    field = bump(height)
    _, known = invert_on_grid(Composite((field, REST)), MOVING)
    _, found = inverse_on_grid(field, REST, guess(field), MOVING)
    assert 0.0005 < np.isinf(known).mean() < 0.2
    np.testing.assert_array_equal(np.isinf(found), np.isinf(known))


def test_where_nothing_folds_it_is_the_inverse_everywhere():
    field = bump(2.0)
    u_mm, known = invert_on_grid(Composite((field, REST)), MOVING)
    found_mm, found = inverse_on_grid(field, REST, guess(field), MOVING)
    assert np.isfinite(known).all()
    assert found.max() < 0.03
    np.testing.assert_allclose(found_mm, u_mm, atol=0.05)
