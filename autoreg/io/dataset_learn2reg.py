"""Learn2Reg's layout, in place as published: <TASK>_<case>_<scan>.nii.gz and paths in a json.

The last four digits of a file name number the scans of one case (NLST: 0000 fixed, 0001 moving), so
each file is a `Case` of its own, named like the file.
"""

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from autoreg.io.cases import Case, Pair, Pairing, Scan
from autoreg.io.dataset_files import list_files, split_ending
from autoreg.io.dataset_json import Description, Json
from autoreg.io.dataset_pairs import check_pairs, pair_modalities, pairs_within_subjects
from autoreg.io.problems import Problem

logger = logging.getLogger(__name__)

# Keys of the published files; only those read here matter, the others guard against misspelling.
KEYS = (
    "name", "release", "description", "licence", "reference", "pairing", "pairings",
    "provided_data", "registration_direction", "modality", "img_shift", "labels",
    "tensorImageSize", "tensorImageShape", "numTraining", "numTest", "training", "test",
    "numPairedTraining", "training_paired_images", "numRegistration_val", "registration_val",
    "numRegistration_test", "registration_test", "validation",
)  # fmt: skip

_SCAN_NUMBER = re.compile(r".*_(\d{4})")
_POINT_FOLDER = re.compile(r"(landmarks|keypoints)(\d*)(Tr|Ts|Val)")


def scan_learn2reg(folder: Path, file: Path | None, data: Json, problems: list[Problem]) -> Scan:
    """Read a Learn2Reg data set as far as possible.

    Args:
        folder: The data set's folder.
        file: Its <TASK>_dataset.json or dataset.json.
        data: What it holds.
        problems: Is added to.
    """
    description = Description(data, str(file or folder), problems)
    description.check_misspelt(KEYS)
    paired = description.pairs("training_paired_images") or []
    # An empty list of one name must not hide a filled one of the other.
    key = next((k for k in ("registration_val", "validation") if data.get(k)), "validation")
    validation = description.pairs(key) or []
    test_pairs = description.pairs("registration_test") or []
    listed = description.names("training")
    if listed is None and not paired:
        listed = [f"imagesTr/{p.name}" for p in list_files(folder / "imagesTr", problems).values()]
    training_paths = _unique([*(listed or []), *_both(paired), *_both(validation)])
    test_paths = _unique([*_test_list(description), *_both(test_pairs)])
    reader = _CaseReader(folder, description)
    for_test = set(test_paths)
    training = reader.cases([path for path in training_paths if path not in for_test])
    test = reader.test_cases(test_paths)
    return _scan(description, training, test, (paired, validation, test_pairs), key)


def _scan(
    description: Description,
    training: tuple[Case, ...],
    test: tuple[Case, ...],
    entries: tuple[Sequence[tuple[str, str]], ...],
    validation_key: str,
) -> Scan:
    """Turn paths into pairs of cases and leave validation and test pairs out of training."""
    keys = ("training_paired_images", validation_key, "registration_test")
    names = {case.name for case in (*training, *test)}
    paired, validation, test_pairs = (
        _pairs(listed, names, description, key) for key, listed in zip(keys, entries, strict=True)
    )
    held_out = {*validation, *test_pairs}
    pairing = _pairing(description, bool(paired))
    training_pairs: tuple[Pair, ...] | None = tuple(p for p in paired if p not in held_out)
    if not paired:
        kept = [
            case for case in training if not any(case.name in (p.fixed, p.moving) for p in held_out)
        ]
        training_pairs = pairs_within_subjects(kept) if pairing == "intra_subject" else None
    every = (*(training_pairs or ()), *validation)
    fixed, moving = pair_modalities((*training, *test), every or test_pairs)
    return Scan(
        pairing=pairing,
        labels=description.labels(nested=True),
        training=training,
        test=test,
        training_pairs=training_pairs,
        validation_pairs=validation or None,
        test_pairs=test_pairs,
        fixed_modalities=fixed,
        moving_modalities=moving,
    )


