"""refinement.json of a fold: whether a field's optimisation after the network helped."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from autoreg.errors import DataError
from autoreg.field_plan import FieldPlan, RefinementPlan
from autoreg.io.records import load_record

REFINEMENT_FILE = "refinement.json"
REFINEMENT_FORMAT = 1
# 1: the warped image was registered; 2: the field begins with the network's transform.
REFINEMENT_METHOD = 2

_REMEDY = ": not decided; autoreg_train --continue finds out, --refine balanced does not ask"

Measure = Literal["dice", "tre_mm"]


@dataclass(frozen=True)
class Scores:
    """What was measured of a registration on the images' own grids, as it would be written.

    Attributes:
        dice: Mean over the structures; null without label maps of both images.
        tre_mm: Mean landmark distance; null without landmarks of both images.
        ndv_percent: Non-diffeomorphic volume.
    """

    dice: float | None
    tre_mm: float | None
    ndv_percent: float


@dataclass(frozen=True)
class RefinedPair:
    """One validation pair.

    Attributes:
        fixed: Name of the case; likewise `moving`.
        moving: See `fixed`.
        network: With the network and the plan's instance optimisation alone.
        refined: With the refinement after them.
        network_seconds: Wall-clock, of the registration.
        refinement_seconds: Wall-clock, of the refinement alone.
    """

    fixed: str
    moving: str
    network: Scores
    refined: Scores
    network_seconds: float
    refinement_seconds: float


@dataclass(frozen=True)
class RefinementRecord:
    """Content of refinement.json.

    Attributes:
        format: Version of this record.
        helps: Whether predictions are to be refined.
        reason: Why.
        measure: By what it was decided.
        held_out: Whether training never saw the pairs.
        weights: The checkpoint, and how long it was trained.
        network: Means over the pairs.
        refined: Likewise.
        field: The refinement that was measured; another one is not decided.
        pairs: Each of them.
        method: Version of what was measured; another one is not decided.
    """

    format: int
    helps: bool
    reason: str
    measure: Measure
    held_out: bool
    weights: str
    network: Scores
    refined: Scores
    field: FieldPlan
    pairs: tuple[RefinedPair, ...]
    method: int = 1


@dataclass(frozen=True)
class Decision:
    """Whether predictions of a fold are refined.

    Attributes:
        field: How; None: they are not.
        reason: Why, for people.
        is_open: Whether it could still be decided, and until then is off.
    """

    field: FieldPlan | None
    reason: str
    is_open: bool = False


def decision(plan: RefinementPlan | None, fold_folder: Path) -> Decision:
    """What a plan and the measurement beside a fold's checkpoints come to.

    Args:
        plan: `instance_optimisation.refine`.
        fold_folder: Where refinement.json lies if it was measured.

    Raises:
        DataError: if refinement.json cannot be read.
    """
    if plan is None:
        return Decision(None, "the plan has none")
    if plan.when == "always":
        return Decision(plan.field, "the plan says always")
    path = fold_folder / REFINEMENT_FILE
    if not path.is_file():
        return Decision(None, f"{path} is missing{_REMEDY}", is_open=True)
    record = load_record(RefinementRecord, path, DataError)
    if record.format != REFINEMENT_FORMAT:
        raise DataError(
            f"{path}: format {record.format} is not {REFINEMENT_FORMAT}, the one this version "
            "reads; remove the file"
        )
    if record.method != REFINEMENT_METHOD:
        reason = f"{path} is about an earlier version of the refinement{_REMEDY}"
        return Decision(None, reason, is_open=True)
    if record.field != plan.field:
        return Decision(None, f"{path} is about another one than the plan's{_REMEDY}", is_open=True)
    return Decision(plan.field if record.helps else None, f"{path}: {record.reason}")
