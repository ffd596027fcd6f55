"""The numerical inverse of a displacement field."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from autoreg.numerics.coordinates import index_grid
from autoreg.numerics.folding import FoldedCells, folded_cells
from autoreg.numerics.warp import sample_at_index

_CHUNK = 2**20
_NODE_CHUNK = 2**9
_START_NODES = 2**15
_STARTS = 4
_FIXED_POINT_ITERATIONS = 60
_CONTRACTION = 0.9
_DIFFERENCE_VOX = 0.05


@dataclass(frozen=True, eq=False)
class Inversion:
    """What an `Inverter` found.

    Attributes:
        points_vox: (1, 3, *s) the points x, index coordinates, channels (d, h, w).
        residual_vox: (1, *s) length of x + u(x) - target, voxels.
        converged: (1, *s) bool. False where the residual is above the tolerance, and wherever
            the field folds over the target, so that an inverse does not exist; the point given
            there is one of several pre-images.
        iterations: The most steps that any point took.
    """

    points_vox: Tensor
    residual_vox: Tensor
    converged: Tensor
    iterations: int


@dataclass(frozen=True, eq=False)
class Inverter:
    """The inverse of one displacement field, prepared for many calls.

    Fixed-point steps x <- target - u(x) run for each point as long as they contract; the others
    go on with damped Newton steps (Levenberg-Marquardt), first from where they are, then from
    the grid nodes that the deformation takes nearest to the target.

    Attributes:
        u_vox: (1, 3, D, H, W), voxels; outside the grid its edge values are held.
        tolerance_vox: Residual at which a point counts as found.
        max_iterations: Newton steps per start.
    """

    u_vox: Tensor
    tolerance_vox: float = 2e-4
    max_iterations: int = 50

    @cached_property
    def folds(self) -> FoldedCells:
        """Where the field folds."""
        return folded_cells(self.u_vox)

    @cached_property
    def _starts(self) -> tuple[Tensor, Tensor]:
        """A coarse selection of nodes (3, K), and where the deformation takes them."""
        shape = self.u_vox.shape[2:]
        stride = 1
        while torch.Size([-(-n // stride) for n in shape]).numel() > _START_NODES:
            stride += 1
        u_vox = self.u_vox[0, :, ::stride, ::stride, ::stride]
        nodes = index_grid(u_vox.shape[1:], device=u_vox.device, dtype=u_vox.dtype)[0] * stride
        return nodes.flatten(1), (nodes + u_vox).flatten(1)

    @torch.no_grad()
    def __call__(self, targets_vox: Tensor) -> Inversion:
        """Solve x + u(x) = target, point by point.

        Args:
            targets_vox: (1, 3, *s) index coordinates, channels (d, h, w); may lie outside the
                grid.

        Returns:
            Points, residuals and which of them can be relied on. Nothing is raised for a field
            that folds: read `converged`.
        """
        shape = targets_vox.shape[2:]
        targets = targets_vox[0].reshape(3, -1).to(self.u_vox.dtype)
        points = torch.empty_like(targets)
        residual = torch.empty_like(targets[0])
        converged = torch.empty_like(residual, dtype=torch.bool)
        iterations = 0
        for start in range(0, targets.shape[1], _CHUNK):
            part = slice(start, start + _CHUNK)
            state = _State(self.u_vox, targets[:, part])
            iterations = max(iterations, self._solve(state))
            points[:, part], residual[part] = state.points, state.length
            covered = self.folds.covers(state.targets)
            converged[part] = (state.length <= self.tolerance_vox) & ~covered
        return Inversion(
            points.reshape(1, 3, *shape),
            residual.reshape(1, *shape),
            converged.reshape(1, *shape),
            iterations,
        )

    @torch.no_grad()
    def points(self, targets_vox: Tensor) -> Tensor:
        """Only the points of `__call__`: as good as they are, unchecked, in less time.

        Args:
            targets_vox: (1, 3, *s).

        Returns:
            (1, 3, *s).
        """
        targets = targets_vox[0].reshape(3, -1).to(self.u_vox.dtype)
        points = torch.empty_like(targets)
        for start in range(0, targets.shape[1], _CHUNK):
            part = slice(start, start + _CHUNK)
            state = _State(self.u_vox, targets[:, part])
            self._solve(state)
            points[:, part] = state.points
        return points.reshape(1, 3, *targets_vox.shape[2:])

    def _solve(self, state: "_State") -> int:
        """Cheap steps first, then Newton, then Newton from other starts; count of steps."""
        steps = _fixed_point(state, self.tolerance_vox)
        open_ = state.open(self.tolerance_vox)
        steps += self._newton(state, open_, state.points[:, open_])
        open_ = state.open(self.tolerance_vox)
        if open_.numel() > 0:  # a search for one of several pre-images is not worth it
            open_ = open_[~self.folds.covers(state.targets[:, open_])]
        if open_.numel() > 0:
            nodes, mapped = self._starts
            order = _nearest(mapped, state.targets[:, open_])
            for rank in range(order.shape[0]):
                still = state.length[open_] > self.tolerance_vox
                steps += self._newton(state, open_[still], nodes[:, order[rank, still]])
        return steps

    def _newton(self, state: "_State", where: Tensor, starts: Tensor) -> int:
        """Levenberg-Marquardt from `starts` (3, K) for the targets `where`; count of steps."""
        if where.numel() == 0:
            return 0
        trial = _State(self.u_vox, state.targets[:, where], starts)
        damping = torch.full_like(trial.length, 1e-3)
        steps = 0
        while (open_ := trial.open(self.tolerance_vox)).numel() > 0 and steps < self.max_iterations:
            steps += 1
            better = trial.advance(open_, _newton_step(trial, open_, damping[open_]), 1.0)
            factor = torch.where(better, 0.1, 10.0).to(damping.dtype)
            damping[open_] = (damping[open_] * factor).clamp(1e-9, 1e9)
        improved = trial.length < state.length[where]
        state.points[:, where[improved]] = trial.points[:, improved]
        state.length[where[improved]] = trial.length[improved]
        return steps


class _State:
    """Points (3, N) on their way to targets (3, N): `residual` = x + u(x) - target."""

    def __init__(self, u_vox: Tensor, targets: Tensor, points: Tensor | None = None) -> None:
        self.u_vox = u_vox
        self.targets = targets
        self.points = targets - _sample(u_vox, targets) if points is None else points.clone()
        self.residual = self.points + _sample(u_vox, self.points) - targets
        self.length = _length(self.residual)

    def open(self, tolerance: float) -> Tensor:
        """Numbers of the points that are not there yet."""
        return torch.nonzero(self.length > tolerance).flatten()

    def advance(self, where: Tensor, step: Tensor, required_ratio: float) -> Tensor:
        """Move points `where` by -step if that shortens their residual enough; which moved."""
        points = self.points[:, where] - step
        residual = points + _sample(self.u_vox, points) - self.targets[:, where]
        length = _length(residual)
        better: Tensor = length < required_ratio * self.length[where]
        moved = where[better]
        self.points[:, moved] = points[:, better]
        self.residual[:, moved] = residual[:, better]
        self.length[moved] = length[better]
        return better


def _fixed_point(state: _State, tolerance: float) -> int:
    where = state.open(tolerance)
    step = 0
    while where.numel() > 0 and step < _FIXED_POINT_ITERATIONS:
        better = state.advance(where, state.residual[:, where], _CONTRACTION)
        where = where[better & (state.length[where] > tolerance)]
        step += 1
    return step


def _newton_step(state: _State, where: Tensor, damping: Tensor) -> Tensor:
    """(J'J + damping) step = J' residual, with J by central differences; (3, K)."""
    points, count = state.points[:, where], where.numel()
    offsets = torch.eye(3, dtype=points.dtype, device=points.device) * _DIFFERENCE_VOX
    probes = torch.stack([points + sign * o[:, None] for o in offsets for sign in (1, -1)], dim=1)
    values = _sample(state.u_vox, probes.reshape(3, -1)).reshape(3, 3, 2, count)
    slopes = (values[:, :, 0] - values[:, :, 1]) / (2 * _DIFFERENCE_VOX)
    # float64, in which the smallest damping still keeps a singular matrix solvable
    identity = torch.eye(3, dtype=torch.float64, device=points.device)
    jacobian = slopes.permute(2, 0, 1).double() + identity
    transposed = jacobian.transpose(1, 2)
    normal = transposed @ jacobian + damping.double()[:, None, None] * identity
    right = transposed @ state.residual[:, where].T[:, :, None].double()
    step: Tensor = torch.linalg.solve(normal, right)[:, :, 0]
    return step.T.to(points.dtype)


def _nearest(mapped: Tensor, targets: Tensor) -> Tensor:
    """(starts, K) numbers of the mapped nodes nearest to each target, nearest first."""
    count = min(_STARTS, mapped.shape[1])
    parts = [
        torch.cdist(part.T, mapped.T).topk(count, largest=False).indices
        for part in torch.split(targets, _NODE_CHUNK, dim=1)
    ]
    return torch.cat(parts).T


def _length(rows: Tensor) -> Tensor:
    """Lengths of the columns of (3, N); twenty times as fast as vector_norm on the CPU."""
    return (rows * rows).sum(0).sqrt()


def _sample(u_vox: Tensor, points: Tensor) -> Tensor:
    return sample_at_index(u_vox, points[None, :, None, None, :])[0, :, 0, 0]
