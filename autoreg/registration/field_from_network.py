"""A displacement field optimised from where a trained network left two images."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from autoreg.field_plan import FieldPlan
from autoreg.geometry.transforms import Composite, DisplacementField
from autoreg.geometry.volume import Volume
from autoreg.registration.field import FieldRegistration, register_field
from autoreg.registration.field_course import FieldStep
from autoreg.registration.start import ImagePair, Start, clearly_better, network_start, parts

# Points along each axis, about, at which a network and what became of it are compared.
_COMPARED = 64


@dataclass(frozen=True, eq=False)
class Refinement:
    """A network's answer and what the optimisation of a field made of it.

    Attributes:
        field: The whole displacement.
        plan: What was obeyed.
        pair: The images.
        start: Where it began.
        network_mm: Mean length of the network's displacement on its own grid, without the affine
            map that follows.
        refinement_mm: Mean distance, over the fixed image's grid, between where the network and
            the result put a point in the moving image.
        seconds: Wall time, with that of the start.
    """

    field: FieldRegistration
    plan: FieldPlan
    pair: ImagePair
    start: Start
    network_mm: float
    refinement_mm: float
    seconds: float


def register_from(
    network: Composite,
    pair: ImagePair,
    plan: FieldPlan,
    device: torch.device,
    *,
    start: Start | None = None,
    on_step: Callable[[FieldStep], None] | None = None,
) -> Refinement:
    """Optimise a field that begins with a network's transform, at the fixed image's resolution.

    The transform's affine part is the initial alignment, and the rest of it is where the velocity
    begins. What is optimised and what the plan regularises is the whole deformation, so that the
    network's errors do not outlast it.

    Args:
        network: Its transform: a displacement field, then an affine map.
        pair: The images.
        plan: Of the field's optimisation.
        device: Where to compute.
        start: As `network_start` finds it; None: it is found here.
        on_step: Hears of every step.

    Raises:
        DataError: if neither the network nor an alignment leaves anything to compare.
    """
    start = network_start(network, pair) if start is None else start
    begin = time.perf_counter()

    def optimised(start: Start) -> FieldRegistration:
        return register_field(
            pair.fixed,
            pair.moving,
            start.initial,
            plan,
            start=start.displacement,
            fixed_mask=pair.fixed_mask,
            moving_mask=pair.moving_mask,
            device=device,
            on_step=on_step,
        )

    found, otherwise = optimised(start), start.otherwise
    reached = pair.coarse.agreement(found.transform)
    # What the network's fit gained by its roughness is lost again: would none have been better?
    if otherwise is not None and clearly_better(start.agreement, reached):
        without = optimised(otherwise)
        instead = pair.coarse.agreement(without.transform)
        if instead.absolute > reached.absolute:
            note = (
                "the optimisation could not hold what the network's answer promised, and began "
                f"again with an initial alignment: local correlation {instead.absolute:.3f} "
                f"against {reached.absolute:.3f} after the network (absolute values)"
            )
            found = without
            start = replace(otherwise, warnings=(note, *otherwise.warnings))
    return Refinement(
        field=found,
        plan=plan,
        pair=pair,
        start=start,
        network_mm=_mean_mm(parts(network)[0]),
        refinement_mm=_mean_distance_mm(found.transform, network, pair.fixed),
        seconds=start.seconds + time.perf_counter() - begin,
    )


def _mean_mm(field: DisplacementField) -> float:
    """The mean length of a displacement at its nodes, millimetres."""
    to_mm = field.geometry.index_to_world[:3, :3].astype(np.float32)
    u_mm = np.einsum("xa,adhw->xdhw", to_mm, field.u_vox)
    return float(np.sqrt(np.einsum("xdhw,xdhw->dhw", u_mm, u_mm)).mean())


def _mean_distance_mm(one: Composite, other: Composite, fixed: Volume) -> float:
    """Between where two transforms put the voxels of an image, some of them, in millimetres."""
    axes = [np.arange(0, n, max(1, n // _COMPARED)) for n in fixed.geometry.shape]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    points = fixed.geometry.to_world(index.astype(np.float64))
    apart = one.map_points(points) - other.map_points(points)
    return float(np.linalg.norm(apart, axis=1).mean())
