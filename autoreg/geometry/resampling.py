"""Volumes on other grids."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autoreg.errors import GeometryError
from autoreg.geometry.grid import FloatArray, Geometry
from autoreg.geometry.transforms import Transform, slab_points, to_batch
from autoreg.geometry.volume import Volume
from autoreg.numerics.warp import Mode, sample_at_index


def resample_volume(
    moving: Volume,
    transform: Transform | None,
    reference: Geometry,
    *,
    outside: float | Sequence[float] = 0.0,
) -> Volume:
    """Pull a volume back onto a grid: out(p) = moving(transform(p)), computed in slabs.

    Intensities are interpolated linearly; label maps and masks take the nearest voxel. A point is
    inside the moving image up to half a voxel beyond its outermost voxel centres, where the edge
    value is held, which is ITK's rule (`ImageFunction::IsInsideBuffer`): SimpleITK's resampling
    with the same transform gives the same image.

    Args:
        moving: The image.
        transform: From points of `reference` to points of `moving`; None is the identity.
        reference: The grid of the result.
        outside: The value beyond the moving image, or one value for each of its channels.

    Returns:
        The volume on `reference`, of the same kind and number type.

    Raises:
        GeometryError: if there are neither one nor as many outside values as channels.
    """
    beyond = _outside_values(moving, outside)
    mode: Mode = "linear" if moving.kind == "intensity" else "nearest"
    image = torch.from_numpy(_known_to_torch(moving))[None]
    shape = np.array(moving.geometry.shape)
    result = np.empty((moving.array.shape[0], *reference.shape), dtype=moving.array.dtype)
    for layers, points in slab_points(reference):
        mapped = points if transform is None else transform.map_points(points)
        index = moving.geometry.to_index(mapped)
        inside = ((index >= -0.5) & (index < shape - 0.5)).all(axis=1)
        where = to_batch(index).float() if mode == "linear" else to_batch(index)
        values = sample_at_index(image, where, "border", mode)[0]
        piece = values.flatten(1).numpy()
        piece = np.where(inside, piece, beyond.astype(piece.dtype))
        result[:, layers] = piece.reshape(piece.shape[0], -1, *reference.shape[1:])
    return Volume(result, reference, moving.kind)


def _outside_values(volume: Volume, outside: float | Sequence[float]) -> FloatArray:
    """A column that broadcasts over the rows of the channels."""
    values = np.array(outside, dtype=np.float64, ndmin=1)
    if values.size not in (1, len(volume.array)):
        raise GeometryError(
            f"{values.size} outside values for {len(volume.array)} channels; give one for all or "
            "one for each"
        )
    return values[:, None]


def _known_to_torch(volume: Volume) -> NDArray[Any]:
    """The volume's array in a type that torch can sample."""
    if volume.kind == "intensity":
        return np.ascontiguousarray(volume.array, dtype=np.float32)
    small = np.can_cast(volume.array.dtype, np.int32)
    return np.ascontiguousarray(volume.array, dtype=np.int32 if small else np.int64)
