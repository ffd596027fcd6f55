"""Whether a pair lies and looks as the plan takes for granted, in words."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoreg.geometry.foreground import foreground_centre_mm
from autoreg.geometry.volume import Volume
from autoreg.plan import IntensityPlan, Plan
from autoreg.registration.prepare import prepared_geometry

# Air is at -1000 HU; no other common modality has values that low.
_AIR_HU = -500.0

# Of all voxels: no window cuts off as much of an image that it was made for, ...
_MANY = 0.1
# ... and none is as much longer than the intensities in it.
_LITTLE = 0.02


def placement_notes(fixed: Volume, moving: Volume, plan: Plan) -> tuple[str, ...]:
    """What a reader should know of how the images lie before trusting the result.

    Alignment "boxes" lays array axes on each other, so that images of different orientation start
    out turned or mirrored; alignment "world" has one grid, which may miss the anatomy.

    Args:
        fixed: The fixed image.
        moving: The moving image.
        plan: Its alignment and grid count.
    """
    if plan.alignment.kind == "boxes":
        one, other = (volume.geometry.orientation for volume in (fixed, moving))
        if one == other:
            return ()
        note = (
            f"the array axes point to {''.join(one)} in the fixed and to {''.join(other)} in the "
            "moving image, and this model's alignment (boxes) lays them on each other: bring both "
            "images to one orientation"
        )
        return (note,)
    if plan.alignment.kind != "world":
        return ()
    notes = []
    for name, volume in (("fixed", fixed), ("moving", moving)):
        centre = foreground_centre_mm(volume)
        if not prepared_geometry(volume.geometry, plan, None).contains(centre[None]).all():
            notes.append(
                f"the middle of the {name} image's foreground, {np.round(centre, 1).tolist()} mm, "
                "lies outside the model's grid, which has one place in the world: most of the "
                "anatomy is not seen"
            )
    return tuple(notes)


def modality_notes(
    name: str, volume: Volume, modalities: Sequence[str], plan: Plan
) -> tuple[str, ...]:
    """Whether the intensities look like another modality than they are scaled as.

    Swapped roles of CT and MR are legal input that no reader can refuse; the result is wrong.

    Args:
        name: "fixed" or "moving".
        volume: The image.
        modalities: Of each channel, names in `plan.intensity`.
        plan: Its intensity schemes count.
    """
    notes = []
    for channel, modality in zip(volume.array, modalities, strict=True):
        scheme, found = plan.intensity[modality], None
        if scheme.kind == "window":
            found = _beside_window(channel, scheme)
        elif float(channel.min()) < _AIR_HU:
            found = f"values down to {float(channel.min()):g}, as CT has"
        if found is not None:
            scaled = modality
            if scheme.kind == "window":
                scaled += f", {scheme.lower:g} to {scheme.upper:g}"
            notes.append(
                f"the {name} image has {found}, and was scaled as {scaled}: check which image is "
                "which, or say it with --fixed-modality and --moving-modality"
            )
    return tuple(notes)


def _beside_window(channel: NDArray[Any], window: IntensityPlan) -> str | None:
    """What shows that an image was not meant for a window; None if nothing does."""
    lowest, highest = float(channel.min()), float(channel.max())
    if window.lower < 0 <= lowest:
        return "no value below 0"
    if highest < window.lower + _LITTLE * (window.upper - window.lower):
        return f"values up to {highest:g} alone"
    above = float((channel > window.upper).mean())
    if above > _MANY:
        return f"{100 * above:.0f} % of its voxels above {window.upper:g}, which were clamped"
    return None
