"""Prepared cases: what preprocessing writes and training reads.

`<preprocessed>/<dataset>/<configuration>/` holds for each case `<case>.image.npy` (C, D, H, W)
float32, `<case>.labels.npy` and `<case>.mask.npy` (D, H, W) where they exist, and `<case>.json`,
which is written last: a case without it is not prepared.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoreg.errors import DataError
from autoreg.geometry.grid import Geometry
from autoreg.io.records import load_record
from autoreg.network_plan import Shape, Triple
from autoreg.plan import Plan
from autoreg.planning.plans_file import require_configuration_name

PREPARED_FORMAT = 2

Row = tuple[float, float, float, float]
Matrix = tuple[Row, Row, Row, Row]


@dataclass(frozen=True)
class SourceFile:
    """A raw file, named relative to its data set, and what it was when the case was prepared."""

    name: str
    size: int
    modified_ns: int
    sha256: str


@dataclass(frozen=True)
class PreparedRecord:
    """Content of `<case>.json`.

    Attributes:
        format: Version of this record and of how cases are prepared.
        case: Name.
        modalities: Of each channel.
        settings: SHA-256 over what the plan prescribes for this case.
        sources: The raw files.
        files: Written arrays, name to size in bytes.
        grid_shape: Nodes (d, h, w) of the prepared arrays.
        grid_index_to_world: Their geometry.
        source_shape: Voxels (d, h, w) of the raw image.
        source_index_to_world: Its geometry.
        landmarks_vox: Landmarks as (d, h, w) indices of the grid, by kind: rows of two cases
            correspond within one kind (Learn2Reg publishes several). Empty without landmarks.
    """

    format: int
    case: str
    modalities: tuple[str, ...]
    settings: str
    sources: tuple[SourceFile, ...]
    files: dict[str, int]
    grid_shape: Shape
    grid_index_to_world: Matrix
    source_shape: Shape
    source_index_to_world: Matrix
    landmarks_vox: dict[str, tuple[Triple, ...]]


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """A case on the plan's grid, its arrays mapped from disk (read-only) unless loaded.

    Attributes:
        name: Of the case.
        modalities: Of each channel.
        image: (C, D, H, W) float32, intensities scaled to [0, 1].
        labels: (D, H, W) integers, or None.
        mask: (D, H, W) bool, or None.
        landmarks_vox: (N, 3) float64 (d, h, w) indices of the grid, by kind; see
            `corresponding_landmarks`.
        geometry: Of the grid in this image's world.
        source_geometry: Of the raw image.
    """

    name: str
    modalities: tuple[str, ...]
    image: NDArray[np.float32]
    labels: NDArray[np.integer[Any]] | None
    mask: NDArray[np.bool_] | None
    landmarks_vox: dict[str, NDArray[np.float64]]
    geometry: Geometry
    source_geometry: Geometry


def prepared_folder(preprocessed: Path, plan: Plan) -> Path:
    """Where the cases of a plan lie: `<preprocessed>/<dataset>/<configuration>`.

    Raises:
        PlanError: if the configuration's name cannot be a folder's.
    """
    require_configuration_name(plan.configuration)
    return preprocessed / plan.dataset / plan.configuration


def record_path(folder: Path, case: str) -> Path:
    """`<folder>/<case>.json`."""
    return folder / f"{case}.json"


def array_names(case: str) -> dict[str, str]:
    """File names of a case's arrays by role; no two cases share one, whatever they are called."""
    return {role: f"{case}.{role}.npy" for role in ("image", "labels", "mask")}


def list_prepared(folder: Path) -> tuple[str, ...]:
    """Names of the completely prepared cases in a folder, sorted."""
    names = (path.name for path in folder.glob("*.json"))
    return tuple(sorted(n.removesuffix(".json") for n in names if not n.startswith(".")))


def load_prepared(folder: Path, case: str, *, in_memory: bool = False) -> PreparedCase:
    """Open a prepared case.

    Args:
        folder: See `prepared_folder`.
        case: Its name.
        in_memory: Read the arrays instead of mapping them.

    Raises:
        DataError: if the case is not prepared, or its files are incomplete.
    """
    path = record_path(folder, case)
    if not path.exists():
        raise DataError(
            f'{folder}: case "{case}" is not prepared; run autoreg_preprocess (or '
            "autoreg_plan_and_preprocess)"
        )
    record = load_record(PreparedRecord, path, DataError)
    arrays = {
        role: _load_array(folder / name, record.files[name], in_memory)
        for role, name in array_names(case).items()
        if name in record.files
    }
    return PreparedCase(
        name=case,
        modalities=record.modalities,
        image=arrays["image"],
        labels=arrays.get("labels"),
        mask=arrays.get("mask"),
        landmarks_vox={
            kind: np.array(points, dtype=np.float64).reshape(-1, 3)
            for kind, points in record.landmarks_vox.items()
        },
        geometry=Geometry(record.grid_shape, np.array(record.grid_index_to_world)),
        source_geometry=Geometry(record.source_shape, np.array(record.source_index_to_world)),
    )


def corresponding_landmarks(
    fixed: PreparedCase, moving: PreparedCase
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """The landmarks of two cases whose rows correspond, or None.

    Returns:
        (N, 3) each, (d, h, w) indices of the grid, of the first kind that both cases have.
    """
    for kind, points in fixed.landmarks_vox.items():
        if kind in moving.landmarks_vox:
            return points, moving.landmarks_vox[kind]
    return None


def as_matrix(matrix: NDArray[np.float64]) -> Matrix:
    """A 4x4 array as nested tuples, for the record."""
    rows = [(float(a), float(b), float(c), float(d)) for a, b, c, d in matrix]
    return rows[0], rows[1], rows[2], rows[3]


def _load_array(path: Path, size: int, in_memory: bool) -> NDArray[Any]:
    found = path.stat().st_size if path.exists() else 0
    if found != size:
        raise DataError(
            f"{path}: {found} bytes found, {size} expected; run autoreg_preprocess again"
        )
    array: NDArray[Any] = np.load(path, mmap_mode=None if in_memory else "r", allow_pickle=False)
    return array
