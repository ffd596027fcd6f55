"""A displacement field optimised from where a trained network left two images."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from autoreg.errors import DataError
from autoreg.field_plan import FieldPlan
from autoreg.geometry.grid import Geometry
from autoreg.geometry.resampling import (
    field_from_mm,
    resample_volume,
    sample_displacement_known,
)
from autoreg.geometry.transforms import Affine, Composite, DisplacementField
from autoreg.geometry.volume import Volume
from autoreg.numerics.coarse_inverse import coarse_inverse
from autoreg.numerics.pyramid import pooled
from autoreg.registration.field import FieldRegistration, register_field
from autoreg.registration.field_box import IntTriple, factors_at, finest_mm
from autoreg.registration.field_course import FieldStep

_IDENTITY = Affine(np.eye(4))


@dataclass(frozen=True, eq=False)
class Refinement:
    """A network's answer and what the optimisation of a field made of it.

    Attributes:
        field: The whole displacement, with what followed it in the network's transform.
        plan: What was obeyed.
        network_mm: Mean length of the network's displacement on its own grid, without the affine
            map that follows.
        refinement_mm: Mean length, on the fixed image's grid, of the displacement that was found
            to precede it.
        seconds: Wall time, with warping the image and inverting the whole.
    """

    field: FieldRegistration
    plan: FieldPlan
    network_mm: float
    refinement_mm: float
    seconds: float


def register_from(
    start: Composite,
    fixed: Volume,
    moving: Volume,
    plan: FieldPlan,
    masks: tuple[Volume | None, Volume | None],
    device: torch.device,
    on_step: Callable[[FieldStep], None] | None = None,
) -> Refinement:
    """Optimise what comes before a network's transform, at the fixed image's resolution.

    The moving image is warped by the network's transform with cubic splines, and that image is
    registered: T(p) = start(p + w(p)). What is returned is one displacement and one affine map, so
    that the original moving image is interpolated once by whoever uses them.

    Args:
        start: A displacement field, then an affine map.
        fixed: The fixed image.
        moving: The moving image.
        plan: Of the field's optimisation.
        masks: Of the fixed and of the moving image.
        device: Where to compute.
        on_step: Hears of every step.

    Raises:
        DataError: if the network's transform leaves nothing of the moving image to compare.
    """
    first, rest = start.transforms
    if not isinstance(first, DisplacementField) or not isinstance(rest, Affine):
        raise TypeError("a network's transform is a displacement field and an affine map")
    begin = time.perf_counter()
    geometry = fixed.geometry
    warped, inside = _warped(start, moving, masks[1], geometry)
    found = register_field(
        fixed,
        warped,
        _IDENTITY,
        plan,
        fixed_mask=masks[0],
        moving_mask=inside,
        device=device,
        on_step=on_step,
    )
    u_mm, _ = sample_displacement_known(Composite((found.forward, first)), geometry)
    forward = field_from_mm(u_mm, geometry)
    v_vox = coarse_inverse(torch.from_numpy(forward.u_vox).to(device)).cpu().numpy()
    return Refinement(
        field=replace(
            found, initial=rest, forward=forward, backward=DisplacementField(v_vox, geometry)
        ),
        plan=plan,
        network_mm=_mean_mm(first),
        refinement_mm=_mean_mm(found.forward),
        seconds=time.perf_counter() - begin,
    )


def _mean_mm(field: DisplacementField) -> float:
    """The mean length of a displacement at its nodes, millimetres."""
    to_mm = field.geometry.index_to_world[:3, :3].astype(np.float32)
    u_mm = np.einsum("xa,adhw->xdhw", to_mm, field.u_vox)
    return float(np.sqrt(np.einsum("xdhw,xdhw->dhw", u_mm, u_mm)).mean())


def _warped(
    start: Composite, moving: Volume, mask: Volume | None, geometry: Geometry
) -> tuple[Volume, Volume]:
    """The moving image on the fixed image's grid, and where it is known and counts."""
    # Finer voxels are averaged first, as without a network: their noise would be kept otherwise.
    factors = factors_at(0, finest_mm(geometry), moving.geometry)
    coarse = _pooled(moving, factors)
    values = resample_volume(coarse, start, geometry, outside=math.nan, interpolation="cubic").array
    inside = np.isfinite(values).all(axis=0)
    if mask is not None:
        inside &= resample_volume(mask, start, geometry).single != 0
    if not inside.any():
        raise DataError("the network's transform leaves the images without overlap")
    lowest = moving.array.min(axis=(1, 2, 3)).reshape(-1, 1, 1, 1)
    filled = np.where(np.isfinite(values), values, lowest).astype(np.float32)
    return Volume(filled, geometry, "intensity"), Volume(inside[None], geometry, "mask")


def _pooled(volume: Volume, factors: IntTriple) -> Volume:
    """Means over boxes of voxels, on the grid of the boxes' middles."""
    if factors == (1, 1, 1):
        return volume
    array = torch.from_numpy(np.asarray(volume.array, dtype=np.float32))
    boxes = np.eye(4)
    boxes[:3, :3] = np.diag(factors)
    boxes[:3, 3] = (np.array(factors) - 1) / 2
    values = pooled(array, factors).numpy()
    shape = (values.shape[1], values.shape[2], values.shape[3])
    geometry = Geometry(shape, volume.geometry.index_to_world @ boxes)
    return Volume(values, geometry, "intensity")
