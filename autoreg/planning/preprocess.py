"""Preprocessing: raw cases onto the plan's grid, in parallel, redoing only what has changed.

A prepared case remembers the plan's settings it was made with and size, time and hash of its raw
files. A case is prepared again when its settings differ (grid, alignment or intensity scheme; not
the loss or the number of epochs) or a raw file's content does, and left alone otherwise.
"""

import hashlib
import logging
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autoreg.errors import DataError, PlanError
from autoreg.geometry.grid import Geometry
from autoreg.geometry.resampling import resample_volume
from autoreg.io.atomic import PARTIAL, atomic_path
from autoreg.io.dataset import Case, RawDataset, landmarks_mm, points_kind
from autoreg.io.images import read_image
from autoreg.io.records import dump_json, load_record, save_record
from autoreg.network_plan import Triple
from autoreg.parallel import choose_workers, map_cases
from autoreg.plan import Plan
from autoreg.planning.dataset_pairs import save_dataset_pairs
from autoreg.planning.prepared import (
    PREPARED_FORMAT,
    PreparedRecord,
    SourceFile,
    array_names,
    as_matrix,
    list_prepared,
    prepared_folder,
    record_path,
)
from autoreg.planning.sizes import largest_image_voxels
from autoreg.registration.prepare import prepare

logger = logging.getLogger(__name__)

# Reading keeps the file's values, a float32 copy and a normalised copy; sampling its coordinates.
_BYTES_PER_SOURCE_VOXEL = 20
_BYTES_PER_GRID_VOXEL = 40
_STALE_SECONDS = 3600
# Each process on a GPU holds a CUDA context of about 0.5 GiB there beside its case.
_MOST_CUDA_WORKERS = 4


@dataclass(frozen=True)
class PreprocessReport:
    """What a run of preprocessing did.

    Attributes:
        folder: Where the prepared cases lie.
        prepared: Cases made in this run.
        kept: Cases that were up to date.
        removed: Prepared cases that the data set no longer has.
        workers: Number of processes used.
    """

    folder: Path
    prepared: tuple[str, ...]
    kept: tuple[str, ...]
    removed: tuple[str, ...]
    workers: int


@dataclass(frozen=True)
class _Task:
    case: Case
    raw: Path
    plan: Plan
    folder: Path
    device: torch.device


def preprocess(
    dataset: RawDataset,
    plan: Plan,
    out_root: Path,
    *,
    workers: int | None = None,
    progress: bool = True,
    overwrite: bool = False,
    device: torch.device | str = "cpu",
) -> PreprocessReport:
    """Prepare the training cases, with which validation while training is done, too.

    Args:
        dataset: The raw data set.
        plan: One configuration of its plans.json.
        out_root: The folder of preprocessed data.
        workers: Number of processes; None: from processors, free memory and volume size, and at
            most 4 on a GPU.
        progress: Whether to show a bar.
        overwrite: Prepare everything again.
        device: Where images are sampled on the grid.

    Raises:
        DataError: if a case cannot be prepared; it names the case and carries the cause. Cases
            finished before are kept, and the next run continues there.
        PlanError: if the data set has a modality that the plan doesn't know.
    """
    folder = prepared_folder(out_root, plan)
    cases = sorted(dataset.training, key=lambda case: case.name)
    _require_schemes(plan, cases)
    removed = _remove_absent(folder, {case.name for case in cases})
    _remove_stale_partials(folder)
    todo = [
        case for case in cases if overwrite or not _is_current(case, dataset.folder, plan, folder)
    ]
    device = torch.device(device)
    count = choose_workers(len(todo), _bytes_per_case(todo, plan), workers)
    if workers is None and device.type == "cuda":
        count = min(count, _MOST_CUDA_WORKERS)
    tasks = [(case.name, _Task(case, dataset.folder, plan, folder, device)) for case in todo]
    for case, _ in map_cases(
        _prepare_case, tasks, workers=count, title="preprocessing", progress=progress
    ):
        logger.debug("%s is prepared", case)
    save_dataset_pairs(out_root, dataset)
    made = {case.name for case in todo}
    return PreprocessReport(
        folder=folder,
        prepared=tuple(sorted(made)),
        kept=tuple(case.name for case in cases if case.name not in made),
        removed=removed,
        workers=count,
    )


def settings_digest(plan: Plan, modalities: Sequence[str]) -> str:
    """SHA-256 over all that the plan prescribes for preparing a case of these modalities."""
    prescribed = {
        "format": PREPARED_FORMAT,
        "grid": plan.grid,
        "alignment": plan.alignment,
        "intensity": [plan.intensity[modality] for modality in modalities],
    }
    return hashlib.sha256(dump_json(prescribed).encode("utf-8")).hexdigest()


def _require_schemes(plan: Plan, cases: Iterable[Case]) -> None:
    unknown = {name for case in cases for name in case.modalities} - set(plan.intensity)
    if unknown:
        raise PlanError(
            f'the plan "{plan.configuration}" of {plan.dataset} has intensity schemes for '
            f"{', '.join(plan.intensity)}, but not for {', '.join(sorted(unknown))}; the data set "
            "has changed since it was planned: run autoreg_plan_and_preprocess"
        )


