"""Surface distances: the 95th percentile Hausdorff distance (HD95) as Learn2Reg defines it.

A surface element ("surfel") sits at every voxel *corner* whose 2x2x2 neighbourhood holds both
label and background; its area comes from a table of the 256 neighbourhoods. Percentiles are taken
over the area, not over the number of elements.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from autoreg.errors import GeometryError
from autoreg.evaluation.arrays import Array, FloatArray, as_numpy
from autoreg.evaluation.surface_distances import Spacing, directed_percentile

# Corners of a 2x2x2 neighbourhood in C order; the first has the highest of 8 bits.
_CORNERS = tuple(itertools.product((0, 1), repeat=3))
_BITS = tuple(128 >> i for i in range(8))


@dataclass(frozen=True, eq=False)
class Surfels:
    """The surface elements of one label.

    Attributes:
        corners: (N, 3) integer voxel corners along the array axes; corner c lies between the
            voxels c - 1 and c.
        areas_mm2: (N,) the area of each.
    """

    corners: NDArray[np.int64]
    areas_mm2: FloatArray


def hd95(
    fixed: Array,
    warped: Array,
    labels: Sequence[int],
    *,
    moving: Array | None = None,
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
    percent: float = 95.0,
) -> FloatArray:
    """95th percentile Hausdorff distance of each label.

    Per direction: the distances of all surfels of one label map to the nearest surfel of the
    other, sorted, and the first whose cumulated share of the area reaches 95 %; the larger of
    both directions counts. Outside of the grid counts as background.

    Args:
        fixed: (D, H, W) label map of the fixed image.
        warped: (D, H, W) moving label map, warped onto the same grid.
        labels: The labels to be scored; 0 is scored like any other.
        moving: The label map before it was warped, as in `overlap.dice`.
        spacing_mm: Along the array axes. Learn2Reg's evaluators have (1, 1, 1) for all data.
        percent: 100 gives the plain Hausdorff distance.

    Returns:
        (len(labels),) millimetres. NaN for a label that is missing in `fixed` or `moving`, inf
        for one that is missing in `warped` alone.

    Raises:
        GeometryError: if the shapes differ.
    """
    fixed_ids, warped_ids = as_numpy(fixed), as_numpy(warped)
    if fixed_ids.shape != warped_ids.shape:
        raise GeometryError(
            f"HD95 needs label maps of one shape, found {fixed_ids.shape} (fixed) and "
            f"{warped_ids.shape} (warped)"
        )
    spacing = (float(spacing_mm[0]), float(spacing_mm[1]), float(spacing_mm[2]))
    in_moving = set(labels) if moving is None else set(np.unique(as_numpy(moving)).tolist())
    fixed_boxes, warped_boxes = _boxes(fixed_ids, labels), _boxes(warped_ids, labels)

    def one(label: int) -> float:
        if label not in in_moving or fixed_boxes[label] is None:
            return float("nan")
        if warped_boxes[label] is None:
            return float("inf")
        first = surfels(fixed_ids, label, fixed_boxes[label], spacing)
        second = surfels(warped_ids, label, warped_boxes[label], spacing)
        return robust_hausdorff(first, second, spacing, percent)

    return np.array([one(label) for label in labels], dtype=np.float64)


def robust_hausdorff(first: Surfels, second: Surfels, spacing_mm: Spacing, percent: float) -> float:
    """The larger of the two directed percentile distances of two surfaces, millimetres."""
    return max(
        directed_percentile(a.corners, a.areas_mm2, b.corners, spacing_mm, percent)
        for a, b in ((first, second), (second, first))
    )


def surfels(
    label_map: NDArray[Any],
    label: int,
    box: tuple[slice, slice, slice] | None = None,
    spacing_mm: Spacing = (1.0, 1.0, 1.0),
) -> Surfels:
    """The surface elements of one label.

    Args:
        label_map: (D, H, W).
        label: Which one.
        box: A box that holds the label; default the whole grid.
        spacing_mm: Along the array axes.
    """
    box = box or (slice(0, None), slice(0, None), slice(0, None))
    inside = label_map[box] == label
    for axis, n in enumerate(label_map.shape):
        # A single layer has an outline, but no surface above and below.
        widths = [(int(i == axis), int(i == axis)) for i in range(3)]
        inside = np.pad(inside, widths, mode="edge" if n == 1 else "constant")
    padded = inside.view(np.uint8)
    codes = np.zeros([n - 1 for n in padded.shape], np.uint8)
    for bit, offset in zip(_BITS, _CORNERS, strict=True):
        part = tuple(slice(o, n - 1 + o) for o, n in zip(offset, padded.shape, strict=True))
        codes += padded[part] * np.uint8(bit)
    at = np.nonzero((codes != 0) & (codes != 255))
    corners = np.stack(at, axis=1) + [edge.start for edge in box]
    return Surfels(corners, surfel_areas(spacing_mm)[codes[at]])


@lru_cache(maxsize=16)
def surfel_areas(spacing_mm: Spacing = (1.0, 1.0, 1.0)) -> FloatArray:
    """Area of the surface within a 2x2x2 neighbourhood of voxel centres, for all 256 of them.

    The surface cuts every edge between label and background in its middle. Each 6-connected
    group of the rarer kind of corners (label or background) is cut off by itself, with planar
    patches; with a spacing the patches are stretched. At unit spacing there are 13 areas, for
    22 neighbourhoods that differ after rotation, reflection and exchange of label and background.

    Args:
        spacing_mm: Along the array axes.

    Returns:
        (256,) square millimetres; the first corner in C order is bit 128, the last bit 1.
    """
    # An area vector (normal times area) of a stretched patch: each component grows with the two
    # other axes.
    stretch = np.prod(spacing_mm) / np.array(spacing_mm)
    areas = np.zeros(256)
    for code in range(256):
        members = [c for bit, c in zip(_BITS, _CORNERS, strict=True) if code & bit]
        if len(members) > 4:
            members = [c for c in _CORNERS if c not in members]
        patches = [patch for group in _groups(members) for patch in _patches(group)]
        areas[code] = sum(np.linalg.norm(np.array(patch) * stretch) for patch in patches)
    areas.setflags(write=False)
    return areas


_Corner = tuple[int, ...]


def _groups(members: list[_Corner]) -> list[list[_Corner]]:
    """6-connected groups of cube corners."""
    groups: list[list[_Corner]] = []
    for corner in members:
        touching = [g for g in groups if any(_edge_axis(corner, c) is not None for c in g)]
        groups = [g for g in groups if g not in touching]
        groups.append([corner, *itertools.chain.from_iterable(touching)])
    return groups


def _edge_axis(a: _Corner, b: _Corner) -> int | None:
    """The axis of the cube edge that joins two corners, if there is one."""
    differing = [axis for axis in range(3) if a[axis] != b[axis]]
    return differing[0] if len(differing) == 1 else None


def _patches(group: list[_Corner]) -> list[tuple[float, ...]]:
    """Absolute area vectors of the patches that cut off a group of one to four corners."""
    edges = [(a, b) for a, b in itertools.combinations(group, 2) if _edge_axis(a, b) is not None]
    axes = [_edge_axis(a, b) for a, b in edges]
    degree = max((sum(corner in edge for edge in edges) for corner in group), default=0)
    across = tuple(0.0 if axis in axes else 1.0 for axis in range(3))  # 1 where no edge runs
    if len(group) == 1:
        return [(1 / 8, 1 / 8, 1 / 8)]
    if len(group) == 2:
        return [tuple(a / 2 for a in across)]
    if len(group) == 3:
        return [tuple(a / 2 for a in across), (3 / 8, 3 / 8, 3 / 8)]
    if len(edges) == 4:  # a face of the cube
        return [across]
    if degree == 3:  # a corner and its three neighbours
        return [(3 / 4, 3 / 4, 3 / 4)]
    ends = [c for c in group if sum(c in edge for edge in edges) == 1]
    outer = [a for a, edge in zip(axes, edges, strict=True) if any(c in edge for c in ends)]
    # A path of four along three axes: what its two outer edges do not share, and the middle.
    sides = [tuple(0.0 if axis == a else 1 / 4 for axis in range(3)) for a in outer]
    return [*sides, (1 / 2, 1 / 2, 1 / 2)]


def _boxes(
    label_map: NDArray[Any], labels: Sequence[int]
) -> dict[int, tuple[slice, slice, slice] | None]:
    """The bounding box of each label; None where it is missing."""
    found = ndimage.find_objects(label_map.astype(np.int32)) if max(labels, default=0) > 0 else []
    boxes = {label: found[label - 1] if 0 < label <= len(found) else None for label in labels}
    if 0 in boxes and (label_map == 0).any():
        boxes[0] = tuple(slice(0, n) for n in label_map.shape)
    return boxes
