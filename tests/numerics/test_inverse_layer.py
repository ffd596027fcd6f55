"""The inverse of displacements: exact at any point, exact gradients, each item on its own, told."""

import logging
import math

import pytest
import torch
from steep_splines import random_signs, steep_field, worst_signs
from torch._subclasses.fake_tensor import FakeTensorMode

from autoreg.errors import AutoregError
from autoreg.numerics.field_sampling import PreparedField, sample_field
from autoreg.numerics.fixed_point import solve_fixed_point
from autoreg.numerics.inverse_layer import (
    InverseSettings,
    field_nodes,
    invert_field,
    invert_points,
)

_FINE = InverseSettings(tolerance_vox=1e-12, max_evaluations=100)


def _steep_field(samples=2, seed=0, share=0.99, batch=1):
    """A displacement of random control points at the bound, in voxels of its own grid."""
    return steep_field(random_signs(batch, (5, 6, 4), seed), samples, share)


def _points(u_vox, factors, count=500, seed=1):
    """Random points of the full grid, also outside of it."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor([n * f for n, f in zip(u_vox.shape[2:], factors, strict=True)])
    points = torch.rand(len(u_vox), 3, count, 1, 1, generator=generator, dtype=torch.float64)
    return ((points * 1.4 - 0.2) * size.view(3, 1, 1, 1)).to(u_vox)


def _residual(u_vox, factors, points, y_vox):
    return float((y_vox + sample_field(u_vox, factors, y_vox) - points).abs().max())


@pytest.mark.parametrize("factors", [(1, 1, 1), (2, 2, 2), (1, 2, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_inverse_is_exact_at_any_point(factors, dtype):
    # At each axis' own scale, so that the field contracts whatever the factors.
    u_vox = (_steep_field() * torch.tensor(factors).view(3, 1, 1, 1)).to(dtype)
    points = _points(u_vox, factors)
    for tolerance in (1e-2, 1e-4):
        settings = InverseSettings(tolerance, max_evaluations=50)
        y_vox = invert_points(u_vox, factors, points, None, settings)
        assert _residual(u_vox, factors, points, y_vox) < tolerance
        back = invert_points(
            u_vox, factors, points + sample_field(u_vox, factors, points), None, settings
        )
        # |y - x| <= residual / (1 - 0.99) in theory; hardly anywhere is the field so steep.
        assert (back - points).abs().max() < 10 * tolerance


def test_a_coarse_field_is_the_linear_interpolation_at_the_voxel_centres():
    u_vox = torch.randn(1, 3, 3, 4, 2, generator=torch.Generator().manual_seed(0))
    fine = torch.nn.functional.interpolate(
        u_vox, scale_factor=(2, 4, 3), mode="trilinear", align_corners=False
    )
    nodes = field_nodes((6, 16, 6), (1, 1, 1), u_vox)
    torch.testing.assert_close(sample_field(u_vox, (2, 4, 3), nodes), fine, atol=1e-5, rtol=0)
    at_nodes = sample_field(u_vox, (2, 4, 3), field_nodes((3, 4, 2), (2, 4, 3), u_vox))
    torch.testing.assert_close(at_nodes, u_vox, atol=1e-5, rtol=0)


def test_the_stored_inverse_is_exact_at_the_nodes():
    u_vox, factors = _steep_field() * 2, (2, 2, 2)
    v_vox = invert_field(u_vox, factors, InverseSettings(1e-6, 100))
    nodes = field_nodes(u_vox.shape[2:], factors, u_vox)
    assert _residual(u_vox, factors, nodes, nodes + v_vox) < 1e-6
    # In between it is not: why maps are inverted where they are asked for.
    points = _points(u_vox, factors)
    stored = points + sample_field(v_vox, factors, points)
    assert _residual(u_vox, factors, points, stored) > 0.1


@pytest.mark.parametrize("factors", [(1, 1, 1), (1, 2, 3)])
def test_gradients_are_those_of_the_exact_inverse(factors):
    generator = torch.Generator().manual_seed(2)
    u_vox = torch.randn(2, 3, 2, 3, 2, generator=generator, dtype=torch.float64) * 0.15
    points = _points(u_vox, factors, count=3)
    guess = points + 0.1

    def invert(u_vox, points):
        return invert_points(u_vox, factors, points, guess, _FINE)

    assert torch.autograd.gradcheck(
        invert, (u_vox.requires_grad_(), points.requires_grad_()), atol=1e-6
    )


def test_one_set_of_points_for_all_items_collects_their_gradients():
    u_vox = _steep_field(batch=2, share=0.5)
    points = _points(u_vox[:1], (1, 1, 1)).requires_grad_()
    y_vox = invert_points(u_vox, (1, 1, 1), points, None, _FINE)
    assert y_vox.shape[0] == 2
    (both,) = torch.autograd.grad(y_vox.sum(), points)
    single = [
        torch.autograd.grad(invert_points(u, (1, 1, 1), points, None, _FINE).sum(), points)[0]
        for u in u_vox.split(1)
    ]
    torch.testing.assert_close(both, single[0] + single[1])


def test_float32_gradients_agree_with_float64():
    u_vox = _steep_field(batch=2, share=0.9)
    points = _points(u_vox, (2, 2, 2))
    weights = torch.randn(points.shape, generator=torch.Generator().manual_seed(4)).double()
    gradients = []
    for dtype in (torch.float64, torch.float32):
        u, p = u_vox.to(dtype).requires_grad_(), points.to(dtype).requires_grad_()
        y_vox = invert_points(u, (2, 2, 2), p, None, InverseSettings(1e-4, 50))
        gradients.append(torch.autograd.grad((y_vox * weights.to(dtype)).sum(), (u, p)))
    for wide, narrow in zip(*gradients, strict=True):
        # Points within the tolerance of a cell's face may lie in the one cell or the other.
        error = (wide - narrow).abs()
        assert error.median() < 1e-4
        assert (error > 1e-2).float().mean() < 0.01


def test_an_item_does_not_depend_on_the_others():
    easy, steep = _steep_field(share=0.05).float(), _steep_field(seed=3).float()
    u_vox = torch.cat([easy, steep])
    points = _points(u_vox, (1, 1, 1))
    settings = InverseSettings(1e-3, 50)
    together = invert_points(u_vox, (1, 1, 1), points, None, settings)
    for item in (slice(0, 1), slice(1, 2)):
        alone = invert_points(u_vox[item], (1, 1, 1), points[item], None, settings)
        assert torch.equal(together[item], alone)


@pytest.mark.parametrize("tolerance", [0.5, 1e-8])
def test_only_the_field_and_the_result_are_kept_for_the_gradient(tolerance):
    u_vox = _steep_field().requires_grad_()
    points = _points(u_vox, (1, 1, 1)).requires_grad_()
    kept = []

    def keep(tensor):
        kept.append(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y_vox = invert_points(u_vox, (1, 1, 1), points, None, InverseSettings(tolerance, 100))
    assert kept == [u_vox.data_ptr(), y_vox.data_ptr()]


def _evaluations(u_vox, tolerance, memory, start_error=0.0):
    field = PreparedField(u_vox, (1, 1, 1), u_vox[0, 0].numel())
    nodes = field_nodes(u_vox.shape[2:], (1, 1, 1), u_vox)
    if start_error:
        start = nodes + invert_field(u_vox, (1, 1, 1), _FINE) + start_error
    else:
        start = nodes
    settings = InverseSettings(tolerance, max_evaluations=200, memory=memory)
    found = solve_fixed_point(lambda y: nodes - field.values(y), start, settings)
    assert found.converged
    return found.evaluations


@pytest.mark.parametrize(("samples", "saved"), [(1, 3), (2, 5), (4, 9)])
def test_acceleration_saves_evaluations(samples, saved):
    u_vox = steep_field(worst_signs((samples,) * 3)[0], samples)
    accelerated, plain = (_evaluations(u_vox, 1e-4, memory) for memory in (4, 1))
    assert accelerated + saved <= plain


def test_a_good_guess_saves_evaluations():
    u_vox = _steep_field()
    assert _evaluations(u_vox, 1e-3, 4, start_error=1e-4) == 1 < _evaluations(u_vox, 1e-3, 4)


def test_what_contracts_converges_after_the_accelerated_evaluations_too(caplog):
    u_vox, factors = _steep_field(samples=4), (1, 1, 1)
    points = _points(u_vox, factors)
    y_vox = invert_points(u_vox, factors, points, None, InverseSettings(1e-6, max_evaluations=2))
    assert _residual(u_vox, factors, points, y_vox) < 1e-6
    assert not caplog.records


def test_what_does_not_converge_is_told(caplog):
    contracting = _steep_field(batch=1).float()
    u_vox = torch.cat([contracting, contracting * 4])
    points = _points(u_vox, (1, 1, 1))
    with caplog.at_level(logging.WARNING):
        invert_points(u_vox, (1, 1, 1), points, None, InverseSettings(1e-3, max_evaluations=20))
    (record,) = caplog.records  # one item converges, one does not
    assert "did not converge" in record.getMessage()
    assert "wanted 0.001" in record.getMessage()
    assert record.args[0] < 100  # seen early that it does not contract


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused(value, dtype):
    u_vox = _steep_field().to(dtype)
    points = _points(u_vox, (1, 1, 1))
    broken = u_vox.clone()
    broken[0, 1] = value
    settings = InverseSettings(1e-3, 20)
    with pytest.raises(AutoregError, match=r"inverse of a displacement.*infinite or NaN"):
        invert_points(broken, (1, 1, 1), points, None, settings)
    points[0, 2, 7] = value
    with pytest.raises(AutoregError, match="infinite or NaN"):
        invert_points(u_vox, (1, 1, 1), points, None, settings)


def test_shapes_and_memory_can_be_had_without_values():
    with FakeTensorMode():
        u_vox = torch.zeros(2, 3, 4, 5, 6, requires_grad=True)
        points = torch.zeros(1, 3, 8, 10, 12, requires_grad=True)
        y_vox = invert_points(u_vox, (2, 2, 2), points, None, InverseSettings(1e-3, 20))
        gradients = torch.autograd.grad(y_vox.sum(), (u_vox, points))
    assert y_vox.shape == (2, 3, 8, 10, 12)
    assert [g.shape for g in gradients] == [u_vox.shape, points.shape]


def test_the_solver_finds_other_fixed_points():
    settings = InverseSettings(1e-10, max_evaluations=20)
    start = torch.tensor([3.0, 2.0], dtype=torch.float64)
    found = solve_fixed_point(lambda x: (7 / x + x) / 2, start, settings)
    assert found.value.tolist() == pytest.approx([math.sqrt(7)] * 2, abs=1e-9)
    assert found.converged
    assert found.evaluations < 10
