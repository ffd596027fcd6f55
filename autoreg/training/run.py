"""One training from a request: checks, collaborators, folders, and then the loop."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

from autoreg.errors import DataError, UsageError
from autoreg.io.atomic import PARTIAL, locked_folder
from autoreg.io.cases import Pair
from autoreg.io.names import closest_name, matching_names
from autoreg.io.records import load_record
from autoreg.plan import Plan
from autoreg.planning.dataset_pairs import load_dataset_pairs
from autoreg.planning.plans_file import PLANS_NAME, load_plan
from autoreg.planning.prepared import PreparedRecord, list_prepared, prepared_folder, record_path
from autoreg.planning.preprocess import settings_digest
from autoreg.training.claim import (
    LOG_NAME,
    claim,
    is_finished,
    refinement_is_open,
    resumable,
)
from autoreg.training.draws import make_draws
from autoreg.training.environment import log_file
from autoreg.training.overrides import override
from autoreg.training.processes import Processes
from autoreg.training.refinement import decide_refinement
from autoreg.training.request import TrainingRequest
from autoreg.training.session import FoldWork, train_fold
from autoreg.training.splits import FoldPairs, fold_pairs
from autoreg.training.state import load_pretrained
from autoreg.training.supervision import require_supervision

_LOCK_TRIES, _LOCK_SECONDS = 10, 0.3


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
    pretrained = request.pretrained is not None
    plan = override(plan, request.overrides, pretrained=pretrained, processes=request.processes)
    pairs = load_dataset_pairs(request.preprocessed, dataset.name)
    fold = fold_pairs(pairs, dataset, request.fold, plan.training)
    prepared = prepared_folder(request.preprocessed, plan)
    _require_prepared(prepared, fold, plan)
    require_supervision(plan.training.supervision, prepared, fold.training)
    draws = make_draws(plan.training, fold)
    _require_shares(plan, request.processes)
    model = request.results / plan.dataset / plan.configuration
    checkpoint, finished = None, False
    if request.resume:
        due = request.refinement_check and refinement_is_open(model, fold.fold)
        checkpoint = resumable(model, fold, plan, finished_too=due)
        finished = is_finished(model, fold.fold, checkpoint)
    elif request.pretrained is not None:
        checkpoint = load_pretrained(plan, request.pretrained)
    folder, first = model / f"fold_{fold.fold}", request.processes.is_first
    if not request.resume and first:
        # Not from under a training that is going on.
        with _locked(folder) if folder.exists() else nullcontext():
            claim(model, fold.fold, plan, overwrite=request.overwrite)
    with _own_folder(folder) if first else nullcontext():
        if not finished:
            train_fold(request, FoldWork(plan, fold, draws, prepared, folder, checkpoint))
        if first and request.refinement_check and refinement_is_open(model, fold.fold):
            raw = None if request.raw is None else request.raw / dataset.name
            decide_refinement(model, fold, raw, request.device)
    return folder


@contextmanager
def _own_folder(folder: Path) -> Iterator[None]:
    """Keep other trainings out of a fold, and write its log."""
    with _locked(folder), log_file(folder / LOG_NAME):
        for partial in folder.glob(f"{PARTIAL}*"):  # left by a training that was killed
            if partial.is_file():
                partial.unlink(missing_ok=True)
        yield


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait a little: the loading processes of a killed training hold its lock for a second."""
    for _ in range(_LOCK_TRIES):
        with ExitStack() as stack:
            try:
                stack.enter_context(locked_folder(folder, wait=False))
            except UsageError:
                time.sleep(_LOCK_SECONDS)
                continue
            yield
            return
    with locked_folder(folder, wait=False):
        yield


def _require_shares(plan: Plan, processes: Processes) -> None:
    """Every process must have a share of every batch, for they wait for each other.

    Raises:
        UsageError: if some batch has too few pairs, or is a cycle.
    """
    training, count = plan.training, processes.count
    if count == 1:
        return
    if training.group_consistency.weight > 0:
        raise UsageError(
            f"{count} processes: cycles of group consistency are trained on by a single one; start "
            "autoreg_train without torchrun, or set training.group_consistency.weight to 0"
        )
    last = training.pairs_per_epoch % training.batch_size or training.batch_size
    of_last = f"give --pairs-per-epoch as a multiple of the batch's {training.batch_size}"
    for pairs, what, remedy in (
        (training.batch_size, "training.batch_size is", f"give --batch-size {count} or more"),
        (last, "an epoch's last batch has", of_last),
    ):
        if pairs < count:
            raise UsageError(
                f"{count} processes share the pairs of a batch, and {what} {pairs}; {remedy}, or "
                "start fewer processes"
            )


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
                f"{', '.join(names[:5])}; run autoreg_preprocess -d {plan.dataset} --config "
                f"{plan.configuration}"
            )