def _is_current(case: Case, raw: Path, plan: Plan, folder: Path) -> bool:
    path = record_path(folder, case.name)
    if not path.exists():
        return False
    try:
        record = load_record(PreparedRecord, path, DataError)
    except DataError as error:
        logger.info("%s; the case is prepared again", error)
        return False
    return (
        record.settings == settings_digest(plan, case.modalities)
        and record.modalities == case.modalities
        and [source.name for source in record.sources] == [_name(p, raw) for p in case.files]
        and all(_has_size(folder / name, size) for name, size in record.files.items())
        and all(map(_is_unchanged, case.files, record.sources))
    )


def _has_size(path: Path, size: int) -> bool:
    return path.exists() and path.stat().st_size == size


def _is_unchanged(path: Path, source: SourceFile) -> bool:
    """Size and time decide where they agree; where only the time differs, the content does."""
    try:
        stat = path.stat()
    except OSError:
        return False
    if stat.st_size != source.size:
        return False
    return stat.st_mtime_ns == source.modified_ns or _sha256(path) == source.sha256


def _describe_source(path: Path, raw: Path) -> SourceFile:
    stat = path.stat()
    return SourceFile(_name(path, raw), stat.st_size, stat.st_mtime_ns, _sha256(path))


def _name(path: Path, raw: Path) -> str:
    """Relative to the data set, so that this may move."""
    return (path.relative_to(raw) if path.is_relative_to(raw) else path).as_posix()


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _prepare_case(task: _Task) -> None:
    """Read, normalise, resample and write one case; its record comes last."""
    case, plan, folder = task.case, task.plan, task.folder
    # Described before reading: a file that changes meanwhile is noticed by the next run.
    sources = tuple(_describe_source(path, task.raw) for path in case.files)
    record_path(folder, case.name).unlink(missing_ok=True)
    volume = read_image(case.images, "intensity")
    mask = None if case.mask is None else read_image([case.mask], "mask")
    try:
        prepared = prepare(volume, plan, case.modalities, mask=mask, device=task.device)
    except torch.OutOfMemoryError as error:
        raise DataError(
            f"out of memory on {task.device}; use fewer --workers, or --device cpu"
        ) from error
    arrays: dict[str, NDArray[Any]] = {"image": prepared.image[0].cpu().numpy()}
    if prepared.mask is not None:
        arrays["mask"] = prepared.mask[0, 0].cpu().numpy().astype(bool)
    if case.labels is not None:
        arrays["labels"] = _labels_on_grid(case.labels, prepared.geometry)
    names = array_names(case.name)
    for role, name in names.items():
        if role in arrays:
            _save_array(folder / name, arrays[role])
        else:
            (folder / name).unlink(missing_ok=True)
    record = PreparedRecord(
        format=PREPARED_FORMAT,
        case=case.name,
        modalities=case.modalities,
        settings=settings_digest(plan, case.modalities),
        sources=sources,
        files={names[role]: (folder / names[role]).stat().st_size for role in arrays},
        grid_shape=prepared.geometry.shape,
        grid_index_to_world=as_matrix(prepared.geometry.index_to_world),
        source_shape=volume.geometry.shape,
        source_index_to_world=as_matrix(volume.geometry.index_to_world),
        landmarks_vox=_landmarks_on_grid(case, prepared.geometry),
    )
    save_record(record, record_path(folder, case.name))


def _labels_on_grid(path: Path, grid: Geometry) -> NDArray[Any]:
    """Label map (D, H, W), nearest neighbour, in the smallest fitting integer type."""
    labels = resample_volume(read_image([path], "label"), None, grid).single
    low, high = int(labels.min()), int(labels.max())
    for kind in (np.uint8, np.int16):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return labels.astype(kind)
    return labels.astype(np.int32)


def _landmarks_on_grid(case: Case, grid: Geometry) -> dict[str, tuple[Triple, ...]]:
    """Points of every landmark file, by kind, as (d, h, w) indices of the grid."""
    found = {}
    for file in case.landmark_files:
        points_vox = grid.to_index(landmarks_mm(case, file))
        found[points_kind(file)] = tuple((float(d), float(h), float(w)) for d, h, w in points_vox)
    return found


def _save_array(path: Path, array: NDArray[Any]) -> None:
    with atomic_path(path) as temporary:
        np.save(temporary, np.ascontiguousarray(array), allow_pickle=False)


def _bytes_per_case(cases: Iterable[Case], plan: Plan) -> int:
    """Peak memory of the largest case, from the headers alone."""
    channels = len(plan.fixed_modalities)
    source, grid = largest_image_voxels(cases), math.prod(plan.grid.shape)
    return channels * (_BYTES_PER_SOURCE_VOXEL * source + _BYTES_PER_GRID_VOXEL * grid)


def _remove_absent(folder: Path, names: set[str]) -> tuple[str, ...]:
    removed = tuple(case for case in list_prepared(folder) if case not in names)
    for case in removed:
        record_path(folder, case).unlink()
        for name in array_names(case).values():
            (folder / name).unlink(missing_ok=True)
    return removed


def _remove_stale_partials(folder: Path) -> None:
    """Temporary files that a killed run left behind (younger ones may belong to a live run)."""
    for path in folder.glob(f"{PARTIAL}*"):
        if time.time() - path.stat().st_mtime > _STALE_SECONDS:
            path.unlink(missing_ok=True)
