"""Checkpoints: a network with its plan and, on the way, all that its training needs to go on.

A checkpoint consists of plain values and tensors, so that it loads with `weights_only=True`:
opening one runs no code.
"""

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoreg import __version__
from autoreg.errors import AutoregError, CheckpointError
from autoreg.io.atomic import atomic_path
from autoreg.io.records import from_plain, to_plain
from autoreg.io.weights import read_torch_file
from autoreg.network_plan import NetworkPlan
from autoreg.networks.base import RegistrationNetwork
from autoreg.networks.factory import build_network
from autoreg.plan import Plan
from autoreg.training.progress import EpochRecord, ValidationSummary

CHECKPOINT_FORMAT = 1


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
        levels: Levels that the weights have: all of the plan's network, or one fewer in the first
            stage of training a cascade from scratch.
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
    content = read_torch_file(path, "copy it again or train anew")
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
    trained: NetworkPlan = plan.network
    first = trained.without_last_level()
    if first is not None and checkpoint.levels == first.levels:
        trained = first
    try:
        network = build_network(trained, len(plan.fixed_modalities))
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
