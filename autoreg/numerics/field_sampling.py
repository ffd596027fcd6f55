"""Displacements on coarse grids, sampled at points of the full grid; and the derivatives of that.

A field may live on a coarser grid of whole factors, aligned at the edge of the field of view: its
node i sits at (i + 1/2) factor - 1/2 of the full grid. All coordinates are voxels of the full grid.
In between nodes a field is linear, outside them its edge values are held.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable

from autoreg.numerics.cell_table import CellTable
from autoreg.numerics.coordinates import (
    index_linear_gradients,
    index_linear_slopes,
    sample_index_linear,
)
from autoreg.numerics.row_sampling import suits_rows, transposed_sampling

Factors = tuple[int, int, int]

# A table costs about as much per node as sampling does per point.
_NODES_PER_POINT = 2


@dataclass(frozen=True, eq=False)
class PreparedField:
    """One field, to be sampled many times; not differentiable.

    Attributes:
        u_vox: (1, 3, d, h, w), floating point.
        factors: Voxels of the full grid per node along (d, h, w).
        points: About how many of them will be asked for in all, in one or in many calls.
    """

    u_vox: Tensor
    factors: Factors
    points: int

    @cached_property
    def _table(self) -> CellTable:
        return CellTable.of(self.u_vox)

    def values(self, points_vox: Tensor) -> Tensor:
        """The field at points (1, 3, *s), index coordinates of the full grid; (1, 3, *s)."""
        nodes = _to_nodes(points_vox, self.factors)
        if _suits_table(self.u_vox, points_vox, self.points):
            return self._table.values(nodes)
        return sample_index_linear(self.u_vox, nodes, "border")

    def slopes(self, points_vox: Tensor) -> Tensor:
        """The derivatives of the field at points, exact within the cell of a point.

        Args:
            points_vox: (1, 3, *s), index coordinates of the full grid.

        Returns:
            (1, 3, 3, *s): of each component (axis 1) along (d, h, w) (axis 2), per voxel of the
            full grid; 0 along an axis on and beyond whose ends the point lies.
        """
        nodes = _to_nodes(points_vox, self.factors)
        if _suits_table(self.u_vox, points_vox, self.points):
            slopes = self._table.slopes(nodes)
        else:
            slopes = index_linear_slopes(self.u_vox, nodes, "border")
        return _per_voxel(slopes, self.factors)


def sample_field(u_vox: Tensor, factors: Factors, points_vox: Tensor) -> Tensor:
    """The values of a displacement at points; differentiable once, in both.

    Args:
        u_vox: (B, 3, d, h, w), floating point.
        factors: Voxels of the full grid per node along (d, h, w).
        points_vox: (B, 3, *s), index coordinates of the full grid, of u's type and device.

    Returns:
        (B, 3, *s).
    """
    result: Tensor = _Sample.apply(u_vox, points_vox, factors)  # type: ignore[no-untyped-call]
    return result


def adjoint_of_sampling(
    cotangent: Tensor, u_vox: Tensor, factors: Factors, points_vox: Tensor
) -> Tensor:
    """The transpose of `sample_field` as a linear function of u.

    Args:
        cotangent: (B, 3, *s).
        u_vox: (B, 3, d, h, w); its shape alone counts.
        factors: Voxels of the full grid per node along (d, h, w).
        points_vox: (B, 3, *s).

    Returns:
        (B, 3, d, h, w): at each node the sum of the cotangents by the node's weights.
    """
    return _gradients(cotangent, u_vox, factors, points_vox, (True, False))[0]


class _Sample(torch.autograd.Function):
    """`sample_field`; keeps u and the points, which others hold anyway, and no grid for torch."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's interface
        u_vox: Tensor,
        points_vox: Tensor,
        factors: Factors,
    ) -> Tensor:
        ctx.save_for_backward(u_vox, points_vox)
        ctx.factors = factors
        count = points_vox.shape[2:].numel()
        if not _suits_table(u_vox, points_vox, count):
            return sample_index_linear(u_vox, _to_nodes(points_vox, factors), "border")
        items = zip(torch.split(u_vox, 1), torch.split(points_vox, 1), strict=True)
        return torch.cat([PreparedField(u, factors, count).values(points) for u, points in items])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        u_vox, points_vox = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:2]
        at_field, at_points = _gradients(cotangent, u_vox, ctx.factors, points_vox, wanted)
        return (at_field if wanted[0] else None, at_points if wanted[1] else None, None)


def _gradients(
    cotangent: Tensor,
    u_vox: Tensor,
    factors: Factors,
    points_vox: Tensor,
    wanted: tuple[bool, bool],
) -> tuple[Tensor, Tensor]:
    """By the field and by the points; meaningless where it isn't wanted."""
    nodes = _to_nodes(points_vox, factors)
    if wanted == (True, False) and suits_rows(u_vox, nodes):
        # Three channels are too few for the points' gradient to be faster by rows than with torch.
        return _adjoint_by_rows(cotangent, u_vox, nodes), points_vox
    at_field, at_nodes = index_linear_gradients(cotangent, u_vox, nodes, "border", wanted)
    return at_field, _per_voxel(at_nodes, factors) if wanted[1] else at_nodes


def _adjoint_by_rows(cotangent: Tensor, u_vox: Tensor, nodes: Tensor) -> Tensor:
    """By the field, on the CPU in float32; the points are nodes of the field's own grid."""
    at_field = torch.empty_like(u_vox)
    if isinstance(cotangent, FakeTensor):
        return at_field  # only memory counts
    for target, item, points in zip(at_field, cotangent, nodes, strict=True):
        rows = item.flatten(1).T.contiguous()
        sums = transposed_sampling(rows, points.flatten(1), target.shape[1:])
        target.copy_(sums.T.view_as(target))
    return at_field


def _suits_table(u_vox: Tensor, points_vox: Tensor, points: int) -> bool:
    """Whether a table is faster than torch's sampler for so many points in all."""
    return (
        u_vox.device.type == "cpu"
        and u_vox.dtype == points_vox.dtype == torch.float32
        and u_vox.shape[2:].numel() <= _NODES_PER_POINT * points
        and not isinstance(u_vox, FakeTensor)
    )


def _to_nodes(points_vox: Tensor, factors: Factors) -> Tensor:
    """Points in index coordinates of the field's own grid."""
    if factors == (1, 1, 1):
        return points_vox
    if len(set(factors)) == 1:  # one operation instead of three
        scale = 1 / factors[0]
        offset = points_vox.new_tensor((scale - 1) / 2)
        return torch.add(offset, points_vox, alpha=scale)
    return (points_vox + 0.5) / _per_axis(factors, points_vox) - 0.5


def _per_voxel(slopes: Tensor, factors: Factors) -> Tensor:
    return slopes if factors == (1, 1, 1) else slopes.div_(_per_axis(factors, slopes))


def _per_axis(factors: Factors, like: Tensor) -> Tensor:
    return torch.tensor(factors, dtype=like.dtype, device=like.device).view(3, 1, 1, 1)
