"""Displacements that are B-splines of control points, as ITK's BSplineTransform has them."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from autoreg.errors import GeometryError
from autoreg.geometry.grid import FloatArray, Geometry
from autoreg.geometry.transforms import (
    DisplacementField,
    InverseDisplacementField,
    NumericalInverse,
)

# Rounding must not decide whether the last point of the domain belongs to it; control points apart.
_EDGE = 1e-9
# Of the grid on which an inverse is solved first: nodes in all, and for each control point.
_NODES = 2_000_000
_MOST_NODES_PER_CONTROL = 8
_CORRECTIONS = 4
# What may be left of an inverse, voxels of that grid.
_LEFT_VOX = 1e-3


@dataclass(frozen=True, eq=False)
class SplineDisplacement:
    """A displacement given by B-splines: p -> p + sum over control points of c_k B(p - k).

    Beyond the domain, in which each point is reached by all the splines that it needs, points stay
    where they are: ITK's rule (`BSplineTransform::InsideValidRegion`).

    Attributes:
        coefficients_mm: (3, d, h, w) float64, of the control points, xyz LPS mm.
        geometry: Where the control points lie. One layer: the displacement of a plane, the same
            across it.
        order: Of the splines; ITK's default is 3.

    Raises:
        GeometryError: if the shapes do not fit, a value is not finite, or there are too few
            control points for the order.
    """

    coefficients_mm: FloatArray
    geometry: Geometry
    order: int = 3

    def __post_init__(self) -> None:
        found = self.coefficients_mm
        if found.shape != (3, *self.geometry.shape):
            raise GeometryError(
                f"B-splines on {self.geometry.shape} control points have coefficients of the shape "
                f"{(3, *self.geometry.shape)}, found {found.shape}"
            )
        if not np.isfinite(found).all():
            raise GeometryError("a B-spline has coefficients that are NaN or infinite")
        if any(n <= self.order for n in self._spanned):
            raise GeometryError(
                f"B-splines of order {self.order} need more control points along each axis, found "
                f"{self.geometry.shape}"
            )

    def map_points(self, points_mm: ArrayLike) -> FloatArray:
        """Where points go: (N, 3) xyz LPS mm -> (N, 3)."""
        points = np.array(points_mm, dtype=np.float64)
        inside = self.domain_contains(points)
        rows = np.ascontiguousarray(self.geometry.to_index(points[inside]).T)
        for axis, channel in enumerate(self.coefficients_mm):
            points[inside, axis] += ndimage.map_coordinates(
                channel, rows, order=self.order, mode="nearest", prefilter=False
            )
        return points

    def domain_contains(self, points_mm: ArrayLike) -> NDArray[np.bool_]:
        """Which world points (N, 3) xyz LPS mm lie in the domain."""
        first, last = self._ends
        index = self.geometry.to_index(points_mm)
        inside: NDArray[np.bool_] = np.all((index >= first - _EDGE) & (index <= last + _EDGE), -1)
        return inside

    def inverse(self) -> "InverseSplineDisplacement":
        """The map back, solved numerically point by point."""
        return InverseSplineDisplacement(self)

    def sampled(self) -> DisplacementField:
        """The displacement on a grid that covers the domain; between its nodes only roughly."""
        first, _ = self._ends
        planar = self.geometry.shape[0] == 1
        cells = np.array([max(1, n - self.order) for n in self.geometry.shape])
        per_cell = int((_NODES / cells.prod()) ** (1 / (2 if planar else 3)))
        per_cell = min(max(per_cell, 1), _MOST_NODES_PER_CONTROL)
        shape = np.where([planar, False, False], 1, cells * per_cell + 1)
        matrix = self.geometry.index_to_world.copy()
        matrix[:3, 3] = self.geometry.to_world(np.where(np.isfinite(first), first, 0))
        matrix[:3, :3] /= [1 if planar else per_cell, per_cell, per_cell]
        grid = Geometry((int(shape[0]), int(shape[1]), int(shape[2])), matrix)
        nodes = np.moveaxis(np.indices(grid.shape), 0, -1).reshape(-1, 3)
        moved = grid.to_index(self.map_points(grid.to_world(nodes)))
        u_vox = (moved - nodes).T.reshape(3, *grid.shape)
        return DisplacementField(u_vox.astype(np.float32), grid)

    @property
    def _spanned(self) -> list[int]:
        """Control points along the axes that the displacement varies along."""
        planar = self.geometry.shape[0] == 1
        return list(self.geometry.shape[1:] if planar else self.geometry.shape)

    @property
    def _ends(self) -> tuple[FloatArray, FloatArray]:
        """First and last index (d, h, w) of the domain; a plane has none across it."""
        margin = (self.order - 1) / 2
        first, last = np.full(3, margin), np.array(self.geometry.shape) - 1 - margin
        if self.geometry.shape[0] == 1:
            first[0], last[0] = -np.inf, np.inf
        return first, last


@dataclass(frozen=True, eq=False)
class InverseSplineDisplacement(NumericalInverse):
    """The numerical inverse of a B-spline displacement.

    Attributes:
        spline: The displacement.
    """

    spline: SplineDisplacement

    @cached_property
    def _rough(self) -> InverseDisplacementField:
        return self.spline.sampled().inverse()

    def solve(self, points_mm: ArrayLike) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Where points come from, and for which of them this is known; see `NumericalInverse`.

        With S the displacement sampled on a grid, whose inverse can be solved, and T the spline
        itself, q = S^-1(p + S(q) - T(q)) is iterated: S - T is small, so that few steps do.
        """
        points = np.asarray(points_mm, dtype=np.float64)
        found, _ = self._rough.solve(points)
        moved = self.spline.map_points(found)
        most = _LEFT_VOX * min(self._rough.field.geometry.spacing_mm)
        for _ in range(_CORRECTIONS):
            unsolved = np.linalg.norm(moved - points, axis=1) > most
            if not unsolved.any():
                break
            beside = self._rough.field.map_points(found[unsolved]) - moved[unsolved]
            found[unsolved], _ = self._rough.solve(points[unsolved] + beside)
            moved[unsolved] = self.spline.map_points(found[unsolved])
        known = np.linalg.norm(moved - points, axis=1) <= most
        # Beyond the domain points stay where they are, unless one of its own comes there.
        still = ~known & ~self.spline.domain_contains(points)
        return np.where(still[:, None], points, found), known | still

    def inverse(self) -> SplineDisplacement:
        """The B-spline displacement itself."""
        return self.spline
