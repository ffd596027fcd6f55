"""What result.json says of a pair's inputs, field and versions; whether a pair is complete."""

import hashlib
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from autoreg import __version__
from autoreg.errors import DataError
from autoreg.geometry.grid import Geometry
from autoreg.inference.pairs_file import PairFiles
from autoreg.io.records import dump_json
from autoreg.io.result import (
    RESULT_FORMAT,
    FieldRecord,
    InputsRecord,
    LossRecord,
    OptimisationRecord,
    is_whole,
    read_result,
)
from autoreg.plan import InstanceOptimisationPlan

if TYPE_CHECKING:  # networks come with them, which not every command needs
    from autoreg.registration.instance_optimisation import Trace
    from autoreg.registration.objective import LossValues


def inputs_record(pair: PairFiles) -> InputsRecord:
    """The files of a pair as they stand in result.json."""

    def one(path: Path | None) -> str | None:
        return None if path is None else str(path)

    return InputsRecord(
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


def request_digest(pair: PairFiles, further: Sequence[Path], *decided: object) -> str:
    """Identify a registration by all that decides its outcome.

    Files enter by path, size and time of change, so that an edited image is registered again.

    Args:
        pair: Its files.
        further: Other files that count: weights.
        decided: Records of what else counts: plan, options.

    Raises:
        DataError: if an input file has gone.
    """
    files = [path for paths in pair.files().values() for path in paths]
    try:
        stamps = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in (*files, *further)]
    except OSError as cause:
        raise DataError(f"{cause.filename}: cannot be read ({cause.strerror})") from cause
    modalities = (pair.fixed_modalities, pair.moving_modalities)
    parts = (RESULT_FORMAT, inputs_record(pair), modalities, stamps, *decided)
    return hashlib.sha256("".join(dump_json(part) for part in parts).encode()).hexdigest()


def is_complete(folder: Path, request: str) -> bool:
    """Whether a pair's folder holds the whole outcome of this very request.

    Args:
        folder: `<out>/<case>`.
        request: From `request_digest`.
    """
    try:
        result = read_result(folder)
    except DataError:
        return False
    return result.request == request and is_whole(folder, result)


def field_warnings(field: FieldRecord, fixed: Geometry, landmarks: str | None) -> tuple[str, ...]:
    """What a reader should know before trusting a displacement.

    Args:
        field: What was exported.
        fixed: Grid of the fixed image.
        landmarks: What there is to say of the landmarks.
    """
    found = [] if landmarks is None else [landmarks]
    if field.repaired_maximum_mm > min(fixed.spacing_mm) / 2:
        found.append(
            f"folds were smoothed away: {field.repaired_voxels} voxels of the displacement were "
            f"changed, by up to {field.repaired_maximum_mm:.2g} mm"
        )
    if field.ndv_percent > 0:
        found.append(
            f"the displacement folds: its non-diffeomorphic volume (NDV) is "
            f"{field.ndv_percent:.3g} % of the fixed image ({field.ndv_vox:.3g} voxels)"
        )
    if field.folded_percent > 0:
        found.append(
            f"the transform folds in {field.folded_percent:.3g} % of the cells of its own grid"
        )
    if field.inverse_missing_percent > 0:
        found.append(
            f"no inverse exists at {field.inverse_missing_percent:.3g} % of the moving image's "
            "voxels, where the transform folds"
        )
    return tuple(found)


def loss_record(loss: "LossValues | None") -> LossRecord | None:
    """A loss as it stands in result.json."""
    return None if loss is None else LossRecord(loss.similarity, loss.regularity, loss.total)


def optimisation_record(
    trace: "Trace | None", plan: InstanceOptimisationPlan
) -> OptimisationRecord:
    """The instance optimisation of a pair as it stands in result.json.

    Args:
        trace: Its course; None: there was none.
        plan: What it obeyed.
    """
    if trace is None:
        return OptimisationRecord(plan.mode, 0, 0, None, None)
    cosines = [step.cosine for step in trace.steps if step.cosine is not None]
    mean = sum(cosines) / len(cosines) if cosines else None
    return OptimisationRecord(
        plan.mode, len(trace.steps), trace.conflicts, mean, trace.stopped, plan.optimised
    )


def loss_warnings(before: LossRecord | None, after: LossRecord | None) -> tuple[str, ...]:
    """Whether instance optimisation did harm, in words."""
    if before is None or after is None or after.total <= before.total:
        return ()
    return (f"instance optimisation raised the loss from {before.total:.4g} to {after.total:.4g}",)


def versions() -> dict[str, str]:
    """Versions of autoreg and of the packages that decide its numbers."""
    found = {"autoreg": __version__, "python": platform.python_version()}
    for package in ("torch", "numpy", "SimpleITK"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # installed in a way that leaves no metadata
            found[package] = "unknown"
    return found
