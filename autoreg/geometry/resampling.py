"""Volumes on other grids."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoreg.errors import GeometryError
from autoreg.geometry.grid import FloatArray, Geometry
from autoreg.geometry.interpolation import Interpolation, default_interpolation, make_sampler
from autoreg.geometry.transforms import (
    Affine,
    Composite,
    DisplacementField,
    Transform,
    map_where_known,
    slab_points,
)
from autoreg.geometry.volume import Volume
from autoreg.numerics.coordinates import slabs, transformed_index_grid

# What headers in float32 lose is no difference between grids.
_SAME_GRID_MM = 1e-4
# Intermediate indices of a slab should stay in the processor's cache.
_SLAB_VOXELS = 2**17


@dataclass(frozen=True, eq=False)
class Resampled:
    """A volume on another grid, and how much of it is known.

    Attributes:
        volume: On the grid that was asked for.
        inside: Voxels which the transform takes into the moving image.
        unknown: (N, 3) voxels (d, h, w) at which the transform is not known (a displacement field
            folds there and has no inverse); they hold the outside value.
    """

    volume: Volume
    inside: int
    unknown: NDArray[np.intp]


def resample_volume(
    moving: Volume,
    transform: Transform | None,
    reference: Geometry,
    *,
    outside: float | Sequence[float] = 0.0,
    interpolation: Interpolation | None = None,
) -> Volume:
    """Pull a volume back onto a grid: out(p) = moving(transform(p)); see `resample_known`.

    Raises:
        GeometryError: as `resample_known`, and if the transform has no inverse somewhere.
    """
    found = resample_known(
        moving, transform, reference, outside=outside, interpolation=interpolation
    )
    if len(found.unknown):
        raise GeometryError(
            f"the transform has no inverse at {len(found.unknown)} voxels of the grid, because "
            "it folds there; register again with a larger regularity weight"
        )
    return found.volume


def resample_known(
    moving: Volume,
    transform: Transform | None,
    reference: Geometry,
    *,
    outside: float | Sequence[float] = 0.0,
    interpolation: Interpolation | None = None,
) -> Resampled:
    """Pull a volume back onto a grid: out(p) = moving(transform(p)), computed in slabs.

    A point is inside the moving image up to half a voxel beyond its outermost voxel centres, where
    the edge value is held, which is ITK's rule (`ImageFunction::IsInsideBuffer`): SimpleITK's
    resampling with the same transform gives the same image.

    Args:
        moving: The image.
        transform: From points of `reference` to points of `moving`; None is the identity.
        reference: The grid of the result.
        outside: The value beyond the moving image, or one value for each of its channels.
        interpolation: See `make_sampler`; by default intensities are interpolated linearly, label
            maps and masks take the nearest voxel.

    Returns:
        The volume on `reference`, of the same kind and number type.

    Raises:
        GeometryError: if there are neither one nor as many outside values as channels, or the
            interpolation does not suit the volume.
    """
    beyond = _outside_values(moving, outside)
    sampler = make_sampler(moving, interpolation or default_interpolation(moving))
    last = torch.tensor(moving.geometry.shape, dtype=torch.float64)[:, None] - 0.5
    result = np.empty((moving.array.shape[0], *reference.shape), dtype=moving.array.dtype)
    inside_count = 0
    unknown: list[NDArray[np.intp]] = []
    for layers, index, known in _index_slabs(transform, reference, moving.geometry):
        inside = ((index >= -0.5) & (index < last)).all(0).numpy() & known
        piece = sampler(index)
        piece = np.where(inside, piece, beyond.astype(piece.dtype))
        result[:, layers] = piece.reshape(piece.shape[0], -1, *reference.shape[1:])
        inside_count += int(np.count_nonzero(inside))
        lost = np.argwhere(~known.reshape(-1, *reference.shape[1:]))
        unknown.append(lost + np.array([layers.start, 0, 0]))
    volume = Volume(result, reference, moving.kind)
    return Resampled(volume, inside_count, np.concatenate(unknown))


def sample_displacement_known(
    transform: Transform, reference: Geometry
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The displacement transform(p) - p at the voxel centres of a grid, and where it is known.

    Args:
        transform: Any transform; an inverse may not exist everywhere.
        reference: The grid.

    Returns:
        (D, H, W, 3) float32, xyz LPS mm, holding the best that was found where it is not known;
        and (D, H, W).
    """
    u_mm = np.empty((*reference.shape, 3), dtype=np.float32)
    where = np.empty(reference.shape, dtype=np.bool_)
    for layers, nodes, points, known in mapped_slabs(transform, reference):
        u_mm[layers] = (points - nodes).reshape(-1, *reference.shape[1:], 3)
        where[layers] = known.reshape(-1, *reference.shape[1:])
    return u_mm, where


