"""Chains of displacements, midpoint steps and affine maps, evaluated where points are asked.

Inside a chain everything is in index coordinates of one full grid, on coarser grids of which the
fields may live (`autoreg.numerics.field_sampling`). Nothing is resampled and no inverse is stored:
a chain is the exact composition of its steps, at any point.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from autoreg.numerics.coordinates import Size, index_grid
from autoreg.numerics.field_sampling import Factors, sample_field
from autoreg.numerics.inverse_layer import InverseSettings, invert_points
from autoreg.numerics.maps import CoordinateMap


class Step(ABC):
    """A batch of maps of index coordinates (d, h, w) to index coordinates."""

    @abstractmethod
    def __call__(self, points_vox: Tensor) -> Tensor:
        """Map points.

        Args:
            points_vox: (B, 3, D, H, W), or a batch of 1 for all.

        Returns:
            (B, 3, D, H, W).
        """

    @abstractmethod
    def select(self, batch: slice) -> "Step":
        """The maps of some samples of the batch."""

    @abstractmethod
    def permuted(self) -> "Step":
        """The same map for the axes in the order (w, h, d)."""

    @property
    @abstractmethod
    def like(self) -> Tensor:
        """A tensor of the device and type that the step works in."""


@dataclass(frozen=True, eq=False)
class Displacement(Step):
    """The map x -> x + u(x).

    Attributes:
        u_vox: (B, 3, d, h, w), voxels of the full grid, channels (d, h, w).
        factors: Voxels of the full grid per node along (d, h, w).
    """

    u_vox: Tensor
    factors: Factors

    def __call__(self, points_vox: Tensor) -> Tensor:
        """Map points (B, 3, D, H, W), or a batch of 1 for all."""
        points_vox = points_vox.expand(self.u_vox.shape[0], *points_vox.shape[1:])
        return points_vox + sample_field(self.u_vox, self.factors, points_vox)

    def select(self, batch: slice) -> "Displacement":
        """The maps of some samples of the batch."""
        return replace(self, u_vox=self.u_vox[batch])

    def permuted(self) -> "Displacement":
        """The same map for the axes in the order (w, h, d)."""
        return Displacement(_reversed_field(self.u_vox), _reversed(self.factors))

    @property
    def like(self) -> Tensor:
        """A tensor of the device and type that the step works in."""
        return self.u_vox


@dataclass(frozen=True, eq=False)
class MidpointStep(Step):
    """The map x -> (id - u) o (id + u)^-1 (x), whose inverse is the same with -u.

    With y the point where y + u(y) = x it is y - u(y) = 2 y - x: y lies midway between x and its
    image, which is displaced by -2 u(y). So the whole map costs no more than the inverse in it. If
    no component of u changes by more than a share c < 1 of the largest component of the difference
    of two points, both factors are homeomorphisms, and so is the map.

    Attributes:
        u_vox: (B, 3, d, h, w), voxels of the full grid, channels (d, h, w).
        factors: Voxels of the full grid per node along (d, h, w).
        guess_vox: About y - x as a displacement on the same nodes, to start from; None: solving
            starts from the points themselves. Not differentiated.
        settings: When to stop.

    References:
        The implicit midpoint rule: Hairer, Lubich and Wanner, Geometric Numerical Integration,
        chapter II.1.
    """

    u_vox: Tensor
    factors: Factors
    guess_vox: Tensor | None
    settings: InverseSettings

    def __call__(self, points_vox: Tensor) -> Tensor:
        """Map points (B, 3, D, H, W), or a batch of 1 for all."""
        guess = None
        if self.guess_vox is not None:
            with torch.no_grad():
                guess = Displacement(self.guess_vox, self.factors)(points_vox)
        middle = invert_points(self.u_vox, self.factors, points_vox, guess, self.settings)
        return torch.lerp(points_vox, middle, 2.0)

    def select(self, batch: slice) -> "MidpointStep":
        """The maps of some samples of the batch."""
        guess = None if self.guess_vox is None else self.guess_vox[batch]
        return replace(self, u_vox=self.u_vox[batch], guess_vox=guess)

    def permuted(self) -> "MidpointStep":
        """The same map for the axes in the order (w, h, d)."""
        guess = None if self.guess_vox is None else _reversed_field(self.guess_vox)
        return MidpointStep(
            _reversed_field(self.u_vox), _reversed(self.factors), guess, self.settings
        )

    @property
    def like(self) -> Tensor:
        """A tensor of the device and type that the step works in."""
        return self.u_vox


@dataclass(frozen=True, eq=False)
class AffineStep(Step):
    """The map x -> M x + t.

    Attributes:
        matrix: (B, 3, 4), M and t for index coordinates (d, h, w).
    """

    matrix: Tensor

    def __call__(self, points_vox: Tensor) -> Tensor:
        """Map points (B, 3, D, H, W), or a batch of 1 for all."""
        points_vox = points_vox.expand(self.matrix.shape[0], *points_vox.shape[1:])
        # No product of matrices: its rounding depends on the place of an item in its batch.
        d, h, w, shift = self.matrix[..., None, None, None].unbind(2)
        return d * points_vox[:, :1] + h * points_vox[:, 1:2] + w * points_vox[:, 2:] + shift

    def select(self, batch: slice) -> "AffineStep":
        """The maps of some samples of the batch."""
        return AffineStep(self.matrix[batch])

    def permuted(self) -> "AffineStep":
        """The same map for the axes in the order (w, h, d)."""
        linear, shift = self.matrix[:, :, :3], self.matrix[:, :, 3:]
        return AffineStep(torch.cat([linear.flip(1, 2), shift.flip(1)], dim=2))

    @property
    def like(self) -> Tensor:
        """A tensor of the device and type that the step works in."""
        return self.matrix


@dataclass(frozen=True, eq=False)
class IndexChain(CoordinateMap):
    """Steps in index coordinates of a grid, one after the other; unit coordinates in and out.

    Attributes:
        shape: The full grid (d, h, w), whose first and last nodes are the unit coordinates 0 and 1.
        steps: The first one is applied first.
    """

    shape: tuple[int, int, int]
    steps: tuple[Step, ...]

    @property
    def is_exact_between_nodes(self) -> bool:
        """Whether there is more than one step, whose composition is not linear between nodes."""
        return len(self.steps) > 1

    def __call__(self, points_unit: Tensor) -> Tensor:
        """Map points.

        Args:
            points_unit: (B, 3, D, H, W), or a batch of 1 for all; of the steps' type and device.

        Returns:
            (B, 3, D, H, W). Along an axis of one node there is no unit of length: 0.
        """
        return self._to_unit(self.at_index(points_unit * self._last(points_unit)))

    def at_index(self, points_vox: Tensor) -> Tensor:
        """Map points in index coordinates of the grid.

        Args:
            points_vox: (B, 3, D, H, W), or a batch of 1 for all.

        Returns:
            (B, 3, D, H, W).
        """
        for step in self.steps:
            points_vox = step(points_vox)
        return points_vox

    def dense(self, shape: Size) -> Tensor:
        """The map at the nodes of a grid; on its own grid from exact index coordinates.

        Args:
            shape: Nodes along (d, h, w).

        Returns:
            (B, 3, D, H, W) unit coordinates.
        """
        return self._to_unit(self.at_index(self._nodes(shape)))

    def displacement_vox(self, shape: Size) -> Tensor:
        """The displacement at the nodes of a grid, in its voxels.

        Args:
            shape: Nodes along (d, h, w).

        Returns:
            (B, 3, D, H, W), channels (d, h, w).
        """
        nodes = self._nodes(shape)
        own, asked = self._last(nodes), _last_node(shape, nodes)
        scale = torch.where(own > 0, asked / own.clamp(min=1), 0)
        return (self.at_index(nodes) - nodes) * scale

    def select(self, batch: slice) -> "IndexChain":
        """The chains of some samples of the batch."""
        return replace(self, steps=tuple(step.select(batch) for step in self.steps))

    @property
    def device(self) -> torch.device:
        """Where the steps live; the CPU for an empty chain."""
        return self._like.device

    @property
    def _like(self) -> Tensor:
        return self.steps[0].like if self.steps else torch.empty(0)

    def _nodes(self, shape: Size) -> Tensor:
        """Nodes of a grid of the same extent, in index coordinates of the chain's own grid."""
        nodes = index_grid(shape, device=self.device, dtype=self._like.dtype)
        if tuple(shape) == self.shape:
            return nodes
        return nodes * (self._last(nodes) / _last_node(shape, nodes).clamp(min=1))

    def _last(self, like: Tensor) -> Tensor:
        return _last_node(self.shape, like)

    def _to_unit(self, points_vox: Tensor) -> Tensor:
        last = self._last(points_vox)
        return torch.where(last > 0, points_vox / last.clamp(min=1), 0)


def _last_node(shape: Size, like: Tensor) -> Tensor:
    """The index coordinates of a grid's last node (3, 1, 1, 1)."""
    last = [n - 1 for n in shape]
    return torch.tensor(last, dtype=like.dtype, device=like.device).view(3, 1, 1, 1)


def _reversed(factors: Factors) -> Factors:
    return factors[2], factors[1], factors[0]


def _reversed_field(u_vox: Tensor) -> Tensor:
    return u_vox.transpose(2, 4).flip(1)
