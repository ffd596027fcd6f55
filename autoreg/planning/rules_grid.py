"""Planning rules for the grid: initial alignment, field of view, shape and levels.

Axes of the grid are (d, h, w) = world (z, y, x) = (S, P, L) unless images are stretched.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from autoreg.errors import PlanError
from autoreg.plan import AlignmentPlan, CaseFingerprint, Fingerprint, Shape, Triple
from autoreg.planning.budget import PUBLISHED_NODES
from autoreg.planning.choice import Choice

# World alignment: the boxes of a pair overlap at least so much ...
ALIGNED_OVERLAP = 0.7
# ... and laying the centres on each other leaves no less than this share of the displacement.
ALIGNED_RATIO = 0.9
# All foreground centres lie within this share of the foreground's extent from their middle.
ALIGNED_SPREAD = 0.15

# Room around the foreground on each side, as a share of its extent.
MARGIN = 0.05
# The published cube is at most so much finer than the images.
LARGEST_UPSAMPLING = 1.25
# The published cube is taken while its axes differ in spacing by no more than this.
LARGEST_ANISOTROPY = 2.0
# Sizes are multiples of 4, so that halving twice leaves no odd rest.
SIZE_MULTIPLE = 4
SMALLEST_SIZE = 8
SMALLEST_VOXELS = 16**3
# Below this ratio of grid to image spacing, sampling without a blur loses little.
ANTIALIAS_RATIO = 1.5

# What one level captures, in voxels of its own resolution: the published cascade's 1/4 level then
# reaches 16 voxels of the full grid.
LEVEL_REACH_VOX = 4.0
# Unseen pairs may move further than the sampled ones.
DISPLACEMENT_SAFETY = 1.5
COARSEST_SIZE = 8

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


def choose_shape(
    view: FieldOfView, most_voxels: int, needed_bytes: Callable[[Shape], int], limit_bytes: int
) -> Choice[Shape]:
    """Rule `grid_shape`: 175^3 as published where it fits, else equal spacing within the limits.

    The published cube is taken if time and memory allow it, no axis would be sampled more than
    1.25 times finer than the images are, and its spacings differ by no more than 2. Otherwise the
    grid has equal spacing along all axes, but nowhere finer than the images: thick slices stay
    thick, small images small. The largest such grid that fits is taken.

    Args:
        view: What to cover.
        most_voxels: Upper bound for the sake of time.
        needed_bytes: Estimated peak memory at a shape.
        limit_bytes: What it must not exceed.

    Raises:
        PlanError: if even a grid of 16^3 voxels does not fit.
    """
    extent, native = np.array(view.extent_mm), np.array(view.spacing_mm)
    covered = " x ".join(f"{value:.0f}" for value in view.extent_mm)
    limit = f"memory limit {limit_bytes / 2**30:.1f} GiB"
    if most_voxels >= PUBLISHED_NODES**3 and _suits_cube(extent, native):
        cube: Shape = (PUBLISHED_NODES, PUBLISHED_NODES, PUBLISHED_NODES)
        if needed_bytes(cube) <= limit_bytes:
            return Choice(
                cube,
                f"rule grid_shape: the published 175^3 over {covered} mm: spacings differ by less "
                f"than a factor {LARGEST_ANISOTROPY:g}, no axis is {LARGEST_UPSAMPLING:g} times "
                f"finer than the images; {limit}",
            )
    voxels = float(min(most_voxels, PUBLISHED_NODES**3))
    shape = _even_shape(extent, native, voxels)
    while (needed := needed_bytes(shape)) > limit_bytes:
        # Memory is affine in the voxels, so this comes down on the limit from above.
        voxels = 0.95 * min(voxels, math.prod(shape)) * limit_bytes / needed
        if voxels < SMALLEST_VOXELS:
            raise PlanError(
                f"a grid of {'x'.join(map(str, shape))} needs {needed / 2**30:.1f} GiB ({limit}) "
                "and smaller ones make no sense; use a machine with more memory, or a larger "
                "--budget if this is not the machine that will compute"
            )
        shape = _even_shape(extent, native, voxels)
    return Choice(
        shape,
        f"rule grid_shape: {covered} mm with equal spacing on all axes but nowhere finer than the "
        f"images ({_numbers(native)} mm), at most {voxels:.3g} voxels; {limit}",
    )


def _suits_cube(extent: NDArray[np.float64], native: NDArray[np.float64]) -> bool:
    spacing = extent / PUBLISHED_NODES
    fine = (spacing * LARGEST_UPSAMPLING < native).any()
    return not fine and bool(spacing.max() <= LARGEST_ANISOTROPY * spacing.min())


def grid_spacing(view: FieldOfView, shape: Shape) -> Choice[Triple]:
    """Rule `grid_spacing`: the field of view divided by the shape."""
    spacing = _triple(np.round(np.array(view.extent_mm) / np.array(shape), 4))
    return Choice(spacing, "rule grid_spacing: field of view / shape")


def choose_antialias(view: FieldOfView, spacing_mm: Triple) -> Choice[bool]:
    """Rule `antialias`: blur before sampling where the grid is 1.5 times coarser than the images.

    The published code never blurs; at its 175^3 there is little to lose.
    """
    ratio = float((np.array(spacing_mm) / np.array(view.spacing_mm)).max())
    return Choice(
        ratio >= ANTIALIAS_RATIO,
        f"rule antialias: grid {ratio:.2f} times as coarse as the images, blurred from "
        f"{ANTIALIAS_RATIO:g} on",
    )


def displacement_mm(fingerprint: Fingerprint, alignment: str) -> float:
    """Largest of the sampled pairs' 95th-percentile displacements after the alignment."""
    name = "world_displacement_mm" if alignment == "world" else "displacement_mm"
    return max((float(getattr(pair, name)) for pair in fingerprint.pairs), default=0.0)


