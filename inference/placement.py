"""Whether a pair lies as the plan's initial alignment takes for granted, in words."""

import numpy as np

from autoreg.geometry.foreground import foreground_centre_mm
from autoreg.geometry.volume import Volume
from autoreg.plan import Plan
from autoreg.registration.prepare import prepared_geometry


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
