"""The pairs that a challenge wants, and what their displacement files must be called."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from autoreg.errors import DataError, UsageError
from autoreg.io.dataset_files import split_ending
from autoreg.io.dataset_json import Description, find_dataset_json, read_dataset_json
from autoreg.io.problems import Problem, report

Task = Literal["lumir", "learn2reg"]
Split = Literal["validation", "test"]

_KEYS: dict[Split, tuple[str, ...]] = {
    "validation": ("registration_val", "validation"),
    "test": ("registration_test",),
}
# The evaluators cut a name at fixed places: four digits of the subject, four of the scan.
_NUMBERS = re.compile(r".*_(\d{4})_(\d{4})")
_LUMIR_SHAPE = (160, 224, 192)


@dataclass(frozen=True)
class WantedPair:
    """One displacement of a submission.

    Attributes:
        fixed: Name of the fixed image's file without its ending.
        moving: Of the moving one.
        file: Name of the displacement file.
    """

    fixed: str
    moving: str
    file: str


@dataclass(frozen=True)
class Wanted:
    """All that a submission must hold.

    Attributes:
        task: By whose naming rule.
        pairs: In the order of the list.
        shape: (x, y, z) voxels of each displacement; None: as its fixed image.
        source: The file and key that list the pairs.
    """

    task: Task
    pairs: tuple[WantedPair, ...]
    shape: tuple[int, int, int] | None
    source: str


def wanted_pairs(dataset: Path, task: Task | None, split: Split) -> Wanted:
    """Read from a data set's description what a submission must hold; no image is needed.

    Args:
        dataset: <TASK>_dataset.json, or the folder that holds it.
        task: Whose rule names the files; None: LUMIR's for a data set of that name, else
            Learn2Reg's.
        split: Which pairs.

    Raises:
        DataError: if the description cannot be read, or its pairs cannot be named.
        UsageError: if it lists no such pairs.
    """
    problems: list[Problem] = []
    file = dataset if dataset.suffix == ".json" else find_dataset_json(dataset, problems)
    if file is None or not file.is_file():
        raise UsageError(
            f"-d {dataset}: no description of a data set; expected <TASK>_dataset.json or the "
            "folder that holds it"
        )
    data = read_dataset_json(file, problems)
    description = Description(data, str(file), problems)
    # Descriptions may carry an empty list of one name beside a filled one of the other.
    keys = _KEYS[split]
    key = next((k for k in keys if data.get(k)), next((k for k in keys if k in data), keys[0]))
    entries = description.pairs(key)
    shape = _shape(description)
    name = description.text("name", "")
    if problems:
        raise DataError(report(str(file), problems))
    if not entries:
        others = [k for keys in _KEYS.values() for k in keys if data.get(k)]
        raise UsageError(
            f"{file}: lists no pairs under {' or '.join(_KEYS[split])}; found "
            f"{', '.join(others) or 'no list of pairs at all'}; choose with --split"
        )
    chosen = task or ("lumir" if "lumir" in f"{name} {file.name}".lower() else "learn2reg")
    if shape is None and chosen == "lumir":
        shape = _LUMIR_SHAPE
    pairs = [_named(chosen, *entry, description.place(key)) for entry in entries]
    _require_unique(pairs, description.place(key))
    return Wanted(chosen, tuple(pairs), shape, description.place(key))


def submission_name(task: Task, fixed: tuple[str, str], moving: tuple[str, str]) -> str:
    """What the evaluator wants a displacement file to be called.

    LUMIR takes the subjects alone. Learn2Reg takes subjects and scans, but the subjects alone
    where scan 0000 is fixed and scan 0001 moving.

    Args:
        task: Whose rule.
        fixed: Four digits each of the fixed image's subject and scan.
        moving: Likewise.

    Example:
        >>> submission_name("learn2reg", ("0395", "0000"), ("0396", "0000"))
        'disp_0395_0000_0396_0000.nii.gz'
    """
    short = task == "lumir" or (fixed[1], moving[1]) == ("0000", "0001")
    parts = (fixed[0], moving[0]) if short else (*fixed, *moving)
    return f"disp_{'_'.join(parts)}.nii.gz"


def image_stem(path: str) -> str:
    """The name of an image file without folders and ending."""
    return split_ending(path.replace("\\", "/").rpartition("/")[2])[0]


def _named(task: Task, fixed: str, moving: str, place: str) -> WantedPair:
    stems = image_stem(fixed), image_stem(moving)
    numbers = []
    for stem in stems:
        match = _NUMBERS.fullmatch(stem)
        if match is None:
            raise DataError(
                f'{place}: the image "{stem}" cannot be named in a submission; expected '
                "<TASK>_<4 digits of the subject>_<4 digits of the scan>"
            )
        numbers.append((match[1], match[2]))
    if task == "lumir" and numbers[0][1] != numbers[1][1]:
        raise DataError(
            f'{place}: "{stems[0]}" with "{stems[1]}": LUMIR\'s names have no place for different '
            "scans; use --task learn2reg"
        )
    return WantedPair(*stems, submission_name(task, numbers[0], numbers[1]))


def _require_unique(pairs: list[WantedPair], place: str) -> None:
    seen: dict[str, WantedPair] = {}
    for pair in pairs:
        other = seen.setdefault(pair.file, pair)
        if other is not pair:
            raise DataError(
                f"{place}: {pair.file} would be the name of two pairs, {other.fixed} with "
                f"{other.moving} and {pair.fixed} with {pair.moving}; remove one of them"
            )


def _shape(description: Description) -> tuple[int, int, int] | None:
    """`tensorImageShape`: three numbers, or an object of them by scan."""
    value: Any = description.data.get("tensorImageShape")
    if value is None:
        return None
    shapes = list(value.values()) if isinstance(value, dict) else [value]
    first = shapes[0] if shapes else None
    if (
        not isinstance(first, list)
        or len(first) != 3
        or not all(type(n) is int and n > 0 for n in first)
    ):
        description.complain("tensorImageShape", value, '{"0": [x, y, z]}')
        return None
    return first[0], first[1], first[2]
