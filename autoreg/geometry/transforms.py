"""Transforms: from points of the fixed image to points of the moving image, and what follows.

World points are xyz, LPS, millimetres. Pull-back everywhere: the warped image at p is the moving
image at transform(p).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from autoreg.errors import GeometryError
from autoreg.geometry.grid import FloatArray, Geometry, apply_affine
from autoreg.numerics.coordinates import slabs, transformed_index_grid
from autoreg.numerics.invert import Inverter
from autoreg.numerics.warp import sample_at_index


class Transform(Protocol):
    """A map of world points."""

    def map_points(self, points_mm: ArrayLike) -> FloatArray:
        """Where points go: (N, 3) xyz LPS mm -> (N, 3)."""
        ...

    def inverse(self) -> "Transform":
        """The map back."""
        ...


@dataclass(frozen=True, eq=False)
class Affine:
    """An affine map.

    Attributes:
        matrix: 4x4 float64, on homogeneous world points (x, y, z, 1).

    Raises:
        GeometryError: if the matrix is not an invertible affine map.
    """

    matrix: FloatArray

    def __post_init__(self) -> None:
        matrix = np.array(self.matrix, dtype=np.float64)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
            raise GeometryError(f"an affine map needs a finite 4x4 matrix, found {matrix}")
        if not np.array_equal(matrix[3], [0, 0, 0, 1]):
            raise GeometryError(f"an affine map's last row is 0 0 0 1, found {matrix[3]}")
        if abs(np.linalg.det(matrix[:3, :3])) < 1e-12:
            raise GeometryError(f"this affine map is singular: {matrix.tolist()}")
        matrix.setflags(write=False)
        object.__setattr__(self, "matrix", matrix)

    def map_points(self, points_mm: ArrayLike) -> FloatArray:
        """Where points go: (N, 3) xyz LPS mm -> (N, 3)."""
        return apply_affine(self.matrix, points_mm)

    def inverse(self) -> "Affine":
        """The inverse map."""
        inverse = np.asarray(np.linalg.inv(self.matrix), dtype=np.float64)
        inverse[3] = (0, 0, 0, 1)
        return Affine(inverse)


@dataclass(frozen=True, eq=False)
class DisplacementField:
    """A displacement of the points of a grid: index i -> i + u(i).

    Between the nodes u is trilinear; outside the grid the edge values are held.

    Attributes:
        u_vox: (3, D, H, W) float32, voxels of `geometry`, channels (d, h, w).
        geometry: The grid.

    Raises:
        GeometryError: if the shapes do not fit or a value is not finite.
    """

    u_vox: NDArray[np.float32]
    geometry: Geometry

    def __post_init__(self) -> None:
        u_vox = np.ascontiguousarray(self.u_vox, dtype=np.float32)
        if u_vox.shape != (3, *self.geometry.shape):
            raise GeometryError(
                f"a displacement on a grid of {self.geometry.shape} has the shape "
                f"{(3, *self.geometry.shape)}, found {u_vox.shape}"
            )
        if not np.isfinite(u_vox).all():
            raise GeometryError("a displacement field has values that are NaN or infinite")
        object.__setattr__(self, "u_vox", u_vox)

    def map_points(self, points_mm: ArrayLike) -> FloatArray:
        """Where points go: (N, 3) xyz LPS mm -> (N, 3)."""
        index = self.geometry.to_index(points_mm)
        field = torch.from_numpy(self.u_vox)[None]
        moved = _to_rows(sample_at_index(field, to_batch(index).float(), "border"))
        return self.geometry.to_world(index + moved)

    def inverse(self) -> "InverseDisplacementField":
        """The map back, solved numerically point by point."""
        return InverseDisplacementField(self)


class NumericalInverse(ABC):
    """A map back that is solved point by point, and need not exist everywhere."""

    @abstractmethod
    def solve(self, points_mm: ArrayLike) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Where points come from, and for which of them this is known.

        Args:
            points_mm: (N, 3) xyz LPS mm.

        Returns:
            (N, 3) points, and (N,) whether each is known; where it is not, because the transform
            folds or none was found, the best point found.
        """

    def map_points(self, points_mm: ArrayLike) -> FloatArray:
        """Where points come from: (N, 3) xyz LPS mm -> (N, 3).

        Raises:
            GeometryError: if there is no inverse at one of the points; `solve` tells which.
        """
        mapped, converged = self.solve(points_mm)
        if not converged.all():
            first = np.asarray(points_mm)[np.argmin(converged)]
            raise GeometryError(
                f"the displacement field has no inverse at {(~converged).sum()} of "
                f"{converged.size} points, the first being {np.round(first, 2).tolist()} mm: it "
                "folds there; register again with a larger regularity weight"
            )
        return mapped


