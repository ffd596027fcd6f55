"""Images shrunk for the initial alignment: what is sampled, and where."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from autoreg.errors import DataError
from autoreg.geometry.foreground import foreground_mask
from autoreg.geometry.grid import FloatArray, Geometry
from autoreg.geometry.volume import Volume
from autoreg.numerics.resample import gaussian_blur

# Beyond these quantiles intensities are clipped: metal, vessels and noise spikes.
_CLIP = (0.002, 0.998)
# Intensity classes into which an image is cut to explain another one.
CLASSES = 24
# Width of the rim around the foreground that counts too, voxels of the level of the starts.
_RIM = 2
# Of the shrunken image, voxels: gradients of a mean over blocks alone are rough.
_BLUR = 0.6


@dataclass(frozen=True, eq=False)
class Level:
    """An image at one resolution.

    Attributes:
        sampled: (1, 4, D, H, W) float32: the image, and its derivatives by x, y and z per mm.
        geometry: Of the shrunken grid.
        last_vox: (3,) the far faces of the field of view, voxels of the grid; the near ones are
            at -0.5.
        mask: (D, H, W) where the image counts; None: everywhere.
        points_mm: (N, 3) world points of the samples: the foreground with a rim, or the mask.
        values: (N,) intensities there.
        classes: (N,) numbers of the intensity classes there, growing.
        foreground: (N,) which samples lie in the foreground proper.
    """

    sampled: Tensor
    geometry: Geometry
    last_vox: FloatArray
    mask: Tensor | None
    points_mm: FloatArray
    values: FloatArray
    classes: NDArray[np.int64]
    foreground: NDArray[np.bool_]

    @property
    def centre_mm(self) -> FloatArray:
        """World point of the foreground's centre."""
        centre: FloatArray = self.points_mm[self.foreground].mean(axis=0)
        return centre


