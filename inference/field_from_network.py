"""A displacement field optimised from where a trained network left two images."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from autoreg.errors import DataError
from autoreg.field_plan import FieldPlan
from autoreg.geometry.grid import Geometry
from autoreg.geometry.resampling import resample_volume, sample_displacement_known
from autoreg.geometry.transforms import Affine, Composite, DisplacementField
from autoreg.geometry.volume import Volume
from autoreg.inference.known_inverse import inverse_on_grid
from autoreg.io.transforms import field_from_mm
from autoreg.registration.field import FieldRegistration, register_field
from autoreg.registration.field_course import FieldStep

_IDENTITY = Affine(np.eye(4))


def register_from(
    start: Composite,
    fixed: Volume,
    moving: Volume,
    plan: FieldPlan,
    masks: tuple[Volume | None, Volume | None],
    device: torch.device,
    on_step: Callable[[FieldStep], None] | None = None,
) -> FieldRegistration:
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
    guess = DisplacementField(-forward.u_vox, geometry)
    v_mm, _ = inverse_on_grid(forward, _IDENTITY, guess, geometry)
    return replace(found, initial=rest, forward=forward, backward=field_from_mm(v_mm, geometry))


def _warped(
    start: Composite, moving: Volume, mask: Volume | None, geometry: Geometry
) -> tuple[Volume, Volume]:
    """The moving image on the fixed image's grid, and where it is known and counts."""
    values = resample_volume(moving, start, geometry, outside=math.nan, interpolation="cubic").array
    inside = np.isfinite(values).all(axis=0)
    if mask is not None:
        inside &= resample_volume(mask, start, geometry).single != 0
    if not inside.any():
        raise DataError("the network's transform leaves the images without overlap")
    lowest = moving.array.min(axis=(1, 2, 3)).reshape(-1, 1, 1, 1)
    filled = np.where(np.isfinite(values), values, lowest).astype(np.float32)
    return Volume(filled, geometry, "intensity"), Volume(inside[None], geometry, "mask")
