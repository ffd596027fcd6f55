"""Removing the few folds of a displacement that is otherwise sound, by smoothing it right there."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from autoreg.numerics.coordinates import slabs
from autoreg.numerics.tetrahedra import tetrahedron_determinants
from autoreg.numerics.warp import sample_at_index

Outcome = Literal["clean", "repaired", "too_many", "persistent"]

# A field that folds at more nodes is the result of a bad registration, which must not be hidden.
_MOST_FOLDED = 1e-3
# On a tiny grid one fold alone exceeds that; its own neighbourhood may always be repaired.
_ALWAYS_ALLOWED = 27
# Smallest determinant of a repaired place; far above what rounding of stored fields changes.
_MARGIN = 0.01
_ROUNDS = 60
# After so many rounds without success, the neighbourhood grows by a node.
_ROUNDS_PER_RADIUS = 4
# Share of the way to the mean of the neighbours in each round: small steps overshoot little.
_STEP = 0.5
_SCAN_NODES = 400_000
_CHECK_NODES = 2**16
# The nodes around a node, in the order of a 3x3x3 array, and the binomial weights of smoothing.
_AROUND = tuple(itertools.product((-1, 0, 1), repeat=3))
_BINOMIAL = tuple(math.prod(0.5 if step == 0 else 0.25 for step in offset) for offset in _AROUND)


@dataclass(frozen=True, eq=False)
class Sampling:
    """Another grid at whose nodes the displacement is sampled, where it must not fold, either.

    Attributes:
        shape: Its nodes along (d, h, w).
        to_field: 4x4 float64, from its homogeneous indices to those of the displacement's grid.
        folded: (K, 3) int64, its nodes at which the samples fold; see `folded_nodes`.
    """

    shape: tuple[int, int, int]
    to_field: Tensor
    folded: Tensor

    @cached_property
    def from_field(self) -> Tensor:
        """4x4 float64, the other way."""
        inverse: Tensor = torch.linalg.inv(self.to_field)
        return inverse

    @property
    def too_many(self) -> bool:
        """Whether so much of it folds that nothing should be repaired."""
        return len(self.folded) > max(_ALWAYS_ALLOWED, _MOST_FOLDED * math.prod(self.shape))

    def boxes_in_field(
        self, nodes: Tensor, growth: int, shape: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Nodes of the displacement's grid, of `shape`, around some of these (K, 3); weights."""
        pitch = math.ceil(float(self.to_field[:3, :3].abs().sum(1).max()) - 1e-6)
        centres = _inside(_mapped(self.to_field, nodes).round().long(), shape)
        one = torch.ones(len(centres), device=centres.device)
        # Where this grid is the coarser one, its folds are as wide as the nodes in between.
        return _spread(centres, one, [max(0, pitch - 1) + growth] * 3, shape)

    def affected(self, changed: Tensor) -> Tensor:
        """Nodes (K, 3) whose determinants depend on changed nodes (N, 3) of the displacement."""
        centres = _mapped(self.from_field, changed)
        nearest = centres.round()
        rounding = float((centres - nearest).abs().max()) + 1e-6
        # A changed value counts up to a node away; a determinant looks one node further.
        extent = self.from_field[:3, :3].abs().sum(1) + 1 + rounding
        radii = [math.ceil(e - 2e-6) - 1 if rounding < 1e-4 else math.floor(e) for e in extent]
        one = torch.ones(len(changed), device=changed.device)
        return _spread(_inside(nearest.long(), self.shape), one, radii, self.shape)[0]

    def failing(self, u_vox: Tensor, nodes: Tensor) -> Tensor:
        """Those of some nodes (K, 3) with a determinant below the margin."""
        parts = [self._smallest(u_vox, part) < _MARGIN for part in torch.split(nodes, _CHECK_NODES)]
        return nodes[torch.cat(parts)]

    def _smallest(self, u_vox: Tensor, nodes: Tensor) -> Tensor:
        """The smallest of the ten determinants at nodes (K, 3), in float64."""
        around = torch.tensor(_AROUND, device=nodes.device)
        points = _mapped(self.to_field, (nodes[:, None] + around).reshape(-1, 3))
        values = sample_at_index(u_vox, points.T.to(u_vox)[None, :, None, None])[0, :, 0, 0]
        own_units = self.from_field[:3, :3] @ values.double()
        cubes = own_units.reshape(3, len(nodes), 3, 3, 3).movedim(0, 1)
        determinants = [d[:, 0, 0, 0] for _, d in tetrahedron_determinants(cubes)]
        return torch.stack(determinants).amin(0)