def mean_centre(levels: Sequence[Level]) -> FloatArray:
    """World point of the mean of the channels' foregrounds' centres."""
    return np.asarray(np.mean([level.centre_mm for level in levels], axis=0), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Shrunken:
    """The mean over blocks of voxels.

    Attributes:
        array: (D, H, W) float32.
        geometry: Of the blocks.
        last_vox: As in `Level`; the last block of an axis may be a part of one.
    """

    array: NDArray[np.float32]
    geometry: Geometry
    last_vox: FloatArray


@dataclass(frozen=True, eq=False)
class Foreground:
    """Where an image shows something, at a low resolution.

    Attributes:
        inside: (D, H, W) the foreground, or the mask where there is one.
        counted: The same with a rim.
        geometry: Of their grid.
    """

    inside: NDArray[np.bool_]
    counted: NDArray[np.bool_]
    geometry: Geometry

    @property
    def size(self) -> float:
        """Volume in mm^3, or area in mm^2 of an image of one layer."""
        spacings = [s for s, n in zip(self.geometry.spacing_mm, self.inside.shape, strict=True)
                    if n > 1]  # fmt: skip
        return float(self.inside.sum() * np.prod(spacings))

    @property
    def dimensions(self) -> int:
        """2 for an image of one layer, else 3."""
        return 2 if self.inside.shape[0] == 1 else 3


def shrink(array: NDArray[Any], geometry: Geometry, spacing_mm: float, fewest: int = 1) -> Shrunken:
    """Average blocks of voxels, as large as they fit into cubes of `spacing_mm`.

    Args:
        array: (D, H, W).
        geometry: Of the array.
        spacing_mm: Edge of the cubes; axes that are coarser are left as they are.
        fewest: Blocks along each axis at least, as far as it has voxels.
    """
    factors = [
        max(1, min(n // fewest, round(spacing_mm / s)))
        for n, s in zip(array.shape, geometry.spacing_mm, strict=True)
    ]
    volume = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))[None, None]
    missing = [-n % f for n, f in zip(array.shape, factors, strict=True)]
    padding = [p for m in reversed(missing) for p in (0, m)]
    if any(missing):
        volume = functional.pad(volume, padding, mode="replicate")
    mean = functional.avg_pool3d(volume, factors)[0, 0].numpy()
    matrix = geometry.index_to_world.copy()
    matrix[:3, :3] *= factors
    matrix[:3, 3] = geometry.to_world((np.array(factors) - 1) / 2)
    last = np.array(array.shape) / np.array(factors) - 0.5
    return Shrunken(mean, Geometry(mean.shape, matrix), last)


def find_foreground(volume: Volume, spacing_mm: float, mask: Volume | None) -> Foreground:
    """The foreground, or the mask, of an image shrunk to about `spacing_mm`.

    Raises:
        DataError: if the mask is empty.
    """
    small = shrink(volume.single, volume.geometry, spacing_mm)
    if mask is not None:
        inside = shrink(mask.single != 0, mask.geometry, spacing_mm).array > 0
        if not inside.any():
            raise DataError("the mask has no voxel inside; draw the mask, or leave it out")
        return Foreground(inside, inside, small.geometry)
    found = foreground_mask(small.array)
    counted = ndimage.binary_dilation(found, iterations=_RIM)
    return Foreground(found, counted, small.geometry)


def make_level(
    volume: Volume,
    foreground: Foreground,
    mask: Volume | None,
    spacing_mm: float,
    most_samples: int,
) -> Level:
    """Shrink an image and choose its samples."""
    small = shrink(volume.single, volume.geometry, spacing_mm)
    array = small.array
    counted, inside = (
        _looked_up(part, foreground.geometry, small.geometry)
        for part in (foreground.counted, foreground.inside)
    )
    inner = None
    if mask is not None:
        array, counted = _within_mask(volume, mask, spacing_mm)
        inner = torch.from_numpy(counted)
    array = np.clip(array, *np.quantile(array[counted], _CLIP))
    sigmas = tuple(_BLUR if n > 1 else 0.0 for n in array.shape)
    smooth = gaussian_blur(torch.from_numpy(array)[None, None], sigmas)[0, 0]  # type: ignore[arg-type]
    index = np.argwhere(counted)
    values = smooth.numpy()[counted].astype(np.float64)
    classes = _classes(values)
    # Sorted, so that sums over classes are sums over stretches; every n-th is a fair draw.
    order = np.argsort(classes, kind="stable")[:: -(-len(classes) // most_samples)]
    return Level(
        sampled=_with_slopes(smooth, small.geometry),
        geometry=small.geometry,
        last_vox=small.last_vox,
        mask=inner,
        points_mm=small.geometry.to_world(index[order]),
        values=values[order],
        classes=classes[order],
        foreground=inside[counted][order],
    )


def _within_mask(
    volume: Volume, mask: Volume, spacing_mm: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The shrunken image without what lies outside its mask, and the shrunken mask.

    Outside, the nearest value inside is repeated: blur and slopes at the mask's edge then know
    nothing of what it hides.
    """
    inside = mask.single != 0
    shrunken = shrink(inside, mask.geometry, spacing_mm)
    part = shrunken.array
    masked = shrink(np.where(inside, volume.single, 0), volume.geometry, spacing_mm).array
    counted = part >= min(0.5, float(part.max()))
    nearest = ndimage.distance_transform_edt(
        ~counted, sampling=shrunken.geometry.spacing_mm, return_distances=False, return_indices=True
    )
    mean = masked / np.maximum(part, 1e-6)
    return mean[tuple(nearest)].astype(np.float32), counted


def _looked_up(part: NDArray[np.bool_], source: Geometry, target: Geometry) -> NDArray[np.bool_]:
    """A mask on a finer grid of the same box: axes are parallel, so that each is one lookup."""
    scale = source.world_to_index @ target.index_to_world
    for axis, n in enumerate(target.shape):
        nearest = np.rint(scale[axis, axis] * np.arange(n) + scale[axis, 3]).astype(int)
        part = np.take(part, nearest.clip(0, part.shape[axis] - 1), axis=axis)
    return part


def _classes(values: FloatArray) -> NDArray[np.int64]:
    """Intensity classes of about equal size; equal values share one."""
    edges = np.unique(np.quantile(values, np.arange(1, CLASSES) / CLASSES))
    found = np.searchsorted(edges, values, side="left")
    return np.unique(found, return_inverse=True)[1].astype(np.int64)


def _with_slopes(image: Tensor, geometry: Geometry) -> Tensor:
    """The image and its derivatives by the world's axes."""
    array = image.numpy()
    slopes = np.stack(
        [
            np.gradient(array, axis=axis) if n > 1 else np.zeros_like(array)
            for axis, n in enumerate(array.shape)
        ]
    )
    to_world = geometry.world_to_index[:3, :3].T.astype(np.float32)
    world = np.tensordot(to_world, slopes, axes=1)
    return torch.from_numpy(np.concatenate([array[None], world]))[None]
