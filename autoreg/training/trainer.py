"""The training loop; everything it needs is handed to it."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

from autoreg.errors import AutoregError
from autoreg.io.records import save_record
from autoreg.plan import Plan
from autoreg.registration.objective import Objective
from autoreg.registration.repeated_warnings import warned_once
from autoreg.training.batches import PairBatch
from autoreg.training.checkpoint import save_checkpoint
from autoreg.training.progress import (
    EpochRecord,
    ValidationSummary,
    describe,
    describe_validation,
    write_progress,
)
from autoreg.training.schedule import (
    cycle_weight,
    learning_rate,
    seed_layers,
    set_learning_rate,
)
from autoreg.training.state import TrainingState, add_last_level, as_checkpoint, resume_state
from autoreg.training.steps import (
    Cycles,
    StepValues,
    backward_cycle,
    backward_pairs,
    weighted_mean,
)
from autoreg.training.validation import Validator, criterion, score

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class TrainingSetup:
    """All that stays the same while training.

    Attributes:
        plan: Epochs, batches, stages.
        fold: "0", ... or "all".
        folder: Of the fold; checkpoints and progress go there.
        objective: What is minimised.
        validator: Measures the network.
        batches_in: Number of batches in an epoch of this number.
        device: Where to train.
        show_progress: Whether to draw a progress bar.
        is_pretrained: Whether the network before training may be the best one.
    """

    plan: Plan
    fold: str
    folder: Path
    objective: Objective
    validator: Validator
    batches_in: Callable[[int], int]
    device: torch.device
    show_progress: bool
    is_pretrained: bool = False


def train(setup: TrainingSetup, state: TrainingState, batches: Iterator[PairBatch]) -> None:
    """Train to the plan's last epoch, with validations and checkpoints on the way.

    Args:
        setup: What stays the same.
        state: Where to start; changed in place.
        batches: Of all remaining epochs, in order.

    Raises:
        AutoregError: if the loss stops being a number, or a batch cannot be loaded.
    """
    training = setup.plan.training
    if state.initial is None:
        # What there is to improve on; besides, an unusable validation case shows at once.
        state.initial = setup.validator(state.network).summary
        logger.info("before training: %s", describe_validation(state.initial))
        if setup.is_pretrained:
            _save(setup, state, state.initial, state.initial)
    steps = [setup.batches_in(epoch) for epoch in range(training.epochs)]
    total, start = sum(steps), sum(steps[: state.epoch])
    hidden = None if setup.show_progress else True  # None: shown on a terminal, not in a file
    devices = [setup.device] if setup.device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices),  # each step seeds what layers draw
        tqdm(total=total, initial=start, unit="step", disable=hidden, leave=False) as bar,
    ):
        while state.epoch < training.epochs:
            if _is_due_for_last_level(state, setup.plan):
                add_last_level(state, setup.plan, setup.device)
                logger.info("the last level joins; the optimiser starts anew")
            bar.set_description(f"epoch {state.epoch + 1}/{training.epochs}")
            state.records.append(_train_epoch(setup, state, batches, bar))
            state.epoch += 1
            is_last = state.epoch == training.epochs
            if is_last or state.epoch % training.validation_every == 0:
                _validate_and_save(setup, state, state.initial)
            logger.info("%s", describe(state.records[-1], training.epochs))
    final = as_checkpoint(state, setup.plan, setup.fold)
    save_checkpoint(setup.folder / "checkpoint_final.pt", final)


def _is_due_for_last_level(state: TrainingState, plan: Plan) -> bool:
    is_shallow = state.levels < plan.network.levels
    return is_shallow and state.epoch >= plan.training.shallow_epochs


@warned_once()
def _train_epoch(
    setup: TrainingSetup,
    state: TrainingState,
    batches: Iterator[PairBatch],
    bar: "tqdm[None]",
) -> EpochRecord:
    start, waiting = time.perf_counter(), 0.0
    set_learning_rate(state.optimiser, learning_rate(setup.plan.training, state.epoch))
    values: list[tuple[float, StepValues]] = []
    for index in range(setup.batches_in(state.epoch)):
        asked = time.perf_counter()
        batch = next(batches)
        waiting += time.perf_counter() - asked
        # Weighted by its pairs: the last batch of an epoch may be smaller.
        values.append((len(batch.pairs), _step(setup, state, batch, index)))
        bar.set_postfix(loss=f"{values[-1][1].total:.4f}", refresh=False)
        bar.update()
    mean = weighted_mean(values)
    return EpochRecord(
        epoch=state.epoch,
        levels=state.levels,
        augmented=state.epoch >= setup.plan.training.augmentation.from_epoch,
        similarity=mean.similarity,
        regularity=mean.regularity,
        total=mean.total,
        seconds=time.perf_counter() - start,
        waiting_seconds=waiting,
        validation=None,
        folding=mean.folding,
        cycle=mean.cycle,
    )


def _step(setup: TrainingSetup, state: TrainingState, batch: PairBatch, index: int) -> StepValues:
    state.optimiser.zero_grad(set_to_none=True)
    names = ", ".join(f"{pair.moving} to {pair.fixed}" for pair in batch.pairs)
    where = f"in epoch {state.epoch + 1} for the pairs {names}"
    try:
        values = _backward(setup, state, batch.to(setup.device), index)
    except AutoregError as error:
        raise AutoregError(f"{setup.folder}: {where}: {error}") from error
    if not math.isfinite(values.total):
        raise AutoregError(
            f"{setup.folder}: the loss is {values.total} {where}; expected a number. Check these "
            f"images, or train with a lower --learning-rate (now "
            f"{setup.plan.training.learning_rate:g})"
        )
    state.optimiser.step()
    return values


def _backward(
    setup: TrainingSetup, state: TrainingState, batch: PairBatch, index: int
) -> StepValues:
    """Put the gradient of a step into `.grad`."""
    training, place = setup.plan.training, (setup.plan.training.seed, state.epoch, index)
    if not batch.is_cycle:
        seed_layers(*place)
        return backward_pairs(state.network, setup.objective, batch, state.generator)
    epoch = state.epoch + index / setup.batches_in(state.epoch)
    cycles = Cycles(
        weight=cycle_weight(training, epoch),
        spacing_mm=setup.plan.grid.spacing_mm,
        seed_layers=lambda number: seed_layers(*place, number),
    )
    return backward_cycle(state.network, setup.objective, batch, state.generator, cycles)


def _validate_and_save(
    setup: TrainingSetup, state: TrainingState, initial: ValidationSummary
) -> None:
    validation = setup.validator(state.network)
    summary = validation.summary
    state.records[-1] = replace(state.records[-1], validation=summary)
    save_record(validation, setup.folder / "validation.json")
    write_progress(state.records, initial, criterion(summary), setup.folder)
    _save(setup, state, initial, summary)


def _save(
    setup: TrainingSetup,
    state: TrainingState,
    initial: ValidationSummary,
    summary: ValidationSummary,
) -> None:
    """The latest checkpoint, and the best one if the validation `summary` says so."""
    value = score(summary)
    if state.best is None or value < state.best:
        state.best = value
        best = as_checkpoint(state, setup.plan, setup.fold)
        save_checkpoint(setup.folder / "checkpoint_best.pt", best)
    latest = as_checkpoint(state, setup.plan, setup.fold, resume_state(state, initial))
    save_checkpoint(setup.folder / "checkpoint_latest.pt", latest)
