"""Point lists of 3D Slicer: .fcsv, and .mrk.json of one point list.

Both say in which frame their numbers are. They are read in either, and written in LPS, which is
what Slicer itself writes. Line breaks in names become spaces.

References:
    3D Slicer, developer guide, Markups: file formats; schema markups-schema-v1.0.3.
"""

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from autoreg.errors import DataError
from autoreg.geometry.grid import FloatArray
from autoreg.io.atomic import write_text_atomic

_COLUMNS = "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"
_LABEL = 11
_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/"
    "Schema/markups-schema-v1.0.3.json#"
)
_TO_LPS = {"LPS": (1.0, 1.0, 1.0), "RAS": (-1.0, -1.0, 1.0)}
# Until Slicer 4.10 .fcsv files numbered the frames.
_NUMBERED = {"0": "RAS", "1": "LPS"}


@dataclass(frozen=True, eq=False)
class NamedPoints:
    """Points, and what they are called.

    Attributes:
        points_mm: (N, 3) float64, xyz LPS mm.
        names: Of each point; None if the file holds none.
    """

    points_mm: FloatArray
    names: tuple[str, ...] | None = None


def read_fcsv(path: Path) -> NamedPoints:
    """Read the points of a Slicer .fcsv file.

    Args:
        path: With the header that Slicer 4 and later write.

    Raises:
        DataError: if it cannot be read, does not say in which frame its numbers are, holds no
            point, or one that is not three finite numbers.
    """
    lines = _text(path).splitlines()
    frame = None
    for line in lines:
        key, _, value = line.lstrip("# ").partition("=")
        if line.startswith("#") and key.strip() == "CoordinateSystem":
            frame = _NUMBERED.get(value.strip(), value.strip())
    points, names = [], []
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.startswith("#"):
            cells = _cells(line, f"{path}, line {number}")
            points.append(_point(cells[1:4], f"{path}, line {number}"))
            names.append(cells[_LABEL] if len(cells) > _LABEL else "")
    return NamedPoints(_in_lps(points, frame, path), tuple(names))


def read_markups(path: Path) -> NamedPoints:
    """Read the points of a Slicer .mrk.json file of one point list.

    Args:
        path: Of schema version 1.

    Raises:
        DataError: if it cannot be read, holds no point list or several, another unit than mm, no
            point, or one that is not placed.
    """
    markup = _only_list(path)
    try:
        kind, listed = markup["type"], markup["controlPoints"]
        unit = markup.get("coordinateUnits", "mm")
        status = [point.get("positionStatus", "defined") for point in listed]
        names = tuple(str(point.get("label", "")) for point in listed)
    except (TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{path}: the list is not as 3D Slicer writes it (type, controlPoints, "
            "positionStatus); save it again with a current version of 3D Slicer"
        ) from error
    if kind != "Fiducial":
        raise DataError(f"{path}: holds a {kind}, expected a point list (Fiducial)")
    # A list holds the code, its system and its meaning.
    if (unit[0] if isinstance(unit, list) and unit else unit) != "mm":
        raise DataError(f"{path}: its coordinates are in {unit}, expected mm; save it in mm")
    points = []
    for number, (point, said) in enumerate(zip(listed, status, strict=True), start=1):
        if said != "defined":
            raise DataError(
                f"{path}: point {number} ({point.get('label', '')}) is {said}, not placed; place "
                "it or remove it"
            )
        points.append(_point(point.get("position"), f"{path}, point {number}"))
    return NamedPoints(_in_lps(points, markup.get("coordinateSystem", "LPS"), path), names)


def _only_list(path: Path) -> dict[str, Any]:
    """The one list of a .mrk.json file."""
    try:
        content = json.loads(_text(path))
    except ValueError as error:
        raise DataError(
            f"{path}: not valid JSON ({error}); replace it by an intact copy"
        ) from error
    lists = content.get("markups") if isinstance(content, dict) else None
    if not isinstance(lists, list) or not all(isinstance(one, dict) for one in lists):
        raise DataError(
            f'{path}: no point list of 3D Slicer: expected an object with the key "markups"; save '
            "the points as .mrk.json with 3D Slicer"
        )
    if len(lists) != 1:
        raise DataError(
            f"{path}: holds {len(lists)} lists, expected one; save the list alone as .mrk.json"
        )
    only: dict[str, Any] = lists[0]
    return only


def write_fcsv(path: Path, named: NamedPoints) -> None:
    """Write points as a Slicer .fcsv file, in LPS; see `NamedPoints`."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    for number, (point, name) in enumerate(_rows(named), start=1):
        where = [f"{value:.6f}" for value in point]
        lines.writerow([number, *where, 0, 0, 0, 1, 1, 1, 0, name, "", ""])
    header = "# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n"
    write_text_atomic(path, f"{header}# columns = {_COLUMNS}\n{text.getvalue()}")


def write_markups(path: Path, named: NamedPoints) -> None:
    """Write points as a Slicer .mrk.json file, in LPS; see `NamedPoints`."""
    points = [
        {
            "id": str(number),
            "label": name,
            "position": [round(value, 6) for value in point],
            "positionStatus": "defined",
        }
        for number, (point, name) in enumerate(_rows(named), start=1)
    ]
    markup = {
        "type": "Fiducial",
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "controlPoints": points,
    }
    content = {"@schema": _SCHEMA, "markups": [markup]}
    write_text_atomic(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _rows(named: NamedPoints) -> list[tuple[list[float], str]]:
    points = np.asarray(named.points_mm, dtype=np.float64).tolist()
    names = named.names or [f"F-{number}" for number in range(1, len(points) + 1)]
    # A line of .fcsv is a point: a name of several lines would not come back.
    return list(zip(points, [" ".join(name.splitlines()) for name in names], strict=True))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def _cells(line: str, where: str) -> list[str]:
    try:
        (cells,) = csv.reader([line])
    except csv.Error as error:
        raise DataError(f"{where}: cannot be read ({error}); correct the line") from error
    return cells


def _point(cells: object, where: str) -> list[float]:
    try:
        point = [float(cell) for cell in cells] if isinstance(cells, list) else []
    except (TypeError, ValueError):
        point = []
    if len(point) != 3 or not np.isfinite(point).all():
        raise DataError(f"{where}: found {cells}, expected three finite numbers; correct the point")
    return point


def _in_lps(points: ArrayLike, frame: object, path: Path) -> FloatArray:
    if not isinstance(frame, str) or frame not in _TO_LPS:
        found = "not said" if frame is None else f"{frame!r}"
        raise DataError(
            f"{path}: the coordinate system is {found}, expected LPS or RAS; save the points again "
            "with a current version of 3D Slicer"
        )
    array = np.array(points, dtype=np.float64)
    if not array.size:
        raise DataError(f"{path}: holds no landmarks; add some, or remove the file")
    return array * _TO_LPS[frame]
