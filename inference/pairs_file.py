"""pairs.csv and pairs.json: one row for each pair, every problem reported at once."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from autoreg.errors import DataError, did_you_mean
from autoreg.io.dataset_files import split_ending
from autoreg.io.names import folder_name_problem
from autoreg.io.records import load_json

KEYS = (
    "case",
    "fixed",
    "moving",
    "fixed_labels",
    "moving_labels",
    "fixed_mask",
    "moving_mask",
    "fixed_landmarks",
    "moving_landmarks",
)
_IMAGES = ("fixed", "moving")


@dataclass(frozen=True)
class PairFiles:
    """The files of one pair; all paths are absolute.

    Attributes:
        case: Name of the pair and of its output folder.
        fixed: Fixed image, one file for each channel.
        moving: Moving image, one file for each channel.
        fixed_labels: Label map on the fixed image's grid.
        moving_labels: Label map on the moving image's grid.
        fixed_mask: Where the loss looks at the fixed image.
        moving_mask: Where the loss looks at the moving image.
        fixed_landmarks: Points in the fixed image.
        moving_landmarks: Their counterparts in the moving image.
        landmark_frame: "lps_mm", or "voxels" as in Learn2Reg's headerless files.
        fixed_modalities: Modality of each fixed channel, if the source says so.
        moving_modalities: Likewise.
    """

    case: str
    fixed: tuple[Path, ...]
    moving: tuple[Path, ...]
    fixed_labels: Path | None = None
    moving_labels: Path | None = None
    fixed_mask: Path | None = None
    moving_mask: Path | None = None
    fixed_landmarks: Path | None = None
    moving_landmarks: Path | None = None
    landmark_frame: Literal["lps_mm", "voxels"] = "lps_mm"
    fixed_modalities: tuple[str, ...] | None = None
    moving_modalities: tuple[str, ...] | None = None

    def joined(self, role: Literal["fixed", "moving"]) -> str:
        """The files of an image's channels, as messages name them."""
        return ";".join(map(str, self.fixed if role == "fixed" else self.moving))

    def files(self) -> dict[str, tuple[Path, ...]]:
        """All files by role, without the absent ones."""
        found: dict[str, tuple[Path, ...]] = {"fixed": self.fixed, "moving": self.moving}
        for role in KEYS[3:]:
            path = getattr(self, role)
            if path is not None:
                found[role] = (path,)
        return found


@dataclass(frozen=True)
class _Row:
    """One pair as written: where it stands, and its values by key (channels as a list)."""

    place: str
    values: Mapping[str, Sequence[str]]


