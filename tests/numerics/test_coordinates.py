"""Grids and units: the conventions that everything else relies on."""

import numpy as np
import pytest
import torch

from autoreg.numerics.coordinates import (
    index_grid,
    slabs,
    transformed_index_grid,
    unit_grid,
    unit_to_index_displacement,
)


def test_index_grid_holds_array_indices_in_array_order():
    grid = index_grid((3, 4, 5))
    assert grid.shape == (1, 3, 3, 4, 5)
    assert grid[0, :, 2, 1, 4].tolist() == [2, 1, 4]


@pytest.mark.parametrize("n", [1, 2, 66, 175])
def test_unit_grid_is_rounded_once_from_float64(n):
    expected = (np.arange(n) * (1.0 / max(n - 1, 1))).astype(np.float32)
    np.testing.assert_array_equal(unit_grid((n, 2, 3))[0, 0, :, 0, 0].numpy(), expected)


def test_unit_grid_runs_from_corner_to_corner_on_each_axis():
    grid = unit_grid((3, 4, 5))
    assert grid[0, :, -1, -1, -1].tolist() == [1, 1, 1]
    assert grid[0, :, 1, 0, 1].tolist() == [0.5, 0, 0.25]


def test_one_unit_is_the_grid_from_first_to_last_node():
    u_vox = unit_to_index_displacement(torch.ones(2, 3, 1, 1, 1), (5, 9, 17))
    assert u_vox[1].flatten().tolist() == [4, 8, 16]


def test_slabs_cover_the_first_axis_once():
    pieces = list(slabs((10, 4, 5), voxels=70))
    assert [piece.stop - piece.start for piece in pieces] == [3, 3, 3, 1]
    assert [i for piece in pieces for i in range(piece.start, piece.stop)] == list(range(10))
    assert len(list(slabs((3, 100, 100), voxels=7))) == 3


def test_transformed_grid_is_the_matrix_applied_to_each_index():
    rng = np.random.default_rng(0)
    matrix = np.vstack([rng.normal(size=(3, 4)), [0, 0, 0, 1]])
    grid = transformed_index_grid(
        torch.from_numpy(matrix), (6, 4, 5), slice(2, 5), dtype=torch.float64
    )
    assert grid.shape == (1, 3, 3, 4, 5)
    expected = matrix @ [2 + 1, 3, 4, 1]
    np.testing.assert_allclose(grid[0, :, 1, 3, 4].numpy(), expected[:3])
