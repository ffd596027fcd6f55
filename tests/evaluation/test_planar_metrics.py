"""Metrics of two-dimensional pairs, held as one layer (1, H, W)."""

import numpy as np
import pytest
import torch

from autoreg.evaluation.consistency import inverse_consistency
from autoreg.evaluation.fields import central_determinant, ndv, sdlogj
from autoreg.evaluation.surface import hd95
from autoreg.geometry.grid import Geometry

SHAPE = (1, 20, 24)


def stretching(factor):
    """Along w alone, by `factor`."""
    u_vox = np.zeros((3, *SHAPE), dtype=np.float32)
    u_vox[2] = (factor - 1) * np.arange(SHAPE[2])
    return u_vox


def alternating(amplitude):
    u_vox = np.zeros((3, *SHAPE), dtype=np.float32)
    u_vox[2] = amplitude * (-1.0) ** np.arange(SHAPE[2])
    return u_vox


def test_the_determinant_is_that_of_the_plane():
    found = central_determinant(stretching(1.3))
    assert found.shape == (1, 18, 22)
    torch.testing.assert_close(found, torch.full_like(found, 1.3), atol=1e-5, rtol=0)
    assert central_determinant(stretching(1.3), crop=2).shape == (1, 16, 20)


@pytest.mark.parametrize(("amplitude", "percent"), [(0.4, 0.0), (0.8, 30.0)])
def test_ndv_is_that_of_the_same_displacement_in_a_volume(amplitude, percent):
    planar = alternating(amplitude)
    volume = np.repeat(planar, 9, axis=1)
    assert 100 * ndv(planar).fraction == pytest.approx(percent, abs=1e-3)
    assert ndv(planar).fraction == pytest.approx(ndv(volume).fraction, abs=1e-9)
    assert ndv(planar).voxels == 18 * 22


def test_sdlogj_is_that_of_the_same_displacement_in_a_volume():
    rng = np.random.default_rng(0)
    planar = np.zeros((3, *SHAPE), dtype=np.float32)
    planar[1:] = 0.1 * rng.standard_normal((2, *SHAPE))
    mask = rng.random(SHAPE) > 0.3
    volume, inside = np.repeat(planar, 9, axis=1), np.repeat(mask, 9, axis=0)
    assert sdlogj(planar) == pytest.approx(sdlogj(volume), rel=1e-6)
    one, other = (sdlogj(u, m, plus3=False) for u, m in ((planar, mask), (volume, inside)))
    assert one == pytest.approx(other, rel=1e-6)
    assert one > 0.05


def test_labels_have_outlines_and_no_faces():
    fixed = np.zeros((1, 40, 40), dtype=np.int32)
    fixed[0, 4:34, 4:34] = 1
    warped = fixed.copy()
    warped[0, 34:37, 10:20] = 1  # a bump: 8 % of the outline, but 3 % of what faces would add
    assert hd95(fixed, warped, [1])[0] == pytest.approx(3.0)


def test_the_whole_layer_counts_for_inverse_consistency():
    matrix = np.eye(4)
    matrix[:3, :3] = [[0, np.sin(0.3), np.cos(0.3)], [0, np.cos(0.3), -np.sin(0.3)], [1, 0, 0]]
    geometry = Geometry(SHAPE, matrix)
    zeros = np.zeros((*SHAPE, 3), dtype=np.float32)
    found = inverse_consistency(zeros, geometry, zeros, geometry)
    assert found.overlap_fraction > 0.8
    assert found.mean_mm == 0
