"""Planning rule for the optimisation of a displacement field after the network."""

import math
from dataclasses import replace

from autoreg.field_plan import RefinementPlan, similarity_of
from autoreg.fingerprint import Fingerprint
from autoreg.planning.budget import GIB, Budget
from autoreg.planning.choice import Choice
from autoreg.planning.memory import REFINEMENT_BYTES_PER_VOXEL
from autoreg.registration.field_presets import preset_plan

PRESET = "balanced"
# For the process, the network and its optimiser.
_BESIDE_BYTES = GIB


def choose_refinement(fingerprint: Fingerprint, budget: Budget) -> Choice[RefinementPlan | None]:
    """Rule `refine`: where it helps on validation pairs, with the preset that costs seconds.

    It works at the fixed image's own resolution and not on the plan's grid, so that its memory
    depends on the images alone.
    """
    voxels = max(math.prod(case.shape) for case in fingerprint.cases)
    needed = REFINEMENT_BYTES_PER_VOXEL * voxels + _BESIDE_BYTES
    if needed > budget.memory_bytes:
        return Choice(
            None,
            f"rule refine: none, images of {voxels:.3g} voxels would take {needed / GIB:.1f} GiB",
        )
    similarity = similarity_of(fingerprint.fixed_modalities, fingerprint.moving_modalities)
    same = "the same" if similarity == "lncc" else "different"
    return Choice(
        RefinementPlan("where_it_helps", replace(preset_plan(PRESET), similarity=similarity)),
        f"rule refine: preset {PRESET}, {similarity} for {same} modalities; training finds out on "
        "validation pairs whether it helps (refinement.json)",
    )
