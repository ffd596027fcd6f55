"""The gradient of one training step: of a batch of pairs, or of a cycle of three cases.

In a cycle a -> b -> c -> a each of the three pairs has the usual loss, and the maps around the
circle, in both directions, shall compose to the identity (group consistency). The three networks'
graphs need never be in memory together: the cycle error depends on the network through six
displacement fields alone, so its gradient with respect to these is taken first, without a
network; then each pair is computed again with its graph, and the fields' gradients are sent back
with that of its own loss. The sum is the exact gradient of the joint loss.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from autoreg.losses.cycle import cycle_error
from autoreg.network_plan import Triple
from autoreg.networks.base import MapPair, RegistrationNetwork
from autoreg.registration.objective import Objective, PairLoss, evaluated
from autoreg.training.batches import PairBatch
from autoreg.training.gradients import GradientSum
from autoreg.training.step_values import StepValues, weighted_sum

Supervision = Callable[[MapPair, PairBatch], Tensor | None]


@dataclass(frozen=True, eq=False)
class StepLoss:
    """What is minimised on pairs.

    Attributes:
        objective: Similarity and regularity.
        supervision: What labels and landmarks add, None where that is nothing.
    """

    objective: Objective
    supervision: Supervision = lambda maps, batch: None

    def __call__(
        self, maps: MapPair, batch: PairBatch, points: torch.Generator
    ) -> tuple[PairLoss, Tensor | None]:
        """Means over the pairs of a batch.

        Args:
            maps: Of the batch.
            batch: On the maps' device.
            points: Of the regulariser's random points.
        """
        bound = self.objective.bind(batch.moving, batch.fixed, batch.moving_mask, batch.fixed_mask)
        maps = evaluated(maps, batch.fixed.shape[2:])
        return bound(maps, points), self.supervision(maps, batch)


@dataclass(frozen=True, eq=False)
class StepDraws:
    """What is drawn at random in a step; each may be drawn again.

    Attributes:
        seed_layers: Seeds what the network's layers draw for the pair of this number, or for the
            part of a batch that begins with it.
        points: A generator of the regulariser's points, always from the same beginning, so that
            they do not depend on how a batch is split.
    """

    seed_layers: Callable[[int], None]
    points: Callable[[], torch.Generator]


@dataclass(frozen=True, eq=False)
class Cycles:
    """How the cycle error enters.

    Attributes:
        weight: Of the cycle error.
        spacing_mm: Of the grid, along (d, h, w).
    """

    weight: float
    spacing_mm: Triple


def backward_pairs(
    network: RegistrationNetwork,
    loss: StepLoss,
    parts: Sequence[PairBatch],
    draws: StepDraws,
    gradients: GradientSum,
) -> StepValues:
    """Add the gradient of a batch of pairs, or of this process's share of one.

    Args:
        network: In training mode.
        loss: What is minimised.
        parts: Of the batch, on the network's device, computed one after the other.
        draws: What is drawn.
        gradients: Takes them.

    Returns:
        This process's share of the losses, to be summed over the processes.
    """
    values, number = [], 0
    for part in parts:
        draws.seed_layers(number)
        share = len(part.pairs) / part.size
        pair_loss, supervised = loss(network(part.moving, part.fixed), part, draws.points())
        _add(gradients, pair_loss, supervised, share)
        values.append((share, _step_values(pair_loss, supervised)))
        number += len(part.pairs)
    return weighted_sum(values)


def backward_cycle(
    network: RegistrationNetwork,
    loss: StepLoss,
    batch: PairBatch,
    draws: StepDraws,
    gradients: GradientSum,
    cycles: Cycles,
) -> StepValues:
    """Add the gradient of a cycle.

    total = mean over the three pairs of their loss + weight * (error of a -> b -> c -> a + error
    of a -> c -> b -> a). With our losses, which are twice SITReg's, the weight is SITReg's. The
    cycle error counts as regularity where gradients are projected.

    Args:
        network: In training mode. What its layers keep (running statistics) changes as if each
            pair had been computed once.
        loss: Of each pair.
        batch: On the network's device; three pairs of which each one's moving case is the next
            one's fixed case.
        draws: What is drawn; the three pairs' points follow each other.
        gradients: Takes them.
        cycles: Weight and unit of the cycle error.

    Returns:
        The losses.
    """
    pairs = batch.parts(len(batch.pairs))
    with torch.no_grad(), _kept_buffers(network):
        fields = []
        for number, pair in enumerate(pairs):
            draws.seed_layers(number)
            fields.append(_fields(network, pair))
    error, cotangents = _cycle_gradients(fields, [pair.fixed_mask for pair in pairs], cycles)
    del fields
    values, points = [], draws.points()
    for number, (pair, cotangent) in enumerate(zip(pairs, cotangents, strict=True)):
        draws.seed_layers(number)
        shape = pair.fixed.shape[2:]
        maps = evaluated(network(pair.moving, pair.fixed), shape)
        pair_loss, supervised = loss(maps, pair, points)
        sent_back = _sent_back(maps, cotangent)
        _add(gradients, pair_loss, supervised, 1 / len(pairs), sent_back)
        values.append((1 / len(pairs), _step_values(pair_loss, supervised)))
    mean = weighted_sum(values)
    return replace(mean, total=mean.total + cycles.weight * error, cycle=error)


_Fields = tuple[Tensor, Tensor]  # fixed to moving, moving to fixed; (1, 3, D, H, W) voxels


def _add(
    gradients: GradientSum,
    loss: PairLoss,
    supervised: Tensor | None,
    share: float,
    regularity: Tensor | None = None,
) -> None:
    """Add a share of a loss, and of a regularity that has its weight already."""
    data = loss.similarity if supervised is None else loss.similarity + supervised
    weighted = share * loss.weighted_regularity
    gradients.add(share * data, weighted if regularity is None else weighted + regularity)


def _step_values(loss: PairLoss, supervised: Tensor | None) -> StepValues:
    values = loss.values()
    if supervised is None:
        return StepValues(values.similarity, values.regularity, values.total, values.folding)
    added = supervised.item()
    total = values.total + added
    return StepValues(values.similarity, values.regularity, total, values.folding, supervised=added)


def _fields(network: RegistrationNetwork, pair: PairBatch) -> _Fields:
    maps, shape = network(pair.moving, pair.fixed), pair.fixed.shape[2:]
    forth, back = maps.fixed_to_moving, maps.moving_to_fixed
    return forth.displacement_vox(shape), back.displacement_vox(shape)


def _cycle_gradients(
    fields: list[_Fields], masks: list[Tensor | None], cycles: Cycles
) -> tuple[float, list[_Fields]]:
    """The error of both directions around the circle, and weight * its gradients."""
    # From the first image's grid on: there along the pairs, and back against their order.
    there = [forth.requires_grad_() for forth, _ in fields]
    back = [back.requires_grad_() for _, back in reversed(fields)]
    domains = [masks[0], *reversed(masks[1:])]
    error, gradients = 0.0, []
    for way, inside in ((there, masks), (back, domains)):
        one = cycle_error(way, inside, cycles.spacing_mm)
        gradients.append(torch.autograd.grad(cycles.weight * one, way))
        error += one.item()
    return error, list(zip(gradients[0], reversed(gradients[1]), strict=True))


def _sent_back(maps: MapPair, cotangent: _Fields) -> Tensor:
    """The scalar whose gradient is that of the cycle error through these maps."""
    forth, back = (
        (one.displacement_vox(gradient.shape[2:]) * gradient).sum()
        for one, gradient in zip(
            (maps.fixed_to_moving, maps.moving_to_fixed), cotangent, strict=True
        )
    )
    return forth + back


@contextmanager
def _kept_buffers(network: RegistrationNetwork) -> Iterator[None]:
    buffers = list(network.buffers())
    copies = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, copy in zip(buffers, copies, strict=True):
            buffer.copy_(copy)
