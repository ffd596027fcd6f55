"""What result.json says of a pair's inputs and versions, and whether a pair is complete."""

import hashlib
import platform
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from autoreg import __version__
from autoreg.errors import DataError
from autoreg.inference.pairs_file import PairFiles
from autoreg.io.records import dump_json
from autoreg.io.result import RESULT_FORMAT, InputsRecord, read_result
from autoreg.plan import Plan


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
    modalities = (pair.fixed_modalities, pair.moving_modalities)
    parts = (RESULT_FORMAT, inputs_record(pair), modalities, stamps, replace(plan, reasons={}))
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
