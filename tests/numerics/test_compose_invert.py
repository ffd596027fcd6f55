"""Composition and inversion with analytic answers."""

import math

import pytest
import torch

from autoreg.numerics import folding
from autoreg.numerics.compose import compose
from autoreg.numerics.coordinates import index_grid, slabs
from autoreg.numerics.folding import folded_cells
from autoreg.numerics.invert import Inverter
from autoreg.numerics.jacobian import jacobian_determinant
from autoreg.numerics.warp import sample_at_index, warp

SHAPE = (12, 14, 16)
INNER = (slice(None), slice(None), slice(4, -4), slice(4, -4), slice(4, -4))


def _affine_field(matrix, offset, shape=SHAPE, dtype=torch.float32):
    """u(i) = (A - 1) (i - centre) + offset: trilinear, so that interpolation is exact."""
    centre = torch.tensor([(n - 1) / 2 for n in shape], dtype=dtype).view(1, 3, 1, 1, 1)
    relative = index_grid(shape, dtype=dtype) - centre
    change = torch.as_tensor(matrix, dtype=dtype) - torch.eye(3, dtype=dtype)
    moved = torch.einsum("ab,zbdhw->zadhw", change, relative)
    return moved + torch.as_tensor(offset, dtype=dtype).view(1, 3, 1, 1, 1)


def _rotation(degrees):
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[1.0, 0, 0], [0, c, -s], [0, s, c]])


def test_translations_add_up():
    a = torch.tensor([1.5, 0, -2.0]).view(1, 3, 1, 1, 1).expand(1, 3, *SHAPE)
    b = torch.tensor([0.25, 3.0, 1.0]).view(1, 3, 1, 1, 1).expand(1, 3, *SHAPE)
    torch.testing.assert_close(compose(a, b), a + b)


def test_composition_of_affine_maps_is_the_matrix_product_in_the_right_order():
    outer, inner = torch.diag(torch.tensor([1.1, 0.8, 1.0])), _rotation(10)
    composed = compose(_affine_field(outer, [0, 0, 0]), _affine_field(inner, [0, 0, 0]))
    expected = _affine_field(outer @ inner, [0, 0, 0])
    torch.testing.assert_close(composed[INNER], expected[INNER], atol=1e-4, rtol=0)
    swapped = _affine_field(inner @ outer, [0, 0, 0])
    assert (composed - swapped)[INNER].abs().max() > 0.05


def test_warping_by_a_composition_is_warping_twice(smooth_field):
    outer, inner = smooth_field(SHAPE, 1.0, seed=1), smooth_field(SHAPE, 1.0, seed=2)
    linear = index_grid(SHAPE)[:, :1] * 2 + 1  # interpolated exactly
    once = warp(linear, compose(outer, inner))
    twice = warp(warp(linear, outer), inner)
    torch.testing.assert_close(once[INNER], twice[INNER], atol=0.05, rtol=0)


def test_inverse_of_a_translation():
    u_vox = torch.tensor([1.5, 0, -2.25]).view(1, 3, 1, 1, 1).expand(1, 3, *SHAPE)
    found = Inverter(u_vox)(index_grid(SHAPE))
    torch.testing.assert_close(found.points_vox, index_grid(SHAPE) - u_vox, atol=1e-4, rtol=0)
    assert found.converged.all()


def test_inverse_of_an_affine_map_is_the_inverse_matrix():
    matrix = _rotation(25) @ torch.diag(torch.tensor([1.4, 0.7, 1.1]))
    found = Inverter(_affine_field(matrix, [0.5, -1, 2]))(index_grid(SHAPE))
    centre = torch.tensor([(n - 1) / 2 for n in SHAPE]).view(1, 3, 1, 1, 1)
    offset = torch.tensor([0.5, -1, 2]).view(1, 3, 1, 1, 1)
    relative = torch.einsum(
        "ab,zbdhw->zadhw", torch.linalg.inv(matrix), index_grid(SHAPE) - centre - offset
    )
    expected = relative + centre
    limit = torch.tensor(SHAPE).view(1, 3, 1, 1, 1) - 1
    inside = ((expected >= 0) & (expected <= limit)).all(1, keepdim=True).expand_as(expected)
    assert inside.float().mean() > 0.4
    torch.testing.assert_close(found.points_vox[inside], expected[inside], atol=1e-3, rtol=0)
    assert found.converged.all()


