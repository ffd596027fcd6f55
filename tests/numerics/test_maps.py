"""FieldChain: order, resolution, shortcut, batch."""

import torch

from autoreg.numerics.coordinates import unit_grid
from autoreg.numerics.maps import FieldChain
from autoreg.numerics.warp import sample_at_unit


def _linear_field(shape, matrix):
    """The displacement u(x) = M x in unit coordinates; trilinear, hence exact anywhere inside."""
    return torch.einsum("ab,zbdhw->zadhw", matrix, unit_grid(shape))


def test_an_empty_chain_is_the_identity():
    assert torch.equal(FieldChain(()).dense((3, 4, 5)), unit_grid((3, 4, 5)))


def test_fields_apply_in_order_whatever_their_resolution():
    first = _linear_field((4, 5, 3), torch.diag(torch.tensor([-0.2, -0.1, -0.3])))
    second = _linear_field((7, 3, 4), torch.tensor([[0, 0.1, 0], [0, -0.2, 0], [0.05, 0, -0.1]]))
    points = torch.rand(1, 3, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    a = torch.eye(3) + torch.diag(torch.tensor([-0.2, -0.1, -0.3]))
    b = torch.eye(3) + torch.tensor([[0, 0.1, 0], [0, -0.2, 0], [0.05, 0, -0.1]])
    expected = torch.einsum("ab,zbdhw->zadhw", b @ a, points)
    torch.testing.assert_close(FieldChain((first, second))(points), expected, atol=1e-6, rtol=0)
    assert not torch.allclose(FieldChain((second, first))(points), expected, atol=1e-3)
    assert torch.equal(
        FieldChain((second,)).prepended(first)(points), FieldChain((first, second))(points)
    )


def test_dense_adds_the_first_field_without_interpolation_on_its_own_grid():
    u_unit = torch.randn(2, 3, 5, 6, 7, generator=torch.Generator().manual_seed(1)) * 0.1
    chain = FieldChain((u_unit,))
    assert torch.equal(chain.dense((5, 6, 7)), unit_grid((5, 6, 7)) + u_unit)
    torch.testing.assert_close(
        chain.dense((5, 6, 7)), chain(unit_grid((5, 6, 7))), atol=1e-6, rtol=0
    )


def test_dense_elsewhere_samples_the_field():
    u_unit = torch.randn(1, 3, 5, 6, 7, generator=torch.Generator().manual_seed(2)) * 0.1
    nodes = unit_grid((9, 4, 3))
    assert torch.equal(
        FieldChain((u_unit,)).dense((9, 4, 3)), nodes + sample_at_unit(u_unit, nodes)
    )


def test_edge_values_hold_outside():
    chain = FieldChain((torch.full((1, 3, 4, 4, 4), 0.25),))
    points = torch.tensor([-3.0, 0.5, 4.0]).view(1, 3, 1, 1, 1)
    assert chain(points).flatten().tolist() == [-2.75, 0.75, 4.25]


def test_a_batch_holds_independent_maps():
    fields = torch.randn(2, 3, 4, 4, 4, generator=torch.Generator().manual_seed(3)) * 0.1
    coarse = torch.randn(2, 3, 3, 3, 3, generator=torch.Generator().manual_seed(4)) * 0.1
    both = FieldChain((fields, coarse))
    second = both.select(slice(1, 2))
    assert torch.equal(both.dense((4, 4, 4))[1:], second.dense((4, 4, 4)))


def test_the_displacement_is_in_voxels_of_the_grid_that_is_asked_for():
    chain = FieldChain((torch.full((1, 3, 4, 4, 4), 0.25),))
    expected = torch.tensor([1.0, 2.0, 4.0]).view(1, 3, 1, 1, 1).expand(1, 3, 5, 9, 17)
    torch.testing.assert_close(chain.displacement_vox((5, 9, 17)), expected, atol=1e-5, rtol=0)
    u_unit = torch.randn(2, 3, 5, 6, 7, generator=torch.Generator().manual_seed(1)).double() * 0.1
    u_vox = FieldChain((u_unit,)).displacement_vox((5, 6, 7))
    torch.testing.assert_close(u_vox[:, 2], 6 * u_unit[:, 2])  # of the field's own type