class _CaseReader:
    """Makes cases of image paths; folders are listed once."""

    def __init__(self, folder: Path, description: Description) -> None:
        self.folder = folder
        self.description = description
        self.modality = description.modality()
        self._listings: dict[str, dict[str, Path]] = {}

    def test_cases(self, paths: Sequence[str]) -> tuple[Case, ...]:
        """Like `cases`, but a test set that was never handed out is passed over."""
        if paths and not any((self.folder / path).is_file() for path in paths):
            logger.info("%s: none of the %d listed test images is here", self.folder, len(paths))
            return ()
        return self.cases(paths)

    def cases(self, paths: Sequence[str]) -> tuple[Case, ...]:
        """The cases whose image is there; the others are reported."""
        found: dict[str, Case] = {}
        for path in paths:
            file, name = self.folder / path, _name(path)
            if not file.is_file():
                remedy = f"add the file or remove it from {Path(self.description.where).name}"
                self._report(str(file), "no such file", "an image, as listed", remedy)
            elif name in found:
                remedy = "give one of them another name"
                self._report(str(file), f"a second image called {name}", "names used once", remedy)
            else:
                found[name] = self._case(file, name)
        return tuple(found.values())

    def _case(self, image: Path, name: str) -> Case:
        split = image.parent.name.removeprefix("images")
        # Images of the points lie beside them in some tasks.
        files = [self._file(kind, name, ".csv") for kind in self._point_folders(split)]
        points = [file for file in files if file is not None]
        return Case(
            name=name,
            images=(image,),
            modalities=(self._modality(name),),
            labels=self._file(f"labels{split}", name),
            mask=self._file(f"masks{split}", name),
            landmarks=points[0] if points else None,
            landmark_frame="voxels",
            other_landmarks=tuple(points[1:]),
        )

    def _file(self, kind: str, name: str, ending: str | None = None) -> Path | None:
        if kind not in self._listings:
            problems = self.description.problems
            self._listings[kind] = list_files(self.folder / kind, problems, ending)
        return self._listings[kind].get(name)

    def _point_folders(self, split: str) -> list[str]:
        """Manual landmarks first, then key points in the order of their number."""
        matches = [m for p in self.folder.iterdir() if (m := _POINT_FOLDER.fullmatch(p.name))]
        mine = [m for m in matches if m[3] == split]
        return [m[0] for m in sorted(mine, key=lambda m: (m[1] != "landmarks", m[2]))]

    def _modality(self, name: str) -> str:
        match = _SCAN_NUMBER.fullmatch(name)
        number = int(match[1]) if match else 0
        if number in self.modality:
            return self.modality[number]
        known = set(self.modality.values())
        if len(known) > 1:
            expected = f'a modality for scan "{number}" ({name})'
            self.description.complain("modality", ", ".join(sorted(known)), expected, "add it")
        return min(known, default="image")

    def _report(self, file: str, found: str, expected: str, remedy: str) -> None:
        self.description.problems.append(Problem(file, found, expected, remedy))


def _pairs(
    entries: Sequence[tuple[str, str]], names: set[str], description: Description, key: str
) -> tuple[Pair, ...]:
    """Pairs whose images are there; a missing image has been reported with the cases."""
    pairs = [Pair(_name(fixed), _name(moving)) for fixed, moving in entries]
    listed = {name for pair in pairs for name in (pair.fixed, pair.moving)}
    checked = check_pairs(pairs, listed, description.place(key), "", description.problems)
    return tuple(pair for pair in checked if pair.fixed in names and pair.moving in names)


def _pairing(description: Description, paired: bool) -> Pairing:
    """Learn2Reg says "paired" or "unpaired", in `pairing` or `pairings`, or nothing."""
    key = "pairings" if "pairings" in description.data else "pairing"
    word = description.text(key, "paired" if paired else "unpaired")
    return (
        "intra_subject" if word.strip().lower() in ("paired", "intra_subject") else "inter_subject"
    )


def _test_list(description: Description) -> list[str]:
    """Images of `test`, which some tasks write as pairs."""
    entries = description.items("test") or []
    if any(isinstance(entry, dict) and "fixed" in entry for entry in entries):
        return _both(description.pairs("test") or [])
    return description.names("test") or []


def _both(pairs: Iterable[tuple[str, str]]) -> list[str]:
    return [path for pair in pairs for path in pair]


def _unique(paths: Iterable[str]) -> list[str]:
    """Each path once, as a clean relative path: "./imagesTr/x" and "imagesTr/x" are the same."""
    return list(dict.fromkeys(Path(path.replace("\\", "/")).as_posix() for path in paths))


def _name(path: str) -> str:
    return split_ending(path.replace("\\", "/").rpartition("/")[2])[0]
