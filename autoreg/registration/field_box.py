"""The box of the fixed image's grid in which a displacement field is optimised."""

import math
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
import numpy.typing as npt

from autoreg.errors import DataError
from autoreg.geometry.foreground import coarse_foreground
from autoreg.geometry.grid import FloatArray, Geometry
from autoreg.geometry.transforms import Affine
from autoreg.geometry.volume import Volume

Triple = tuple[float, float, float]
IntTriple = tuple[int, int, int]

# Around the foreground of both images.
_MARGIN_MM = 8.0
# The coarsest resolution: structures that are further apart are the initial alignment's.
_COARSEST_MM = 8.0
# No axis gets coarser than this many voxels.
_FEWEST = 8


@dataclass(frozen=True, eq=False)
class Box:
    """A box of the fixed image's grid; it may reach beyond the image.

    Attributes:
        low: Index of its first voxel, per axis; may be negative.
        shape: Voxels along (d, h, w).
        geometry: Of the whole fixed image.
    """

    low: IntTriple
    shape: IntTriple
    geometry: Geometry

    @property
    def spacing_mm(self) -> Triple:
        """Of the voxels."""
        return self.geometry.spacing_mm

    @property
    def flat(self) -> tuple[bool, bool, bool]:
        """Which axes have one voxel alone."""
        return flat_axes(self.geometry)

    @property
    def lengths_mm(self) -> Triple:
        """From the first to the last voxel."""
        d, h, w = ((n - 1) * s for n, s in zip(self.shape, self.spacing_mm, strict=True))
        return d, h, w

    def world_of_mm(self) -> FloatArray:
        """4x4: from positions (d, h, w) in mm along the axes of the box to world points."""
        matrix = self.geometry.index_to_world.copy()
        matrix[:3, 3] = self.geometry.to_world(self.low)
        matrix[:3, :3] /= np.array(self.spacing_mm)
        return matrix

    def of_image(self) -> list[FloatArray]:
        """Per axis, positions of the whole image's voxels, held within the box; mm."""
        return [
            np.asarray(np.clip(np.arange(n) - low, 0, size - 1) * step, dtype=np.float64)
            for n, low, size, step in zip(
                self.geometry.shape, self.low, self.shape, self.spacing_mm, strict=True
            )
        ]

    def cut(self, array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(C, *geometry.shape) within the box, edge values held beyond the image."""
        for axis, (low, size) in enumerate(zip(self.low, self.shape, strict=True), start=1):
            index = np.clip(np.arange(low, low + size), 0, array.shape[axis] - 1)
            array = array.take(index, axis)
        return array

    def inside_image(self) -> npt.NDArray[np.float32]:
        """(*shape) 1 where the box lies in the image, else 0."""
        d, h, w = (
            ((np.arange(low, low + size) >= 0) & (np.arange(low, low + size) < n))
            for low, size, n in zip(self.low, self.shape, self.geometry.shape, strict=True)
        )
        return (d[:, None, None] & h[:, None] & w).astype(np.float32)


def flat_axes(geometry: Geometry) -> tuple[bool, bool, bool]:
    """Which axes (d, h, w) of a grid have one voxel alone."""
    d, h, w = (n == 1 for n in geometry.shape)
    return d, h, w


def finest_mm(geometry: Geometry) -> float:
    """The smallest spacing of a grid's axes that are not flat.

    Raises:
        DataError: if all are.
    """
    axes = zip(geometry.spacing_mm, flat_axes(geometry), strict=True)
    spacings = [spacing for spacing, flat in axes if not flat]
    if not spacings:
        raise DataError("an image of one voxel cannot be registered")
    return min(spacings)


def coarsest(geometry: Geometry) -> int:
    """The index of a grid's coarsest resolution; 0 is its own, each further one half as fine."""
    finest = finest_mm(geometry)
    index = max(0, round(math.log2(_COARSEST_MM / finest)))
    while index > 0 and factors_at(index, finest, geometry) == factors_at(
        index - 1, finest, geometry
    ):
        index -= 1
    return index


def factors_at(index: int, finest: float, geometry: Geometry) -> IntTriple:
    """By how much each axis is shrunk at a resolution: voxels become about cubes.

    No axis gets shorter than eight voxels by it.

    Args:
        index: 0 is the finest.
        finest: Size of a voxel there, mm.
        geometry: The grid.
    """
    wanted = finest * 2.0**index
    d, h, w = (
        min(2 ** max(0, round(math.log2(wanted / spacing))), _largest_factor(n))
        for n, spacing in zip(geometry.shape, geometry.spacing_mm, strict=True)
    )
    return d, h, w


def _largest_factor(voxels: int) -> int:
    """The largest power of two that leaves enough voxels of an axis."""
    factor = 1
    while voxels // (2 * factor) >= _FEWEST:
        factor *= 2
    return factor


@dataclass(frozen=True, eq=False)
class Extent:
    """How far the foreground of an image reaches.

    Attributes:
        geometry: Of the image.
        corners: Of the boxes of each channel's foreground, (8 C, 3) indices.
    """

    geometry: Geometry
    corners: FloatArray

    @classmethod
    def of(cls, volume: Volume) -> "Extent":
        """Of any channel's foreground."""
        corners = []
        for channel in volume.array:
            mask, steps = coarse_foreground(channel)
            where = np.argwhere(mask)
            low, high = where.min(0) * steps, (where.max(0) + 1) * steps - 1
            corners += [np.where(bits, high, low) for bits in np.ndindex(2, 2, 2)]
        return cls(volume.geometry, np.array(corners, dtype=np.float64))

    @property
    def longest_mm(self) -> float:
        """The longest axis with a margin around it, as far as the image reaches."""
        voxels = self.corners.max(0) - self.corners.min(0) + 1
        spacing = np.array(self.geometry.spacing_mm)
        whole = np.array(self.geometry.shape) * spacing
        return float(np.minimum(voxels * spacing + 2 * _MARGIN_MM, whole).max())


def find_box(fixed: Extent, moving: Extent, initial: Affine, mask: Volume | None) -> Box:
    """Around the foreground of both images, or around the mask.

    Args:
        fixed: Of the fixed image.
        moving: Of the moving image.
        initial: From fixed to moving points.
        mask: Of the fixed image.

    Returns:
        As many voxels along each axis as make whole blocks at the coarsest resolution.
    """
    geometry = fixed.geometry
    points = [np.argwhere(mask.single).astype(np.float64)] if _usable(mask) else []
    if not points:
        points.append(fixed.corners)
        back = initial.inverse().map_points(moving.geometry.to_world(moving.corners))
        points.append(geometry.to_index(back))
    inside = np.concatenate(points)
    factors = factors_at(coarsest(geometry), finest_mm(geometry), geometry)
    spans = [
        (0, 1) if flat else _span(inside[:, axis], n, _MARGIN_MM / step, 2 * factor)
        for axis, (n, step, factor, flat) in enumerate(
            zip(geometry.shape, geometry.spacing_mm, factors, flat_axes(geometry), strict=True)
        )
    ]
    (d, depth), (h, height), (w, width) = spans
    return Box((d, h, w), (depth, height, width), geometry)


def _usable(mask: Volume | None) -> TypeGuard[Volume]:
    return mask is not None and bool(mask.array.any())


def _span(inside: FloatArray, voxels: int, margin: float, unit: int) -> tuple[int, int]:
    """First voxel and number of voxels, a multiple of `unit`; within the image where that fits."""
    first = max(0, math.floor(inside.min() - margin))
    last = min(voxels - 1, math.ceil(inside.max() + margin))
    size = -(-max(last - first + 1, 1) // unit) * unit
    return max(min(first, voxels - size), min(0, (voxels - size) // 2)), size