@dataclass(frozen=True)
class Unfolding:
    """What `unfold` did.

    Attributes:
        outcome: "clean": there was nothing to do. "repaired". "too_many": more than 0.1 % of the
            nodes fold. "persistent": smoothing did not help. Only "repaired" changes anything.
        folded_nodes: Nodes with a determinant of at most 0, of the grid and of all samplings.
        changed_nodes: Nodes of the displacement that were moved.
        largest_vox: Largest change of the displacement, voxels.
        mean_vox: Mean change over the changed nodes.
        rounds: Of smoothing.
    """

    outcome: Outcome
    folded_nodes: int
    changed_nodes: int = 0
    largest_vox: float = 0.0
    mean_vox: float = 0.0
    rounds: int = 0


def folded_nodes(u_vox: Tensor) -> Tensor:
    """Nodes around which a displacement folds by the strictest of our measures.

    These are the ten determinants by which the non-diffeomorphic volume is measured, at every
    node; the grid is continued by its edge values, so that the corners of all cells which
    `folded_cells` looks at are among them.

    Args:
        u_vox: (1, 3, D, H, W).

    Returns:
        (K, 3) int64 indices of the nodes with a determinant of at most 0, computed in float64.
    """
    padded = functional.pad(u_vox, [1] * 6, mode="replicate")[0]
    found = []
    for layers in slabs((u_vox.shape[2], *padded.shape[2:]), _SCAN_NODES):
        piece = padded[:, layers.start : layers.stop + 2].double()
        folded = torch.zeros(1, dtype=torch.bool, device=u_vox.device)
        for _, determinant in tetrahedron_determinants(piece):
            folded = folded | (determinant <= 0)
        nodes = folded.nonzero()
        nodes[:, 0] += layers.start
        found.append(nodes)
    return torch.cat(found)


@torch.no_grad()
def unfold(u_vox: Tensor, samplings: Sequence[Sampling] = ()) -> tuple[Tensor, Unfolding]:
    """Remove isolated folds of a displacement, changing it only around them.

    At folded nodes the displacement moves towards the mean of its neighbours, u <- u + w (S u - u)
    with the binomial 3x3x3 mean S and w = 1/2. This is repeated at those nodes that still fold,
    after some rounds also around them with a w that falls to 0 within slowly growing boxes, until
    every determinant that the changes touch is at least 0.01.

    Args:
        u_vox: (1, 3, D, H, W), voxels; outside the grid its edge values are held.
        samplings: Grids at which its linear interpolation is sampled and must not fold.

    Returns:
        The repaired displacement, and what was done. The given tensor itself, unless the outcome
        is "repaired"; then all nodes that were not changed hold the very same numbers.
    """
    shape = (u_vox.shape[2], u_vox.shape[3], u_vox.shape[4])
    identity = torch.eye(4, dtype=torch.float64, device=u_vox.device)
    views = [Sampling(shape, identity, folded_nodes(u_vox)), *samplings]
    count = sum(len(view.folded) for view in views)
    if count == 0:
        return u_vox, Unfolding("clean", 0)
    if any(view.too_many for view in views):
        return u_vox, Unfolding("too_many", count)
    repaired = u_vox.clone(memory_format=torch.contiguous_format)
    rounds = _smooth_until_unfolded(repaired, views)
    if rounds is None:
        return u_vox, Unfolding("persistent", count, rounds=_ROUNDS)
    change = (repaired - u_vox)[0].square().sum(0).sqrt()
    change = change[change > 0]
    largest, mean = float(change.max()), float(change.mean())
    return repaired, Unfolding("repaired", count, change.numel(), largest, mean, rounds)


