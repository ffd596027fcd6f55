"""result.json: what was done to one pair, and whether a pair is complete."""

import hashlib
import platform
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from autoreg import __version__
from autoreg.errors import DataError
from autoreg.inference.pairs_file import PairFiles
from autoreg.io.records import dump_json, load_record
from autoreg.plan import Plan
from autoreg.registration.objective import LossValues

RESULT_FORMAT = 1
RESULT_FILE = "result.json"


@dataclass(frozen=True)
class Inputs:
    """The files of the pair, as absolute paths.

    Attributes:
        fixed: One file for each channel.
        moving: One file for each channel.
        fixed_labels: Or null; likewise the others.
        moving_labels: See `fixed_labels`.
        fixed_mask: See `fixed_labels`.
        moving_mask: See `fixed_labels`.
        fixed_landmarks: See `fixed_labels`.
        moving_landmarks: See `fixed_labels`.
        landmark_frame: "lps_mm", or "voxels" (Learn2Reg).
    """

    fixed: tuple[str, ...]
    moving: tuple[str, ...]
    fixed_labels: str | None
    moving_labels: str | None
    fixed_mask: str | None
    moving_mask: str | None
    fixed_landmarks: str | None
    moving_landmarks: str | None
    landmark_frame: Literal["lps_mm", "voxels"]


@dataclass(frozen=True)
class ModelRecord:
    """The weights that were used.

    Attributes:
        folder: Model folder.
        checkpoint: The checkpoint file.
    """

    folder: str
    checkpoint: str


@dataclass(frozen=True)
class OptimisationRecord:
    """What instance optimisation did; trace.csv has the steps.

    Attributes:
        mode: "gradient_projection", "vanilla" or "none".
        steps: Steps taken.
        conflicts: Steps in which the two gradients pointed against each other.
        mean_cosine: Mean cosine of the two gradients; null where they were not taken apart.
        stopped: "steps" or "flat" (the loss no longer fell); null without steps.
    """

    mode: str
    steps: int
    conflicts: int
    mean_cosine: float | None
    stopped: str | None


@dataclass(frozen=True)
class FieldRecord:
    """The exported displacement.

    Attributes:
        mean_mm: Mean length of the displacement, the initial alignment included.
        maximum_mm: Largest length.
        jacobian_minimum: Smallest determinant of the deformation relative to the initial
            alignment, on the fixed grid by central differences.
        folded_percent: Share of the cells of the network's grid that are turned inside out at one
            of their corners; stricter than central differences, which miss narrow folds.
        inverse_residual_mean_mm: Mean distance between T(inverse(q)) and q over the voxels q of
            the moving grid at which an inverse exists; null where it exists nowhere.
        inverse_residual_maximum_mm: Largest such distance.
        inverse_missing_percent: Share of the moving grid's voxels without an inverse, because the
            transform folds there; the file holds the best point found.
    """

    mean_mm: float
    maximum_mm: float
    jacobian_minimum: float
    folded_percent: float
    inverse_residual_mean_mm: float | None
    inverse_residual_maximum_mm: float | None
    inverse_missing_percent: float


@dataclass(frozen=True)
class SecondsRecord:
    """Wall-clock seconds of each stage."""

    read: float
    register: float
    export: float


@dataclass(frozen=True)
class Result:
    """All that is known of one predicted pair.

    Attributes:
        format: Version of this record.
        case: Name of the pair.
        request: SHA-256 of inputs, weights, plan and options; `--continue` compares it.
        inputs: The files of the pair.
        model: The weights.
        device: Where it was computed.
        versions: Of autoreg and what it stands on.
        seconds: Whole time spent on the pair.
        stages: Its parts.
        loss_before: Loss of the network as it was trained, on the plan's grid; null without
            instance optimisation.
        loss_after: Loss after instance optimisation; likewise.
        optimisation: Instance optimisation.
        field: The exported displacement.
        outside_value: What warped.nii.gz holds where the moving image ends.
        label_names: Structures by name, as the plan knows them.
        files: Size in bytes of every file written beside this one.
        warnings: What a reader should know before trusting the result.
    """

    format: int
    case: str
    request: str
    inputs: Inputs
    model: ModelRecord
    device: str
    versions: dict[str, str]
    seconds: float
    stages: SecondsRecord
    loss_before: LossValues | None
    loss_after: LossValues | None
    optimisation: OptimisationRecord
    field: FieldRecord
    outside_value: float
    label_names: dict[str, int]
    files: dict[str, int]
    warnings: tuple[str, ...]


def inputs_record(pair: PairFiles) -> Inputs:
    """The files of a pair as they stand in result.json."""

    def one(path: Path | None) -> str | None:
        return None if path is None else str(path)

    return Inputs(
        tuple(map(str, pair.fixed)),
        tuple(map(str, pair.moving)),
        one(pair.fixed_labels),
        one(pair.moving_labels),
        one(pair.fixed_mask),
        one(pair.moving_mask),
        one(pair.fixed_landmarks),
        one(pair.moving_landmarks),
        pair.landmark_frame,
    )


def request_digest(pair: PairFiles, checkpoint: Path, plan: Plan) -> str:
    """Identify a prediction by all that decides its outcome.

    Files enter by path, size and time of change, so that an edited image is predicted again.

    Raises:
        DataError: if an input file has gone.
    """
    files = [path for paths in pair.files().values() for path in paths]
    try:
        stamps = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in (*files, checkpoint)]
    except OSError as cause:
        raise DataError(f"{cause.filename}: cannot be read ({cause.strerror})") from cause
    parts = (RESULT_FORMAT, inputs_record(pair), stamps, replace(plan, reasons={}))
    return hashlib.sha256("".join(dump_json(part) for part in parts).encode()).hexdigest()


def is_complete(folder: Path, request: str) -> bool:
    """Whether a pair's folder holds the whole outcome of this very request.

    Args:
        folder: `<out>/<case>`.
        request: From `request_digest`.
    """
    try:
        result = load_record(Result, folder / RESULT_FILE, DataError)
    except DataError:
        return False
    return result.request == request and all(
        (folder / name).is_file() and (folder / name).stat().st_size == size
        for name, size in result.files.items()
    )


def versions() -> dict[str, str]:
    """Versions of autoreg and of the packages that decide its numbers."""
    found = {"autoreg": __version__, "python": platform.python_version()}
    for package in ("torch", "numpy", "SimpleITK"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # installed in a way that leaves no metadata
            found[package] = "unknown"
    return found
