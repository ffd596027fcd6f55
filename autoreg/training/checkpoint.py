"""Checkpoints and model folders: what a training leaves behind and prediction loads.

A model folder is `<results>/<data set>/<configuration>`; it holds plan.json and one folder per
fold (`fold_0`, ..., `fold_all`) with `checkpoint_{best,latest,final}.pt`. A checkpoint consists of
plain values and tensors, so that it loads with `weights_only=True`: opening one runs no code.
"""

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from autoreg import __version__
from autoreg.errors import AutoregError, CheckpointError
from autoreg.io.atomic import atomic_path
from autoreg.io.records import from_plain, load_record, to_plain
from autoreg.networks.base import RegistrationNetwork
from autoreg.networks.factory import build_network
from autoreg.plan import Plan
from autoreg.training.comparison import plan_differences
from autoreg.training.progress import EpochRecord, ValidationSummary

CHECKPOINT_FORMAT = 1
PLAN_FILE = "plan.json"

# What prediction must do as training did.
FIXED_BY_WEIGHTS = (
    "fixed_modalities", "moving_modalities", "grid", "alignment", "intensity", "network",
)  # fmt: skip

Which = Literal["final", "best", "latest"]
WHICH: tuple[Which, ...] = ("final", "best", "latest")  # in the order of preference


def _versions() -> dict[str, str]:
    return {
        "autoreg": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


@dataclass(frozen=True, eq=False)
class ResumeState:
    """What a training needs, besides the weights, to go on as if it had never stopped.

    Attributes:
        optimiser: State of the optimiser.
        generator: State of the generator of the regulariser's random points.
        best: Lowest validation score so far.
        initial: Validation before the first epoch.
        records: All epochs so far.
    """

    optimiser: dict[str, Any]
    generator: Tensor
    best: float | None
    initial: ValidationSummary
    records: tuple[EpochRecord, ...]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A network and how it came about.

    Attributes:
        plan: The plan it was trained by.
        fold: "0", "1", ... or "all".
        levels: Levels of the cascade that the weights have: all of `plan.network.level_factors`,
            or one fewer in the first stage of a training from scratch.
        epoch: Completed epochs.
        network: The network's state dict.
        resume: In checkpoint_latest.pt.
        versions: Of the software that wrote it.
    """

    plan: Plan
    fold: str
    levels: int
    epoch: int
    network: Mapping[str, Tensor]
    resume: ResumeState | None = None
    versions: dict[str, str] = field(default_factory=_versions)


class LoadedModel(NamedTuple):
    """A network that is ready to predict.

    Attributes:
        network: In evaluation mode, on the device that was asked for.
        plan: What it obeys.
        description: Model folder, fold, checkpoint and epochs, for people and result files.
    """

    network: RegistrationNetwork
    plan: Plan
    description: str


def checkpoint_path(model_folder: Path, fold: str, which: Which) -> Path:
    """Where a checkpoint of a model folder lies."""
    return model_folder / f"fold_{fold}" / f"checkpoint_{which}.pt"


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, completely or not at all."""
    resume = checkpoint.resume
    content = {
        "format": CHECKPOINT_FORMAT,
        "versions": checkpoint.versions,
        "plan": to_plain(checkpoint.plan),
        "fold": checkpoint.fold,
        "levels": checkpoint.levels,
        "epoch": checkpoint.epoch,
        "network": dict(checkpoint.network),
        "resume": resume
        and {
            "optimiser": resume.optimiser,
            "generator": resume.generator,
            "best": resume.best,
            "initial": to_plain(resume.initial),
            "records": to_plain(resume.records),
        },
    }
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint into CPU memory.

    Args:
        path: The file.

    Returns:
        The checkpoint.

    Raises:
        CheckpointError: if the file is missing, damaged, not one of autoreg's, or of a format
            that this version does not read.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint") from error
    except (OSError, EOFError, RuntimeError, ValueError, UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path}: cannot be read as a checkpoint ({reason}); copy it again or train anew"
        ) from error
    expected = {"format", "versions", "plan", "fold", "levels", "epoch", "network", "resume"}
    if not isinstance(content, dict) or "format" not in content:
        raise CheckpointError(
            f"{path}: not an autoreg checkpoint; published weights are imported with "
            "autoreg_import_weights"
        )
    if content["format"] != CHECKPOINT_FORMAT or set(content) != expected:
        raise CheckpointError(
            f"{path}: checkpoint format {content['format']} with {sorted(content)}, but this "
            f"version (autoreg {__version__}) reads format {CHECKPOINT_FORMAT}; "
            "use the version that wrote it"
        )
    return _from_content(content, path)