def _smooth_until_unfolded(u_vox: Tensor, views: Sequence[Sampling]) -> int | None:
    """Smooth in place; rounds until no view fails, None if they were not enough."""
    failing = [view.folded for view in views]
    for done in range(_ROUNDS):
        boxes = [
            view.boxes_in_field(nodes, done // _ROUNDS_PER_RADIUS, u_vox.shape[2:])
            for view, nodes in zip(views, failing, strict=True)
        ]
        nodes, weights = (torch.cat(parts) for parts in zip(*boxes, strict=True))
        nodes, weights = _merged(nodes, weights, u_vox.shape[2:])
        _relax(u_vox, nodes, _STEP * weights)
        failing = [view.failing(u_vox, view.affected(nodes)) for view in views]
        if not any(len(nodes) for nodes in failing):
            return done + 1
    return None


def _relax(u_vox: Tensor, nodes: Tensor, weights: Tensor) -> None:
    """Move nodes (N, 3) of a field towards the mean of their neighbours, by weights (N,)."""
    shape = u_vox.shape[2:]
    values = u_vox.view(3, -1)
    mean = torch.zeros(3, len(nodes), dtype=u_vox.dtype, device=u_vox.device)
    for offset, share in zip(_AROUND, _BINOMIAL, strict=True):
        step = torch.tensor(offset, device=nodes.device)
        mean += share * values[:, _flat(_inside(nodes + step, shape), shape)]
    where = _flat(nodes, shape)
    values[:, where] += weights.to(u_vox) * (mean - values[:, where])


def _spread(
    nodes: Tensor, weights: Tensor, radii: Sequence[int], shape: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Nodes within boxes around some nodes (N, 3), and weights that fall off from theirs (N,).

    Along each axis the weight falls linearly, to 0 just beyond the radius; where boxes overlap,
    the largest weight counts.
    """
    for axis, radius in enumerate(radii):
        steps = torch.arange(-radius, radius + 1, device=nodes.device)
        offsets = torch.zeros(len(steps), 3, dtype=torch.int64, device=nodes.device)
        offsets[:, axis] = steps
        fall = 1 - steps.abs() / (radius + 1)
        spread = (nodes[:, None] + offsets).reshape(-1, 3)
        weights = (weights[:, None] * fall).reshape(-1)
        inside = (spread[:, axis] >= 0) & (spread[:, axis] < shape[axis])
        nodes, weights = _merged(spread[inside], weights[inside], shape)
    return nodes, weights


def _merged(nodes: Tensor, weights: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Each node once, with its largest weight."""
    flat, number = torch.unique(_flat(nodes, shape), return_inverse=True)
    largest = torch.zeros(len(flat), dtype=weights.dtype, device=weights.device)
    largest.scatter_reduce_(0, number, weights, "amax")
    rows, last = flat // shape[2], flat % shape[2]
    return torch.stack([rows // shape[1], rows % shape[1], last], dim=1), largest


def _mapped(matrix: Tensor, nodes: Tensor) -> Tensor:
    """Rows (N, 3) through a homogeneous matrix, in float64."""
    return nodes.double() @ matrix[:3, :3].T + matrix[:3, 3]


def _inside(nodes: Tensor, shape: Sequence[int]) -> Tensor:
    """The nearest nodes inside the grid."""
    last = torch.tensor([n - 1 for n in shape], device=nodes.device)
    return torch.minimum(nodes.clamp_min(0), last)


def _flat(nodes: Tensor, shape: Sequence[int]) -> Tensor:
    return (nodes[:, 0] * shape[1] + nodes[:, 1]) * shape[2] + nodes[:, 2]