def choose_levels(
    shape: Shape, spacing_mm: Triple, displacement: float
) -> Choice[tuple[float, ...]]:
    """Rule `level_factors`: two levels at full resolution and as many halvings as needed.

    The coarsest level's factor 1/2^k is the largest with 4 * 2^k voxels >= 1.5 times the
    displacement; at least k = 1, and k = 2 at 175^3, which is the published cascade. No level is
    made on which two axes would have fewer than 8 voxels.

    Args:
        shape: Of the grid.
        spacing_mm: Of the grid.
        displacement: To be captured, see `displacement_mm`.
    """
    needed_vox = DISPLACEMENT_SAFETY * displacement / min(spacing_mm)
    wanted = max(0, math.ceil(math.log2(max(needed_vox, 1.0) / LEVEL_REACH_VOX)))
    least = 2 if shape == (PUBLISHED_NODES,) * 3 else 1
    most = int(math.log2(max(1.0, sorted(shape)[1] / COARSEST_SIZE)))
    halvings = max(0, min(max(wanted, least), most))
    levels = (*(2.0**-k for k in range(halvings, 0, -1)), 1.0, 1.0)
    return Choice(
        levels,
        f"rule level_factors: displacement {displacement:.1f} mm x {DISPLACEMENT_SAFETY:g} = "
        f"{needed_vox:.1f} voxels, each level reaches {LEVEL_REACH_VOX:g} of its own"
        + ("; as published at 175^3" if levels == (0.25, 0.5, 1.0, 1.0) and least == 2 else ""),
    )


def _even_shape(extent: NDArray[np.float64], finest: NDArray[np.float64], voxels: float) -> Shape:
    """The shape of equal spacing, bounded below per axis, with about `voxels` voxels."""
    low, high = 1e-3, float(extent.max())
    for _ in range(60):
        middle = math.sqrt(low * high)
        count = float(np.prod(extent / np.maximum(middle, finest)))
        low, high = (middle, high) if count > voxels else (low, middle)
    return cast(Shape, tuple(_size(n) for n in extent / np.maximum(high, finest)))


def _size(nodes: float) -> int:
    return max(SMALLEST_SIZE, SIZE_MULTIPLE * int(nodes / SIZE_MULTIPLE + 1e-6))


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


def _numbers(values: NDArray[np.float64]) -> str:
    return " x ".join(f"{value:.3g}" for value in values)


def _triple(values: NDArray[np.float64]) -> Triple:
    a, b, c = (float(value) for value in values)
    return a, b, c
