"""Chains in index coordinates: order, exact inverses, units, axes, batches."""

import pytest
import torch
from steep_splines import random_signs, steep_field

from autoreg.numerics.coordinates import index_grid, unit_grid
from autoreg.numerics.index_maps import (
    AffineStep,
    Displacement,
    IndexChain,
    MidpointStep,
)
from autoreg.numerics.inverse_layer import InverseSettings, invert_field

_TOLERANCE = 1e-4
_SETTINGS = InverseSettings(_TOLERANCE, max_evaluations=50)
_SHAPE = (16, 20, 24)


def _chain_and_inverse(dtype=torch.float32):
    """An affine map and two midpoint steps at the bound, on the grid and on a coarser one."""
    matrix = torch.tensor([[1.1, 0.05, 0, -1.0], [0, 0.95, 0.1, 0.5], [-0.05, 0, 1.0, 0.25]])
    linear = matrix[:, :3]
    back = torch.cat([linear.inverse(), -linear.inverse() @ matrix[:, 3:]], dim=1)
    fine = steep_field(random_signs(2, (8, 10, 12), seed=0), 2).to(dtype)
    coarse = (steep_field(random_signs(2, (4, 5, 6), seed=1), 2) * 2).to(dtype)
    guess = invert_field(coarse, (2, 2, 2), InverseSettings(1e-2, 50))
    forward = (
        AffineStep(matrix.expand(2, 3, 4).to(dtype)),
        MidpointStep(fine, (1, 1, 1), None, _SETTINGS),
        MidpointStep(coarse, (2, 2, 2), guess, _SETTINGS),
    )
    inverse = (
        MidpointStep(-coarse, (2, 2, 2), None, _SETTINGS),
        MidpointStep(-fine, (1, 1, 1), None, _SETTINGS),
        AffineStep(back.expand(2, 3, 4).to(dtype)),
    )
    return IndexChain(_SHAPE, forward), IndexChain(_SHAPE, inverse)


def _points_unit(dtype=torch.float32, batch=1):
    generator = torch.Generator().manual_seed(5)
    return (torch.rand(batch, 3, 11, 10, 9, generator=generator) * 1.2 - 0.1).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_chain_and_the_chain_of_its_inverses_meet_at_any_point(dtype):
    forward, inverse = _chain_and_inverse(dtype)
    points = _points_unit(dtype)
    last = torch.tensor(_SHAPE, dtype=dtype).view(3, 1, 1, 1) - 1
    for there, back in ((forward, inverse), (inverse, forward)):
        error_vox = (back(there(points)) - points).abs() * last
        assert error_vox.max() < 20 * _TOLERANCE
        assert error_vox.mean() < _TOLERANCE


def test_steps_apply_first_to_last_in_index_coordinates():
    shift = torch.tensor([[1.0, 0, 0, 2], [0, 1, 0, 0], [0, 0, 1, 0]])[None]
    double = torch.tensor([[2.0, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0]])[None]
    points = torch.tensor([0.5, 0.25, 0.0]).view(1, 3, 1, 1, 1)
    chain = IndexChain((5, 9, 3), (AffineStep(shift), AffineStep(double)))
    # (2, 2, 0) -> (4, 2, 0) -> (8, 4, 0) of last nodes (4, 8, 2)
    assert chain(points).flatten().tolist() == [2.0, 0.5, 0.0]


def test_the_identity_is_exact_on_its_own_grid():
    chain = IndexChain((7, 11, 13), ())
    assert torch.equal(chain.dense((7, 11, 13)), index_grid((7, 11, 13)) / _last((7, 11, 13)))
    assert not chain.displacement_vox((7, 11, 13)).any()
    torch.testing.assert_close(chain.dense((4, 5, 6)), unit_grid((4, 5, 6)), atol=1e-6, rtol=0)


def _last(shape):
    return torch.tensor(shape).view(3, 1, 1, 1) - 1


@pytest.mark.parametrize("shape", [_SHAPE, (9, 7, 30)])
def test_dense_and_displacement_are_the_map_at_the_nodes(shape):
    chain, _ = _chain_and_inverse()
    nodes = unit_grid(shape)
    expected = chain(nodes)
    # Solved to the tolerance only, hence not the same from coordinates rounded otherwise.
    torch.testing.assert_close(chain.dense(shape), expected, atol=2 * _TOLERANCE, rtol=0)
    u_vox = (expected - nodes) * _last(shape)
    torch.testing.assert_close(chain.displacement_vox(shape), u_vox, atol=5e-3, rtol=0)


