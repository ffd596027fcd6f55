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
from autoreg.networks.base import RegistrationNetwork
from autoreg.registration.objective import LossValues, Objective, evaluated
from autoreg.training.batches import PairBatch


@dataclass(frozen=True)
class StepValues:
    """What a step minimised, before its update.

    Attributes:
        similarity: Mean over the pairs.
        regularity: Mean over the pairs, without its weight.
        total: All that was minimised.
        folding: Mean non-diffeomorphic volume of a pair, voxels; None if it has no weight.
        cycle: Cycle error, sum over both directions, without its weight; None for pairs.
    """

    similarity: float
    regularity: float
    total: float
    folding: float | None = None
    cycle: float | None = None


@dataclass(frozen=True, eq=False)
class Cycles:
    """How the cycle error enters.

    Attributes:
        weight: Of the cycle error.
        spacing_mm: Of the grid, along (d, h, w).
        seed_layers: Seeds what the network's layers draw for the pair of this number: they must
            draw the same when a pair is computed again.
    """

    weight: float
    spacing_mm: Triple
    seed_layers: Callable[[int], None]


def backward_pairs(
    network: RegistrationNetwork,
    objective: Objective,
    batch: PairBatch,
    generator: torch.Generator,
) -> StepValues:
    """Add the gradient of a batch of pairs to `.grad`.

    Args:
        network: In training mode.
        objective: What is minimised.
        batch: On the network's device.
        generator: Of the regulariser's random points.

    Returns:
        The losses.
    """
    maps = network(batch.moving, batch.fixed)
    loss = objective.bind(batch.moving, batch.fixed, batch.moving_mask, batch.fixed_mask)(
        maps, generator
    )
    torch.autograd.backward(loss.total)
    return _step_values(loss.values())


def backward_cycle(
    network: RegistrationNetwork,
    objective: Objective,
    batch: PairBatch,
    generator: torch.Generator,
    cycles: Cycles,
) -> StepValues:
    """Add the gradient of a cycle to `.grad`.

    total = mean over the three pairs of their loss + weight * (error of a -> b -> c -> a + error
    of a -> c -> b -> a). With our losses, which are twice SITReg's, the weight is SITReg's.

    Args:
        network: In training mode. What its layers keep (running statistics) changes as if each
            pair had been computed once.
        objective: Of each pair.
        batch: On the network's device; three pairs of which each one's moving case is the next
            one's fixed case.
        generator: Of the regulariser's random points.
        cycles: Weight and unit of the cycle error.

    Returns:
        The losses.
    """
    pairs = [batch.one(number) for number in range(len(batch.pairs))]
    with torch.no_grad(), _kept_buffers(network):
        fields = []
        for number, pair in enumerate(pairs):
            cycles.seed_layers(number)
            fields.append(_fields(network, pair))
    error, cotangents = _cycle_gradients(fields, [pair.fixed_mask for pair in pairs], cycles)
    del fields
    values = []
    for number, (pair, cotangent) in enumerate(zip(pairs, cotangents, strict=True)):
        cycles.seed_layers(number)
        values.append(_backward_pair(network, objective, pair, generator, cotangent, len(pairs)))
    mean = weighted_mean([(1, value) for value in values])
    return replace(mean, total=mean.total + cycles.weight * error, cycle=error)


def weighted_mean(values: Sequence[tuple[float, StepValues]]) -> StepValues:
    """The mean of steps, each with its weight; of what some don't have, over those that have it."""

    def mean(numbers: list[tuple[float, float]]) -> float:
        return sum(weight * n for weight, n in numbers) / sum(weight for weight, _ in numbers)

    def mean_of_known(numbers: list[tuple[float, float | None]]) -> float | None:
        known = [(weight, n) for weight, n in numbers if n is not None]
        return mean(known) if known else None

    return StepValues(
        similarity=mean([(weight, v.similarity) for weight, v in values]),
        regularity=mean([(weight, v.regularity) for weight, v in values]),
        total=mean([(weight, v.total) for weight, v in values]),
        folding=mean_of_known([(weight, v.folding) for weight, v in values]),
        cycle=mean_of_known([(weight, v.cycle) for weight, v in values]),
    )


_Fields = tuple[Tensor, Tensor]  # fixed to moving, moving to fixed; (1, 3, D, H, W) voxels


def _step_values(loss: LossValues) -> StepValues:
    return StepValues(loss.similarity, loss.regularity, loss.total, loss.folding)


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


def _backward_pair(
    network: RegistrationNetwork,
    objective: Objective,
    pair: PairBatch,
    generator: torch.Generator,
    cotangent: _Fields,
    pairs: int,
) -> StepValues:
    shape = pair.fixed.shape[2:]
    maps = evaluated(network(pair.moving, pair.fixed), shape)
    bound = objective.bind(pair.moving, pair.fixed, pair.moving_mask, pair.fixed_mask)
    loss = bound(maps, generator)
    total = loss.total / pairs
    for one, gradient in zip((maps.fixed_to_moving, maps.moving_to_fixed), cotangent, strict=True):
        total = total + (one.displacement_vox(shape) * gradient).sum()
    torch.autograd.backward(total)
    return _step_values(loss.values())


@contextmanager
def _kept_buffers(network: RegistrationNetwork) -> Iterator[None]:
    buffers = list(network.buffers())
    copies = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, copy in zip(buffers, copies, strict=True):
            buffer.copy_(copy)
