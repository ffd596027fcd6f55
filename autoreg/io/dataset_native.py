"""The native layout: imagesTr/<case>_<channel, 4 digits>.<ending> and its companion folders."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from autoreg.io.cases import Case, Scan, nearest_case
from autoreg.io.dataset_files import (
    IMAGE_NAME,
    case_name,
    check_folder_names,
    list_files,
    split_ending,
)
from autoreg.io.dataset_json import Description, Json
from autoreg.io.dataset_pairs import NativePairs, pair_modalities
from autoreg.io.names import LANDMARK_SUFFIXES
from autoreg.io.problems import Problem

KEYS = (
    "name", "description", "reference", "licence", "release", "modality", "case_modality",
    "labels", "pairing", "atlas", "training", "test", "numTraining", "numTest", "training_pairs",
    "validation_pairs", "test_pairs",
)  # fmt: skip

FOREIGN_KEYS = {
    "channel_names": 'call it "modality": {"0": "MR"}',
    "file_ending": "remove it: files of any ending are read",
    "license": 'did you mean "licence"?',
    "pairs": 'say which: "training_pairs", "validation_pairs" or "test_pairs"',
    "validation": 'did you mean "validation_pairs"?',
    "tensorImageSize": "remove it: images are three-dimensional",
}

FOLDERS = tuple(
    kind + split for split in ("Tr", "Ts") for kind in ("images", "labels", "masks", "landmarks")
)


def scan_native(folder: Path, file: Path | None, data: Json, problems: list[Problem]) -> Scan:
    """Read a data set of the native layout as far as possible.

    Args:
        folder: The data set's folder.
        file: Its dataset.json, if there is one.
        data: What it holds.
        problems: Is added to.
    """
    description = Description(data, str(file or folder / "dataset.json"), problems)
    description.check_keys(KEYS, FOREIGN_KEYS)
    for key in ("name", "description", "reference", "licence", "release"):
        description.text(key, "")
    check_folder_names(folder, FOLDERS, problems)
    if not (folder / "imagesTr").is_dir() and not (folder / "imagesTs").is_dir():
        remedy = "put the images of the training cases into imagesTr"
        problems.append(Problem(str(folder), "no imagesTr, no imagesTs", "one of them", remedy))
    training = _Split(folder, "Tr", description).cases("training", "numTraining")
    test = _Split(folder, "Ts", description).cases("test", "numTest")
    for name in sorted({c.name for c in training} & {c.name for c in test}):
        remedy = "give one of them another name"
        where = str(folder / "imagesTs" / name)
        problems.append(Problem(where, "also a training case", "names used once", remedy))
    training, test = _with_modalities(training, test, description)
    pairs = NativePairs(training, test, description)
    fixed, moving = pair_modalities((*training, *test), pairs.typical())
    return Scan(
        pairing=pairs.pairing,
        labels=description.labels(nested=False),
        training=training,
        test=test,
        training_pairs=pairs.training_pairs,
        validation_pairs=pairs.validation_pairs,
        test_pairs=pairs.test_pairs,
        fixed_modalities=fixed,
        moving_modalities=moving,
    )


@dataclass(frozen=True)
class _Split:
    """The folders of the training (Tr) or test (Ts) cases."""

    folder: Path
    ending: str
    description: Description

    @property
    def problems(self) -> list[Problem]:
        return self.description.problems

    def cases(self, list_key: str, count_key: str) -> tuple[Case, ...]:
        """The cases; those that dataset.json lists, if it does."""
        images = self._images()
        listed = self.description.names(list_key)
        if listed is not None:
            names = dict.fromkeys(case_name(name, images) for name in listed)
            for name in names:
                if name not in images:
                    remedy = nearest_case(name, images)
                    where = f"a case in images{self.ending}"
                    self.description.complain(list_key, f'the case "{name}"', where, remedy)
            chosen = [name for name in images if name in names]
        else:
            chosen = list(images)
        count = self.description.data.get(count_key, len(chosen))
        if count != len(chosen):
            self.description.complain(count_key, count, f"{len(chosen)}, the number of cases")
        labels, masks, landmarks = (
            self._companions(kind, set(images)) for kind in ("labels", "masks", "landmarks")
        )
        return tuple(
            Case(
                name=name,
                images=images[name],
                modalities=(),
                labels=labels.get(name),
                mask=masks.get(name),
                landmarks=landmarks.get(name),
            )
            for name in chosen
        )

    def _images(self) -> dict[str, tuple[Path, ...]]:
        """Case to its channel files in order."""
        channels: dict[str, dict[int, Path]] = {}
        for stem, path in list_files(self.folder / f"images{self.ending}", self.problems).items():
            match = IMAGE_NAME.fullmatch(stem)
            if match is None:
                ending = split_ending(path.name)[1]
                self.problems.append(
                    Problem(
                        str(path),
                        f'the name "{stem}"',
                        "<case>_<channel, 4 digits>",
                        f'rename it to "{stem}_0000{ending}" if it is an image of one channel',
                    )
                )
            else:
                channels.setdefault(match["case"], {})[int(match["channel"])] = path
        for case, files in channels.items():
            if sorted(files) != list(range(len(files))):
                found = "the channels " + ", ".join(f"{number:04d}" for number in sorted(files))
                remedy = "add the missing file or renumber the channels"
                where = str(self.folder / f"images{self.ending}" / case)
                expected = "channels numbered from 0000 without a gap"
                self.problems.append(Problem(where, found, expected, remedy))
        return {case: tuple(files[n] for n in sorted(files)) for case, files in channels.items()}

    def _companions(self, kind: str, cases: set[str]) -> dict[str, Path]:
        """Labels, masks or landmarks by case; files of no case are reported."""
        found = list_files(self.folder / f"{kind}{self.ending}", self.problems)
        for stem, path in found.items():
            match = IMAGE_NAME.fullmatch(stem)
            ending = split_ending(path.name)[1]
            if stem in cases and (ending.lower() in LANDMARK_SUFFIXES) == (kind == "landmarks"):
                continue
            if stem in cases:
                points = f"one ending in {' or '.join(LANDMARK_SUFFIXES)}"
                what = points if kind == "landmarks" else "an image file"
                problem = Problem(str(path), f"a file ending in {ending}", what, "convert it")
            elif match is not None and match["case"] in cases:
                remedy = f'rename it to "{match["case"]}{ending}": here no channel is named'
                problem = Problem(str(path), f'the name "{stem}"', "<case> alone", remedy)
            else:
                images = f"images{self.ending}/{stem}_0000.*"
                remedy = "add the image, correct the name or remove the file"
                problem = Problem(str(path), f"no image of the case {stem}", images, remedy)
            self.problems.append(problem)
        return {stem: path for stem, path in found.items() if stem in cases}


def _with_modalities(
    training: tuple[Case, ...], test: tuple[Case, ...], description: Description
) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """Give every case the modality of each of its channels and report wrong channel counts."""
    cases = (*training, *test)
    listed = description.modality()
    counts = Counter(len(case.images) for case in cases)
    expected = len(listed) or (counts.most_common(1)[0][0] if counts else 1)
    names = ["image"] if expected == 1 else [f"channel{number}" for number in range(expected)]
    if listed and sorted(listed) != list(range(len(listed))):
        found = ", ".join(map(str, sorted(listed)))
        description.complain("modality", f"the channels {found}", "0, 1, ... without a gap")
    elif listed:
        names = [listed[number] for number in range(expected)]
    own = _case_modalities({case.name for case in cases}, expected, description)

    def complete(case: Case) -> Case:
        if len(case.images) != expected:
            problem = Problem(
                str(case.images[0].parent / case.name),
                f"{len(case.images)} channels",
                f"{expected}, as {'modality says' if listed else 'most cases have'}",
                "add or remove channel files, or correct modality in dataset.json",
            )
            description.problems.append(problem)
        return replace(case, modalities=own.get(case.name, tuple(names)))

    return tuple(map(complete, training)), tuple(map(complete, test))


def _case_modalities(
    cases: set[str], channels: int, description: Description
) -> dict[str, tuple[str, ...]]:
    own: dict[str, tuple[str, ...]] = {}
    for name, value in description.mapping("case_modality").items():
        key = f"case_modality: {name}"
        values = [value] if isinstance(value, str) else value
        if name not in cases:
            remedy = nearest_case(name, cases)
            description.complain(key, f'the case "{name}"', "a case of this data set", remedy)
        elif not isinstance(values, list) or not all(isinstance(v, str) for v in values):
            description.complain(key, value, 'a list of names, as in ["CT"]')
        elif len(values) != channels:
            description.complain(key, value, f"{channels} names, one for each channel")
        else:
            own[name] = tuple(values)
    return own