def field_from_mm(u_mm: NDArray[np.float32], geometry: Geometry) -> DisplacementField:
    """A sampled displacement as a transform.

    Args:
        u_mm: (D, H, W, 3), xyz LPS mm.
        geometry: The grid that it was sampled on.
    """
    matrix = geometry.world_to_index[:3, :3].astype(np.float32)
    return DisplacementField(np.einsum("ax,dhwx->adhw", matrix, u_mm), geometry)


def mapped_slabs(
    transform: Transform | None, reference: Geometry
) -> Iterator[tuple[slice, FloatArray, FloatArray, NDArray[np.bool_]]]:
    """Where a transform takes the voxel centres of a grid, some layers at a time.

    Args:
        transform: None is the identity.
        reference: The grid.

    Yields:
        Layers of the grid, their voxel centres (N, 3) xyz LPS mm, where these go, and (N,) whether
        that is known.
    """
    on_grid, rest = _field_on_grid(transform, reference)
    for layers, nodes in slab_points(reference):
        moved = nodes if on_grid is None else nodes + _node_displacement(on_grid, layers)
        yield layers, nodes, *map_where_known(Composite(rest), moved)


def _index_slabs(
    transform: Transform | None, reference: Geometry, target: Geometry
) -> Iterator[tuple[slice, Tensor, NDArray[np.bool_]]]:
    """Where a transform takes the voxels of a grid, in indices of another one, by some layers.

    A displacement on the very grid and affine maps after it, the usual case, need no world points:
    their index is an affine map of index and displacement.

    Yields:
        Layers of the grid, (3, N) float64 indices (d, h, w) of `target`, and (N,) whether they are
        known.
    """
    on_grid, rest = _field_on_grid(transform, reference)
    affines = [part.matrix for part in rest if isinstance(part, Affine)]
    if len(affines) < len(rest):
        for layers, _, points, known in mapped_slabs(transform, reference):
            yield layers, torch.from_numpy(np.ascontiguousarray(target.to_index(points).T)), known
        return
    matrix = reference.index_to_world
    for affine in affines:
        matrix = affine @ matrix
    to_index = torch.from_numpy(target.world_to_index @ matrix)
    for layers in slabs(reference.shape, _SLAB_VOXELS):
        nodes = transformed_index_grid(to_index, reference.shape, layers, dtype=torch.float64)
        index = nodes[0].flatten(1)
        if on_grid is not None:
            u_vox = torch.from_numpy(on_grid.u_vox[:, layers]).flatten(1)
            index.addmm_(to_index[:3, :3], u_vox.double())
        yield layers, index, np.ones(index.shape[1], dtype=np.bool_)


def _field_on_grid(
    transform: Transform | None, reference: Geometry
) -> tuple[DisplacementField | None, tuple[Transform, ...]]:
    """A field that comes first and lives on the very grid, which needs no interpolation; the rest.

    That is the usual case: a displacement is stored on the fixed image's grid.
    """
    parts = () if transform is None else _links(transform)
    first = parts[0] if parts else None
    if (
        isinstance(first, DisplacementField)
        and first.geometry.difference(reference, _SAME_GRID_MM) is None
    ):
        return first, parts[1:]
    return None, parts


def _links(transform: Transform) -> tuple[Transform, ...]:
    """The transforms of a composite of composites, in order."""
    if not isinstance(transform, Composite):
        return (transform,)
    return tuple(link for part in transform.transforms for link in _links(part))


def _node_displacement(field: DisplacementField, layers: slice) -> FloatArray:
    """The displacement at the nodes of some layers, (N, 3) xyz LPS mm."""
    u_vox = field.u_vox[:, layers].reshape(3, -1)
    u_mm: FloatArray = np.einsum("xa,an->nx", field.geometry.index_to_world[:3, :3], u_vox)
    return u_mm


def _outside_values(volume: Volume, outside: float | Sequence[float]) -> FloatArray:
    """A column that broadcasts over the rows of the channels."""
    values = np.array(outside, dtype=np.float64, ndmin=1)
    if values.size not in (1, len(volume.array)):
        raise GeometryError(
            f"{values.size} outside values for {len(volume.array)} channels; give one for all or "
            "one for each"
        )
    return values[:, None]