def test_a_midpoint_step_undoes_one_half_and_does_the_other():
    u_vox = steep_field(random_signs(1, (8, 10, 12)), 2).double()
    exact = InverseSettings(1e-10, 100)
    points = index_grid(_SHAPE, dtype=u_vox.dtype) + 0.3
    image = MidpointStep(u_vox, (1, 1, 1), None, exact)(points)
    middle = (points + image) / 2
    for half, end in ((u_vox, points), (-u_vox, image)):
        moved = Displacement(half, (1, 1, 1))(middle)
        torch.testing.assert_close(moved, end, atol=1e-9, rtol=0)
    assert (image - points).abs().max() > 0.5


def test_an_axis_of_one_voxel_has_no_displacement():
    u_vox = torch.full((1, 3, 1, 4, 5), 0.5)
    chain = IndexChain((1, 4, 5), (Displacement(u_vox, (1, 1, 1)),))
    dense = chain.dense((1, 4, 5))
    assert not dense[:, 0].any()
    torch.testing.assert_close(dense[0, 1, 0, :, 0], (torch.arange(4) + 0.5) / 3)
    assert not chain.displacement_vox((3, 4, 5))[:, 0].any()


def test_items_of_a_batch_can_be_selected():
    chain, _ = _chain_and_inverse()
    both = chain.dense(_SHAPE)
    for item in (slice(0, 1), slice(1, 2)):
        assert torch.equal(chain.select(item).dense(_SHAPE), both[item])


def test_permuted_steps_are_the_same_map_on_reversed_axes():
    chain, _ = _chain_and_inverse(torch.float64)
    anisotropic = Displacement(torch.rand(2, 3, 8, 20, 6, dtype=torch.float64), (2, 1, 4))
    chain = IndexChain(_SHAPE, (*chain.steps, anisotropic))
    reversed_chain = IndexChain(_SHAPE[::-1], tuple(step.permuted() for step in chain.steps))
    u_vox = reversed_chain.displacement_vox(_SHAPE[::-1]).transpose(2, 4).flip(1)
    torch.testing.assert_close(u_vox, chain.displacement_vox(_SHAPE), atol=_TOLERANCE, rtol=0)


def test_a_guess_changes_nothing_but_the_work_and_gets_no_gradient():
    field = steep_field(random_signs(1, (8, 10, 12)), 2)
    guess = invert_field(field, (1, 1, 1), InverseSettings(1e-2, 50)).detach().requires_grad_()
    field = field.requires_grad_()
    fine = InverseSettings(1e-9, 100)
    results = [
        IndexChain(_SHAPE, (MidpointStep(field, (1, 1, 1), start, fine),)).dense((5, 6, 7))
        for start in (None, guess)
    ]
    torch.testing.assert_close(*results, atol=1e-8, rtol=0)
    gradients = [
        torch.autograd.grad(result.square().sum(), (field, guess), allow_unused=True)
        for result in results
    ]
    torch.testing.assert_close(gradients[0][0], gradients[1][0], atol=1e-6, rtol=0)
    assert gradients[1][1] is None


def test_a_good_guess_is_where_solving_starts(caplog):
    field = steep_field(random_signs(1, (8, 10, 12)), 2)
    guess = invert_field(field, (1, 1, 1), InverseSettings(1e-6, 100))
    once = InverseSettings(1e-5, max_evaluations=1, max_plain_evaluations=0)
    MidpointStep(field, (1, 1, 1), guess, once)(index_grid(_SHAPE, dtype=field.dtype))
    assert not caplog.records
    MidpointStep(field, (1, 1, 1), None, once)(index_grid(_SHAPE, dtype=field.dtype))
    assert "did not converge" in caplog.text


def test_gradients_reach_every_step():
    matrix = torch.eye(3, 4, dtype=torch.float64).expand(1, 3, 4).clone().requires_grad_()
    fields = [
        torch.rand(1, 3, 2, 2, 2, generator=torch.Generator().manual_seed(i)).double() * 0.3
        for i in range(2)
    ]
    nodes = torch.tensor([0.3, 0.6, 0.45], dtype=torch.float64).view(1, 3, 1, 1, 1)

    def run(matrix, first, second):
        steps = (
            AffineStep(matrix),
            Displacement(first, (2, 1, 2)),
            MidpointStep(second, (1, 2, 1), None, InverseSettings(1e-13, 100)),
        )
        return IndexChain((4, 2, 3), steps)(nodes)

    assert torch.autograd.gradcheck(run, (matrix, *(f.requires_grad_() for f in fields)), atol=1e-6)
