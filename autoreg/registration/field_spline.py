"""Gauss-Newton optimisation of a stationary velocity on a grid of control points."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from autoreg.field_plan import SplinePlan, StageName
from autoreg.numerics.control_grid import ControlGrid
from autoreg.registration.field_course import Course
from autoreg.registration.field_level import Level
from autoreg.registration.field_similarity import Response
from autoreg.registration.placed_volume import support

# Of a step: Gauss-Newton's curvature, summed up for each control point by itself, is too stiff.
_RELAXATION = 1.4
# Of the step before that is added to a step: what is left over where images show little would
# take many more steps otherwise.
_MOMENTUM = 0.4
# The longest step, in voxels of the level: further away the images look different.
_LONGEST = 1.0


@dataclass(frozen=True, eq=False)
class SplineField:
    """A velocity and the displacement to which it leads.

    Attributes:
        grid: Of the control points.
        velocity: Coefficients (3, *grid.shape), mm along (d, h, w).
        displacement: Coefficients of its exponential.
    """

    grid: ControlGrid
    velocity: Tensor
    displacement: Tensor

    @classmethod
    def of(cls, grid: ControlGrid, velocity: Tensor) -> "SplineField":
        """From the velocity."""
        return cls(grid, velocity, grid.exponential(velocity))


@dataclass(frozen=True)
class Penalty:
    """Half the integral of weight ((laplacian v)^2 + detail_mm^2 |grad laplacian v|^2).

    Attributes:
        weight: Of the whole, mm^2.
        detail_mm: Of the second part, mm.
    """

    weight: float
    detail_mm: float

    def of(self, grid: ControlGrid) -> Tensor:
        """Its curvature at each frequency of a grid, (*grid.shape)."""
        squared = grid.laplacian / grid.spacing_mm**2
        return self.weight * squared.square() * (1 + self.detail_mm**2 * squared)


def optimise_spline(
    level: Level,
    start: SplineField,
    penalty: Penalty,
    plan: SplinePlan,
    steps: int,
    course: Course,
    stage: StageName = "spline",
) -> SplineField:
    """Improve a velocity at one resolution.

    Each step moves the warped image a little further, phi <- phi o (id + d), to first order in the
    logarithm: the velocity grows by d.

    Args:
        level: The images.
        start: The velocity so far.
        penalty: Of the velocity.
        plan: How steps are solved for.
        steps: At most.
        course: Is told of every step, and says when they no longer pay.
        stage: What it is told that the steps belong to.

    Returns:
        The velocity.
    """
    field, grid = start, start.grid
    at_voxels, at_blocks = (
        grid.matrices(p, field.velocity) for p in (level.voxels_mm(), level.blocks_mm())
    )
    stiffness = penalty.of(grid).to(field.velocity)
    course.begin()
    best = field
    before: Tensor | float = 0.0
    for number in range(steps + 1):  # and a last look
        warped = level.warp(field.displacement, at_voxels)
        weights = level.weights_at(field.displacement, at_blocks)
        response = level.similarity(warped, weights)
        goes_on = course.goes_on(stage, level.voxel_mm, response.value)
        best = field if course.is_best else best
        if not goes_on or number == steps:
            break
        pooled = _pooled(level, warped, response, grid, at_voxels)
        step = _step(grid, pooled[:3], pooled[3:], field.velocity, stiffness, plan.inner_iterations)
        step += _MOMENTUM * before
        step *= (
            torch.tensor([0.0 if flat else 1.0 for flat in level.flat]).to(step).view(3, 1, 1, 1)
        )
        longest = float(step.square().sum(0).max().sqrt())
        step *= min(1.0, _LONGEST * level.voxel_mm / max(longest, 1e-12))
        field = SplineField.of(grid, field.velocity + step)
        before = step
    return best if course.astray else field


def _pooled(
    level: Level, warped: Tensor, response: Response, grid: ControlGrid, at_voxels: list[Tensor]
) -> Tensor:
    """Force and curvature of every control point, per volume of its cell; (9, *grid.shape)."""
    total = torch.zeros(9, *grid.shape).to(warped)
    along_d, along_h, along_w = at_voxels

    def add(layers: slice, fields: Tensor) -> None:
        used = support(along_d[layers])
        columns = along_h.T @ (fields @ along_w)
        total[:, used] += torch.einsum("dc,ndhw->nchw", along_d[layers, used], columns)

    level.forces(warped, response, add)
    # As many blocks per volume as in three dimensions, so that one weight serves for two as well.
    blocks = level.voxels_per_block / 8
    return total * (level.voxel_volume * blocks / grid.cell_volume)


def _step(
    grid: ControlGrid,
    force: Tensor,
    curvature: Tensor,
    velocity: Tensor,
    penalty: Tensor,
    iterations: int,
) -> Tensor:
    """Solve (curvature + penalty) step = force - penalty velocity, by conjugate gradients.

    In frequencies, where the penalty is diagonal; the preconditioner is penalty plus the typical
    curvature.
    """
    right = grid.to_frequencies(force) - penalty * grid.to_frequencies(velocity)
    dd, dh, dw, hh, hw, ww = curvature
    typical = [c.square().sum() / c.sum().clamp(min=1e-20) for c in (dd, hh, ww)]
    easy = 1 / (penalty + 0.5 * torch.stack(typical).view(3, 1, 1, 1) + 1e-9)

    def apply(x: Tensor) -> Tensor:
        d, h, w = grid.from_frequencies(x)
        bent = [dd * d + dh * h + dw * w, dh * d + hh * h + hw * w, dw * d + hw * h + ww * w]
        return grid.to_frequencies(torch.stack(bent)) + penalty * x

    solution = _conjugate_gradients(apply, right, easy, iterations)
    return grid.from_frequencies(solution) * _RELAXATION


def _conjugate_gradients(
    apply: Callable[[Tensor], Tensor], right: Tensor, easy: Tensor, iterations: int
) -> Tensor:
    solution, residual = torch.zeros_like(right), right.clone()
    direction = easy * residual
    size = (residual * direction).sum()
    for _ in range(iterations):
        if float(size) <= 0:
            break
        image = apply(direction)
        length = size / (direction * image).sum().clamp(min=1e-30)
        solution += length * direction
        residual -= length * image
        better = easy * residual
        now = (residual * better).sum()
        direction = better + (now / size) * direction
        size = now
    return solution
