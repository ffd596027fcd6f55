"""One step of a training, from a batch to changed weights."""

import math

import torch

from autoreg.errors import AutoregError
from autoreg.training.batches import PairBatch
from autoreg.training.gradients import GradientRule, GradientSum
from autoreg.training.schedule import cycle_weight, seed_layers, seeded
from autoreg.training.setup import TrainingSetup
from autoreg.training.state import TrainingState
from autoreg.training.step_values import StepValues
from autoreg.training.steps import Cycles, StepDraws, backward_cycle, backward_pairs

# Keep the streams of random numbers of a step apart from each other, and from the layers'.
_POINTS, _COIN = 1, 2


class Stepper:
    """Makes the steps of a training.

    Args:
        setup: What stays the same.
        state: Network and optimiser; changed in place.
    """

    def __init__(self, setup: TrainingSetup, state: TrainingState) -> None:
        self._setup = setup
        self._state = state
        self._rule = GradientRule(setup.plan.training, setup.processes, state.scaler)

    def step(self, batch: PairBatch, index: int) -> tuple[StepValues, bool]:
        """Change the weights by one batch.

        Args:
            batch: This process's share.
            index: Of the batch in its epoch.

        Returns:
            The whole batch's losses before the change, and whether gradients were in conflict.

        Raises:
            AutoregError: if the loss is not a number, with the pairs.
        """
        state, setup = self._state, self._setup
        names = ", ".join(f"{pair.moving} to {pair.fixed}" for pair in batch.pairs)
        where = f"in epoch {state.epoch + 1} for the pairs {names}"
        gradients = GradientSum(state.network, self._rule)
        try:
            batch = batch.to(setup.device)
            batch = batch if setup.augment is None else setup.augment(batch)
            share = self._backward(batch, index, gradients)
        except AutoregError as error:
            raise AutoregError(f"{setup.folder}: {where}: {error}") from error
        values = self._over_processes(share)
        if not math.isfinite(values.total):
            raise AutoregError(
                f"{setup.folder}: the loss is {values.total} {where}; expected a number. Check "
                "these images, or train with a lower --learning-rate (now "
                f"{setup.plan.training.learning_rate:g})"
                + (", or in bfloat16" if state.scaler is not None else "")
            )
        coin = seeded(setup.plan.training.seed, state.epoch, index, 0, _COIN)
        projection = gradients.finish(coin)
        if state.scaler is None:
            state.optimiser.step()
        else:
            state.scaler.step(state.optimiser)
            state.scaler.update()
        return values, projection is not None and projection.conflict

    def _backward(self, batch: PairBatch, index: int, gradients: GradientSum) -> StepValues:
        state, setup = self._state, self._setup
        training = setup.plan.training
        place = (training.seed, state.epoch, index)
        first = 0 if batch.is_cycle else setup.processes.share(batch.size).start
        draws = StepDraws(
            lambda number: seed_layers(*place, first + number),
            lambda: seeded(*place, 0, _POINTS),
        )
        if not batch.is_cycle:
            # As many parts on every process: they sum statistics of each part.
            most = max(1, batch.size // setup.processes.count)
            parts = batch.parts(min(training.accumulation_steps, most))
            return backward_pairs(state.network, setup.loss, parts, draws, gradients)
        epoch = state.epoch + index / setup.batches_in(state.epoch)
        cycles = Cycles(cycle_weight(training, epoch), setup.plan.grid.spacing_mm)
        return backward_cycle(state.network, setup.loss, batch, draws, gradients, cycles)

    def _over_processes(self, share: StepValues) -> StepValues:
        """The sum of all processes' shares."""
        if self._setup.processes.count == 1:
            return share
        known = {name: value for name, value in vars(share).items() if value is not None}
        numbers = torch.tensor(list(known.values()), dtype=torch.float64, device=self._setup.device)
        summed = self._setup.processes.sum_(numbers).tolist()
        return StepValues(**dict(zip(known, summed, strict=True)))
