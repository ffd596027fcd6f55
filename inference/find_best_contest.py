"""Which trained configurations and folds are compared, and on which held-out pairs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autoreg.errors import DataError, UsageError, did_you_mean
from autoreg.evaluation.report import counted
from autoreg.inference.find_best_commands import CommandContext, train_command
from autoreg.inference.find_best_pairs import ContestFold, chosen_pairs, held_out
from autoreg.inference.models import models_of_dataset, trained_models
from autoreg.inference.pairs_file import PairFiles
from autoreg.io.cases import RawDataset
from autoreg.io.dataset import is_dataset, read_dataset
from autoreg.io.records import load_record
from autoreg.paths import Paths
from autoreg.plan import Plan
from autoreg.planning.dataset_pairs import load_dataset_pairs
from autoreg.planning.plans_file import DEFAULT_CONFIGURATION
from autoreg.training.model_folder import PLAN_FILE, Which, trained_folds
from autoreg.training.splits import ALL, SPLITS_NAME

_ONLY_FOLD = "0"  # of a data set that lists its validation pairs


@dataclass(frozen=True)
class ContestRequest:
    """Which models and pairs a user wants to have compared.

    Attributes:
        dataset: Its whole name, its name or its number.
        paths: Folders of raw data, prepared data and models.
        configurations: None: all that are trained.
        folds: None: all that every one of them has.
        checkpoint: Of every fold; None: final, else best, else latest.
        most_pairs: Over all folds.
        context: How the commands that are printed name data set and folders.
    """

    dataset: str
    paths: Paths
    configurations: tuple[str, ...] | None
    folds: tuple[str, ...] | None
    checkpoint: Which | None
    most_pairs: int
    context: CommandContext


@dataclass(frozen=True)
class TrainedConfiguration:
    """One configuration of the data set.

    Attributes:
        name: Of the configuration.
        folder: Model folder.
        plan: Beside its weights.
        checkpoints: Of each trained fold.
    """

    name: str
    folder: Path
    plan: Plan
    checkpoints: dict[str, Path]


@dataclass(frozen=True)
class Contest:
    """What is compared on what.

    Attributes:
        dataset: Name of the data set.
        raw: Its original images.
        models: In the order of preference between equals: "default" first, or as the user listed.
        folds: With disjoint sets of pairs.
        is_listed: Whether the data set lists its validation pairs, so that there is one fold.
        found: Pairs that there are; more than are taken where that takes too long.
        notes: What a reader should know: missing folds and so on.
    """

    dataset: str
    raw: RawDataset
    models: tuple[TrainedConfiguration, ...]
    folds: tuple[ContestFold, ...]
    is_listed: bool
    found: int
    notes: tuple[str, ...] = field(default=())

    @property
    def pairs(self) -> tuple[PairFiles, ...]:
        """Of all folds, each once."""
        return tuple(pair for fold in self.folds for pair in fold.pairs)


def trained_fold(model: TrainedConfiguration, fold: str) -> str:
    """The fold of a model that stands for a compared one: "all" is "0" where pairs are listed."""
    return fold if fold in model.checkpoints else ALL


def make_contest(request: ContestRequest) -> Contest:
    """Look what there is and choose what every configuration can be compared on.

    Raises:
        UsageError: if no fold is trained that can be measured, a configuration or fold is unknown,
            or configurations have no fold in common.
        DataError: if raw data, prepared pairs or splits are missing, or no pair is held out.
    """
    models = _models(request)
    name = models[0].folder.parent.name
    pairs = load_dataset_pairs(request.paths.preprocessed, name)
    raw = _raw_dataset(request.paths.raw, name)
    notes: list[str] = []
    if pairs.validation_pairs:
        folds = _only_fold(request)
    else:
        models, notes = _with_measurable_folds(request, models)
        folds, missing = _common_folds(request, models)
        notes += missing
    home, training = request.paths.preprocessed / name, models[0].plan.training
    chosen, found = chosen_pairs(
        held_out(pairs, home, folds, training), raw, request.most_pairs, training.seed
    )
    notes += [note for model in models for note in _checkpoint_notes(request, model, folds)]
    notes += _edited_splits(request, models, folds) if not pairs.validation_pairs else []
    return Contest(
        name, raw, models, chosen, bool(pairs.validation_pairs), found, tuple(dict.fromkeys(notes))
    )


def _models(request: ContestRequest) -> tuple[TrainedConfiguration, ...]:
    results = request.paths.results
    if not trained_models(results):
        raise UsageError(
            f"{results}: no trained fold; train one with: "
            f"{train_command(request.context, DEFAULT_CONFIGURATION, '0')}"
        )
    folders = {path.name: path for path in models_of_dataset(results, request.dataset)}
    wanted = request.configurations
    if wanted is None:
        wanted = tuple(sorted(folders, key=lambda name: (name != DEFAULT_CONFIGURATION, name)))
    for name in wanted:
        if name not in folders:
            raise UsageError(
                f"--configs {name}: not trained; {did_you_mean(name, folders)} To train it: "
                f"{train_command(request.context, name, '0')}"
            )
    models = [_model(folders[name], request.checkpoint) for name in dict.fromkeys(wanted)]
    without = [model.name for model in models if not model.checkpoints]
    if without:
        raise UsageError(
            f"{', '.join(without)}: no fold has a checkpoint_{request.checkpoint}.pt; drop "
            "--checkpoint, or leave the configuration out with --configs"
        )
    return tuple(models)


def _model(folder: Path, which: Which | None) -> TrainedConfiguration:
    plan = load_record(Plan, folder / PLAN_FILE)
    return TrainedConfiguration(folder.name, folder, plan, trained_folds(folder, which))


def _raw_dataset(root: Path, name: str) -> RawDataset:
    if not is_dataset(root / name):
        raise DataError(
            f"{root / name}: is no raw data set, and the original images are registered; name the "
            "folder of raw data with --raw"
        )
    return read_dataset(root / name)


def _only_fold(request: ContestRequest) -> tuple[str, ...]:
    for fold in request.folds or ():
        if fold not in (_ONLY_FOLD, ALL):
            raise UsageError(
                f"--folds {fold}: the data set lists its validation pairs, so that there is one "
                "fold only; drop --folds"
            )
    return (_ONLY_FOLD,)


def _with_measurable_folds(
    request: ContestRequest, models: Sequence[TrainedConfiguration]
) -> tuple[tuple[TrainedConfiguration, ...], list[str]]:
    """The configurations of which a fold holds cases out, and what to say of the others."""
    if ALL in (request.folds or ()):
        raise UsageError(
            f"--folds {ALL}: was trained with every case, so that it has no held-out pairs and "
            "nothing can be measured with it; name numbered folds"
        )
    kept, notes = [], []
    for model in models:
        if set(model.checkpoints) - {ALL}:
            kept.append(model)
            continue
        command = train_command(request.context, model.name, "0")
        notes.append(
            f'{model.name}: only fold "{ALL}" is trained, which has seen every case and measures '
            f"nothing; to compare it: {command}"
        )
    if not kept or (request.configurations and notes):
        raise UsageError("\n".join(notes))
    return tuple(kept), notes


def _common_folds(
    request: ContestRequest, models: Sequence[TrainedConfiguration]
) -> tuple[tuple[str, ...], list[str]]:
    """The folds that every configuration has, and the commands that train the missing ones."""
    trained = {model.name: set(model.checkpoints) - {ALL} for model in models}
    wanted = set(request.folds) if request.folds else set.union(*trained.values())
    missing = [
        f"{name} lacks fold {fold}: {train_command(request.context, name, fold)}"
        for name, folds in trained.items()
        for fold in sorted(wanted - folds)
    ]
    common = tuple(sorted(wanted.intersection(*trained.values()), key=lambda f: (len(f), f)))
    if missing and (request.folds or not common):
        raise UsageError("\n".join(["not every configuration has the same folds:", *missing]))
    heading = [f"Compared on the common folds only ({', '.join(common)}):"] if missing else []
    return common, [*heading, *missing]


def _checkpoint_notes(
    request: ContestRequest, model: TrainedConfiguration, folds: Sequence[str]
) -> list[str]:
    if request.checkpoint is not None:
        return []
    used = {fold: model.checkpoints[trained_fold(model, fold)] for fold in folds}
    early = [fold for fold, path in used.items() if path.name != "checkpoint_final.pt"]
    if not early:
        return []
    what = counted(len(early), "fold")
    note = (
        f"{model.name}: {what} without a finished training ({', '.join(early)}), taken as far as "
        "they got; go on with autoreg_train --continue"
    )
    return [note]


def _edited_splits(
    request: ContestRequest, models: Sequence[TrainedConfiguration], folds: Sequence[str]
) -> list[str]:
    path = request.paths.preprocessed / models[0].folder.parent.name / SPLITS_NAME
    changed = path.stat().st_mtime
    older = [
        f"{model.name} fold {fold}"
        for model in models
        for fold in folds
        if model.checkpoints[fold].stat().st_mtime < changed
    ]
    if not older:
        return []
    note = (
        f"{path} was written after {', '.join(older)} had been trained: if cases were moved "
        "between its folds since, they are not held out, and the comparison is worth nothing."
    )
    return [note]