def read_pairs_csv(path: Path) -> tuple[PairFiles, ...]:
    """Read a csv file with the header case,fixed,moving and optional further columns.

    Args:
        path: The file; paths in it are relative to its folder, channels are joined by ";".

    Raises:
        DataError: listing every problem with its line number.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as cause:
        raise DataError(f"{path}: cannot be read ({cause})") from cause
    reader = csv.reader(io.StringIO(text), skipinitialspace=True)
    header = [name.strip() for name in next(reader, [])]
    problems = _header_problems(header)
    if not set(_IMAGES) <= set(header):
        raise _error(path, problems)
    rows = []
    for fields in reader:
        place = f"line {reader.line_num}"
        if not any(field.strip() for field in fields):
            continue
        if len(fields) != len(header):
            problems.append(
                f"{place}: {len(fields)} values, expected {len(header)} as in the header "
                f"({','.join(header)})"
            )
            continue
        channels = ([part.strip() for part in field.split(";")] for field in fields)
        rows.append(_Row(place, dict(zip(header, channels, strict=True))))
    return _resolve(path, rows, problems)


def read_pairs_json(path: Path) -> tuple[PairFiles, ...]:
    """Read a json file: a list of objects with the keys of pairs.csv.

    Args:
        path: The file; paths in it are relative to its folder. Several channels are a list, or
            one text joined by ";".

    Raises:
        DataError: listing every problem with its line number; unknown keys get a did-you-mean.
    """
    entries = load_json(path, DataError)
    if not isinstance(entries, list):
        raise DataError(f"{path}: expected a list of pairs, found {type(entries).__name__}")
    lines = _entry_lines(path.read_text(encoding="utf-8-sig"), len(entries))
    problems: list[str] = []
    rows = []
    for line, entry in zip(lines, entries, strict=True):
        row = _json_row(f"line {line}", entry, problems)
        if row is not None:
            rows.append(row)
    return _resolve(path, rows, problems)


def _header_problems(header: Sequence[str]) -> list[str]:
    if len(header) == 1 and ";" in header[0]:
        return ['line 1: the columns are separated by ";"; separate them by commas']
    problems = [
        f'line 1: unknown column "{name}"; {did_you_mean(name, KEYS)}'
        for name in header
        if name not in KEYS
    ]
    for name in sorted({name for name in header if header.count(name) > 1}):
        problems.append(f'line 1: the column "{name}" stands twice')
    for name in _IMAGES:
        if name not in header:
            problems.append(
                f'line 1: the column "{name}" is missing; expected the header case,fixed,moving'
            )
    return problems


def _json_row(place: str, entry: object, problems: list[str]) -> _Row | None:
    if not isinstance(entry, dict):
        problems.append(f"{place}: expected an object with the keys fixed and moving")
        return None
    values: dict[str, list[str]] = {}
    before = len(problems)
    for key, value in entry.items():
        if key not in KEYS:
            problems.append(f'{place}: unknown key "{key}"; {did_you_mean(key, KEYS)}')
        elif isinstance(value, str):
            values[key] = [part.strip() for part in value.split(";")]
        elif isinstance(value, list) and value and all(isinstance(v, str) for v in value):
            values[key] = value
        elif value is not None:
            problems.append(f'{place}: "{key}" must be a text, found {json.dumps(value)}')
    return _Row(place, values) if len(problems) == before else None


def _entry_lines(text: str, count: int) -> list[int]:
    """The line on which each entry of a valid JSON list begins."""
    decoder, lines = json.JSONDecoder(), []
    position = text.index("[") + 1
    for _ in range(count):
        while text[position] in " \t\r\n,":
            position += 1
        lines.append(text.count("\n", 0, position) + 1)
        _, position = decoder.raw_decode(text, position)
    return lines


def _resolve(path: Path, rows: Sequence[_Row], problems: list[str]) -> tuple[PairFiles, ...]:
    pairs: dict[str, PairFiles] = {}
    places: dict[str, str] = {}
    for row in rows:
        case = _case_name(row)
        if case in places:
            problems.append(
                f'{row.place}: the case "{case}" was already given on {places[case]}; name the '
                'cases apart in the column "case"'
            )
        elif case is not None:
            places[case] = row.place
        pair = _pair(path.parent, row, case, problems)
        if pair is not None:
            pairs.setdefault(pair.case, pair)
    if not pairs and not problems:
        problems.append("line 1: no pairs; expected at least one")
    if problems:
        raise _error(path, problems)
    return tuple(pairs.values())


def _case_name(row: _Row) -> str | None:
    """As given, else from the names of the two images; None without these."""
    given = ";".join(row.values.get("case", ()))
    first = [next((n for n in row.values.get(role, ()) if n), None) for role in _IMAGES]
    if first[0] is None or first[1] is None:
        return given or None
    return given or "__".join(split_ending(Path(name).name)[0] for name in first if name)


def _pair(folder: Path, row: _Row, case: str | None, problems: list[str]) -> PairFiles | None:
    files: dict[str, tuple[Path, ...]] = {}
    before = len(problems)
    for key in KEYS[1:]:
        names = [name for name in row.values.get(key, ()) if name]
        given = len(row.values.get(key, ()))
        if key in _IMAGES and len(names) < max(1, given):
            problems.append(f'{row.place}: "{key}" is empty; give the path of the {key} image')
        if key not in _IMAGES and len(names) > 1:
            problems.append(f'{row.place}: "{key}" is one file, found {len(names)}')
        files[key] = tuple((folder / name).absolute() for name in names)
        problems += [
            f"{row.place}: {key}: {p}: no such file" for p in files[key] if not p.is_file()
        ]
    if case is None or not files["fixed"] or not files["moving"]:
        return None
    problem = folder_name_problem(case, "a case")
    if problem is not None:
        problems.append(f'{row.place}: case "{case}": {problem}')
    if len(problems) > before:
        return None
    labels = (_first(files["fixed_labels"]), _first(files["moving_labels"]))
    masks = (_first(files["fixed_mask"]), _first(files["moving_mask"]))
    landmarks = (_first(files["fixed_landmarks"]), _first(files["moving_landmarks"]))
    return PairFiles(case, files["fixed"], files["moving"], *labels, *masks, *landmarks)


def _first(paths: tuple[Path, ...]) -> Path | None:
    return paths[0] if paths else None


def _error(path: Path, problems: Sequence[str]) -> DataError:
    problems = sorted(problems, key=lambda text: int(text.removeprefix("line ").partition(":")[0]))
    if len(problems) == 1:
        return DataError(f"{path}, {problems[0]}")
    return DataError("\n  ".join([f"{path}: {len(problems)} problems:", *problems]))
