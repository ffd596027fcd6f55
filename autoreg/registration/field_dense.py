"""Refinement of a displacement block by block, where control points are too stiff.

At every block the step is Gauss-Newton's for the block and what lies around it, damped, and
composed with the displacement so far: large deformations grow from many small ones, and only what
the images ask for locally is taken over.

References:
    Lucas and Kanade, An iterative image registration technique, IJCAI 1981; Vercauteren et al.,
    Diffeomorphic demons, NeuroImage 2009.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from autoreg.field_plan import DensePlan
from autoreg.geometry.grid import FloatArray
from autoreg.numerics.axis_matrices import (
    cubic_convolution_matrix,
    gaussian_matrix,
    separable,
)
from autoreg.numerics.coordinates import index_grid, sample_index_linear
from autoreg.registration.field_course import Course
from autoreg.registration.field_level import Level
from autoreg.registration.field_similarity import Response
from autoreg.registration.placed_volume import Positions

# The longest step in blocks: a composition of steps so short does not fold by itself.
_LONGEST = 0.5
# Of a step, in blocks: neighbouring blocks share most of their voxels' windows.
_SMOOTHED = 0.5


@dataclass(frozen=True, eq=False)
class BlockField:
    """A displacement at the middles of blocks, cubic in between, its edge values held outside.

    Attributes:
        u_mm: (3, d, h, w) along the axes.
        positions: Per axis, where the middles lie.
    """

    u_mm: Tensor
    positions: Positions

    def matrices(self, positions: Positions) -> list[Tensor]:
        """Per axis, from the blocks to the values at positions."""
        return [
            cubic_convolution_matrix(_index(at, own), len(own)).to(self.u_mm)
            for at, own in zip(positions, self.positions, strict=True)
        ]

    def at(self, positions: Positions) -> Tensor:
        """The displacement on a grid of positions, (3, n_d, n_h, n_w)."""
        return separable(self.u_mm, self.matrices(positions))


def _index(at: FloatArray, own: FloatArray) -> FloatArray:
    step = own[1] - own[0] if len(own) > 1 else 1.0
    return np.asarray((at - own[0]) / step, dtype=np.float64)


def optimise_dense(
    level: Level, start: BlockField, plan: DensePlan, steps: int, course: Course
) -> BlockField:
    """Improve a displacement at one resolution.

    Args:
        level: The images.
        start: The displacement so far; on any blocks.
        plan: How far neighbours count and how much is damped.
        steps: At most.
        course: Is told of every step, and says when they no longer pay.

    Returns:
        The displacement on the level's blocks.
    """
    blocks = level.blocks_mm()
    field = BlockField(start.at(blocks), blocks)
    matrices = field.matrices(level.voxels_mm())
    still = [torch.eye(n).to(field.u_mm) for n in level.block_shape]
    around, smoothing = (
        [gaussian_matrix(n, sigma).to(field.u_mm) for n in level.block_shape]
        for sigma in (plan.neighbourhood, _SMOOTHED)
    )
    course.begin()
    best = field
    for number in range(steps + 1):  # and a last look
        warped = level.warp(field.u_mm, matrices)
        weights = level.weights_at(field.u_mm, still)
        response = level.similarity(warped, weights)
        goes_on = course.goes_on("dense", level.voxel_mm, response.value)
        best = field if course.is_best else best
        if not goes_on or number == steps:
            break
        pooled = separable(_in_blocks(level, warped, response), around)
        step = _damped_step(pooled, weights, plan.damping, level.flat)
        field = BlockField(_composed(separable(_shortened(step, level), smoothing), field), blocks)
    return best if course.astray else field


def _in_blocks(level: Level, warped: Tensor, response: Response) -> Tensor:
    """Force and curvature of every block, (9, d, h, w)."""
    result = torch.empty(9, *level.block_shape).to(warped)

    def add(layers: slice, fields: Tensor) -> None:
        result[:, level.blocks_of(layers)] = level.block_sums(fields)

    level.forces(warped, response, add)
    return result


def _damped_step(
    pooled: Tensor, weights: Tensor, damping: float, flat: tuple[bool, bool, bool]
) -> Tensor:
    """Solve (curvature + damping * typical curvature) step = force at every block."""
    force, (dd, dh, dw, hh, hw, ww) = pooled[:3], pooled[3:]
    moving_axes = 3 - sum(flat)
    mean = ((dd + hh + ww) * weights).sum() / weights.sum().clamp(min=1e-9) / moving_axes
    ridge = damping * float(mean) + 1e-20
    dd, hh, ww = dd + ridge, hh + ridge, ww + ridge
    c_dd, c_dh, c_dw = hh * ww - hw * hw, dw * hw - dh * ww, dh * hw - dw * hh
    c_hh, c_hw, c_ww = dd * ww - dw * dw, dh * dw - dd * hw, dd * hh - dh * dh
    determinant = dd * c_dd + dh * c_dh + dw * c_dw
    d, h, w = force
    solved = [
        c_dd * d + c_dh * h + c_dw * w,
        c_dh * d + c_hh * h + c_hw * w,
        c_dw * d + c_hw * h + c_ww * w,
    ]
    step: Tensor = torch.stack(solved) / determinant
    return step


def _shortened(step: Tensor, level: Level) -> Tensor:
    longest = _LONGEST * 2 * level.voxel_mm
    length = step.square().sum(0).sqrt_()
    shorter: Tensor = step * (longest / length.clamp(min=1e-12)).clamp(max=1)
    return shorter


def _composed(step: Tensor, field: BlockField) -> Tensor:
    """X -> x + step first, then the field: step(x) + u(x + step(x))."""
    spacing = [p[1] - p[0] if len(p) > 1 else 1.0 for p in field.positions]
    per_block = torch.tensor([1 / s for s in spacing]).to(step).view(3, 1, 1, 1)
    nodes = index_grid(step.shape[1:], device=step.device, dtype=step.dtype)
    points = nodes + (step * per_block)[None]
    return step + sample_index_linear(field.u_mm[None], points, "border")[0]