@dataclass(frozen=True, eq=False)
class InverseDisplacementField(NumericalInverse):
    """The numerical inverse of a displacement field, to 1e-3 voxel of its grid.

    Attributes:
        field: The displacement field.
    """

    field: DisplacementField

    @cached_property
    def _inverter(self) -> Inverter:
        return Inverter(torch.from_numpy(self.field.u_vox)[None])

    def solve(self, points_mm: ArrayLike) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Where points come from, and for which of them this is known; see `NumericalInverse`."""
        geometry = self.field.geometry
        found = self._inverter(to_batch(geometry.to_index(points_mm)))
        converged: NDArray[np.bool_] = found.converged.reshape(-1).numpy()
        return geometry.to_world(_to_rows(found.points_vox)), converged

    def inverse(self) -> DisplacementField:
        """The displacement field itself."""
        return self.field


@dataclass(frozen=True, eq=False)
class Composite:
    """Several transforms, one after the other; none at all is the identity.

    Attributes:
        transforms: The first one is applied first.
    """

    transforms: tuple[Transform, ...]

    def map_points(self, points_mm: ArrayLike) -> FloatArray:
        """Where points go: (N, 3) xyz LPS mm -> (N, 3)."""
        points = np.asarray(points_mm, dtype=np.float64)
        for transform in self.transforms:
            points = transform.map_points(points)
        return points

    def inverse(self) -> "Composite":
        """The inverses in reverse order."""
        return Composite(tuple(t.inverse() for t in reversed(self.transforms)))


def invert_on_grid(
    transform: Transform, geometry: Geometry
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The inverse of a transform at the voxel centres of a grid, computed in slabs.

    Args:
        transform: For example from the fixed to the moving image.
        geometry: For example the moving image's native grid.

    Returns:
        The displacement inverse(p) - p, (D, H, W, 3) float32 xyz LPS mm; and what is left of
        transform(inverse(p)) - p, (D, H, W) float32 mm, which is infinite wherever the inverse
        does not exist, because the transform folds, or was not found.
    """
    inverse = transform.inverse()
    u_mm = np.empty((*geometry.shape, 3), dtype=np.float32)
    residual_mm = np.empty(geometry.shape, dtype=np.float32)
    for layers, points in slab_points(geometry):
        origins, known = map_where_known(inverse, points)
        residual = np.linalg.norm(transform.map_points(origins) - points, axis=1)
        residual[~known] = np.inf
        u_mm[layers] = (origins - points).reshape(-1, *geometry.shape[1:], 3)
        residual_mm[layers] = residual.reshape(-1, *geometry.shape[1:])
    return u_mm, residual_mm


def slab_points(geometry: Geometry) -> Iterator[tuple[slice, FloatArray]]:
    """Layers of the grid and the world points (N, 3) of their voxel centres."""
    matrix, shape = torch.from_numpy(geometry.index_to_world.copy()), geometry.shape
    for layers in slabs(shape, 2**20):
        points = transformed_index_grid(matrix, shape, layers, dtype=torch.float64)
        yield layers, _to_rows(points)


def map_where_known(
    transform: Transform, points_mm: FloatArray
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Map points through inverses that may not exist everywhere.

    Args:
        transform: Any transform.
        points_mm: (N, 3) xyz LPS mm.

    Returns:
        (N, 3) points, and (N,) whether each is known; where it is not, the best point found.
    """
    if isinstance(transform, NumericalInverse):
        return transform.solve(points_mm)
    known = np.ones(len(points_mm), dtype=np.bool_)
    if isinstance(transform, Composite):
        for part in transform.transforms:
            points_mm, still = map_where_known(part, points_mm)
            known &= still
        return points_mm, known
    return transform.map_points(points_mm), known


def to_batch(rows: FloatArray) -> torch.Tensor:
    """(N, 3) rows as the (1, 3, 1, 1, N) that sampling wants."""
    return torch.from_numpy(np.ascontiguousarray(rows.T))[None, :, None, None, :]


def _to_rows(batch: torch.Tensor) -> FloatArray:
    """(1, 3, ...) as (N, 3) float64."""
    return batch[0].reshape(3, -1).double().numpy().T
