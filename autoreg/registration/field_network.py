"""First-order instance optimisation of a displacement field, on top of a network's maps.

A `RegistrationNetwork` whose only parameters are the field's: whatever optimises a network's
weights (`registration.instance_optimisation`) optimises the field, with the same losses, modes and
trace. The network's own maps are computed once, before, and stay as they are.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from autoreg.networks.base import MapPair, RegistrationNetwork, eval_mode
from autoreg.numerics.control_grid import ControlGrid
from autoreg.numerics.coordinates import (
    Size,
    index_grid,
    index_to_unit_displacement,
    unit_grid,
)
from autoreg.numerics.field_sampling import sample_field
from autoreg.numerics.maps import CoordinateMap, FieldChain
from autoreg.plan import InstanceOptimisationPlan

FieldKind = Literal["velocity", "displacements"]

# Voxels of the plan's grid between control points, along each axis.
CONTROL_VOX = 2.0
# A velocity is followed for 1/64 of its time, and that is squared six times: velocities of a dozen
# voxels begin with a fifth of one. A fixed number, so that memory can be estimated without data.
SQUARINGS = 6


class FieldNetwork(RegistrationNetwork):
    """A network's maps of one pair, followed by a field that can be optimised and starts at 0.

    With n the network's maps and S the spline of the parameters, voxels:

        "velocity":       fixed_to_moving = n_fm o exp(S_v),  moving_to_fixed = exp(-S_v) o n_mf
        "displacements":  fixed_to_moving = n_fm o (id + S_f),  moving_to_fixed = n_mf o (id + S_m)

    so that the maps of "velocity" are inverse to each other as far as the network's are, and those
    of "displacements" as far as a loss asks for it. The splines are cubic, `CONTROL_VOX` voxels
    between their control points, and are taken at the nodes of the plan's grid, linear in between.
    Exponentials are computed by scaling and squaring: at the control points for the loss, which
    takes a third of the time of a step at all nodes; at all nodes for the result.

    Args:
        maps: Of the network, of one pair. No gradient flows into them.
        shape: Of the plan's grid, along (d, h, w).
        kind: What is optimised.

    References:
        Arsigny et al., A log-Euclidean framework for statistics on diffeomorphisms, MICCAI 2006
        (scaling and squaring).
    """

    def __init__(self, maps: MapPair, shape: Size, kind: FieldKind) -> None:
        super().__init__()
        self._kind, self._shape = kind, tuple(shape)
        self._own = maps
        with torch.no_grad():
            self._at_nodes = MapPair(*(_at_nodes(m, shape) for m in _both(maps)))
        depth, height, width = (float(n - 1) for n in shape)
        self._grid = ControlGrid((depth, height, width), CONTROL_VOX)
        fields = 1 if kind == "velocity" else 2
        zeros = torch.zeros(fields, 3, *self._grid.shape, device=maps.fixed_to_moving.device)
        self.control_points = nn.Parameter(zeros)

    def forward(self, moving: Tensor, fixed: Tensor) -> MapPair:
        """The maps for the loss: the network's from their values at the nodes, linear in between.

        Args:
            moving: Not looked at: the maps are those of one pair.
            fixed: Likewise.
        """
        return self._composed(self._at_nodes, self._fields(precisely=False))

    def one_direction(self, moving: Tensor, fixed: Tensor) -> CoordinateMap:
        """The map from the fixed to the moving grid; see `forward`."""
        return self.forward(moving, fixed).fixed_to_moving

    def result(self) -> MapPair:
        """The maps for the result: the network's evaluated again, where they are exact.

        An exact map between nodes (`CoordinateMap.is_exact_between_nodes`) does not fold there,
        which the linear interpolation of its values might. A velocity's exponential is computed at
        all nodes, so that it and its inverse fit each other better.
        """
        one, other = (
            own if own.is_exact_between_nodes else known
            for own, known in zip(_both(self._own), _both(self._at_nodes), strict=True)
        )
        return self._composed(MapPair(one, other), self._fields(precisely=True))

    def _composed(self, network: MapPair, fields: tuple[FieldChain, FieldChain]) -> MapPair:
        forth, back = network.fixed_to_moving, network.moving_to_fixed
        before_forth, other = fields
        if self._kind == "velocity":
            return MapPair(_Composed(before_forth, forth), _Composed(back, other))
        return MapPair(_Composed(before_forth, forth), _Composed(other, back))

    def _fields(self, *, precisely: bool) -> tuple[FieldChain, FieldChain]:
        """The field's two maps: on the fixed grid, and the inverse or that on the moving grid."""
        if self._kind == "displacements":
            one, other = (self._at_voxels(points) for points in self.control_points)
        else:
            exponential = self._exponential_at_voxels if precisely else self._exponential
            one, other = (exponential(sign * self.control_points[0]) for sign in (1, -1))
        return self._chain(one), self._chain(other)

    def _exponential(self, velocity: Tensor) -> Tensor:
        values = self._grid.values(velocity) / CONTROL_VOX
        return self._at_voxels(self._grid.coefficients(_squared(values) * CONTROL_VOX))

    def _exponential_at_voxels(self, velocity: Tensor) -> Tensor:
        return _squared(self._at_voxels(velocity))

    def _at_voxels(self, control_points: Tensor) -> Tensor:
        """The spline of control points (3, *control grid) at the nodes of the plan's grid."""
        positions = [np.arange(n, dtype=np.float64) for n in self._shape]
        return self._grid.evaluate(control_points, positions)

    def _chain(self, u_vox: Tensor) -> FieldChain:
        return FieldChain((index_to_unit_displacement(u_vox[None], self._shape),))


