"""The registration of one prepared pair, in memory."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from autoreg.errors import AutoregError, GeometryError
from autoreg.geometry.transforms import Affine, Composite, DisplacementField
from autoreg.networks.base import RegistrationNetwork, eval_mode
from autoreg.numerics.coordinates import slabs, unit_grid, unit_to_index_displacement
from autoreg.numerics.maps import CoordinateMap
from autoreg.numerics.precision import float32_exactly
from autoreg.plan import InstanceOptimisationPlan, Plan
from autoreg.registration.field_network import FieldNetwork, optimised_network
from autoreg.registration.instance_optimisation import Trace, TraceStep, optimise, preserved
from autoreg.registration.objective import LossValues, Objective, PairObjective
from autoreg.registration.prepare import Prepared
from autoreg.registration.repeated_warnings import warned_once

# Nodes of the result per node of the prepared grid, along each axis, at most.
_FINEST = 4
# Sampled at a time, at some hundred bytes each.
_SLAB_NODES = 2**18


@dataclass(frozen=True, eq=False)
class Registration:
    """The result of one registration.

    Attributes:
        transform: Takes world points of the fixed image to the moving image (pull-back).
        u_vox: (3, D, H, W) float32, the same as displacement in voxels of the grid on which the map
            was sampled: the prepared one, or one as fine as the fixed image where the network's map
            is exact between nodes.
        trace: Of the instance optimisation; None without it.
        loss_before: Loss of the network as it was trained; None without instance optimisation.
        loss_after: Loss of the result; None without instance optimisation.
        seconds: Wall time.
    """

    transform: Composite
    u_vox: NDArray[np.float32]
    trace: Trace | None
    loss_before: LossValues | None
    loss_after: LossValues | None
    seconds: float


@float32_exactly()
@warned_once()
def register(
    network: RegistrationNetwork,
    plan: Plan,
    fixed: Prepared,
    moving: Prepared,
    io: InstanceOptimisationPlan | None = None,
    objective: Objective | None = None,
    on_step: Callable[[TraceStep], None] | None = None,
) -> Registration:
    """Register a pair in float32 (TF32 off); the network is afterwards what it was before.

    Args:
        network: On the images' device.
        plan: Its loss is obeyed, and its instance optimisation unless `io` is given.
        fixed: Prepared for this plan.
        moving: Likewise.
        io: Instance optimisation in place of the plan's.
        objective: What instance optimisation minimises in place of the plan's loss.
        on_step: Hears of every step of the instance optimisation.

    Returns:
        Transform, displacement, and the course of the instance optimisation.

    Raises:
        GeometryError: if the images were prepared on different grids.
        PlanError: if `io` does not go with the plan.
        AutoregError: if the loss or the displacement is not a number.
    """
    start = time.perf_counter()
    if fixed.image.shape != moving.image.shape:
        raise GeometryError(
            f"fixed and moving were prepared differently: {tuple(fixed.image.shape)} and "
            f"{tuple(moving.image.shape)} (1, C, D, H, W); prepare both with one plan"
        )
    # With the plan's own checks of what goes together.
    io = replace(plan, instance_optimisation=io or plan.instance_optimisation).instance_optimisation
    trace, after = None, None
    if io.mode == "none" or io.steps == 0:
        with eval_mode(network), torch.no_grad():
            # Nobody needs the other direction here, and it would double the time.
            field = _field(network.one_direction(moving.image, fixed.image), fixed)
    else:
        objective = objective or Objective.from_plan(plan)
        pair = objective.bind(moving.image, fixed.image, moving.mask, fixed.mask)
        optimised = optimised_network(network, pair.moving, pair.fixed, io)
        with preserved(optimised):
            trace = optimise(optimised, pair, io, on_step)
            field, after = _result(optimised, pair, fixed, io)
    return Registration(
        transform=_transform(field, fixed, moving),
        u_vox=field.u_vox,
        trace=trace,
        loss_before=trace.steps[0].loss if trace else None,
        loss_after=after,
        seconds=time.perf_counter() - start,
    )


@torch.no_grad()
def _result(
    network: RegistrationNetwork,
    pair: PairObjective,
    fixed: Prepared,
    io: InstanceOptimisationPlan,
) -> tuple[DisplacementField, LossValues]:
    if isinstance(network, FieldNetwork):
        maps = network.result()
    else:
        maps = network(pair.moving, pair.fixed)
    # The points of the first step, so that the losses before and after are comparable.
    noise = torch.Generator().manual_seed(io.seed)
    loss = pair(maps, noise).values()
    return _field(maps.fixed_to_moving, fixed), loss


def _field(found: CoordinateMap, fixed: Prepared) -> DisplacementField:
    """The map as a displacement field, on a grid that loses little of it."""
    geometry, times = fixed.geometry, _refinement(found, fixed)
    if times == 1:
        u_vox: NDArray[np.float32] = found.displacement_vox(geometry.shape)[0].cpu().numpy()
    else:
        geometry = geometry.subdivided(times)
        u_vox = np.empty((3, *geometry.shape), dtype=np.float32)
        nodes = unit_grid(geometry.shape)
        for layers in slabs(geometry.shape, _SLAB_NODES):
            part = nodes[:, :, layers].to(found.device)
            moved = unit_to_index_displacement(found(part) - part, geometry.shape)
            u_vox[:, layers] = moved[0].cpu().numpy()
    if not np.isfinite(u_vox).all():
        raise AutoregError(
            "the network gave a displacement that is not finite; check the model's weights and "
            "that both images are usable"
        )
    return DisplacementField(u_vox, geometry)


def _refinement(found: CoordinateMap, fixed: Prepared) -> int:
    """How many times finer than the prepared grid the map is sampled: about as the fixed image.

    A map that is exact between nodes doesn't fold there, while the linear interpolation of its
    values at few nodes might.
    """
    if not found.is_exact_between_nodes or fixed.native_spacing_mm is None:
        return 1
    ratio = max(fixed.geometry.spacing_mm) / fixed.native_spacing_mm
    return min(_FINEST, max(1, math.ceil(ratio - 0.25)))


def _transform(field: DisplacementField, fixed: Prepared, moving: Prepared) -> Composite:
    grid_to_grid = moving.geometry.index_to_world @ fixed.geometry.world_to_index
    grid_to_grid[3] = (0, 0, 0, 1)  # exactly, whatever the inverse was rounded to
    return Composite((field, Affine(grid_to_grid)))
