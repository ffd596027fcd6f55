"""The inverse of a displacement at any points, differentiable by the implicit function theorem.

A field may live on a coarser grid than the points, see `autoreg.numerics.field_sampling`; all
coordinates and displacements are in voxels of the full grid.
"""

import logging
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable

from autoreg.numerics.coordinates import Size, index_grid, slabs
from autoreg.numerics.field_sampling import Factors, PreparedField, adjoint_of_sampling
from autoreg.numerics.fixed_point import FixedPoint, solve_fixed_point
from autoreg.numerics.fixed_point import InverseSettings as InverseSettings

logger = logging.getLogger(__name__)

# Points at a time while slopes (9 numbers per point) are in memory.
_SLOPE_POINTS = 2**15
# A GPU is slow with many small pieces.
_SLOPE_POINTS_CUDA = 2**21

# Points at a time and thread while they are solved for; measured: 30 % faster than all at once, and
# the memory of the accelerated iteration, about ten times the points, is that of a slab.
_SOLVED_POINTS = 2**15


def invert_points(
    u_vox: Tensor,
    factors: Factors,
    points_vox: Tensor,
    guess_vox: Tensor | None,
    settings: InverseSettings,
) -> Tensor:
    """Where x -> x + u(x) takes its value `points_vox`: y with y + u(y) = x.

    The fixed point y = x - u(y), each item of the batch on its own: it stops by itself, and its
    result does not depend on the others. u must contract (every field of a SITReg network does).
    What does not converge all the same is logged as a warning.

    The derivative is that of the exact inverse at y, dy = (I + Du(y))^-1 (dx - du(y)). Only u and y
    are kept for it, whatever the number of iterations.

    Args:
        u_vox: (B, 3, d, h, w), channels (d, h, w); floating point.
        factors: Voxels of the full grid per node of u along (d, h, w).
        points_vox: (B, 3, *s), index coordinates of the full grid; a batch of 1 serves all.
        guess_vox: A first y (B, 3, *s), not differentiated; None: `points_vox`.
        settings: When to stop.

    Returns:
        y (B, 3, *s), within less than `settings.tolerance_vox` of a solution in every component of
        y + u(y) - x.

    Raises:
        AutoregError: Infinite or NaN values.
    """
    points_vox = points_vox.expand(u_vox.shape[0], *points_vox.shape[1:])
    result: Tensor = _Inverse.apply(u_vox, points_vox, guess_vox, factors, settings)  # type: ignore[no-untyped-call]
    return result


def invert_field(u_vox: Tensor, factors: Factors, settings: InverseSettings) -> Tensor:
    """The inverse of a displacement as a field on the nodes of u, where alone it is exact.

    Args:
        u_vox: (B, 3, d, h, w), voxels of the full grid.
        factors: Voxels of the full grid per node along (d, h, w).
        settings: When to stop.

    Returns:
        v (B, 3, d, h, w) with v(x) + u(x + v(x)) = 0 at the nodes x; differentiable.

    Raises:
        AutoregError: Infinite or NaN values.
    """
    nodes = field_nodes(u_vox.shape[2:], factors, u_vox)
    return invert_points(u_vox, factors, nodes, None, settings) - nodes


def field_nodes(shape: Size, factors: Factors, like: Tensor) -> Tensor:
    """The nodes of a field, in index coordinates of the full grid.

    Args:
        shape: Nodes along (d, h, w).
        factors: Voxels of the full grid per node.
        like: Device and type of the result.

    Returns:
        (1, 3, *shape).
    """
    spacing = torch.tensor(factors, dtype=like.dtype, device=like.device).view(1, 3, 1, 1, 1)
    return (index_grid(shape, device=like.device, dtype=like.dtype) + 0.5) * spacing - 0.5