def optimised_network(
    network: RegistrationNetwork, moving: Tensor, fixed: Tensor, plan: InstanceOptimisationPlan
) -> RegistrationNetwork:
    """What instance optimisation changes: the network itself, or a field on top of its maps.

    Args:
        network: As trained.
        moving: (1, C, D, H, W).
        fixed: (1, C, D, H, W).
        plan: Says which.

    Returns:
        The network, or a `FieldNetwork` of its maps (in eval mode) between these images.
    """
    if plan.optimised == "network":
        return network
    with eval_mode(network), torch.no_grad():
        return FieldNetwork(network(moving, fixed), fixed.shape[2:], plan.optimised)


def _squared(velocity: Tensor) -> Tensor:
    """Where a stationary velocity (3, d, h, w) leads in a unit of time: a displacement.

    In voxels of its own grid, along an axis of one voxel nothing depends on the position.
    """
    u: Tensor = (velocity / 2**SQUARINGS)[None]
    nodes = index_grid(velocity.shape[1:], device=velocity.device, dtype=velocity.dtype)
    for _ in range(SQUARINGS):
        u = u + sample_field(u, (1, 1, 1), nodes + u)
    return u[0]


@dataclass(frozen=True, eq=False)
class _Composed(CoordinateMap):
    """The map x -> second(first(x))."""

    first: CoordinateMap
    second: CoordinateMap

    def __call__(self, points_unit: Tensor) -> Tensor:
        return self.second(self.first(points_unit))

    def select(self, batch: slice) -> "_Composed":
        return _Composed(self.first.select(batch), self.second.select(batch))

    @property
    def is_exact_between_nodes(self) -> bool:
        return self.first.is_exact_between_nodes or self.second.is_exact_between_nodes

    @property
    def device(self) -> torch.device:
        return self.first.device

    def dense(self, shape: Size) -> Tensor:
        return self.second(self.first.dense(shape))


def _both(maps: MapPair) -> tuple[CoordinateMap, CoordinateMap]:
    return maps.fixed_to_moving, maps.moving_to_fixed


def _at_nodes(found: CoordinateMap, shape: Size) -> FieldChain:
    """A map from its values at the nodes of a grid."""
    points = found.dense(shape)
    return FieldChain((points - unit_grid(shape, device=points.device, dtype=points.dtype),))
