"""Geometry: the one description of where the voxels of an array lie in the world."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from autoreg.errors import GeometryError

FloatArray = NDArray[np.float64]

# LPS world axes, and the letters of the direction in which an index grows along them.
_AXIS_LETTERS = (("L", "R"), ("P", "A"), ("S", "I"))


@dataclass(frozen=True, eq=False)
class Geometry:
    """Where an array (D, H, W) lies in the world.

    Attributes:
        shape: Number of voxels along the array axes (d, h, w).
        index_to_world: 4x4 float64. Takes the homogeneous array index (d, h, w, 1) of a voxel
            centre to its world point (x, y, z, 1), LPS, in millimetres. Its columns follow the
            array, its rows the world: ITK's reversed axis order appears in `from_itk` and
            `to_itk` alone.

    Raises:
        GeometryError: if a size is not positive or the matrix is singular or not finite.
    """

    shape: tuple[int, int, int]
    index_to_world: FloatArray

    def __post_init__(self) -> None:
        matrix = np.array(self.index_to_world, dtype=np.float64)
        if min(self.shape) < 1:
            raise GeometryError(f"a geometry needs three positive sizes, found {self.shape}")
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
            raise GeometryError(f"index_to_world must be a finite 4x4 matrix, found {matrix}")
        if abs(np.linalg.det(matrix[:3, :3])) < 1e-12:
            raise GeometryError(f"index_to_world is singular: {matrix.tolist()}")
        matrix.setflags(write=False)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "index_to_world", matrix)

    @classmethod
    def from_itk(
        cls,
        size: Sequence[int],
        spacing: Sequence[float],
        origin: Sequence[float],
        direction: Sequence[float],
    ) -> "Geometry":
        """From ITK's description: size and spacing in (x, y, z) index order, LPS origin.

        Args:
            size: Voxels along ITK's index axes (i, j, k), the reverse of the array's.
            spacing: Millimetres along the same axes.
            origin: World point of the first voxel's centre.
            direction: The 9 cosines, row by row; columns follow ITK's index axes.
        """
        cosines = np.asarray(direction, dtype=np.float64).reshape(3, 3)
        matrix = np.eye(4)
        matrix[:3, :3] = (cosines * np.asarray(spacing, dtype=np.float64))[:, ::-1]
        matrix[:3, 3] = origin
        depth, height, width = (int(n) for n in reversed(size))
        return cls((depth, height, width), matrix)

    def to_itk(
        self,
    ) -> tuple[
        tuple[int, int, int],
        tuple[float, float, float],
        tuple[float, float, float],
        tuple[float, ...],
    ]:
        """ITK's size, spacing, origin and direction (see `from_itk`)."""
        spacing = np.array(self.spacing_mm[::-1])
        cosines = self.index_to_world[:3, :3][:, ::-1] / spacing
        x, y, z = (float(v) for v in self.index_to_world[:3, 3])
        return (
            (self.shape[2], self.shape[1], self.shape[0]),
            (float(spacing[0]), float(spacing[1]), float(spacing[2])),
            (x, y, z),
            tuple(float(v) for v in cosines.ravel()),
        )

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxels along the array axes (d, h, w), millimetres."""
        d, h, w = np.linalg.norm(self.index_to_world[:3, :3], axis=0)
        return float(d), float(h), float(w)

    @property
    def extent_mm(self) -> tuple[float, float, float]:
        """Edge lengths of the voxel box along the array axes (d, h, w), millimetres."""
        d, h, w = (n * s for n, s in zip(self.shape, self.spacing_mm, strict=True))
        return d, h, w

    @property
    def centre_mm(self) -> FloatArray:
        """World point of the middle of the voxel box, (3,) xyz LPS."""
        return self.to_world((np.array(self.shape) - 1) / 2)

    @property
    def world_to_index(self) -> FloatArray:
        """4x4 inverse of `index_to_world`."""
        return np.asarray(np.linalg.inv(self.index_to_world), dtype=np.float64)

    @property
    def orientation(self) -> str:
        """Anatomical directions in which d, h and w grow, e.g. "SPL".

        Each letter is the world direction nearest to the array axis; L, P, S are positive.
        """
        cosines = self.index_to_world[:3, :3] / np.array(self.spacing_mm)
        letters, free = ["?"] * 3, {0, 1, 2}
        # Strongest alignment first, so that an oblique box never gets one letter twice.
        order = sorted(np.ndindex(3, 3), key=lambda rc: -abs(float(cosines[rc])))
        for row, column in order:
            if row in free and letters[column] == "?":
                letters[column] = _AXIS_LETTERS[row][0 if cosines[row, column] > 0 else 1]
                free.remove(row)
        return "".join(letters)

    def to_world(self, indices: ArrayLike) -> FloatArray:
        """World points (..., 3) xyz of array indices (..., 3) dhw; indices may be fractional."""
        return apply_affine(self.index_to_world, indices)

    def to_index(self, points_mm: ArrayLike) -> FloatArray:
        """Fractional array indices (..., 3) dhw of world points (..., 3) xyz, LPS mm."""
        return apply_affine(self.world_to_index, points_mm)

    def contains(self, points_mm: ArrayLike, tolerance_vox: float = 1e-6) -> NDArray[np.bool_]:
        """Which world points (..., 3) lie inside the voxel box (voxel faces included)."""
        index = self.to_index(points_mm)
        upper = np.array(self.shape) - 0.5 + tolerance_vox
        inside: NDArray[np.bool_] = np.all((index >= -0.5 - tolerance_vox) & (index <= upper), -1)
        return inside

    def resized(self, shape: Sequence[int]) -> "Geometry":
        """The same voxel box cut into another number of voxels.

        Faces stay where they are (torch calls this `align_corners=False`).
        """
        ratio = np.array(self.shape) / np.array(shape)
        matrix = self.index_to_world.copy()
        matrix[:3, :3] = self.index_to_world[:3, :3] * ratio
        matrix[:3, 3] = self.to_world((ratio - 1) / 2)
        depth, height, width = (int(n) for n in shape)
        return Geometry((depth, height, width), matrix)

    def subdivided(self, times: int) -> "Geometry":
        """The grid of the same first and last nodes with `times` as many steps between them.

        Args:
            times: Steps for each step of this grid; at least 1.
        """
        matrix = self.index_to_world.copy()
        matrix[:3, :3] /= times
        d, h, w = ((n - 1) * times + 1 for n in self.shape)
        return Geometry((d, h, w), matrix)

    def difference(self, other: "Geometry", tolerance_mm: float = 1e-2) -> str | None:
        """What makes another geometry differ from this one, in words; None if they agree.

        Two geometries agree when shapes are equal and no corner of the box is further than
        `tolerance_mm` from its counterpart.
        """
        if self.shape != other.shape:
            return f"shape {self.shape} against {other.shape} (axes d, h, w)"
        corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(self.shape) - 1)
        gap = np.linalg.norm(self.to_world(corners) - other.to_world(corners), axis=-1).max()
        if gap <= tolerance_mm:
            return None
        for name, mine, theirs in zip(
            ("spacing", "origin", "direction"), self.to_itk()[1:], other.to_itk()[1:], strict=True
        ):
            if not np.allclose(mine, theirs, rtol=1e-4, atol=1e-3):
                return (
                    f"{name} {np.round(mine, 4).tolist()} against {np.round(theirs, 4).tolist()}"
                    f" (a corner is {gap:.3g} mm off)"
                )
        return f"a corner of the box is {gap:.3g} mm off"


def apply_affine(matrix: FloatArray, points: ArrayLike) -> FloatArray:
    """A 4x4 affine applied to points (..., 3), in float64.

    Not by `@`: for three columns BLAS gains nothing, and its threads, which wait by spinning, made
    this twelve times slower on a machine with other work.
    """
    moved: FloatArray = np.einsum(
        "...j,ij->...i", np.asarray(points, dtype=np.float64), matrix[:3, :3]
    )
    moved += matrix[:3, 3]
    return moved
