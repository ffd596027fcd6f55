"""Checkpoints: a network with its plan and, on the way, all that its training needs to go on.

A checkpoint consists of plain values and tensors, so that it loads with `weights_only=True`:
opening one runs no code.
"""

import os
import platform
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import torch
from torch import Tensor

from autoreg import __version__
from autoreg.errors import AutoregError, CheckpointError
from autoreg.io.atomic import atomic_path, unwritten
from autoreg.io.records import from_plain, to_plain
from autoreg.io.weights import read_torch_file
from autoreg.network_plan import NetworkPlan
from autoreg.networks.base import RegistrationNetwork
from autoreg.networks.factory import build_network
from autoreg.plan import Plan
from autoreg.training.progress import EpochRecord, ValidationSummary
from autoreg.training.splits import FoldNames
from autoreg.training.step_values import StepValues

_R = TypeVar("_R")

CHECKPOINT_FORMAT = 1
RESUME_FORMAT = 3


def current_versions() -> dict[str, str]:
    """Of the software that is running."""
    return {
        "autoreg": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


@dataclass(frozen=True)
class EpochSoFar:
    """The part of an epoch before a checkpoint.

    Attributes:
        steps: What each step minimised, with its number of pairs.
        conflicts: Steps in which gradients were projected.
        seconds: Duration.
        waiting_seconds: Part of it spent waiting for data.
    """

    steps: tuple[tuple[int, StepValues], ...] = ()
    conflicts: int = 0
    seconds: float = 0.0
    waiting_seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class ResumeState:
    """What a training needs, besides the weights, to go on as if it had never stopped.

    What is drawn at random depends on seed, epoch and step alone, so that no generator's state
    belongs here.

    Attributes:
        optimiser: State of the optimiser.
        scaler: State of float16's scaler; empty for other precisions.
        best: Lowest validation score so far.
        initial: Validation before the first epoch; None if the training stopped in it.
        records: All epochs so far.
        epoch_so_far: Of the running epoch.
        names: Of the fold's cases or pairs.
        is_pretrained: Whether the network before training may be the best one.
    """

    optimiser: dict[str, Any]
    scaler: dict[str, Any]
    best: float | None
    initial: ValidationSummary | None
    records: tuple[EpochRecord, ...]
    epoch_so_far: EpochSoFar
    names: FoldNames
    is_pretrained: bool


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
    versions: dict[str, str] = field(default_factory=current_versions)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, completely or not at all."""
    content = {
        "format": CHECKPOINT_FORMAT,
        "versions": checkpoint.versions,
        "plan": to_plain(checkpoint.plan),
        "fold": checkpoint.fold,
        "levels": checkpoint.levels,
        "epoch": checkpoint.epoch,
        "network": dict(checkpoint.network),
        "resume": checkpoint.resume and _resume_content(checkpoint.resume),
    }
    with atomic_path(path) as temporary:
        _save(content, temporary, path)


def _resume_content(resume: ResumeState) -> dict[str, Any]:
    return {
        "format": RESUME_FORMAT,
        "optimiser": resume.optimiser,
        "scaler": resume.scaler,
        "best": resume.best,
        "initial": to_plain(resume.initial),
        "records": to_plain(resume.records),
        "epoch_so_far": to_plain(resume.epoch_so_far),
        "names": to_plain(resume.names),
        "is_pretrained": resume.is_pretrained,
    }


class _NotedErrors:
    """A file for torch's writer, which does not tell why it could not write.

    Args:
        file: Open for writing.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: BaseException | None = None

    def write(self, data: bytes) -> int:
        """Write as the file does, and remember why that failed."""
        try:
            return self._file.write(data)
        except BaseException as error:  # a second Ctrl-C, too, which torch would turn into its own
            self.error = error
            raise

    def flush(self) -> None:
        """Flush the file."""
        self._file.flush()


def _save(content: dict[str, Any], temporary: Path, path: Path) -> None:
    with temporary.open("wb") as file:
        noted = _NotedErrors(file)
        try:
            torch.save(content, noted)  # type: ignore[arg-type]  # it writes and flushes alone
        except RuntimeError as error:  # how torch's writer reports a full disk
            if noted.error is not None:
                raise noted.error from error
            raise unwritten(path, str(error).splitlines()[0], temporary) from error
        file.flush()
        os.fsync(file.fileno())  # it survives a power cut from here on


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
    _require_sound(path)
    return _from_content(content, path)


def _require_sound(path: Path) -> None:
    """See that each part has its checksum, which torch does not look at.

    Raises:
        CheckpointError: if one has another.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:
        raise CheckpointError(f"{path}: damaged ({error}); copy it again or train anew") from error
    if damaged is not None:
        raise CheckpointError(
            f"{path}: damaged: {damaged} in it has another checksum than when it was written; copy "
            "it again, go on from an earlier copy, or train anew"
        )


def _from_content(content: dict[str, Any], path: Path) -> Checkpoint:
    resume = content["resume"]
    return Checkpoint(
        plan=from_plain(Plan, content["plan"], f"{path}: plan", CheckpointError),
        fold=content["fold"],
        levels=content["levels"],
        epoch=content["epoch"],
        network=content["network"],
        resume=resume and _resume_from_content(resume, path),
        versions=content["versions"],
    )


def _resume_from_content(resume: dict[str, Any], path: Path) -> ResumeState:
    if resume.get("format") != RESUME_FORMAT:
        raise CheckpointError(
            f"{path}: its training was begun by an earlier version, which noted less of it than is "
            "needed to go on exactly; finish it with that version, or start anew with --overwrite"
        )

    def read(name: str, value: Any, kind: type[_R]) -> _R:  # noqa: ANN401 - a plain value
        return from_plain(kind, value, f"{path}: {name}", CheckpointError)

    initial = resume["initial"]
    return ResumeState(
        optimiser=resume["optimiser"],
        scaler=resume["scaler"],
        best=resume["best"],
        initial=None if initial is None else read("initial", initial, ValidationSummary),
        records=tuple(read("records", record, EpochRecord) for record in resume["records"]),
        epoch_so_far=read("epoch_so_far", resume["epoch_so_far"], EpochSoFar),
        names=read("names", resume["names"], FoldNames),
        is_pretrained=resume["is_pretrained"],
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
