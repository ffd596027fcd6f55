"""Planning rules for where the grid lies: initial alignment and field of view."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoreg.errors import PlanError
from autoreg.fingerprint import CaseFingerprint, Fingerprint
from autoreg.network_plan import Triple
from autoreg.plan import AlignmentPlan
from autoreg.planning.choice import Choice

# World alignment: the boxes of a pair overlap at least so much ...
ALIGNED_OVERLAP = 0.7
# ... and laying the centres on each other leaves no less than this share of the displacement.
ALIGNED_RATIO = 0.9
# All foreground centres lie within this share of the foreground's extent from their middle.
ALIGNED_SPREAD = 0.15

# Room around the foreground on each side, as a share of its extent.
MARGIN = 0.05

_WORLD_AXIS = {"S": 2, "I": 2, "P": 1, "A": 1, "L": 0, "R": 0}
_POSITIVE = "LPS"


@dataclass(frozen=True)
class FieldOfView:
    """What the grid must cover.

    Attributes:
        extent_mm: Edge lengths along (d, h, w).
        spacing_mm: Typical spacing of the images along (d, h, w).
        centre_mm: World point (x, y, z) of the middle.
    """

    extent_mm: Triple
    spacing_mm: Triple
    centre_mm: Triple


def choose_alignment(fingerprint: Fingerprint) -> Choice[str]:
    """Rule `alignment`: "world" if the images lie on each other already, else "centres".

    Aligned means: the foreground boxes of the sampled pairs overlap by 70 % (median), laying
    their centres on each other would not reduce the displacement by more than a tenth, and the
    centres of all cases lie within 15 % of the extent from their middle, since one world grid
    serves all cases.

    Raises:
        PlanError: if the fingerprint has no cases.
    """
    _require_cases(fingerprint)
    centres = np.array([case.foreground_centre_mm for case in fingerprint.cases])
    extents = np.array([case.foreground_extent_mm for case in fingerprint.cases])
    offsets = np.abs(centres - np.median(centres, axis=0)) / np.median(extents, axis=0)
    spread = float(np.quantile(offsets.max(axis=1), 0.95))
    overlap = _median([pair.box_overlap for pair in fingerprint.pairs], 1.0)
    centred = _median([pair.displacement_mm for pair in fingerprint.pairs], 0.0)
    world = _median([pair.world_displacement_mm for pair in fingerprint.pairs], 0.0)
    aligned = (
        spread <= ALIGNED_SPREAD and overlap >= ALIGNED_OVERLAP and centred >= ALIGNED_RATIO * world
    )
    facts = (
        f"overlap of foreground boxes {overlap:.0%} (>= {ALIGNED_OVERLAP:.0%}), displacement "
        f"{world:.1f} mm as the images lie and {centred:.1f} mm after laying centres on each "
        f"other (>= {ALIGNED_RATIO:.0%} of it), centres spread over {spread:.0%} of the extent "
        f"(<= {ALIGNED_SPREAD:.0%})"
    )
    if aligned:
        return Choice("world", f"rule alignment: the images are aligned already: {facts}")
    return Choice("centres", f"rule alignment: the images are not aligned: {facts}")


def field_of_view(fingerprint: Fingerprint, alignment: str) -> FieldOfView:
    """Rule `field_of_view`: the foreground of 95 % of the cases plus 5 % on each side.

    Never more than the images themselves, unless the foreground asks for it.

    Args:
        fingerprint: Foreground boxes, centres and image boxes decide.
        alignment: "world": the box around all foregrounds; "centres": symmetric about each case's
            foreground centre.
    """
    _require_cases(fingerprint)
    cases = fingerprint.cases
    middle = np.array([_foreground_box_centre(case) for case in cases])
    half = np.array([case.foreground_extent_mm for case in cases]) / 2
    low, high = middle - half, middle + half
    if alignment == "world":
        lower, upper = np.quantile(low, 0.05, axis=0), np.quantile(high, 0.95, axis=0)
        extent, centre = upper - lower, (upper + lower) / 2
    else:
        origin = np.array([case.foreground_centre_mm for case in cases])
        reach = np.maximum(high - origin, origin - low)
        extent, centre = 2 * np.quantile(reach, 0.95, axis=0), np.zeros(3)
    image_extent = np.array([_along_world(case, _image_extent(case)) for case in cases])
    ceiling = np.maximum(extent, np.quantile(image_extent, 0.95, axis=0))
    extent = np.minimum(extent * (1 + 2 * MARGIN), ceiling)
    spacing = np.median([_along_world(case, case.spacing_mm) for case in cases], axis=0)
    return FieldOfView(_triple(extent[::-1]), _triple(spacing[::-1]), _triple(centre))


def alignment_plan(kind: str, view: FieldOfView) -> AlignmentPlan:
    """The plan's record of an alignment; centres are rounded to a tenth of a millimetre."""
    if kind != "world":
        return AlignmentPlan("centres")
    x, y, z = (round(value, 1) for value in view.centre_mm)
    return AlignmentPlan("world", (x, y, z))


def displacement_mm(fingerprint: Fingerprint, alignment: str) -> float:
    """Largest of the sampled pairs' 95th-percentile displacements after the alignment."""
    name = "world_displacement_mm" if alignment == "world" else "displacement_mm"
    return max((float(getattr(pair, name)) for pair in fingerprint.pairs), default=0.0)


def _foreground_box_centre(case: CaseFingerprint) -> NDArray[np.float64]:
    """World point; the image axes are taken for the world axes nearest to them."""
    centre = np.array(case.box_centre_mm, dtype=np.float64)
    for letter, (first, last), size, spacing in zip(
        case.orientation, case.foreground_box, case.shape, case.spacing_mm, strict=True
    ):
        sign = 1.0 if letter in _POSITIVE else -1.0
        centre[_WORLD_AXIS[letter]] += sign * ((first + last) / 2 - (size - 1) / 2) * spacing
    return centre


def _image_extent(case: CaseFingerprint) -> Triple:
    d, h, w = (n * s for n, s in zip(case.shape, case.spacing_mm, strict=True))
    return d, h, w


def _along_world(case: CaseFingerprint, values: Sequence[float]) -> NDArray[np.float64]:
    """Values along image axes (d, h, w) as values along world (x, y, z)."""
    result = np.zeros(3)
    for letter, value in zip(case.orientation, values, strict=True):
        result[_WORLD_AXIS[letter]] = value
    return result


def _require_cases(fingerprint: Fingerprint) -> None:
    if not fingerprint.cases:
        raise PlanError(f"{fingerprint.dataset}: the fingerprint has no cases to plan from")


def _median(values: Sequence[float], default: float) -> float:
    known = [value for value in values if math.isfinite(value)]
    return float(np.median(known)) if known else default


def _triple(values: NDArray[np.float64]) -> Triple:
    a, b, c = (float(value) for value in values)
    return a, b, c
