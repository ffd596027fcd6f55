"""The training loop; everything it needs is handed to it."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from tqdm import tqdm

from autoreg.errors import UsageError
from autoreg.io.records import save_record
from autoreg.registration.repeated_warnings import warned_once
from autoreg.training.batches import PairBatch
from autoreg.training.checkpoint import EpochSoFar, save_checkpoint
from autoreg.training.early_stopping import has_stopped_early
from autoreg.training.progress import (
    EpochRecord,
    PictureClock,
    ValidationSummary,
    describe,
    describe_validation,
    write_progress,
)
from autoreg.training.schedule import (
    learning_rate,
    set_learning_rate,
)
from autoreg.training.setup import TrainingSetup
from autoreg.training.state import TrainingState, add_last_level, as_checkpoint
from autoreg.training.step_values import weighted_mean
from autoreg.training.stepping import Stepper
from autoreg.training.steps_log import StepsLog, open_steps_log
from autoreg.training.stopping import TrainingStopped
from autoreg.training.tensorboard import Board, open_board
from autoreg.training.validation import Validation, criterion, score

logger = logging.getLogger(__name__)


def train(setup: TrainingSetup, state: TrainingState, batches: Iterator[PairBatch]) -> None:
    """Train to the plan's last epoch, with validations and checkpoints on the way.

    Args:
        setup: What stays the same.
        state: Where to start; changed in place.
        batches: All remaining ones, in order.

    Raises:
        AutoregError: if the loss stops being a number, or a batch cannot be loaded.
        TrainingStopped: if a signal asks for it; checkpoint_latest.pt holds all that was done.
    """
    first = setup.processes.is_first
    devices = [setup.device] if setup.device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices),  # each step seeds what layers draw
        open_steps_log(setup.folder if first else None, state.epoch, state.step) as steps_log,
        open_board(setup.folder, max(0, state.epoch - 1)) if first else Board(None) as board,
        _bar(setup, state) as bar,
    ):
        _Run(setup, state, batches, bar, steps_log, board).to_the_end()
    if first:
        final = as_checkpoint(state, setup.plan, setup.fold)
        save_checkpoint(setup.folder / "checkpoint_final.pt", final)


def _bar(setup: TrainingSetup, state: TrainingState) -> "tqdm[None]":
    """None as `disable`: shown on a terminal, not in a file."""
    steps = [setup.batches_in(epoch) for epoch in range(setup.plan.training.epochs)]
    done = sum(steps[: state.epoch]) + state.step
    hidden = None if setup.show_progress and setup.processes.is_first else True
    return tqdm(total=sum(steps), initial=done, unit="step", disable=hidden, leave=False)


class _Run:
    """One training while it runs, from a start or from a checkpoint on."""

    def __init__(
        self,
        setup: TrainingSetup,
        state: TrainingState,
        batches: Iterator[PairBatch],
        bar: "tqdm[None]",
        steps_log: StepsLog,
        board: Board,
    ) -> None:
        self._setup = setup
        self._state = state
        self._batches = batches
        self._bar = bar
        self._steps_log = steps_log
        self._board = board
        self._stepper = Stepper(setup, state)
        self._pictures = PictureClock()
        self._saved_at = time.monotonic()

    def to_the_end(self) -> None:
        """Train until nothing is left, or a signal comes."""
        state, training = self._state, self._setup.plan.training
        if state.initial is None:
            self._begin()
        else:
            self._catch_up()
        if self._is_due_for_validation() and state.records[-1].validation is None:
            self._finish_epoch()  # the training was stopped between the epoch and its end
        while not self._is_over():
            if self._is_due_for_last_level():
                add_last_level(state, self._setup.plan, self._setup.device, self._setup.processes)
                logger.info("the last level joins; the optimiser starts anew")
            self._bar.set_description(f"epoch {state.epoch + 1}/{training.epochs}")
            self._train_epoch()
            self._finish_epoch()
        if state.epoch < training.epochs:
            logger.info(
                "no better validation in the last %d: the training ends after %d of %d epochs; the "
                "better weights are in checkpoint_best.pt (autoreg_predict --checkpoint best)",
                training.early_stopping, state.epoch, training.epochs,
            )  # fmt: skip

    def _is_over(self) -> bool:
        state, training = self._state, self._setup.plan.training
        return state.epoch >= training.epochs or has_stopped_early(self._setup.plan, state.records)

    def _begin(self) -> None:
        """What there is to improve on; besides, an unusable validation case shows at once."""
        state = self._state
        state.initial = self._validation().summary
        self._board.write_initial(state.initial)
        logger.info("before training: %s", describe_validation(state.initial))
        if state.is_pretrained:
            self._keep_if_best(state.initial)
        self._save_latest()

    def _catch_up(self) -> None:
        """Write anew what may not have been written any more after the checkpoint."""
        state = self._state
        if state.initial is not None and state.epoch <= 1:
            self._board.write_initial(state.initial)
        validates = self._is_due_for_validation() and state.records[-1].validation is None
        if state.records and not validates:
            self._board.write(state.records[-1])
            self._try(self._write_progress)

    def _is_due_for_last_level(self) -> bool:
        state, plan = self._state, self._setup.plan
        is_shallow = state.levels < plan.network.levels
        return is_shallow and state.epoch >= plan.training.shallow_epochs

    def _is_due_for_validation(self) -> bool:
        epoch, training = self._state.epoch, self._setup.plan.training
        if epoch == 0 or self._state.step > 0:
            return False
        return epoch == training.epochs or epoch % training.validation_every == 0

    @warned_once()
    def _train_epoch(self) -> None:
        """From the step where it was left to its end."""
        state, setup = self._state, self._setup
        rate = learning_rate(setup.plan.training, state.epoch)
        set_learning_rate(state.optimiser, rate)
        for index in range(state.step, setup.batches_in(state.epoch)):
            started = time.perf_counter()
            batch = next(self._batches)
            waiting = time.perf_counter() - started
            values, conflict = self._stepper.step(batch, index)
            so_far = state.epoch_so_far
            state.epoch_so_far = EpochSoFar(
                # Weighted by its pairs: the last batch of an epoch may be smaller.
                (*so_far.steps, (batch.size, values)),
                so_far.conflicts + conflict,
                so_far.seconds + time.perf_counter() - started,
                so_far.waiting_seconds + waiting,
            )
            self._steps_log.write(state.epoch, index, values)
            self._bar.set_postfix(loss=f"{values.total:.4f}", refresh=False)
            self._bar.update()
            self._pause()
        state.records.append(self._record(rate))
        state.epoch += 1
        state.epoch_so_far = EpochSoFar()

    def _record(self, rate: float) -> EpochRecord:
        state, so_far = self._state, self._state.epoch_so_far
        training = self._setup.plan.training
        mean = weighted_mean(so_far.steps)
        projects = training.gradients == "gradient_projection"
        return EpochRecord(
            epoch=state.epoch,
            levels=state.levels,
            augmented=state.epoch >= training.augmentation.from_epoch,
            similarity=mean.similarity,
            regularity=mean.regularity,
            total=mean.total,
            seconds=so_far.seconds,
            waiting_seconds=so_far.waiting_seconds,
            validation=None,
            folding=mean.folding,
            cycle=mean.cycle,
            supervised=mean.supervised,
            conflicts=so_far.conflicts / len(so_far.steps) if projects else None,
            learning_rate=rate,
        )

    def _pause(self) -> None:
        """Between two steps: a checkpoint if it is time for one, or the end if a signal came."""
        setup = self._setup
        # The signal reaches the processes at different times, and may come at any moment: what they
        # have agreed on decides.
        number = setup.stop.number
        if setup.processes.count > 1:
            flag = torch.tensor(number, device=setup.device)
            number = int(setup.processes.largest_(flag))
        if number:
            setup.stop.hear(number)
            try:
                self._save_latest()
            finally:
                # No process ends before the first one has saved: torchrun would end that one, too.
                float(setup.processes.sum_(torch.zeros(1, device=setup.device)))
            raise TrainingStopped(number)
        if time.monotonic() - self._saved_at >= setup.checkpoint_seconds:
            self._saved_at = time.monotonic()  # whether it succeeds or not
            self._try(self._save_latest)

    def _try(self, save: Callable[[], None]) -> None:
        """Write something that the training can go on without, until the disk has room again."""
        try:
            save()
        except UsageError as error:
            logger.warning("not written, tried again later: %s", error)

    def _finish_epoch(self) -> None:
        """Validate if it is time to, and tell how it went."""
        state, setup = self._state, self._setup
        is_due = self._is_due_for_validation()
        if is_due:
            self._validate()
        self._try(self._write_progress)
        self._board.write(state.records[-1])
        logger.info("%s", describe(state.records[-1], setup.plan.training.epochs))

    def _validate(self) -> None:
        records, validation = self._state.records, self._validation()
        records[-1] = replace(records[-1], validation=validation.summary)
        self._try(lambda: self._keep_if_best(validation.summary))
        self._try(self._save_latest)
        if self._setup.processes.is_first:
            path = self._setup.folder / "validation.json"
            self._try(lambda: save_record(validation, path))

    def _validation(self) -> Validation:
        if self._setup.processes.count > 1 and self._state.epoch > 0:
            # They end a validation together or not at all; torchrun waits for 30 seconds.
            self._try(self._save_latest)
        try:
            return self._setup.validator(self._state.network)
        except TrainingStopped:
            self._save_latest()  # what goes on from here validates first
            raise

    def _write_progress(self) -> None:
        state, setup = self._state, self._setup
        if state.initial is None:
            raise RuntimeError("an epoch was trained before the first validation")
        if not setup.processes.is_first:
            return
        draw = self._pictures.is_due(is_last=self._is_over())
        write_progress(
            state.records, state.initial, criterion(state.initial), setup.folder, draw=draw
        )

    def _keep_if_best(self, summary: ValidationSummary) -> None:
        state, setup = self._state, self._setup
        value = score(summary)
        if state.best is None or value < state.best:
            if setup.processes.is_first:
                best = as_checkpoint(state, setup.plan, setup.fold)
                save_checkpoint(setup.folder / "checkpoint_best.pt", best)
            state.best = value

    def _save_latest(self) -> None:
        if self._setup.processes.is_first:
            self._steps_log.sync()
            latest = as_checkpoint(self._state, self._setup.plan, self._setup.fold, resumable=True)
            save_checkpoint(self._setup.folder / "checkpoint_latest.pt", latest)
        self._saved_at = time.monotonic()
