"""Initial alignment: an affine map that lays the moving image on the fixed one.

The images may differ in position, orientation, field of view, spacing and modality. What is used
and why is told in `align_similarity` (what is maximised), `align_starts` (from where) and
`align_levels` (at which resolution).
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from autoreg.errors import DataError
from autoreg.geometry.grid import FloatArray
from autoreg.geometry.transforms import Affine
from autoreg.geometry.volume import Volume
from autoreg.registration.align_optimise import affine_generators, optimise
from autoreg.registration.align_pair import Pyramid, make_pyramid
from autoreg.registration.align_settings import AlignmentSettings
from autoreg.registration.align_similarity import PairLevel, Similarity, similarity
from autoreg.registration.align_starts import (
    Candidate,
    find_rigid,
    foreground_centres,
    turned_deg,
)

# What is told to the user.
_LITTLE_OVERLAP = 0.3
_LITTLE_EXPLAINED = 0.15
_NEARLY_AS_GOOD = 0.97
_RIVAL_APART_DEG = 20.0


@dataclass(frozen=True)
class AlignmentStage:
    """One stage of an alignment.

    Attributes:
        name: What was done.
        spacing_mm: Smallest voxel spacing of the shrunken fixed image.
        before: The correlation ratio at its start, at this resolution.
        after: And at its end.
        steps: Gauss-Newton steps taken.
    """

    name: str
    spacing_mm: float
    before: float
    after: float
    steps: int


@dataclass(frozen=True, eq=False)
class Alignment:
    """The initial alignment of a pair, and what was done for it.

    Attributes:
        transform: Points of the fixed image -> points of the moving image, LPS mm.
        kept: "headers" if nothing that was tried is better than the headers' placement.
        similarity_before: Correlation ratio (0 to 1, mean of both directions) in the headers'
            placement, at the finest resolution used.
        similarity_after: The same in the result.
        overlap_before: Share of the smaller foreground that lies in the other one, headers.
        overlap_after: The same in the result.
        starts: Number of starting placements that were optimised; 0 if none was.
        stages: In order.
        warnings: In whole sentences, with figures.
    """

    transform: Affine
    kept: Literal["headers", "aligned"]
    similarity_before: float
    similarity_after: float
    overlap_before: float
    overlap_after: float
    starts: int
    stages: tuple[AlignmentStage, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Found:
    matrix: FloatArray
    starts: int
    stages: tuple[AlignmentStage, ...]
    warnings: tuple[str, ...] = ()


def align(
    fixed: Volume,
    moving: Volume,
    settings: AlignmentSettings,
    *,
    fixed_mask: Volume | None = None,
    moving_mask: Volume | None = None,
) -> Alignment:
    """Lay the moving image on the fixed one by an affine map.

    Images of one layer, (1, H, W), are moved within their plane only. Of several channels each is
    compared with its counterpart, and the mean counts; those that are constant are left out. The
    result is the same at every call: nothing is drawn at random.

    Args:
        fixed: The fixed image.
        moving: The moving image.
        settings: Which kind of map, and how far to search.
        fixed_mask: Non-zero where the fixed image counts; on its grid.
        moving_mask: Likewise of the moving image.

    Returns:
        The map with a report. It is never worse than the headers' placement by the measure used,
        unless that placement has no overlap.

    Raises:
        DataError: if an image is constant or not finite, a mask is empty or lies elsewhere, only
            one of the images has a single layer, or the images don't overlap.

    Example:
        >>> result = align(fixed, moving, AlignmentSettings(kind="rigid"))  # doctest: +SKIP
        >>> moving_points = result.transform.map_points(fixed_points)  # doctest: +SKIP
    """
    pyramid = make_pyramid(fixed, moving, settings, fixed_mask, moving_mask)
    found = _search(pyramid, settings)
    finest = pyramid.levels[-1]
    before, after = (similarity(finest, matrix) for matrix in (pyramid.headers, found.matrix))
    kept: Literal["headers", "aligned"] = "aligned"
    if before.information >= after.information:
        kept, after = "headers", before
        found = dataclasses.replace(found, matrix=pyramid.headers)
    overlaps = [pyramid.overlap(matrix) for matrix in (pyramid.headers, found.matrix)]
    _require_overlap(after, overlaps[1], settings)
    warnings = [*found.warnings, *_warnings(before, after, overlaps[1], kept, settings)]
    return Alignment(
        transform=Affine(found.matrix),
        kept=kept,
        similarity_before=before.ratio,
        similarity_after=after.ratio,
        overlap_before=overlaps[0],
        overlap_after=overlaps[1],
        starts=found.starts,
        stages=found.stages,
        warnings=tuple(warnings),
    )


def _search(pyramid: Pyramid, settings: AlignmentSettings) -> _Found:
    coarsest = pyramid.levels[0]
    if settings.kind == "none":
        return _Found(pyramid.headers, 0, ())
    if settings.kind == "centres":
        shifts = [foreground_centres(coarsest, pyramid.headers[:3, :3]), pyramid.boxes]
        best = max(shifts, key=lambda matrix: similarity(coarsest, matrix).information)
        return _Found(best, 0, (_stage("centres", coarsest, pyramid.headers, best, 0),))
    candidates = find_rigid(
        coarsest,
        pyramid.headers,
        pyramid.boxes,
        settings.max_rotation_deg,
        settings.steps[0],
        pyramid.normal,
    )
    best_start, warnings = _choice(candidates)
    name = f"rigid from {best_start.start}"
    steps = best_start.steps
    stages = [_stage(name, coarsest, pyramid.headers, best_start.matrix, steps)]
    matrix = best_start.matrix
    for level, most in zip(_refinements(pyramid, settings), settings.steps, strict=True):
        if level is None:
            continue
        start = matrix
        matrix, _, steps = optimise(level, start, most)
        stages.append(_stage(settings.kind, level, start, matrix, steps))
    return _Found(matrix, len(candidates), tuple(stages), warnings)


def _refinements(pyramid: Pyramid, settings: AlignmentSettings) -> list[PairLevel | None]:
    """The levels after the starts; the coarsest one again for scales and shears."""
    if settings.kind == "rigid":
        return [None, *pyramid.levels[1:]]
    free = affine_generators(pyramid.normal)
    return [dataclasses.replace(level, generators=free) for level in pyramid.levels]


def _choice(candidates: list[Candidate]) -> tuple[Candidate, tuple[str, ...]]:
    """The best start, with a warning if quite another one is nearly as good."""
    best = candidates[0]
    for rival in candidates[1:]:
        apart = turned_deg(best.matrix, rival.matrix)
        close = rival.similarity.information >= _NEARLY_AS_GOOD * best.similarity.information
        if apart > _RIVAL_APART_DEG and close:
            warning = (
                f"the initial alignment is ambiguous: a placement turned by {apart:.0f} degrees "
                f"fits nearly as well (similarity {rival.similarity.ratio:.3f} against "
                f"{best.similarity.ratio:.3f}); look at the result, or limit the rotations"
            )
            return best, (warning,)
    return best, ()


def _stage(
    name: str, level: PairLevel, start: FloatArray, end: FloatArray, steps: int
) -> AlignmentStage:
    return AlignmentStage(
        name,
        level.spacing_mm,
        similarity(level, start).ratio,
        similarity(level, end).ratio,
        steps,
    )


def _require_overlap(after: Similarity, overlap: float, settings: AlignmentSettings) -> None:
    if after.share > 0 and overlap > 0:
        return
    remedy = (
        'the headers are trusted (alignment "none"); choose "centres", "rigid" or "affine", or '
        "correct the headers"
        if settings.kind == "none"
        else "no placement was found in which they do; check images and masks"
    )
    raise DataError(f"fixed and moving image do not overlap: {remedy}")


def _warnings(
    before: Similarity, after: Similarity, overlap: float, kept: str, settings: AlignmentSettings
) -> list[str]:
    found = []
    if overlap < _LITTLE_OVERLAP:
        found.append(
            f"little overlap after the initial alignment: {overlap:.0%} of the smaller foreground "
            f"lies in the other one; look at the result before using it"
        )
    if after.ratio < _LITTLE_EXPLAINED:
        found.append(
            f"after the initial alignment the images hardly explain each other: similarity "
            f"{after.ratio:.3f} of 1 (headers {before.ratio:.3f}); do they show the same thing?"
        )
    elif kept == "headers" and settings.kind in ("rigid", "affine") and after.ratio < 0.5:
        found.append(
            "the initial alignment found nothing better than the headers' placement, which was "
            f"kept: similarity {after.ratio:.3f} of 1, overlap {overlap:.0%}"
        )
    return found
