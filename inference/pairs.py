"""Which pairs a folder asks for: pairs.csv, pairs.json, named files or a raw data set."""

import re
from pathlib import Path
from typing import Literal

from autoreg.errors import DataError, UsageError
from autoreg.inference.pairs_file import (
    PairFiles,
    read_pairs_csv,
    read_pairs_json,
)
from autoreg.io.dataset import Case, RawDataset, is_dataset, pair_landmarks, read_dataset
from autoreg.io.dataset_files import is_companion, split_ending
from autoreg.io.names import folder_name_problem

Split = Literal["test", "validation", "training"]

_LISTS = ("pairs.csv", "pairs.json")
FORMS = (
    "pairs.csv, pairs.json, <case>_fixed.* with <case>_moving.*, or a raw data set (dataset.json)"
)
_NAMED = re.compile(
    r"(?P<case>.+)_(?P<role>fixed|moving)(?:_(?P<what>labels|mask|landmarks|\d{4}))?"
)


def find_pairs(source: Path, split: Split | None = None) -> tuple[PairFiles, ...]:
    """Read what is to be registered.

    Args:
        source: A folder in one of the four forms, or a csv or json file of pairs.
        split: Which pairs of a raw data set, None: test; the other forms have one set of pairs.

    Returns:
        The pairs, with absolute paths, in the order of the file or of the names.

    Raises:
        DataError: listing every problem of the pairs.
        UsageError: if nothing of the kind is found, or two forms at once, or a split is given for
            what is no raw data set.
    """
    if not source.exists():
        raise UsageError(f"{source}: no such file or folder; expected {FORMS}")
    listed = source.is_file() or any((source / name).is_file() for name in _LISTS)
    if not listed and is_dataset(source):
        return pairs_of_dataset(read_dataset(source), source, split or "test")
    if split is not None:
        raise UsageError(f"--split {split}: does nothing, since {source} is no raw data set")
    return _read_file(source) if source.is_file() else _read_folder(source)


def _read_file(path: Path) -> tuple[PairFiles, ...]:
    if path.suffix.lower() == ".csv":
        return read_pairs_csv(path)
    if path.suffix.lower() == ".json":
        return read_pairs_json(path)
    raise UsageError(
        f"{path}: is neither a folder nor a .csv or .json file of pairs; to register a single "
        "pair, write its two images into a pairs.csv with the header fixed,moving"
    )


def _read_folder(folder: Path) -> tuple[PairFiles, ...]:
    files = [folder / name for name in _LISTS if (folder / name).is_file()]
    if len(files) == 2:
        raise UsageError(
            f"{folder}: holds pairs.csv and pairs.json; remove one, or name one of the files"
        )
    if files:
        return _read_file(files[0])
    pairs = pairs_from_names(folder)
    if not pairs:
        raise UsageError(f"{folder}: holds no pairs; expected {FORMS}")
    return pairs


def pairs_from_names(folder: Path) -> tuple[PairFiles, ...]:
    """Pairs from files called `<case>_fixed.*`, `<case>_moving.*`, `<case>_fixed_labels.*` etc.

    Several channels are `<case>_fixed_0000.*`, `<case>_fixed_0001.*`. Other files are ignored.

    Raises:
        DataError: listing files that lack their partner or exist twice.
    """
    found: dict[str, dict[str, list[Path]]] = {}
    names = {path.name for path in folder.iterdir()}
    for path in sorted(folder.iterdir()):
        match = _NAMED.fullmatch(split_ending(path.name)[0])
        if match is None or not path.is_file() or is_companion(path.name, names):
            continue
        what = match["what"] or "image"
        if what.isdigit():
            what = "image"
        found.setdefault(match["case"], {}).setdefault(f"{match['role']}_{what}", []).append(path)
    problems: list[str] = []
    pairs = [_named_pair(case, files, problems) for case, files in found.items()]
    if problems:
        raise DataError("\n".join([f"{folder}: {len(problems)} problems:", *problems]))
    return tuple(pairs)


def _named_pair(case: str, files: dict[str, list[Path]], problems: list[str]) -> PairFiles:
    problem = folder_name_problem(case, "a case")
    if problem is not None:
        problems.append(f'  case "{case}": {problem}')
    for role in ("fixed", "moving"):
        if f"{role}_image" not in files:
            there = sorted(path.name for paths in files.values() for path in paths)
            problems.append(
                f'  case "{case}": {case}_{role}.* is missing beside {", ".join(there)}'
            )
    for what, paths in files.items():
        stems = [split_ending(path.name)[0] for path in paths]
        numbered = [re.search(r"_\d{4}$", stem) is not None for stem in stems]
        if len(paths) > 1 and not (all(numbered) and len(set(stems)) == len(stems)):
            names = ", ".join(path.name for path in paths)
            problems.append(f'  case "{case}": found {names} for {what}; keep one of them')
        elif all(numbered) and [int(stem[-4:]) for stem in stems] != list(range(len(stems))):
            names = ", ".join(path.name for path in paths)
            problems.append(
                f'  case "{case}": found {names}; expected the channels of an image numbered from '
                "0000 without a gap"
            )

    def one(what: str) -> Path | None:
        return files[what][0].absolute() if what in files else None

    def images(role: str) -> tuple[Path, ...]:
        return tuple(path.absolute() for path in files.get(f"{role}_image", []))

    return PairFiles(
        case,
        images("fixed"),
        images("moving"),
        one("fixed_labels"),
        one("moving_labels"),
        one("fixed_mask"),
        one("moving_mask"),
        one("fixed_landmarks"),
        one("moving_landmarks"),
    )


def pairs_of_dataset(dataset: RawDataset, folder: Path, split: Split) -> tuple[PairFiles, ...]:
    """The pairs of one split of a raw data set.

    Raises:
        UsageError: if the data set has none, naming the splits that have some.
    """
    by_split = {
        "test": dataset.test_pairs,
        "validation": dataset.validation_pairs or (),
        "training": dataset.training_pairs or (),
    }
    if not by_split[split]:
        others = [name for name, pairs in by_split.items() if pairs]
        remedy = (
            f"use --split {' or '.join(others)}"
            if others
            else 'give it "test_pairs" in dataset.json, or write a pairs.csv'
        )
        raise UsageError(f"{folder}: the data set {dataset.name} has no {split} pairs; {remedy}")
    return tuple(
        pair_of_cases(dataset.case(pair.fixed), dataset.case(pair.moving))
        for pair in by_split[split]
    )


def pair_of_cases(fixed: Case, moving: Case) -> PairFiles:
    """Two cases of a raw data set as a pair, with whatever belongs to them."""
    # Rows of different kinds of points do not correspond: then only the fixed ones count.
    alone = (fixed.landmarks, None if fixed.landmarks else moving.landmarks)
    landmarks = pair_landmarks(fixed, moving) or alone
    return PairFiles(
        case=f"{fixed.name}__{moving.name}",
        fixed=tuple(path.absolute() for path in fixed.images),
        moving=tuple(path.absolute() for path in moving.images),
        fixed_labels=_absolute(fixed.labels),
        moving_labels=_absolute(moving.labels),
        fixed_mask=_absolute(fixed.mask),
        moving_mask=_absolute(moving.mask),
        fixed_landmarks=_absolute(landmarks[0]),
        moving_landmarks=_absolute(landmarks[1]),
        landmark_frame=fixed.landmark_frame,
        fixed_modalities=fixed.modalities,
        moving_modalities=moving.modalities,
    )


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()
