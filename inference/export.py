"""The files of one registered pair."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from autoreg.errors import DataError
from autoreg.evaluation.exported_field import exported_field, field_record
from autoreg.geometry.grid import Geometry
from autoreg.geometry.transforms import invert_on_grid
from autoreg.geometry.volume import Volume
from autoreg.inference.known_inverse import inverse_on_grid, known_parts
from autoreg.inference.pairs_file import PairFiles
from autoreg.inference.registered_pair import RegisteredPair
from autoreg.io.atomic import write_text_atomic
from autoreg.io.image_headers import read_on_grid_either, stored_integer_type, write_either
from autoreg.io.landmarks import read_landmarks, read_voxel_landmarks, write_landmarks
from autoreg.io.result import (
    DISPLACEMENT_FILE,
    INVERSE_FILE,
    TRACE_FILE,
    TRACE_NETWORK_FILE,
    WARPED_LABELS_FILE,
    WARPED_LANDMARKS_FILE,
    FieldRecord,
    warped_files,
)
from autoreg.io.transforms import Dimension, write_displacement

if TYPE_CHECKING:  # networks come with it, which not every command needs
    from autoreg.registration.instance_optimisation import Trace

_SHOWN = 5


@dataclass(frozen=True, eq=False)
class Carried:
    """What the transform carries over beside the image.

    Attributes:
        labels: Of the moving image, if it has some.
        points_mm: (N, 3) landmarks of the fixed image, xyz LPS mm, if it has some.
    """

    labels: Volume | None
    points_mm: NDArray[np.float64] | None


def read_carried(pair: PairFiles, fixed: Geometry, moving: Geometry) -> Carried:
    """Read labels and landmarks of a pair; before its registration, which may take minutes.

    Args:
        pair: The input files.
        fixed: Grid of the fixed image.
        moving: Grid of the moving image.

    Raises:
        DataError: if they cannot be read, lie elsewhere than their image, or the landmarks of the
            two images differ in number.
    """
    file = pair.moving_labels
    labels = None if file is None else read_on_grid_either(file, "label", moving)
    points_mm = fixed_landmarks_mm(pair, fixed)
    _check_moving_landmarks(pair, moving, points_mm)
    return Carried(labels, points_mm)


def outside_note(carried: Carried, pair: PairFiles, fixed: Geometry) -> str | None:
    """Which fixed landmarks lie outside the fixed image, in words; None if all lie inside.

    Args:
        carried: From the files of `pair`.
        pair: The input files.
        fixed: Grid of the fixed image.
    """
    if carried.points_mm is None:
        return None
    numbers = np.flatnonzero(~fixed.contains(carried.points_mm)) + 1
    if not numbers.size:
        return None
    shown = ", ".join(map(str, numbers[:_SHOWN])) + (", ..." if numbers.size > _SHOWN else "")
    return (
        f"{pair.fixed_landmarks}: {numbers.size} of {len(carried.points_mm)} points lie outside "
        f"the fixed image (point {shown}, counted from 1)"
    )


def export_pair(
    registered: RegisteredPair,
    pair: PairFiles,
    carried: Carried,
    folder: Path,
    *,
    trace: str | None = None,
    trace_network: str | None = None,
    dimension: Dimension = 3,
) -> tuple[FieldRecord, dict[str, int]]:
    """Write every file of a pair but result.json, all from one transform freed from folds.

    Args:
        registered: From the very images of `pair`.
        pair: The input files, whose number types are kept.
        carried: Their labels and landmarks.
        folder: `<out>/<case>`, made if it is missing.
        trace: Contents of trace.csv, if there is one.
        trace_network: Likewise of trace_network.csv.
        dimension: 2 writes truly two-dimensional images.

    Returns:
        What there is to say of the field, and the size in bytes of each file written.

    Raises:
        UsageError: if the folder cannot be written to.
    """
    fixed, moving = registered.fixed.geometry, registered.moving.geometry
    field = exported_field(registered.transform, fixed)
    registered = replace(registered, transform=field.transform)
    write_displacement(folder / DISPLACEMENT_FILE, field.u_mm, fixed, dimension)
    written = [DISPLACEMENT_FILE, INVERSE_FILE]
    written += _write_warped(registered.warped, pair, folder, dimension)
    if carried.labels is not None and pair.moving_labels is not None:
        dtype = stored_integer_type(pair.moving_labels)
        warped_labels = registered.warp(carried.labels)
        write_either(folder / WARPED_LABELS_FILE, warped_labels, dtype, dimension)
        written.append(WARPED_LABELS_FILE)
    if carried.points_mm is not None:
        mapped = registered.transform.map_points(carried.points_mm)
        write_landmarks(folder / WARPED_LANDMARKS_FILE, mapped)
        written.append(WARPED_LANDMARKS_FILE)
    for name, text in ((TRACE_FILE, trace), (TRACE_NETWORK_FILE, trace_network)):
        if text is not None:
            write_text_atomic(folder / name, text)
            written.append(name)
    inverse_mm, residual_mm = _inverse(registered)
    write_displacement(folder / INVERSE_FILE, inverse_mm, moving, dimension)
    return field_record(field, residual_mm), {
        name: (folder / name).stat().st_size for name in written
    }


def _inverse(registered: RegisteredPair) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """On the moving grid: the inverse displacement in mm, and what is left of it."""
    geometry = registered.moving.geometry
    parts = known_parts(registered.transform, registered.inverse)
    if parts is None:
        return invert_on_grid(registered.transform, geometry)
    return inverse_on_grid(*parts, geometry)


def _check_moving_landmarks(
    pair: PairFiles, moving: Geometry, points_mm: NDArray[np.float64] | None
) -> None:
    """Refuse moving landmarks that evaluation could not use, before the registration."""
    if pair.moving_landmarks is None:
        return
    if pair.landmark_frame == "voxels":
        count = len(read_voxel_landmarks(pair.moving_landmarks, moving))
    else:
        count = len(read_landmarks(pair.moving_landmarks))
    if points_mm is not None and count != len(points_mm):
        raise DataError(
            f"{pair.moving_landmarks}: {count} landmarks, expected {len(points_mm)} as in "
            f"{pair.fixed_landmarks}: point by point they mark the same places; complete one file"
        )


def fixed_landmarks_mm(pair: PairFiles, fixed: Geometry) -> NDArray[np.float64] | None:
    """The fixed landmarks, (N, 3) xyz LPS mm, or None if the pair has none."""
    if pair.fixed_landmarks is None:
        return None
    if pair.landmark_frame == "voxels":
        return read_voxel_landmarks(pair.fixed_landmarks, fixed)
    return read_landmarks(pair.fixed_landmarks)


def trace_text(trace: "Trace") -> str:
    """The course of a network's instance optimisation as csv, one line for each step."""
    lines = ["step,similarity,regularity,total,cosine,conflict,seconds"]
    for step in trace.steps:
        loss = step.loss
        cosine = "" if step.cosine is None else f"{step.cosine:.6g}"
        lines.append(
            f"{step.step},{loss.similarity:.8g},{loss.regularity:.8g},{loss.total:.8g},{cosine},"
            f"{int(step.conflict)},{step.seconds:.4g}"
        )
    return "\n".join(lines) + "\n"


def _write_warped(warped: Volume, pair: PairFiles, folder: Path, dimension: Dimension) -> list[str]:
    """One file for one channel, numbered files for several."""
    names = warped_files(len(pair.moving))
    for name, channel, source in zip(names, warped.array, pair.moving, strict=True):
        volume = Volume(channel[None], warped.geometry, "intensity")
        write_either(folder / name, volume, stored_integer_type(source), dimension)
    return list(names)
