"""Sampling by tables is torch's sampling; and the derivatives are those of autograd."""

import pytest
import torch

from autoreg.numerics import cells
from autoreg.numerics.cell_table import CellTable
from autoreg.numerics.coordinates import index_linear_slopes, sample_index_linear
from autoreg.numerics.field_sampling import PreparedField, adjoint_of_sampling, sample_field

_SHAPES = [(5, 6, 7), (1, 5, 7), (6, 1, 7), (6, 5, 1), (1, 1, 1), (2, 2, 2)]


def _field_and_points(shape, batch=1, dtype=torch.float32):
    """A random field, and random points of its grid, a fifth of them outside along each axis."""
    generator = torch.Generator().manual_seed(0)
    u_vox = torch.randn(batch, 3, *shape, generator=generator)
    points = torch.rand(batch, 3, 9, 8, 5, generator=generator) * 1.4 - 0.2
    return u_vox.to(dtype), (points * torch.tensor(shape).view(3, 1, 1, 1)).to(dtype)


@pytest.mark.parametrize("shape", _SHAPES)
def test_a_table_gives_what_torch_gives(shape, monkeypatch):
    monkeypatch.setattr(cells, "POINTS", 100)  # several parts, the last one shorter
    u_vox, points = _field_and_points(shape)
    table = CellTable.of(u_vox)
    expected = sample_index_linear(u_vox, points, "border")
    torch.testing.assert_close(table.values(points), expected, atol=1e-5, rtol=0)
    slopes = index_linear_slopes(u_vox, points, "border")
    torch.testing.assert_close(table.slopes(points), slopes, atol=1e-5, rtol=0)


def test_nodes_get_their_own_values_to_the_last_bit():
    u_vox, _ = _field_and_points((5, 6, 7))
    axes = [torch.arange(n, dtype=torch.float32) for n in (5, 6, 7)]
    nodes = torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]
    assert torch.equal(CellTable.of(u_vox).values(nodes), u_vox)


def test_a_coordinate_that_is_nan_gives_nan_and_infinite_ones_the_edge():
    u_vox, _ = _field_and_points((4, 4, 4))
    points = torch.full((1, 3, 2, 1, 1), 1.5)
    points[0, 1, 0] = torch.nan
    points[0, :, 1] = torch.inf
    first, second = CellTable.of(u_vox).values(points)[0, :, :, 0, 0].T
    assert first.isnan().all()
    torch.testing.assert_close(second, u_vox[0, :, -1, -1, -1])


@pytest.mark.parametrize("factors", [(1, 1, 1), (2, 3, 1)])
def test_slopes_are_the_derivatives_by_points_of_the_full_grid(factors):
    u_vox, nodes = _field_and_points((5, 6, 7), dtype=torch.float64)
    factor = torch.tensor(factors).view(3, 1, 1, 1)
    points = ((nodes + 0.5) * factor - 0.5).requires_grad_()
    values = sample_field(u_vox, factors, points)
    expected = torch.stack(
        [torch.autograd.grad(values[:, i].sum(), points, retain_graph=True)[0] for i in range(3)],
        dim=1,
    )
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        field = PreparedField(u_vox.to(dtype), factors, points[0, 0].numel())
        slopes = field.slopes(points.detach().to(dtype)).double()
        torch.testing.assert_close(slopes, expected, atol=tolerance, rtol=0)
    step = 1e-4 * torch.eye(3, dtype=torch.float64).view(3, 3, 1, 1, 1)
    inside = ((nodes % 1 > 0.01) & (nodes % 1 < 0.99)).all(1).squeeze()
    for axis in range(3):
        shifted = sample_field(u_vox, factors, points.detach() + step[axis])
        difference = (shifted - values.detach()) / 1e-4
        torch.testing.assert_close(
            difference[..., inside], expected[:, :, axis][..., inside], atol=1e-8, rtol=0
        )


@pytest.mark.parametrize("factors", [(1, 1, 1), (2, 3, 1)])
def test_sampling_passes_gradcheck(factors):
    u_vox, nodes = _field_and_points((2, 3, 2), batch=2, dtype=torch.float64)
    points = (nodes[:, :, :2, :2, :2] * torch.tensor(factors).view(3, 1, 1, 1)).contiguous()
    assert torch.autograd.gradcheck(
        lambda u, x: sample_field(u, factors, x), (u_vox.requires_grad_(), points.requires_grad_())
    )


def test_float32_gradients_are_those_of_float64():
    gradients = []
    for dtype in (torch.float64, torch.float32):
        u_vox, points = _field_and_points((5, 6, 7), batch=2, dtype=dtype)
        values = sample_field(u_vox.requires_grad_(), (1, 1, 1), points.requires_grad_())
        gradients.append(torch.autograd.grad((values**2).sum(), (u_vox, points)))
    for wide, narrow in zip(*gradients, strict=True):
        torch.testing.assert_close(narrow.double(), wide, atol=1e-4, rtol=1e-4)


def test_the_adjoint_is_the_transpose():
    u_vox, points = _field_and_points((5, 6, 7), batch=2, dtype=torch.float64)
    cotangent = torch.randn_like(points)
    left = (sample_field(u_vox, (2, 1, 3), points) * cotangent).sum()
    right = (adjoint_of_sampling(cotangent, u_vox, (2, 1, 3), points) * u_vox).sum()
    assert float(left) == pytest.approx(float(right), rel=1e-12)
