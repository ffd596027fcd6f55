"""The model folder before a training: claimed for a new one, or looked up to continue one."""

import itertools
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from autoreg.errors import CheckpointError, UsageError
from autoreg.io.records import load_record, save_record
from autoreg.plan import Plan
from autoreg.training.checkpoint import Checkpoint, current_versions, load_checkpoint
from autoreg.training.comparison import plan_differences
from autoreg.training.early_stopping import has_stopped_early
from autoreg.training.model_folder import PLAN_FILE, WHICH, checkpoint_path
from autoreg.training.refinement_record import REFINEMENT_FILE, decision
from autoreg.training.splits import SPLITS_NAME, FoldNames, FoldPairs
from autoreg.training.steps_log import STEPS_NAME
from autoreg.training.tensorboard import FOLDER as BOARD_FOLDER

logger = logging.getLogger(__name__)

LOG_NAME = "training.log"
_WRITTEN = (
    *(f"checkpoint_{which}.pt" for which in WHICH),
    LOG_NAME, STEPS_NAME, "progress.json", "progress.png", "validation.json", REFINEMENT_FILE,
)  # fmt: skip


@dataclass(frozen=True)
class DatasetRecord:
    """Content of the dataset.json beside a model: what it was trained on."""

    name: str
    labels: dict[str, int]
    fixed_modalities: tuple[str, ...]
    moving_modalities: tuple[str, ...]


def claim(model: Path, fold: str, plan: Plan, *, overwrite: bool) -> None:
    """Make room for a new training and write what stands beside its model.

    Args:
        model: Model folder.
        fold: The fold to train.
        plan: By which it will be trained.
        overwrite: Whether a trained fold may be replaced; it is set aside.

    Raises:
        UsageError: if the fold is trained already, or other folds were trained by another plan.
    """
    folder = model / f"fold_{fold}"
    trained = sorted(model.glob("fold_*/checkpoint_*.pt"))
    mine = [path for path in trained if path.parent == folder]
    if mine and not overwrite:
        raise UsageError(
            f"{folder}: is trained already ({', '.join(path.name for path in mine)}); go on with "
            "--continue, or replace it with --overwrite"
        )
    if len(mine) < len(trained):
        differences = plan_differences(load_record(Plan, model / PLAN_FILE), plan)
        if differences:
            others = sorted({path.parent.name for path in trained} - {folder.name})
            raise UsageError(
                f"{model}: {', '.join(others)} was trained by another plan: "
                f"{'; '.join(differences)}. All folds of a model have one plan: give the same "
                "flags, or add a configuration to plans.json"
            )
    if mine:
        _set_aside(model, folder)
    for name in _WRITTEN:
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / BOARD_FOLDER, ignore_errors=True)
    save_record(plan, model / PLAN_FILE)
    record = DatasetRecord(plan.dataset, plan.labels, plan.fixed_modalities, plan.moving_modalities)
    save_record(record, model / "dataset.json")


def _set_aside(model: Path, folder: Path) -> None:
    """Keep a trained fold that --overwrite replaces, as a model folder of its own.

    The new training may fail or be stopped long before it is better than the old one.
    """
    # The first free number: people delete some of these folders.
    kept = next(
        path for number in itertools.count(1) if not (path := model / f"replaced_{number}").exists()
    )
    kept.mkdir()
    for name in (PLAN_FILE, "dataset.json"):
        if (model / name).exists():
            shutil.copy2(model / name, kept / name)
    folder.rename(kept / folder.name)
    logger.info("the earlier training is kept as the model folder %s", kept)


def resumable(
    model: Path, fold: FoldPairs, plan: Plan, *, finished_too: bool = False
) -> Checkpoint:
    """The checkpoint that --continue starts from.

    Args:
        model: Model folder.
        fold: Its fold, as it is now.
        plan: By which the training is to go on.
        finished_too: Whether a finished training will do.

    Raises:
        CheckpointError: if there is nothing to continue, or another plan or other pairs were
            trained by.
    """
    path = checkpoint_path(model, fold.fold, "latest")
    if not path.exists():
        raise CheckpointError(
            f"--continue: nothing to continue, {path} does not exist; leave --continue out to "
            "start this training"
        )
    checkpoint = load_checkpoint(path)
    differences = plan_differences(checkpoint.plan, plan)
    if differences:
        raise CheckpointError(
            f"--continue: {path} was trained by another plan: {'; '.join(differences)}. Give the "
            "command and plans.json of the first run, or start anew with --overwrite"
        )
    _tell_other_versions(checkpoint)
    _require_same_pairs(checkpoint, fold, path)
    if is_finished(model, fold.fold, checkpoint) and not finished_too:
        raise CheckpointError(
            f"--continue: nothing to continue, {path} is finished after {checkpoint.epoch} "
            f"epochs; to train further, start from it with --pretrained {path.parent} and another "
            "--results"
        )
    return checkpoint


def _require_same_pairs(checkpoint: Checkpoint, fold: FoldPairs, path: Path) -> None:
    if checkpoint.resume is None:
        return
    differences = checkpoint.resume.names.differences(FoldNames.of(fold))
    if differences:
        raise CheckpointError(
            f"--continue: {path} was trained with other pairs: {'; '.join(differences)}. Put "
            f"{SPLITS_NAME} and the data set back as they were, or start anew with --overwrite"
        )


def _tell_other_versions(checkpoint: Checkpoint) -> None:
    theirs, ours = checkpoint.versions, current_versions()
    changed = [f"{n} {theirs.get(n)} (now {v})" for n, v in ours.items() if theirs.get(n) != v]
    if changed:
        logger.warning(
            "the training was begun with %s: it goes on, but not to the last digit as it would "
            "have", ", ".join(changed),
        )  # fmt: skip


def is_finished(model: Path, fold: str, latest: Checkpoint) -> bool:
    """Whether a training is over; the final checkpoint lacks if the end came while it was written.

    Args:
        model: Model folder.
        fold: Its fold.
        latest: Its checkpoint_latest.pt.
    """
    final = checkpoint_path(model, fold, "final")
    training = latest.plan.training
    records = latest.resume.records if latest.resume else ()
    is_over = latest.epoch >= training.epochs or has_stopped_early(latest.plan, records)
    return is_over and final.exists()


def refinement_is_open(model: Path, fold: str) -> bool:
    """Whether prediction waits for a measurement to know if a fold's results are to be refined."""
    if not (model / PLAN_FILE).is_file():
        return False
    refine = load_record(Plan, model / PLAN_FILE).instance_optimisation.refine
    return decision(refine, model / f"fold_{fold}").is_open
