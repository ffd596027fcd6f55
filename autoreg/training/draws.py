"""Which pairs, or cycles of three cases, a training sees, and in which order.

What is drawn depends on the plan's seed, the epoch and the place in the epoch alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoreg.errors import PlanError
from autoreg.io.cases import Pair
from autoreg.training.splits import FoldPairs, OrderedPairs
from autoreg.training_plan import TrainingPlan

CYCLE = 3
"""Cases in a cycle."""

Key = tuple[int, int, int]


@dataclass(frozen=True)
class Draws:
    """Which pairs make up which batch.

    Attributes:
        pairs: That may be drawn, with replacement.
        pairs_per_epoch: Number of pairs in an epoch.
        batch_size: Pairs in a batch; an epoch's last batch may hold fewer.
        seed: Of all draws.
        cycles: Cases of which cycles are drawn; empty: pairs are drawn in all epochs.
        cycles_from: First epoch (counted from 0) whose batches are cycles: the pairs (fixed a,
            moving b), (b, c) and (c, a) of three different cases, whatever `batch_size` is.
    """

    pairs: Sequence[Pair]
    pairs_per_epoch: int
    batch_size: int
    seed: int
    cycles: tuple[str, ...] = ()
    cycles_from: int = 0

    def are_cycles(self, epoch: int) -> bool:
        """Whether the batches of an epoch are cycles."""
        return bool(self.cycles) and epoch >= self.cycles_from

    def batches_in(self, epoch: int) -> int:
        """Number of batches in an epoch."""
        return -(-self.pairs_per_epoch // (CYCLE if self.are_cycles(epoch) else self.batch_size))

    def batch(self, epoch: int, index: int) -> list[tuple[Key, Pair]]:
        """The pairs of a batch, each with the key that seeds its augmentation.

        Args:
            epoch: Counted from 0.
            index: Of the batch in its epoch.
        """
        generator = np.random.default_rng((self.seed, epoch))
        if self.are_cycles(epoch):
            start, pairs = index * CYCLE, self._cycle(generator, index, self.batches_in(epoch))
        else:
            chosen = generator.integers(len(self.pairs), size=self.pairs_per_epoch)
            start = index * self.batch_size
            pairs = [self.pairs[int(i)] for i in chosen[start : start + self.batch_size]]
        # From 1: numpy pads seeds with zeros, so that (seed, epoch, 0) would be (seed, epoch) again
        # and the first pair's augmentation would repeat the numbers that chose the pairs.
        return [((self.seed, epoch, 1 + start + i), pair) for i, pair in enumerate(pairs)]

    def _cycle(self, generator: np.random.Generator, index: int, count: int) -> list[Pair]:
        cases = list(self.cycles)
        sizes = [len(cases) - taken for taken in range(CYCLE)]
        chosen = generator.integers(sizes, size=(count, CYCLE))[index]
        drawn = [cases.pop(int(i)) for i in chosen]
        return [Pair(case, drawn[(i + 1) % CYCLE]) for i, case in enumerate(drawn)]


def make_draws(training: TrainingPlan, fold: FoldPairs) -> Draws:
    """What a training draws from a fold.

    Args:
        training: Numbers, seed, and whether cycles are drawn.
        fold: Its pairs.

    Raises:
        PlanError: if cycles are asked for and the fold's pairs allow none.
    """
    group = training.group_consistency
    cases: tuple[str, ...] = ()
    if group.weight > 0:
        if isinstance(fold.training, OrderedPairs):
            cases = fold.training.cases
        if len(cases) < CYCLE:
            found = f"{len(cases)} cases" if cases else "listed pairs"
            raise PlanError(
                f"training.group_consistency.weight is {group.weight:g}: it is trained on cycles "
                f"of {CYCLE} cases that may all be paired with each other, and fold {fold.fold} "
                f"trains with {found}; set the weight to 0"
            )
    return Draws(
        fold.training,
        training.pairs_per_epoch,
        training.batch_size,
        training.seed,
        cases,
        group.from_epoch,
    )
