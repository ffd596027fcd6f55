"""The three flavours of target registration error."""

import numpy as np
import pytest

from autoreg.errors import DataError, GeometryError
from autoreg.evaluation.landmarks import tre_centroids, tre_learn2reg, tre_mm


def test_tre_is_the_distance_in_mm():
    mapped = np.array([[1.0, 2, 3], [0, 0, 0]])
    np.testing.assert_allclose(tre_mm(mapped, mapped + np.array([3, 0, 4])), [5, 5])


def test_tre_refuses_unpaired_landmarks():
    with pytest.raises(DataError, match=r"\(2, 3\).*\(3, 3\)"):
        tre_mm(np.zeros((2, 3)), np.zeros((3, 3)))


def test_learn2reg_tre_adds_the_displacement_and_scales_by_the_moving_spacing():
    u_vox = np.zeros((3, 9, 9, 9), np.float32)
    u_vox[0] = 2.0
    fixed = np.array([[4.0, 4, 4], [3.3, 2.2, 5.5]])
    moving = fixed + np.array([2.0, 1.0, 0.0])
    np.testing.assert_allclose(tre_learn2reg(u_vox, fixed, moving, (3, 1.25, 2)), 1.25, rtol=1e-6)


def test_learn2reg_tre_uses_cubic_splines_and_no_displacement_outside():
    ramp = np.arange(40.0)
    u_vox = np.zeros((3, 40, 40, 40))
    u_vox[0] = (0.02 * ramp**2)[:, None, None]
    points = np.array([[20.5, 20.0, 20.0], [-0.5, 20.0, 20.0]])
    target = points.copy()
    target[0, 0] += 0.02 * 20.5**2  # a spline follows the parabola, a linear sample is 0.005 off
    np.testing.assert_allclose(tre_learn2reg(u_vox, points, target, (1, 1, 1)), 0, atol=1e-6)


def test_centroids_of_blobs():
    fixed, warped = np.zeros((2, 10, 10, 10), int)
    fixed[2:5, 2:5, 2:5] = 3
    warped[2:5, 4:7, 2:5] = 3
    fixed[8, 8, 8] = 5
    fixed[6:8, 7:9, 0:1] = 4
    warped[6:8, 7:9, 2:6] = 4
    warped[0, 0, 0] = 9  # not in the fixed map
    ids, errors = tre_centroids(fixed, warped, spacing_mm=(1, 0.5, 1))
    assert ids == (3, 4, 5)
    assert errors[:2] == pytest.approx([1.0, 3.5])
    assert np.isnan(errors[2])  # lost by the warp


def test_centroids_need_one_grid():
    with pytest.raises(GeometryError):
        tre_centroids(np.zeros((2, 2, 2)), np.zeros((2, 2, 3)))
