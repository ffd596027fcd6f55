"""Displacements of cubic B-splines on a coarse grid of control points, for optimisation.

All lengths are millimetres along the axes (d, h, w) of one grid, whose voxel 0 lies at 0. Along an
axis of one voxel nothing depends on the position.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autoreg.numerics.axis_matrices import separable
from autoreg.numerics.bspline import cubic_spline
from autoreg.numerics.coordinates import index_grid, sample_index_linear

# Steps towards the velocity that leads to a displacement.
_LOGARITHM_STEPS = 8
# They end when one leaves more than this share of what was left, or nothing worth mentioning, in
# control spacings.
_WORTH_A_STEP, _EXACT = 0.9, 0.001
# A velocity is halved until it moves no control point further than this, in control spacings.
_SMALL = 0.3


@dataclass(frozen=True)
class _Axis:
    """Control points of one axis at (j - 1) * spacing, j = 0 to count - 1."""

    length_mm: float
    spacing_mm: float

    @property
    def flat(self) -> bool:
        return self.length_mm <= 0

    @property
    def count(self) -> int:
        return 1 if self.flat else math.ceil(self.length_mm / self.spacing_mm) + 3

    @property
    def frequencies(self) -> npt.NDArray[np.float64]:
        return np.pi * np.arange(self.count) / self.count

    def cosines(self) -> npt.NDArray[np.float64]:
        """The orthonormal cosine transform (DCT-II) as a matrix."""
        matrix = np.cos(np.outer(self.frequencies, np.arange(self.count) + 0.5))
        matrix *= np.sqrt(2 / self.count)
        matrix[0] /= np.sqrt(2)
        return np.asarray(matrix, dtype=np.float64)

    def splines(self, positions_mm: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """(positions, count): the spline of every control point at positions."""
        if self.flat:
            return np.ones((len(positions_mm), 1))
        at = positions_mm[:, None] / self.spacing_mm + 1 - np.arange(self.count)[None]
        return cubic_spline(at)


@dataclass(frozen=True)
class ControlGrid:
    """Control points at a regular spacing that cover a box.

    Attributes:
        lengths_mm: Of the box along (d, h, w), from its first to its last voxel.
        spacing_mm: Of the control points.
    """

    lengths_mm: tuple[float, float, float]
    spacing_mm: float

    @cached_property
    def _axes(self) -> tuple[_Axis, _Axis, _Axis]:
        d, h, w = (_Axis(length, self.spacing_mm) for length in self.lengths_mm)
        return d, h, w

    @property
    def shape(self) -> tuple[int, int, int]:
        """Control points along (d, h, w)."""
        d, h, w = (axis.count for axis in self._axes)
        return d, h, w

    @property
    def cell_volume(self) -> float:
        """Of a control cell, mm to the power of the axes that are not flat."""
        return float(math.prod(self.spacing_mm for axis in self._axes if not axis.flat))

    def matrices(
        self, positions_mm: Sequence[npt.NDArray[np.float64]], like: Tensor
    ) -> list[Tensor]:
        """Per axis, from control points to the values at positions.

        Args:
            positions_mm: Per axis, (n,).
            like: Device and type of the result.

        Returns:
            Per axis (n, control points).
        """
        axes = zip(self._axes, positions_mm, strict=True)
        return [torch.from_numpy(axis.splines(p)).to(like) for axis, p in axes]

    def evaluate(
        self, coefficients: Tensor, positions_mm: Sequence[npt.NDArray[np.float64]]
    ) -> Tensor:
        """The spline on a grid of positions.

        Args:
            coefficients: (C, *shape).
            positions_mm: Per axis, (n,).

        Returns:
            (C, n_d, n_h, n_w).
        """
        return separable(coefficients, self.matrices(positions_mm, coefficients))

    def nodes_mm(self) -> list[npt.NDArray[np.float64]]:
        """Per axis, where the control points lie."""
        return [
            np.asarray((np.arange(axis.count) - (not axis.flat)) * axis.spacing_mm, np.float64)
            for axis in self._axes
        ]

    def to_frequencies(self, x: Tensor) -> Tensor:
        """The cosine transform of (C, *shape): there, penalty and splines are diagonal."""
        return separable(x, self._cosines(x))

    def from_frequencies(self, x: Tensor) -> Tensor:
        """The inverse of `to_frequencies`."""
        return separable(x, [matrix.T for matrix in self._cosines(x)])

    @cached_property
    def laplacian(self) -> Tensor:
        """What minus the second differences of control points do to each frequency, (*shape)."""
        d, h, w = (torch.from_numpy(2 - 2 * np.cos(a.frequencies)).float() for a in self._axes)
        return d[:, None, None] + h[:, None] + w

    @cached_property
    def _sampling(self) -> Tensor:
        """What the step from coefficients to values at the control points does, (*shape)."""
        values = [np.ones(1) if a.flat else (4 + 2 * np.cos(a.frequencies)) / 6 for a in self._axes]
        d, h, w = (torch.from_numpy(v).float() for v in values)
        return d[:, None, None] * h[:, None] * w

    @cached_property
    def _transforms(self) -> dict[torch.device, list[Tensor]]:
        """The cosine transforms' matrices, on each device where they were wanted."""
        return {}

    def _cosines(self, like: Tensor) -> list[Tensor]:
        if like.device not in self._transforms:
            matrices = [torch.from_numpy(axis.cosines()).float() for axis in self._axes]
            self._transforms[like.device] = [matrix.to(like.device) for matrix in matrices]
        return [matrix.to(like) for matrix in self._transforms[like.device]]

    def values(self, coefficients: Tensor) -> Tensor:
        """The values of a spline at the control points, mirrored at the ends."""
        scale = self._sampling.to(coefficients)
        return self.from_frequencies(self.to_frequencies(coefficients) * scale)

    def coefficients(self, values: Tensor) -> Tensor:
        """The spline through values at the control points, mirrored at the ends."""
        scale = self._sampling.to(values)
        return self.from_frequencies(self.to_frequencies(values) / scale)

    def exponential(self, velocity: Tensor) -> Tensor:
        """The displacement after following a stationary velocity for a unit of time.

        Scaling and squaring on the control points, linear in between.

        Args:
            velocity: Coefficients (3, *shape), mm along (d, h, w).

        Returns:
            Coefficients of the displacement (3, *shape).

        References:
            Arsigny et al., A log-Euclidean framework for statistics on diffeomorphisms, MICCAI
            2006.
        """
        values = self.values(velocity) / self.spacing_mm
        largest = float(values.abs().max())
        halvings = max(0, math.ceil(math.log2(largest / _SMALL))) if largest > 0 else 0
        u = (values / 2**halvings)[None]
        nodes = index_grid(self.shape, device=u.device, dtype=u.dtype)
        for _ in range(halvings):
            u = u + sample_index_linear(u, nodes + u, "border")
        return self.coefficients(u[0] * self.spacing_mm)

    def logarithm(self, values_mm: Tensor) -> Tensor:
        """The stationary velocity that leads nearest to a displacement.

        What is left over is added to the velocity, as long as that leaves less. Where a
        displacement folds, or is rougher than the splines, no velocity leads to it.

        Args:
            values_mm: The displacement at the control points, (3, *shape), mm along (d, h, w).

        Returns:
            Coefficients of the velocity, of the same shape.
        """
        velocity, left = torch.zeros_like(values_mm), values_mm
        for _ in range(_LOGARITHM_STEPS):
            better = velocity + self.coefficients(left)
            still = values_mm - self.values(self.exponential(better))
            if not float(still.norm()) < float(left.norm()):
                break
            gained = float(still.norm()) < _WORTH_A_STEP * float(left.norm())
            velocity, left = better, still
            if not gained or float(left.abs().max()) < _EXACT * self.spacing_mm:
                break
        return velocity
