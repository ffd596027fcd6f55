"""Percentiles of the distance from the elements of one surface to another surface.

The largest distances need not be known for a percentile, and most distances are short. So each
element looks at its surroundings, line by line and the nearest lines first, until elements enough
know their distance; only what is far away is left to a search tree.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import spatial

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Spacing = tuple[float, float, float]

# How far the neighbouring lines are looked at, in voxels; from there on a search tree is quicker.
_REACH = 10
# On a line without any element of the other surface.
_NONE = 65535
# Sums of areas are taken in different orders.
_ROUNDING = 1e-9


def directed_percentile(
    start: IntArray, areas: FloatArray, goal: IntArray, spacing_mm: Spacing, percent: float
) -> float:
    """The first distance at which the cumulated share of the area reaches `percent`.

    Elements are sorted by distance to the nearest element of the other surface, then by area.

    Args:
        start: (N, 3) corners along the array axes.
        areas: (N,) the area of each.
        goal: (M, 3) corners of the other surface.
        spacing_mm: Along the array axes.
        percent: Above 0, at most 100.

    Returns:
        Millimetres.
    """
    distances = _near(start, areas, goal, spacing_mm, percent)
    order = np.lexsort((areas, distances))
    share = np.cumsum(areas[order]) / areas.sum()
    at = int(np.searchsorted(share, percent / 100))
    return float(distances[order][min(at, len(order) - 1)])


def _near(
    start: IntArray, areas: FloatArray, goal: IntArray, spacing_mm: Spacing, percent: float
) -> FloatArray:
    """Distances (N,), millimetres; inf for elements beyond the percentile that were left out."""
    margin = [*(math.ceil(_reach_mm(spacing_mm) / s) for s in spacing_mm[:2]), 0]
    low = np.minimum(start.min(0), goal.min(0))
    steps = _along_lines(goal - low, np.maximum(start.max(0), goal.max(0)) - low + 1)
    lines = np.pad(steps, [(m, m) for m in margin], constant_values=_NONE)
    low, shape, lines = low - margin, lines.shape, lines.ravel()
    squares = (np.arange(_NONE + 1) * spacing_mm[2]) ** 2
    squares[_NONE] = math.inf
    strides = np.array([shape[1] * shape[2], shape[2], 1])
    places, left = (start - low) @ strides, np.arange(len(start))
    distances, best = np.full(len(start), math.inf), np.full(len(start), math.inf)
    enough, known = (percent / 100 + _ROUNDING) * float(areas.sum()), 0.0
    for square, offsets, following in _rings(spacing_mm[:2]):
        around = places + (offsets @ strides[:2])[:, None]
        np.minimum(best, squares[lines.take(around).min(0)] + square, out=best)
        done = best <= following
        distances[left[done]] = np.sqrt(best[done])
        known += float(areas[left[done]].sum())
        places, left, best = places[~done], left[~done], best[~done]
        if known >= enough or not left.size:
            return distances
    spacing = np.array(spacing_mm)
    tree = spatial.cKDTree(goal * spacing)
    distances[left] = tree.query(start[left] * spacing)[0]
    return distances


def _along_lines(goal: IntArray, shape: IntArray) -> NDArray[np.uint16]:
    """Steps to the nearest corner of `goal` along the last axis, at every corner of a grid."""
    here = np.arange(shape[2], dtype=np.int32)
    before = np.full(shape, -_NONE, np.int32)
    after = np.full(shape, 2 * _NONE, np.int32)
    at = tuple(goal.T)
    before[at] = after[at] = goal[:, 2]
    np.maximum.accumulate(before, axis=2, out=before)
    backwards = after[..., ::-1]
    np.minimum.accumulate(backwards, axis=2, out=backwards)
    np.subtract(here, before, out=before)
    np.subtract(after, here, out=after)
    steps = np.minimum(before, after, out=before)
    return np.minimum(steps, _NONE, out=steps).astype(np.uint16)


def _reach_mm(spacing_mm: tuple[float, ...]) -> float:
    return _REACH * math.sqrt(spacing_mm[0] * spacing_mm[1])


@lru_cache(maxsize=16)
def _rings(spacing_mm: tuple[float, float]) -> tuple[tuple[float, IntArray, float], ...]:
    """Offsets along the first two axes by distance: its square, they, and the next square."""
    reach = _reach_mm(spacing_mm)
    sizes = [math.ceil(reach / s) for s in spacing_mm]
    grid = np.mgrid[-sizes[0] : sizes[0] + 1, -sizes[1] : sizes[1] + 1].reshape(2, -1).T
    squares = ((grid * np.array(spacing_mm)) ** 2).sum(1)
    levels = np.unique(squares[squares <= reach**2])
    following = [*levels[1:], levels[-1]]
    return tuple(
        (float(level), grid[squares == level], float(after))
        for level, after in zip(levels, following, strict=True)
    )
