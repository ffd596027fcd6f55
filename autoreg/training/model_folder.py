"""Model folders: what a training leaves behind and prediction loads.

A model folder is `<results>/<data set>/<configuration>`; it holds plan.json and one folder per
fold (`fold_0`, ..., `fold_all`) with `checkpoint_{best,latest,final}.pt`.
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from autoreg.errors import CheckpointError
from autoreg.io.records import load_record
from autoreg.networks.base import RegistrationNetwork
from autoreg.plan import Plan
from autoreg.training.checkpoint import build_trained, load_checkpoint
from autoreg.training.comparison import weight_differences

PLAN_FILE = "plan.json"

# What prediction must do as training did.
FIXED_BY_WEIGHTS = (
    "fixed_modalities", "moving_modalities", "grid", "alignment", "intensity", "network",
)  # fmt: skip

Which = Literal["final", "best", "latest"]
WHICH: tuple[Which, ...] = ("final", "best", "latest")  # in the order of preference


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


def trained_folds(model_folder: Path, which: Which | None = None) -> dict[str, Path]:
    """The folds of a model folder that have a checkpoint.

    Args:
        model_folder: `<results>/<data set>/<configuration>`.
        which: By default final, else best, else latest.

    Returns:
        From the fold's name ("0", ... or "all") to its checkpoint, in order.
    """
    wanted = WHICH if which is None else (which,)
    return {
        folder.name.removeprefix("fold_"): path
        for folder in sorted(model_folder.glob("fold_*"))
        for path in [folder / f"checkpoint_{name}.pt" for name in reversed(wanted)]
        if path.is_file()
    }


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
    found = trained_folds(model_folder, which)
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
    differences = weight_differences(trained, plan, FIXED_BY_WEIGHTS)
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
    network = build_trained(replace(checkpoint, plan=plan), str(path))
    description = f"{path} ({checkpoint.epoch} epochs)"
    if checkpoint.levels < plan.network.levels:
        description += ", still without the last level"
    return LoadedModel(network.to(device).eval(), plan, description)
