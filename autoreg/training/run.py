"""One training from a request: checks, collaborators, folders, and then the loop."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from autoreg.errors import AutoregError, DataError, UsageError
from autoreg.io.cases import Pair
from autoreg.io.names import closest_name, matching_names
from autoreg.io.records import load_record
from autoreg.machine import cpu_count
from autoreg.numerics.precision import float32_exactly
from autoreg.plan import Plan
from autoreg.planning.dataset_pairs import load_dataset_pairs
from autoreg.planning.plans_file import DEFAULT_CONFIGURATION, PLANS_NAME, load_plan
from autoreg.planning.prepared import PreparedRecord, list_prepared, prepared_folder, record_path
from autoreg.planning.preprocess import settings_digest
from autoreg.registration.objective import Objective
from autoreg.training.augmentation import PairAugmentation
from autoreg.training.batches import open_batches
from autoreg.training.checkpoint import Checkpoint
from autoreg.training.claim import (
    LOG_NAME,
    claim,
    is_finished,
    refinement_is_open,
    resumable,
)
from autoreg.training.draws import CYCLE, Draws, make_draws
from autoreg.training.environment import log_file
from autoreg.training.overrides import Overrides, override
from autoreg.training.refinement import decide_refinement
from autoreg.training.splits import FoldPairs, fold_pairs
from autoreg.training.state import (
    TrainingState,
    load_pretrained,
    new_state,
    pretrained_state,
    resumed_state,
)
from autoreg.training.trainer import TrainingSetup, train
from autoreg.training.validation import Validator

logger = logging.getLogger(__name__)

MAX_WORKERS = 8


@dataclass(frozen=True)
class TrainingRequest:
    """What to train.

    Attributes:
        dataset: Id or name of a prepared data set.
        preprocessed: Folder of preprocessed data.
        results: Folder of trained models.
        configuration: A configuration of its plans.json.
        fold: A number or "all"; None: see `splits.fold_pairs`.
        overrides: Values in place of the plan's.
        pretrained: A model folder, or a fold's folder in it, to start from.
        resume: Go on with an interrupted training.
        overwrite: Replace a trained fold.
        workers: Loading processes; None: one fewer than processors, at most 8; 0: none.
        device: Where to train.
        show_progress: Whether to draw a progress bar.
        raw: Folder of raw data sets, where the original images for `refinement_check` lie.
        refinement_check: Whether to measure in the end if refinement helps, where the plan leaves
            it to that.
    """

    dataset: str
    preprocessed: Path
    results: Path
    configuration: str = DEFAULT_CONFIGURATION
    fold: str | None = None
    overrides: Overrides = Overrides()  # noqa: RUF009 - frozen
    pretrained: Path | None = None
    resume: bool = False
    overwrite: bool = False
    workers: int | None = None
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable
    show_progress: bool = True
    raw: Path | None = None
    refinement_check: bool = True


def run_training(request: TrainingRequest) -> Path:
    """Train one fold.

    Args:
        request: What to train.

    Returns:
        The fold's folder in the results.

    Raises:
        AutoregError: if something needed is missing, contradictory or fails.
    """
    dataset = find_prepared_dataset(request.preprocessed, request.dataset)
    plan = load_plan(dataset / PLANS_NAME, request.configuration)
    plan = override(plan, request.overrides, pretrained=request.pretrained is not None)
    pairs = load_dataset_pairs(request.preprocessed, dataset.name)
    fold = fold_pairs(pairs, dataset, request.fold, plan.training)
    prepared = prepared_folder(request.preprocessed, plan)
    _require_prepared(prepared, fold, plan)
    draws = make_draws(plan.training, fold)
    model = request.results / plan.dataset / plan.configuration
    checkpoint, finished = None, False
    if request.resume:
        due = request.refinement_check and refinement_is_open(model, fold.fold)
        checkpoint = resumable(model, fold.fold, plan, finished_too=due)
        finished = is_finished(model, fold.fold, checkpoint)
    elif request.pretrained is not None:
        checkpoint = load_pretrained(plan, request.pretrained)
    if not request.resume:
        claim(model, fold.fold, plan, overwrite=request.overwrite)
    folder = model / f"fold_{fold.fold}"
    with log_file(folder / LOG_NAME):
        if not finished:
            _train(request, plan, fold, draws, prepared, checkpoint, folder)
        if request.refinement_check and refinement_is_open(model, fold.fold):
            raw = None if request.raw is None else request.raw / dataset.name
            decide_refinement(model, fold, raw, request.device)
    return folder


def _train(
    request: TrainingRequest,
    plan: Plan,
    fold: FoldPairs,
    draws: Draws,
    prepared: Path,
    checkpoint: Checkpoint | None,
    folder: Path,
) -> None:
    training = plan.training
    workers = default_workers() if request.workers is None else request.workers
    transform = PairAugmentation(plan.grid, training.augmentation)
    epochs = range(checkpoint.epoch if checkpoint and request.resume else 0, training.epochs)
    # Workers are started before there is a network or CUDA for them to inherit.
    with open_batches(prepared, draws, transform, epochs, workers) as batches, float32_exactly():
        state = _starting_state(request, plan, checkpoint)
        objective = Objective.from_plan(plan)
        setup = TrainingSetup(
            plan=plan,
            fold=fold.fold,
            folder=folder,
            objective=objective,
            validator=_validator(request, plan, fold, prepared, objective),
            batches_in=draws.batches_in,
            device=request.device,
            show_progress=request.show_progress,
            is_pretrained=request.pretrained is not None,
        )
        _announce(setup, fold, state, workers)
        try:
            train(setup, state, batches)
        except torch.OutOfMemoryError as error:
            smaller = "use a smaller --batch-size, or " if training.batch_size > 1 else ""
            raise AutoregError(
                f"out of memory on {request.device} with batches of {training.batch_size}; "
                f"{smaller}plan for a smaller budget (autoreg_plan --budget)"
            ) from error


def _validator(
    request: TrainingRequest, plan: Plan, fold: FoldPairs, prepared: Path, objective: Objective
) -> Validator:
    labels, seed = tuple(plan.labels.values()), plan.training.seed
    return Validator(prepared, fold.validation, objective, labels, seed, request.device)


def find_prepared_dataset(preprocessed: Path, id_or_name: str) -> Path:
    """The folder `<preprocessed>/<data set>` that a user means.

    Args:
        preprocessed: Folder of preprocessed data.
        id_or_name: See `matching_names`.

    Raises:
        UsageError: if there is none or more than one; the message lists what there is.
    """
    found = sorted(path.parent for path in preprocessed.glob(f"*/{PLANS_NAME}"))
    names = [folder.name for folder in found]
    matching = matching_names(names, id_or_name)
    if len(matching) == 1:
        return preprocessed / matching[0]
    close = None if matching else closest_name(names, id_or_name)
    guess = f'Did you mean "{close}"? Otherwise give' if close else "Give"
    raise UsageError(
        f'{preprocessed.absolute()}: {len(matching)} prepared data sets are "{id_or_name}"; '
        f"prepared are: {', '.join(names) or 'none'}. {guess} one of these names, prepare the data "
        "set with autoreg_plan_and_preprocess, or name the folder with --preprocessed"
    )


def default_workers() -> int:
    """Loading processes if nobody says: one fewer than processors, from 1 to 8."""
    return max(1, min(MAX_WORKERS, cpu_count() - 1))


def _require_prepared(folder: Path, fold: FoldPairs, plan: Plan) -> None:
    """Every case of the fold must be prepared, and as the plan says now."""

    def cases(pairs: Sequence[Pair]) -> set[str]:
        return {name for pair in pairs for name in (pair.fixed, pair.moving)}

    needed = cases(fold.training) | cases(fold.validation)
    missing = sorted(needed - set(list_prepared(folder)))
    present = sorted(needed - set(missing))
    records = [load_record(PreparedRecord, record_path(folder, n), DataError) for n in present]
    outdated = [r.case for r in records if r.settings != settings_digest(plan, r.modalities)]
    for names, what in ((missing, "not prepared"), (outdated, "prepared by another plan")):
        if names:
            raise DataError(
                f"{folder}: {len(names)} cases of fold {fold.fold} are {what}, e.g. "
                f"{', '.join(names[:5])}; run autoreg_preprocess"
            )


def _starting_state(
    request: TrainingRequest, plan: Plan, checkpoint: Checkpoint | None
) -> TrainingState:
    if checkpoint is None:
        return new_state(plan, request.device)
    if request.resume:
        return resumed_state(plan, checkpoint, request.device)
    return pretrained_state(plan, checkpoint, request.device)


def _announce(setup: TrainingSetup, fold: FoldPairs, state: TrainingState, workers: int) -> None:
    plan, training = setup.plan, setup.plan.training
    logger.info(
        "%s, configuration %s, fold %s: %d of %d epochs done, %d of %d levels; grid %s; %d pairs "
        "to draw %d from per epoch in batches of %d; %d %s validation pairs; on %s, %d workers",
        plan.dataset, plan.configuration, fold.fold, state.epoch, training.epochs, state.levels,
        plan.network.levels, "x".join(map(str, plan.grid.shape)), len(fold.training),
        training.pairs_per_epoch, training.batch_size, len(fold.validation),
        "held-out" if fold.held_out else "training (none is held out)", setup.device, workers,
    )  # fmt: skip
    group = training.group_consistency
    if group.weight > 0:
        logger.info(
            "group consistency: from epoch %d on, cycles of %d cases in place of batches",
            group.from_epoch + 1, CYCLE,
        )  # fmt: skip
