"""A scan with its labels and brain, and what is done to all three at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from autoreg.geometry.grid import Geometry
from autoreg.geometry.volume import Volume
from autoreg.io.images import read_image

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Scan:
    """A scan, its labels where there are any, and its brain, all on one grid."""

    image: Volume
    labels: Volume | None
    brain: NDArray[np.bool_]


def read_scan(folder: Path, subject: str) -> Scan:
    """A scan with its labels (where there are any) and brain."""
    image = read_image([folder / f"{subject}.nii.gz"], "intensity")
    file = folder / f"{subject}_labels.nii.gz"
    labels = read_image([file], "label") if file.exists() else None
    return Scan(image, labels, ndimage.binary_fill_holes(image.single > 0))


def pooled(scan: Scan, factor: int | tuple[int, ...]) -> Scan:
    """Means over blocks of voxels; for labels the most frequent one. Left-over voxels are cut."""
    factors = (factor,) * 3 if isinstance(factor, int) else factor
    if set(factors) == {1}:
        return scan
    grid = scan.image.geometry
    whole = [n // f * f for n, f in zip(grid.shape, factors, strict=True)]
    cut = Geometry((whole[0], whole[1], whole[2]), grid.index_to_world)
    coarse = cut.resized([n // f for n, f in zip(whole, factors, strict=True)])
    pools = {0: _pool_labels, 1: pool, 3: pool}
    return on_grid(scan, coarse, lambda array, order: pools[order](array, factors))


def _blocks(array: NDArray[Any], factors: Sequence[int]) -> NDArray[Any]:
    """(D, H, W) -> (d, h, w, voxels of a block)."""
    d, h, w = (n // f for n, f in zip(array.shape, factors, strict=True))
    a, b, c = factors
    blocks = array[: d * a, : h * b, : w * c].reshape(d, a, h, b, w, c)
    return np.ascontiguousarray(blocks.transpose(0, 2, 4, 1, 3, 5)).reshape(d, h, w, -1)


def pool(array: NDArray[Any], factors: Sequence[int]) -> FloatArray:
    """Means over blocks of voxels, (D, H, W) -> (d, h, w)."""
    return np.asarray(_blocks(array, factors).mean(-1, dtype=np.float32), np.float32)


def _pool_labels(array: NDArray[Any], factors: Sequence[int]) -> NDArray[Any]:
    blocks = _blocks(array, factors)
    votes = np.stack([(blocks == blocks[..., i, None]).sum(-1) for i in range(blocks.shape[-1])])
    winner = votes.argmax(0)
    return np.asarray(np.take_along_axis(blocks, winner[..., None], -1)[..., 0])


def warped(scan: Scan, u_vox: FloatArray) -> Scan:
    """The scan at p + u(p): image cubic, brain linear, labels nearest."""
    points = np.indices(u_vox.shape[1:], np.float32) + u_vox
    grid = scan.image.geometry
    return on_grid(scan, grid, lambda array, order: sampled(array, points, order))


def sampled(array: NDArray[Any], points_vox: NDArray[Any], order: int) -> NDArray[Any]:
    """Values at (3, ...) voxels by a spline of an order, 0 outside; order 0 keeps the type."""
    kind = array.dtype if order == 0 else np.float32
    return np.asarray(ndimage.map_coordinates(array, points_vox, kind, order=order))


def on_grid(scan: Scan, grid: Geometry, change: Any) -> Scan:  # noqa: ANN401
    """A scan whose arrays go through `change(array, spline order)`; cubic overshoot is cut."""
    image = np.clip(change(scan.image.single, 3), 0, None)
    brain = change(scan.brain.astype(np.float32), 1) >= 0.5
    labels = None if scan.labels is None else change(scan.labels.single, 0)
    return Scan(
        Volume.intensity(image, grid),
        None if labels is None else Volume(labels[None], grid, "label"),
        brain,
    )


def with_image(scan: Scan, image: FloatArray) -> Scan:
    """The scan with another image (D, H, W) on the same grid."""
    return Scan(Volume.intensity(image, scan.image.geometry), scan.labels, scan.brain)
