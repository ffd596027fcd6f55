"""One training from its start, or from a checkpoint on, to its end: workers, network, loop."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from autoreg.errors import AutoregError
from autoreg.failures import FAILURES, is_out_of_memory
from autoreg.machine import cpu_count
from autoreg.networks.base import MapPair
from autoreg.numerics.precision import float32_exactly
from autoreg.plan import Plan
from autoreg.registration.objective import Objective
from autoreg.training.augmentation import PairAugmentation
from autoreg.training.batches import PairBatch, open_batches
from autoreg.training.checkpoint import Checkpoint
from autoreg.training.draws import CYCLE, Draws
from autoreg.training.loading import Content
from autoreg.training.out_of_memory import memory_advice
from autoreg.training.processes import ALONE, Processes, connected
from autoreg.training.request import TrainingRequest
from autoreg.training.setup import TrainingSetup
from autoreg.training.splits import FoldNames, FoldPairs
from autoreg.training.state import TrainingState, new_state, pretrained_state, resumed_state
from autoreg.training.steps import StepLoss, Supervision
from autoreg.training.stopping import StopRequest, stop_signals
from autoreg.training.supervision import supervision_loss
from autoreg.training.trainer import train
from autoreg.training.validation import Validator

logger = logging.getLogger(__name__)

MAX_WORKERS = 8


@dataclass(frozen=True, eq=False)
class FoldWork:
    """What is trained, after everything that can be checked beforehand.

    Attributes:
        plan: That is obeyed.
        fold: Its pairs.
        draws: Which of them, and when.
        prepared: Folder of the prepared cases.
        folder: Of the fold, among the results.
        checkpoint: To start from, or to go on from; None: from scratch.
    """

    plan: Plan
    fold: FoldPairs
    draws: Draws
    prepared: Path
    folder: Path
    checkpoint: Checkpoint | None


def train_fold(request: TrainingRequest, work: FoldWork) -> None:
    """Train.

    Args:
        request: Device, workers, processes, and whether the checkpoint is gone on from.
        work: What is trained.

    Raises:
        AutoregError: if something fails.
        TrainingStopped: if a signal asks for the end.
    """
    plan, training, processes = work.plan, work.plan.training, request.processes
    workers = default_workers(processes) if request.workers is None else request.workers
    resumed = work.checkpoint if request.resume else None
    made = len(resumed.resume.epoch_so_far.steps) if resumed and resumed.resume else 0
    augmentation = PairAugmentation(plan.grid, training.augmentation)
    # Workers are started before there is a network or CUDA for them to inherit.
    with (
        stop_signals() as stop,  # first: also while the workers are ended
        open_batches(
            work.prepared,
            work.draws,
            None if request.augments_on_device else augmentation,
            range(resumed.epoch if resumed else 0, training.epochs),
            workers,
            first=made,
            processes=processes,
            content=Content.of(training.supervision),
        ) as batches,
        connected(processes, request.device),
        float32_exactly(),
    ):
        state = _starting_state(request, plan, work.checkpoint)
        state.names = FoldNames.of(work.fold)
        setup = _setup(request, work, stop, augmentation)
        _announce(setup, work.fold, state, workers)
        try:
            train(setup, state, batches)
        except FAILURES as error:
            raise _explained(error, plan, request) from error
        # Trained to the end, but what would follow is not wanted any more.
        stop.raise_if_received()


def _setup(
    request: TrainingRequest, work: FoldWork, stop: StopRequest, augmentation: PairAugmentation
) -> TrainingSetup:
    plan = work.plan
    objective = Objective.from_plan(plan)
    return TrainingSetup(
        plan=plan,
        fold=work.fold.fold,
        folder=work.folder,
        loss=StepLoss(objective, _supervision(plan)),
        validator=_validator(request, work, objective, stop),
        batches_in=work.draws.batches_in,
        device=request.device,
        show_progress=request.show_progress,
        processes=request.processes,
        checkpoint_seconds=60 * request.checkpoint_minutes,
        stop=stop,
        augment=augmentation if request.augments_on_device else None,
    )


def _supervision(plan: Plan) -> Supervision:
    labels = tuple(plan.labels.values())

    def loss(maps: MapPair, batch: PairBatch) -> torch.Tensor | None:
        return supervision_loss(maps, batch, plan.training.supervision, labels)

    return loss


def _validator(
    request: TrainingRequest, work: FoldWork, objective: Objective, stop: StopRequest
) -> Validator:
    plan = work.plan
    return Validator(
        work.prepared,
        work.fold.validation,
        objective,
        tuple(plan.labels.values()),
        plan.training.seed,
        request.device,
        masks=plan.training.supervision.masks,
        processes=request.processes,
        # Of several processes the others would wait for the one that ends.
        on_pair=stop.raise_if_received if request.processes.count == 1 else None,
    )


def _explained(error: Exception, plan: Plan, request: TrainingRequest) -> Exception:
    """The error to raise in place of one that ended the training."""
    device, processes = request.device, request.processes
    if is_out_of_memory(error):
        return AutoregError(
            f"out of memory on {device} with batches of {plan.training.batch_size}; "
            f"{memory_advice(plan, device, processes)}"
        )
    if isinstance(error, OSError):
        return AutoregError(f"{error}; see to the disk, then go on with --continue")
    if processes.count > 1 and not isinstance(error, AutoregError):
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        lost = "lost the others" if _lost_a_peer(error) else "stopped"
        what = f"{lost} ({first_line})"
        return AutoregError(
            f"process {processes.rank} of {processes.count} {what}; the message of the one that "
            "ended first says why"
        )
    return error


def _lost_a_peer(error: Exception) -> bool:
    text = str(error).lower()
    return any(sign in text for sign in ("connection", "peer", "gloo", "nccl", "socket"))


def default_workers(processes: Processes = ALONE) -> int:
    """Loading processes of each training process: its processors but one, from 1 to 8."""
    return max(1, min(MAX_WORKERS, cpu_count() // processes.local_count - 1))


def _starting_state(
    request: TrainingRequest, plan: Plan, checkpoint: Checkpoint | None
) -> TrainingState:
    device, processes = request.device, request.processes
    if checkpoint is None:
        return new_state(plan, device, processes)
    if request.resume:
        return resumed_state(plan, checkpoint, device, processes)
    return pretrained_state(plan, checkpoint, device, processes)


def _announce(setup: TrainingSetup, fold: FoldPairs, state: TrainingState, workers: int) -> None:
    plan, training = setup.plan, setup.plan.training
    logger.info(
        "%s, configuration %s, fold %s: %d of %d epochs%s done, %d of %d levels; grid %s; %d pairs "
        "to draw %d from per epoch in batches of %d; %d %s validation pairs; on %s%s, %d workers",
        plan.dataset, plan.configuration, fold.fold, state.epoch, training.epochs,
        f" and {state.step} steps" if state.step else "", state.levels,
        plan.network.levels, "x".join(map(str, plan.grid.shape)), len(fold.training),
        training.pairs_per_epoch, training.batch_size, len(fold.validation),
        "held-out" if fold.held_out else "training (none is held out)", setup.device,
        f" in {setup.processes.count} processes" if setup.processes.count > 1 else "", workers,
    )  # fmt: skip
    group = training.group_consistency
    if group.weight > 0:
        logger.info(
            "group consistency: from epoch %d on, cycles of %d cases in place of batches",
            group.from_epoch + 1, CYCLE,
        )  # fmt: skip
