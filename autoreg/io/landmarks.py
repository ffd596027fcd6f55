"""Landmarks in files: csv, and the point lists of 3D Slicer."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from autoreg.errors import DataError
from autoreg.geometry.grid import FloatArray, Geometry
from autoreg.io.atomic import write_text_atomic
from autoreg.io.names import FCSV_SUFFIX, MARKUPS_SUFFIX
from autoreg.io.slicer_landmarks import (
    NamedPoints,
    read_fcsv,
    read_markups,
    write_fcsv,
    write_markups,
)

HEADER = ("x", "y", "z")


def read_landmarks(path: Path) -> FloatArray:
    """Read points: of a Slicer point list, or of a csv file with the header `x,y,z`.

    Args:
        path: Ends in .fcsv or .mrk.json, whose coordinate system is obeyed; all others are csv with
            one point per line, xyz LPS mm.

    Returns:
        (N, 3) float64, xyz LPS mm.

    Raises:
        DataError: if the file is missing, has another header, no points, or a line that is not
            three finite numbers.
    """
    return read_named_landmarks(path).points_mm


def read_named_landmarks(path: Path) -> NamedPoints:
    """Read points as `read_landmarks` does, and their names where the file has some."""
    name = path.name.lower()
    if name.endswith(FCSV_SUFFIX):
        return read_fcsv(path)
    if name.endswith(MARKUPS_SUFFIX):
        return read_markups(path)
    return NamedPoints(_csv_points(path))


def _csv_points(path: Path) -> FloatArray:
    rows = _rows(path)
    if not rows or not _is_header(rows[0][1]):
        found = ",".join(rows[0][1]) if rows else "missing"
        raise DataError(
            f"{path}: the first line is {found!r}, expected 'x,y,z' (points in LPS mm); make "
            "x,y,z the first line and separate the numbers by commas"
        )
    return _points(rows[1:], path)


def read_voxel_landmarks(path: Path, geometry: Geometry) -> FloatArray:
    """Read the voxel indices of a headerless csv file, Learn2Reg's form.

    Args:
        path: One point per line: the index along the file's first, second and third axis, as
            nibabel and ITK count them (the reverse of the array's order); may be fractional.
        geometry: Of the image that the indices belong to.

    Returns:
        (N, 3) float64 world points, xyz LPS mm.

    Raises:
        DataError: as `read_landmarks`.
    """
    return geometry.to_world(_points(_rows(path), path)[:, ::-1])


def malformed_lines(path: Path, *, has_header: bool) -> list[tuple[int, str]]:
    """Numbers (from 1) and text of the lines that are not three finite numbers.

    None where the file cannot be read or its header is wrong: `read_landmarks` says so.
    """
    try:
        rows = _rows(path)
    except DataError:
        return []
    if has_header and not (rows and _is_header(rows[0][1])):
        return []
    lines = rows[1:] if has_header else rows
    return [(number, ",".join(cells)) for number, cells in lines if _point(cells) is None]


def write_landmarks(path: Path, points_mm: ArrayLike, names: tuple[str, ...] | None = None) -> None:
    """Write points to a nanometre, in the form that the ending says; see `read_landmarks`.

    Args:
        path: .fcsv, .mrk.json; anything else: csv with the header `x,y,z`.
        points_mm: (N, 3), xyz LPS mm.
        names: Of the points in Slicer's files; None numbers them.
    """
    name, named = path.name.lower(), NamedPoints(np.asarray(points_mm, dtype=np.float64), names)
    if name.endswith(FCSV_SUFFIX):
        write_fcsv(path, named)
        return
    if name.endswith(MARKUPS_SUFFIX):
        write_markups(path, named)
        return
    lines = [",".join(f"{value:.6f}" for value in row) for row in np.asarray(points_mm)]
    write_text_atomic(path, "\n".join([",".join(HEADER), *lines]) + "\n")


def write_voxel_landmarks(path: Path, points_mm: ArrayLike, geometry: Geometry) -> None:
    """Write points (N, 3), xyz LPS mm, as voxel indices; the form of `read_voxel_landmarks`."""
    index = geometry.to_index(points_mm)[:, ::-1]
    lines = [",".join(f"{value:.6f}" for value in row) for row in index]
    write_text_atomic(path, "\n".join(lines) + "\n")


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Line numbers and cells of all lines that are not empty."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    try:
        rows = list(enumerate(csv.reader(text.splitlines()), start=1))
    except csv.Error as error:
        raise DataError(f"{path}: cannot be read ({error}); correct the file") from error
    return [(number, cells) for number, cells in rows if any(cell.strip() for cell in cells)]


def _is_header(cells: Sequence[str]) -> bool:
    return tuple(cell.strip().lower() for cell in cells) == HEADER


def _points(rows: list[tuple[int, list[str]]], path: Path) -> FloatArray:
    if not rows:
        raise DataError(f"{path}: holds no landmarks; add a line for each point, or remove it")
    points = np.empty((len(rows), 3))
    for target, (number, cells) in zip(points, rows, strict=True):
        point = _point(cells)
        if point is None:
            raise DataError(
                f"{path}, line {number}: found {','.join(cells)!r}, expected three numbers; "
                "separate them by commas, or remove the line"
            )
        target[:] = point
    return points


def _point(cells: Sequence[str]) -> list[float] | None:
    """Three finite numbers, or None."""
    try:
        values = [float(cell) for cell in cells]
    except ValueError:
        return None
    return values if len(values) == 3 and np.isfinite(values).all() else None
