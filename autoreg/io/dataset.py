"""Raw data sets: where they are and what is in them (`documentation/dataset_format.md`)."""

import hashlib
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoreg.errors import DataError, UsageError
from autoreg.io.cases import Case, LandmarkFrame, Pair, Pairing, RawDataset, Scan
from autoreg.io.dataset_json import find_dataset_json, is_learn2reg, read_dataset_json
from autoreg.io.dataset_learn2reg import scan_learn2reg
from autoreg.io.dataset_native import scan_native
from autoreg.io.images import read_geometry
from autoreg.io.landmarks import read_landmarks, read_voxel_landmarks
from autoreg.io.names import closest_name, matching_names
from autoreg.io.problems import Problem, report

__all__ = [
    "Case",
    "LandmarkFrame",
    "Pair",
    "Pairing",
    "RawDataset",
    "find_datasets",
    "is_dataset",
    "landmarks_mm",
    "pair_landmarks",
    "points_kind",
    "read_dataset",
    "resolve_dataset",
    "scan_dataset",
]


def read_dataset(folder: Path) -> RawDataset:
    """Read a raw data set, native or Learn2Reg, without opening an image.

    Args:
        folder: The data set's folder.

    Returns:
        The data set.

    Raises:
        DataError: listing every contradiction between dataset.json and the files at once. What is
            inside the files is checked by `planning.verification`.
    """
    dataset, problems = scan_dataset(folder)
    if problems:
        raise DataError(report(str(folder), problems))
    return dataset


def scan_dataset(folder: Path) -> tuple[RawDataset, tuple[Problem, ...]]:
    """Read a raw data set as far as possible, together with every problem met on the way.

    Args:
        folder: The data set's folder.

    Returns:
        The data set without whatever is wrong, and the problems.

    Raises:
        DataError: if there is no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected the folder of a raw data set")
    problems: list[Problem] = []
    file = find_dataset_json(folder, problems)
    data = read_dataset_json(file, problems)
    learn2reg = is_learn2reg(file, data)
    scan = (scan_learn2reg if learn2reg else scan_native)(folder, file, data, problems)
    dataset = RawDataset(
        **vars(scan),
        name=folder.absolute().name,
        folder=folder,
        layout="learn2reg" if learn2reg else "native",
        digest=_digest(folder, file, scan),
    )
    return dataset, tuple(problems)


def is_dataset(folder: Path) -> bool:
    """Whether a folder looks like a raw data set: images or a description are in it."""
    if not folder.is_dir() or folder.name.startswith("."):
        return False
    if (folder / "imagesTr").is_dir() or (folder / "imagesTs").is_dir():
        return True
    return (folder / "dataset.json").is_file() or any(folder.glob("*_dataset.json"))


def find_datasets(raw_root: Path) -> list[Path]:
    """The folders in `raw_root` that look like a raw data set, sorted by name."""
    if not raw_root.is_dir():
        return []
    return [folder for folder in sorted(raw_root.iterdir()) if is_dataset(folder)]


def resolve_dataset(raw_root: Path, id_or_name: str | None = None) -> Path:
    """The folder of the data set that a user means.

    Args:
        raw_root: Folder of raw data sets.
        id_or_name: See `matching_names`; None: the only one.

    Returns:
        The folder.

    Raises:
        UsageError: if there is none or more than one; the message lists what there is.
    """
    found = find_datasets(raw_root)
    listing = ", ".join(folder.name for folder in found) or "none"
    where = f"{raw_root.absolute()}: raw data sets found: {listing}"
    if id_or_name is None:
        if len(found) == 1:
            return found[0]
        raise UsageError(f"{where}; name one with -d, or the folder of raw data with --raw")
    names = [folder.name for folder in found]
    matching = matching_names(names, id_or_name)
    if len(matching) == 1:
        return raw_root / matching[0]
    if matching:
        several = ", ".join(matching)
        raise UsageError(f'{where}; "{id_or_name}" means {several}: give the whole name')
    close = closest_name(names, id_or_name)
    remedy = f'did you mean "{close}"?' if close else "give an id or name from the list"
    raise UsageError(f'{where}; none of them is "{id_or_name}"; {remedy}')


def landmarks_mm(case: Case, file: Path) -> NDArray[np.float64]:
    """The points of one of a case's landmark files, (N, 3) xyz in LPS millimetres.

    Raises:
        DataError: if the file cannot be read.
    """
    if case.landmark_frame == "lps_mm":
        return read_landmarks(file)
    return read_voxel_landmarks(file, read_geometry(case.images[0]))


def pair_landmarks(fixed: Case, moving: Case) -> tuple[Path, Path] | None:
    """The landmark files of a pair whose rows correspond, or None.

    Rows correspond within one kind of points. Where Learn2Reg publishes several
    (`keypoints01Tr`, `keypoints02Tr`), it is the first in which both cases have a file.
    """
    for one in fixed.landmark_files:
        for other in moving.landmark_files:
            if points_kind(one) == points_kind(other):
                return one, other
    return None


def points_kind(file: Path) -> str:
    """The folder name without its split: keypoints01 for .../keypoints01Tr/x.csv."""
    return re.sub(r"(Tr|Ts|Val)$", "", file.parent.name)


def _digest(folder: Path, file: Path | None, scan: Scan) -> str:
    """SHA-256 that changes whenever a file is added, removed, renamed or written to."""
    digest = hashlib.sha256()
    if file is not None and file.is_file():
        digest.update(file.read_bytes())
    files = {path for case in (*scan.training, *scan.test) for path in case.files}
    for path in sorted(files):
        inside = path.is_relative_to(folder)
        name = (path.relative_to(folder) if inside else path).as_posix()
        try:
            status = path.stat()
            line = f"\n{name} {status.st_size} {status.st_mtime_ns}"
        except OSError:
            line = f"\n{name} missing"
        digest.update(line.encode())
    return digest.hexdigest()
