"""Coordinate maps: what a network gives, to be evaluated wherever points are asked for."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from autoreg.numerics.coordinates import Size, unit_grid, unit_to_index_displacement
from autoreg.numerics.warp import sample_at_unit


class CoordinateMap(ABC):
    """A batch of maps of unit coordinates to unit coordinates, defined everywhere."""

    @abstractmethod
    def __call__(self, points_unit: Tensor) -> Tensor:
        """Map points.

        Args:
            points_unit: (B, 3, D, H, W), or a batch of 1 for all.

        Returns:
            (B, 3, D, H, W).
        """

    @abstractmethod
    def select(self, batch: slice) -> "CoordinateMap":
        """The maps of some samples of the batch."""

    @property
    def is_exact_between_nodes(self) -> bool:
        """Whether the map says more than its values at the grid's nodes, linear in between.

        If so it is worth sampling on a finer grid; otherwise the linear interpolation of its
        values is the map that was trained and published.
        """
        return False

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the maps live."""

    @abstractmethod
    def dense(self, shape: Size) -> Tensor:
        """The map at the nodes of a grid.

        Args:
            shape: Nodes along (d, h, w).

        Returns:
            (B, 3, D, H, W) unit coordinates.
        """

    def displacement_vox(self, shape: Size) -> Tensor:
        """The displacement at the nodes of a grid, in its voxels.

        Args:
            shape: Nodes along (d, h, w).

        Returns:
            (B, 3, D, H, W), channels (d, h, w).
        """
        points = self.dense(shape)
        nodes = unit_grid(shape, device=points.device, dtype=points.dtype)
        return unit_to_index_displacement(points - nodes, shape)


@dataclass(frozen=True, eq=False)
class FieldChain(CoordinateMap):
    """The map x -> S(f_0, x) -> S(f_1, .) -> ..., with S(u, x) = x + u(x), in unit coordinates.

    Fields are sampled trilinearly where they are asked for, with their edge values held outside
    [0, 1]. Nothing is resampled, so that a coarse field stays exactly what its network gave.

    Attributes:
        fields: Displacements (B, 3, d, h, w) in unit coordinates, channels (d, h, w); the first
            one is applied first (in a cascade: the finest).
    """

    fields: tuple[Tensor, ...]

    def __call__(self, points_unit: Tensor) -> Tensor:
        """Map points.

        Args:
            points_unit: (B, 3, D, H, W), or a batch of 1 for all.

        Returns:
            (B, 3, D, H, W).
        """
        for field in self.fields:
            points_unit = points_unit + sample_at_unit(field, points_unit, "border")
        return points_unit

    def dense(self, shape: Size) -> Tensor:
        """The map at the nodes of a grid.

        At the nodes of the first field's own grid its values are added without interpolation.

        Args:
            shape: Nodes along (d, h, w).

        Returns:
            (B, 3, D, H, W) unit coordinates; B is 1 for an empty chain.
        """
        if not self.fields:
            return unit_grid(shape)
        first = self.fields[0]
        nodes = unit_grid(shape, device=first.device, dtype=first.dtype)
        if tuple(first.shape[2:]) != tuple(shape):
            return self(nodes)
        return FieldChain(self.fields[1:])(nodes + first)

    @property
    def device(self) -> torch.device:
        """Where the fields live; the CPU for an empty chain."""
        return self.fields[0].device if self.fields else torch.device("cpu")

    def prepended(self, field: Tensor) -> "FieldChain":
        """The chain that applies `field` (B, 3, d, h, w) before all others."""
        return FieldChain((field, *self.fields))

    def select(self, batch: slice) -> "FieldChain":
        """The chain of some samples of the batch."""
        return FieldChain(tuple(field[batch] for field in self.fields))