def _from_content(content: dict[str, Any], path: Path) -> Checkpoint:
    resume = content["resume"]
    return Checkpoint(
        plan=from_plain(Plan, content["plan"], f"{path}: plan", CheckpointError),
        fold=content["fold"],
        levels=content["levels"],
        epoch=content["epoch"],
        network=content["network"],
        resume=resume
        and ResumeState(
            optimiser=resume["optimiser"],
            generator=resume["generator"],
            best=resume["best"],
            initial=from_plain(
                ValidationSummary, resume["initial"], f"{path}: initial", CheckpointError
            ),
            records=tuple(
                from_plain(EpochRecord, record, f"{path}: records", CheckpointError)
                for record in resume["records"]
            ),
        ),
        versions=content["versions"],
    )


def build_trained(checkpoint: Checkpoint, where: str) -> RegistrationNetwork:
    """The network of a checkpoint with its weights, loaded strictly.

    Args:
        checkpoint: Plan, levels and weights are used.
        where: What messages name, such as the file.

    Returns:
        The network, in train mode, on the CPU.

    Raises:
        CheckpointError: if names or shapes do not fit the plan.
    """
    plan = checkpoint.plan
    levels = plan.network.level_factors[: checkpoint.levels]
    try:
        network = build_network(
            replace(plan.network, level_factors=levels), len(plan.fixed_modalities)
        )
    except AutoregError as error:
        raise CheckpointError(f"{where}: its network cannot be built: {error}") from error
    theirs, own = checkpoint.network, network.state_dict()
    for names, what in (
        ([name for name in own if name not in theirs], "are missing"),
        ([name for name in theirs if name not in own], "are unknown"),
        ([n for n in own if n in theirs and own[n].shape != theirs[n].shape], "have another shape"),
    ):
        if names:
            raise CheckpointError(
                f"{where}: the weights do not fit the network of their plan: {len(names)} of "
                f"{len(own)} {what}, e.g. {', '.join(names[:3])}"
            )
    network.load_state_dict(theirs, strict=True)
    return network


def find_checkpoint(
    model_folder: Path, fold: str | int | None = None, which: Which | None = None
) -> Path:
    """Choose a checkpoint of a model folder.

    Args:
        model_folder: `<results>/<data set>/<configuration>`.
        fold: A fold's name; by default the only one that has a checkpoint.
        which: By default final, else best, else latest.

    Returns:
        Path of the checkpoint.

    Raises:
        CheckpointError: if there is none, or more than one fold to choose from.
    """
    wanted = WHICH if which is None else (which,)
    found = {
        folder.name.removeprefix("fold_"): path
        for folder in sorted(model_folder.glob("fold_*"))
        for path in [folder / f"checkpoint_{name}.pt" for name in reversed(wanted)]
        if path.is_file()
    }
    kind = f"checkpoint_{which}.pt" if which else "checkpoint"
    if not found:
        raise CheckpointError(
            f"{model_folder}: no fold with a {kind}; expected fold_<k>/{kind}. Train with "
            "autoreg_train, or name another model"
        )
    if fold is not None and str(fold) not in found:
        raise CheckpointError(
            f"{model_folder}: fold {fold} has no {kind}; these have: {', '.join(found)}"
        )
    if fold is None and len(found) > 1:
        raise CheckpointError(
            f"{model_folder}: choose one of the trained folds {', '.join(found)} (--fold)"
        )
    return found[str(fold)] if fold is not None else next(iter(found.values()))


def _plan_beside(model_folder: Path, trained: Plan, path: Path) -> Plan:
    """The plan.json of a model folder, which people may edit as far as weights don't depend on it.

    Raises:
        CheckpointError: if it contradicts the plan that the weights were trained by.
    """
    file = model_folder / PLAN_FILE
    if not file.is_file():
        return trained
    plan = load_record(Plan, file)
    differences = plan_differences(trained, plan, only=FIXED_BY_WEIGHTS)
    if differences:
        raise CheckpointError(
            f"{file}: does not fit {path}, which was trained by another plan: "
            f"{'; '.join(differences)}. Put these values back, or train again"
        )
    return plan


def load_network(
    model_folder: Path,
    fold: str | int | None = None,
    which: Which | None = None,
    device: torch.device | str = "cpu",
) -> LoadedModel:
    """Load a trained or imported network for prediction.

    Args:
        model_folder: `<results>/<data set>/<configuration>`.
        fold: See `find_checkpoint`.
        which: See `find_checkpoint`.
        device: Where the network shall live.

    Returns:
        The network with its plan: the one beside it (plan.json), else that of the checkpoint.

    Raises:
        CheckpointError: if there is no such checkpoint or it does not fit its plan.
    """
    path = find_checkpoint(model_folder, fold, which)
    checkpoint = load_checkpoint(path)
    plan = _plan_beside(model_folder, checkpoint.plan, path)
    network = build_trained(checkpoint, str(path))
    description = f"{path} ({checkpoint.epoch} epochs)"
    if checkpoint.levels < len(plan.network.level_factors):
        description += ", still without the last level"
    return LoadedModel(network.to(device).eval(), plan, description)