def test_inverse_of_a_strong_smooth_diffeomorphism(diffeomorphism):
    """Known pre-images: x is chosen, x + u(x) is given, x must come back to 1e-3 voxel."""
    u_vox = diffeomorphism((40, 40, 40), 5.0, seed=5)
    assert u_vox.abs().max() > 6
    assert jacobian_determinant(u_vox).min() < 0.2  # and up to 4.9: far from a contraction
    assert folded_cells(u_vox).lower_vox.shape[0] == 0
    generator = torch.Generator().manual_seed(5)
    known = torch.rand(1, 3, 10, 20, 30, generator=generator) * 39
    found = Inverter(u_vox)(known + sample_at_index(u_vox, known))
    assert found.converged.all()
    assert found.residual_vox.max() <= 2e-4
    torch.testing.assert_close(found.points_vox, known, atol=1e-3, rtol=0)


def test_points_that_do_not_contract_are_solved_by_newton(diffeomorphism):
    """A turn by 130 degrees defeats fixed-point iteration (its displacement has norm 1.8)."""
    field = _affine_field(_rotation(130), [0, 0, 0], (16, 16, 16))
    targets = index_grid((16, 16, 16))[:, :, 6:10, 6:10, 6:10]
    found = Inverter(field)(targets)
    assert found.converged.all()
    assert found.residual_vox.max() <= 2e-4


def test_outside_the_grid_edge_displacements_are_held():
    u_vox = torch.full((1, 3, *SHAPE), 2.0)
    targets = torch.tensor([-20.0, 5.0, 40.0]).view(1, 3, 1, 1, 1)
    found = Inverter(u_vox)(targets)
    assert found.points_vox.flatten().tolist() == pytest.approx([-22, 3, 38], abs=1e-4)


def _fold(shape=(24, 8, 8)):
    """Index i along d goes to i + 4 sin(2 pi i / 12): it turns back between 4 and 8."""
    u_vox = torch.zeros(1, 3, *shape)
    depth = torch.arange(shape[0], dtype=torch.float32)
    u_vox[:, 0] = (4 * torch.sin(depth * 2 * math.pi / 12)).view(1, -1, 1, 1)
    return u_vox


def test_a_fold_is_reported_even_where_a_preimage_is_found():
    u_vox = _fold()
    along = u_vox[0, 0, :, 0, 0] + torch.arange(24)
    found = Inverter(u_vox)(index_grid((24, 8, 8)))
    # number of pre-images of each target, by counting crossings of the piecewise linear map
    for target in range(2, 22):
        crossings = ((along[:-1] - (target + 0.01)) * (along[1:] - (target + 0.01)) < 0).sum()
        if crossings > 1:
            assert not found.converged[0, target].any(), target
    assert found.residual_vox[0, 6].max() < 2e-4  # a pre-image was found; still not the inverse
    assert not found.converged.all()


def test_away_from_the_fold_the_inverse_stands():
    u_vox = _fold()
    u_vox[:, :, 12:] = 0
    found = Inverter(u_vox)(index_grid((24, 8, 8)))
    assert found.converged[0, 16:].all()
    assert not found.converged[0, 6].any()


def _two_dents(shape=(24, 24, 24)):
    """Two nodes far apart are pushed past their neighbours; all others stay."""
    u_vox = torch.zeros(1, 3, *shape)
    u_vox[0, 0, 4, 4, 4] = 2.5
    u_vox[0, 1, 18, 18, 18] = -2.5
    return u_vox


def test_only_the_neighbourhood_of_a_fold_is_reported():
    found = Inverter(_two_dents())(index_grid((24, 24, 24)))
    assert not found.converged[0, 5, 4, 4]
    assert not found.converged[0, 18, 17, 18]
    assert found.converged[0, 9:14].all()
    assert (~found.converged).sum() < 2 * 5**3


@pytest.mark.parametrize("voxels", [1, 2000])
def test_slabs_find_the_same_folds(monkeypatch, voxels):
    whole = folded_cells(_two_dents())
    monkeypatch.setattr(folding, "slabs", lambda shape, _: slabs(shape, voxels))
    pieces = folded_cells(_two_dents())
    assert torch.equal(pieces.lower_vox, whole.lower_vox)
    assert torch.equal(pieces.upper_vox, whole.upper_vox)


def test_a_field_with_nan_never_converges():
    u_vox = torch.zeros(1, 3, 4, 4, 4)
    u_vox[0, 0, 1, 1, 1] = math.nan
    found = Inverter(u_vox)(index_grid((4, 4, 4)))
    assert not found.converged[0, 1, 1, 1]


def test_an_inverter_gives_the_same_in_pieces(diffeomorphism):
    inverter = Inverter(diffeomorphism((16, 16, 16), 4.0))
    targets = index_grid((16, 16, 16))
    whole = inverter(targets).points_vox
    pieces = [inverter(targets[:, :, i : i + 4]).points_vox for i in range(0, 16, 4)]
    torch.testing.assert_close(torch.cat(pieces, 2), whole, atol=1e-5, rtol=0)