class _Inverse(torch.autograd.Function):
    """`invert_points` for points of u's batch."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's interface
        u_vox: Tensor,
        points_vox: Tensor,
        guess_vox: Tensor | None,
        factors: Factors,
        settings: InverseSettings,
    ) -> Tensor:
        start_vox = points_vox if guess_vox is None else guess_vox
        items = zip(*(torch.split(t, 1) for t in (u_vox, points_vox, start_vox)), strict=True)
        count = points_vox.shape[2:].numel()
        solved = [
            _solve(PreparedField(u, factors, count), points, start, settings)
            for u, points, start in items
        ]
        y_vox = torch.cat(solved) if len(solved) > 1 else solved[0]
        ctx.save_for_backward(u_vox, y_vox)
        ctx.factors = factors
        return y_vox

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        u_vox, y_vox = ctx.saved_tensors
        at_points = torch.empty_like(cotangent)
        for number in range(len(y_vox)):
            item = slice(number, number + 1)
            field = PreparedField(u_vox[item], ctx.factors, y_vox.shape[2:].numel())
            most = _SLOPE_POINTS_CUDA if cotangent.is_cuda else _SLOPE_POINTS
            for layers in slabs(cotangent.shape[2:], most):
                slopes = field.slopes(y_vox[item, :, layers])
                right = cotangent[item, :, layers]
                at_points[item, :, layers] = _solve_transposed(slopes, right)
                if isinstance(cotangent, FakeTensor):
                    break  # only memory counts, which is the same for all slabs
        at_field = None
        if ctx.needs_input_grad[0]:
            at_field = -adjoint_of_sampling(at_points, u_vox, ctx.factors, y_vox)
        return at_field, at_points, None, None, None


def _solve(
    field: PreparedField, points_vox: Tensor, start_vox: Tensor, settings: InverseSettings
) -> Tensor:
    y_vox = torch.empty_like(points_vox)
    worst: FixedPoint | None = None
    for layers in slabs(points_vox.shape[2:], _points_at_a_time(points_vox)):
        found = _solve_slab(field, points_vox[:, :, layers], start_vox[:, :, layers], settings)
        y_vox[:, :, layers] = found.value
        if not found.converged and (worst is None or found.change > worst.change):
            worst = found
        if isinstance(points_vox, FakeTensor):
            break  # only memory counts, which is the same for all slabs
    if worst is not None:
        logger.warning(
            "the inverse of a displacement did not converge: after %d evaluations points still "
            "move by %.3g voxel, wanted %.3g; the displacement may fold",
            worst.evaluations,
            worst.change,
            settings.tolerance_vox,
        )
    return y_vox


def _solve_slab(
    field: PreparedField, points_vox: Tensor, start_vox: Tensor, settings: InverseSettings
) -> FixedPoint:
    return solve_fixed_point(lambda y_vox: points_vox - field.values(y_vox), start_vox, settings)


def _points_at_a_time(points_vox: Tensor) -> int:
    """On the CPU slabs fit into its cache, and each one stops by itself."""
    if points_vox.is_cuda:
        return points_vox[0, 0].numel()
    return _SOLVED_POINTS * torch.get_num_threads()


def _solve_transposed(slopes: Tensor, right: Tensor) -> Tensor:
    """Solve (I + Du)^T w = right, by elimination.

    Where u contracts, each column of the matrix is dominated by its diagonal, so that pivots need
    not be searched for.

    Args:
        slopes: Du (1, 3, 3, ...), derivatives of component i (axis 1) along axis d (axis 2);
            overwritten.
        right: (1, 3, ...).

    Returns:
        (1, 3, ...).
    """
    for axis in range(3):
        slopes[:, axis, axis] += 1
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind() for row in slopes[0].transpose(0, 1))
    solution = right.clone()
    x, y, z = solution[0]
    _eliminate(d, a, (b, c, x), (e, f, y))
    _eliminate(g, a, (b, c, x), (h, i, z))
    _eliminate(h, e, (f, y), (i, z))
    z /= i
    y.addcmul_(f, z, value=-1).div_(e)
    x.addcmul_(b, y, value=-1).addcmul_(c, z, value=-1).div_(a)
    return solution


def _eliminate(
    entry: Tensor, pivot: Tensor, row: tuple[Tensor, ...], from_row: tuple[Tensor, ...]
) -> None:
    """Subtract the multiple of a row that makes `entry` 0; all are overwritten but the row."""
    entry /= pivot
    for target, values in zip(from_row, row, strict=True):
        target.addcmul_(entry, values, value=-1)
