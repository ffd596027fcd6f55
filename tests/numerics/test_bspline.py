"""Cubic B-splines and the bounds below which they cannot fold: the theorems as properties."""

import itertools

import pytest
import torch
from steep_splines import random_signs, slopes_at_corners, whole_field, worst_signs

from autoreg.numerics.bspline import control_point_bound, spline_field, spline_matrix

# Exhaustive search, checked against the authors' published code.
_BOUNDS = {
    (1, 1, 1): 0.36,
    (2, 2, 2): 0.3854469526363808,
    (3, 3, 3): 0.37894736842105264,
    (4, 4, 4): 0.39803114051999844,
    (8, 8, 8): 0.4007250760586097,
    (16, 16, 16): 0.40175329749498856,
    (32, 32, 32): 0.40253633025170044,
    (1, 1, 2): 0.3632159747766685,
    (1, 2, 2): 0.3717990526170698,
    (2, 2, 4): 0.3843065361705068,
}
_SHARE = 0.99


def _smallest_determinant(control_points, factors):
    identity = torch.eye(3, dtype=control_points.dtype)
    slopes = slopes_at_corners(whole_field(control_points, factors), factors)
    jacobians = [part.permute(0, 3, 1, 2) + identity for part in slopes]
    return min(float(torch.linalg.det(jacobian).min()) for jacobian in jacobians)


@pytest.mark.parametrize(("factors", "bound"), _BOUNDS.items())
def test_the_bound_is_the_published_one(factors, bound):
    assert control_point_bound(factors) == pytest.approx(bound, rel=1e-14)


def test_the_bound_does_not_depend_on_the_order_of_axes():
    expected = control_point_bound((1, 2, 4))
    for factors in itertools.permutations((1, 2, 4)):
        assert control_point_bound(factors) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("factors", [(1, 1, 1), (2, 2, 2), (3, 3, 3), (4, 4, 4), (1, 2, 2)])
def test_the_bound_is_tight(factors):
    signs, steepest = worst_signs(factors)
    bound = control_point_bound(factors)
    assert bound == pytest.approx(1 / steepest, rel=1e-12)
    determinant = _smallest_determinant(signs * bound * _SHARE, factors)
    assert determinant == pytest.approx(1 - _SHARE, abs=1e-12)
    assert _smallest_determinant(signs * bound * 1.05, factors) == pytest.approx(-0.05, abs=1e-12)


@pytest.mark.parametrize("factors", [(1, 1, 1), (2, 2, 2), (4, 4, 4), (1, 2, 4)])
def test_below_the_bound_nothing_folds(factors):
    control_points = random_signs(4, (6, 5, 7)) * control_point_bound(factors) * _SHARE
    assert _smallest_determinant(control_points, factors) > 0.01
    slopes = torch.cat(
        list(slopes_at_corners(whole_field(control_points, factors), factors)), dim=3
    )
    assert slopes.abs().sum(2).max() <= _SHARE


def test_a_control_point_spreads_as_the_cubic_spline():
    alone = spline_matrix(5, 1, 5)[:, 2].tolist()
    assert alone == pytest.approx([0, 1 / 6, 2 / 3, 1 / 6, 0])
    # At a quarter and three quarters of a control voxel: 2/3 - t^2 + t^3 / 2 and (2 - t)^3 / 6.
    twice = spline_matrix(5, 2, 10)[4:7, 2].tolist()
    assert twice == pytest.approx([0.6119791666666666, 0.6119791666666666, 0.31510416666666669])


def test_the_ends_hold():
    # Replicated control points: constants stay constant to the edge, and beyond it.
    matrix = spline_matrix(3, 4, 20)
    torch.testing.assert_close(matrix.sum(1), torch.ones(20, dtype=torch.float64))
    torch.testing.assert_close(matrix[:12].flip(0, 1), matrix[:12])
    torch.testing.assert_close(matrix[-1], torch.tensor([0, 0, 1.0], dtype=torch.float64))


def test_linear_control_points_give_the_linear_field_of_the_sample_centres():
    factors, controls = (2, 3, 1), (8, 7, 9)
    axes = [torch.arange(n, dtype=torch.float64) for n in controls]
    d, h, w = torch.meshgrid(*axes, indexing="ij")
    field = whole_field((2 * d - h + 3 * w)[None, None], factors)
    t = [(torch.arange(n * f) + 0.5) / f - 0.5 for n, f in zip(controls, factors, strict=True)]
    d, h, w = torch.meshgrid(*t, indexing="ij")
    inner = (0, 0, slice(4, -4), slice(6, -6), slice(2, -2))
    expected = (2 * d - h + 3 * w)[inner[2:]].double()
    torch.testing.assert_close(field[inner], expected, atol=1e-5, rtol=0)


def test_a_shorter_grid_is_the_beginning_of_the_whole_one():
    control_points = torch.randn(2, 3, 4, 3, 5, generator=torch.Generator().manual_seed(1))
    whole = spline_field(control_points, (2, 4, 2), (8, 12, 10))
    part = spline_field(control_points, (2, 4, 2), (7, 9, 10))
    torch.testing.assert_close(part, whole[:, :, :7, :9], atol=1e-6, rtol=0)
