"""LUMIR (Learn2Reg 2024, task 2): T1 brain MRI, unsupervised.

Published as imagesTr/LUMIRMRI_<subject>_0000.nii.gz (3384 images), imagesVal likewise (40, subjects
3454 to 3493) and LUMIR_dataset.json; 160x224x192 voxels of 1 mm, skull-stripped, intensities 0 to
255. Label maps of some training images were published apart, as a sanity check
(`SanityCheckLabelsTr`). Those images are taken out of training, and all their ordered pairs become
the test pairs: the instance-optimisation paper evaluates such images and does not state its pairs.
The 38 validation pairs are the evaluator's: fixed k+1, moving k, without 3484 and 3483.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from autoreg.dataset_conversion.catalogue import CATALOGUE
from autoreg.dataset_conversion.checks import (
    archive_problems,
    file_problems,
    find_root,
    grid_problems,
    off_grid_problems,
)
from autoreg.dataset_conversion.conversion import (
    Conversion,
    ConvertedCase,
    Options,
    ordered_pairs,
)
from autoreg.dataset_conversion.file_errors import problem_of
from autoreg.errors import AutoregError, DataError
from autoreg.io.cases import Pair
from autoreg.io.images import read_image
from autoreg.io.problems import Problem
from autoreg.io.records import load_json

NAME = "LUMIR"
SHAPE_XYZ = (160, 224, 192)
TRAINING_COUNT = 3384
LABELLED_COUNT = 10
VALIDATION_SUBJECTS = tuple(range(3454, 3494))
_JSON_NAME = "LUMIR_dataset.json"
_NOT_A_PAIR = (3484, 3483)
_IMAGE = re.compile(r"(LUMIRMRI_\d{4})_0000\.nii\.gz")
_LABEL = re.compile(r"(LUMIRMRI_\d{4})(?:_0000)?\.nii\.gz")
_LABEL_FOLDERS = ("labelsTr", "SanityCheckLabelsTr")
# Of the evaluator's list; background, which it scores too, is no structure here.
_LABEL_RANGES = (
    (4, 4), (11, 11), (23, 23), (30, 32), (35, 41), (44, 45), (47, 52), (55, 62), (71, 73),
    (75, 76), (100, 109), (112, 125), (128, 129), (132, 157), (160, 187), (190, 207),
)  # fmt: skip
LABEL_VALUES = tuple(v for low, high in _LABEL_RANGES for v in range(low, high + 1))
_WHERE = f"get it from {CATALOGUE['lumir'].origin}"


def plan_conversion(source: Path, options: Options) -> Conversion:
    """Plan the data set LUMIR.

    Args:
        source: Holds imagesTr and imagesVal, or a folder with them.
        options: `labels` may name the folder of label maps.
    """
    root = find_root(source, _is_root)
    if root is None:
        expected = "imagesTr/LUMIRMRI_<4 digits>_0000.nii.gz"
        absent = Problem(str(source), "no images of LUMIR", expected, f"unpack LUMIR; {_WHERE}")
        return Conversion(NAME, source, problems=(absent, *archive_problems(source)))
    problems: list[Problem] = []
    training = _images(root / "imagesTr", problems)
    validation = _images(root / "imagesVal", problems)
    labels = _labels(root, source, options.labels, training, problems)
    problems += _content_problems([*training.values(), *validation.values()], labels, training)
    missing = _missing(root, training, validation, labels)
    values, notes = _label_values(labels.values(), problems)
    return Conversion(
        name=NAME,
        source=source,
        cases=(*_cases(training, labels), *_cases(validation, {})),
        modality=("T1",),
        labels={f"label_{value}": value for value in values} if labels else {},
        validation_pairs=_validation_pairs(),
        test_pairs=ordered_pairs(sorted(labels)),
        description="LUMIR, Learn2Reg 2024: T1 brain MRI, 160x224x192, 1 mm, 0 to 255",
        reference=CATALOGUE["lumir"].origin,
        problems=tuple(problems),
        missing=(*missing, *(archive_problems(source) if missing else ())),
        notes=(*notes, *_notes(root, labels)),
    )


def _is_root(folder: Path) -> bool:
    return any(_IMAGE.fullmatch(p.name) for p in (folder / "imagesTr").glob("LUMIRMRI_*"))


def _images(folder: Path, problems: list[Problem]) -> dict[str, Path]:
    """Case to image; files of other names are reported."""
    found = {}
    for path in sorted(folder.glob("*")):
        match = _IMAGE.fullmatch(path.name)
        if match:
            found[match[1]] = path
        elif not path.name.startswith("."):
            expected = "LUMIRMRI_<4 digits>_0000.nii.gz"
            remedy = "another edition of LUMIR, or a file that does not belong there: move it away"
            problems.append(Problem(str(path), f"the name {path.name}", expected, remedy))
    return found


def _labels(
    root: Path,
    source: Path,
    given: Path | None,
    training: dict[str, Path],
    problems: list[Problem],
) -> dict[str, Path]:
    """Training case to label map."""
    if given is not None and not given.is_dir():
        problems.append(
            Problem(str(given), "no such folder", "--labels FOLDER", "correct the path")
        )
        return {}
    places = [given] if given else [b / n for b in (root, source) for n in _LABEL_FOLDERS]
    folder = next((path for path in places if path.is_dir()), None)
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*")) if folder else ():
        match = _LABEL.fullmatch(path.name)
        if match is None:
            continue
        if match[1] in found:
            what = f"a second label map of {match[1]}, beside {found[match[1]].name}"
            problems.append(Problem(str(path), what, "one for each image", "remove one of the two"))
        elif match[1] not in training:
            expected = f"the training image {match[1]}_0000.nii.gz"
            remedy = f"add the image ({_WHERE}), or remove the label map"
            problems.append(Problem(str(path), "a label map without its image", expected, remedy))
        else:
            found[match[1]] = path
    return found


def _content_problems(
    images: list[Path], labels: dict[str, Path], training: dict[str, Path]
) -> Iterable[Problem]:
    damaged = file_problems([*images, *labels.values()])
    bad = {problem.file for problem in damaged}
    whole = [path for path in images if str(path) not in bad]
    yield from damaged
    yield from grid_problems(whole, SHAPE_XYZ, "LUMIR of 2024")
    yield from off_grid_problems(
        (training[case], path)
        for case, path in labels.items()
        if not {str(path), str(training[case])} & bad
    )


def _missing(
    root: Path, training: dict[str, Path], validation: dict[str, Path], labels: dict[str, Path]
) -> list[Problem]:
    missing = []
    for name in sorted(_listed_training(root / _JSON_NAME) - set(training)):
        file = str(root / "imagesTr" / f"{name}_0000.nii.gz")
        missing.append(
            Problem(file, "no such file", f"an image, as listed in {_JSON_NAME}", _WHERE)
        )
    if len(training) != TRAINING_COUNT:
        found, expected = f"{len(training)} training images", f"{TRAINING_COUNT} images"
        missing.append(Problem(str(root / "imagesTr"), found, expected, _WHERE))
    names = [f"LUMIRMRI_{subject}" for subject in VALIDATION_SUBJECTS]
    for name in (name for name in names if name not in validation):
        file = str(root / "imagesVal" / f"{name}_0000.nii.gz")
        missing.append(Problem(file, "no such file", "a validation image", _WHERE))
    if not labels:
        found = "no label maps of training images"
        expected = "labelsTr or SanityCheckLabelsTr, or --labels FOLDER"
        remedy = f"{_WHERE}, where its README links SanityCheckLabelsTr"
        missing.append(Problem(str(root / "labelsTr"), found, expected, remedy))
    return missing


def _label_values(
    paths: Iterable[Path], problems: list[Problem]
) -> tuple[tuple[int, ...], list[str]]:
    """The evaluator's values and whichever others occur; maps of another edition are reported."""
    damaged = {problem.file for problem in problems}
    others: set[int] = set()
    for path in paths:
        if str(path) in damaged:
            continue
        try:
            values = set(np.unique(read_image([path], "label").single).tolist()) - {0}
        except AutoregError as error:
            problems.append(problem_of(error, path, "a label map", "download it again"))
            continue
        if len(values & set(LABEL_VALUES)) < len(LABEL_VALUES) // 2:
            found = f"{len(values)} structures, of which few are among the evaluator's 132"
            remedy = f"take the label maps SanityCheckLabelsTr, not LUMIR25's coarse ones; {_WHERE}"
            problems.append(Problem(str(path), found, "the structures of LUMIR 2024", remedy))
        others |= values - set(LABEL_VALUES)
    text = ", ".join(map(str, sorted(others)))
    notes = [f"label values that the evaluator does not score: {text}"] if others else []
    return tuple(sorted({*LABEL_VALUES, *others})), notes


def _cases(images: dict[str, Path], labels: dict[str, Path]) -> Iterable[ConvertedCase]:
    for name, image in images.items():
        yield ConvertedCase(
            name, (image,), "test" if name in labels else "training", labels=labels.get(name)
        )


def _validation_pairs() -> tuple[Pair, ...]:
    subjects = zip(VALIDATION_SUBJECTS[1:], VALIDATION_SUBJECTS[:-1], strict=True)
    pairs = [pair for pair in subjects if pair != _NOT_A_PAIR]
    return tuple(Pair(f"LUMIRMRI_{fixed}", f"LUMIRMRI_{moving}") for fixed, moving in pairs)


def _notes(root: Path, labels: dict[str, Path]) -> list[str]:
    notes = []
    if labels:
        pairs = len(labels) * (len(labels) - 1)
        notes.append(
            f"{len(labels)} labelled training images are excluded from training; their {pairs} "
            "ordered pairs are the test pairs"
        )
    if labels and len(labels) != LABELLED_COUNT:
        notes.append(f"{LABELLED_COUNT} were expected; the organisers' README speaks of 5")
    listed = _listed_pairs(root / _JSON_NAME)
    used = {(pair.fixed, pair.moving) for pair in _validation_pairs()}
    if listed is not None and listed != used:
        notes.append(
            f"LUMIR_dataset.json lists {len(listed)} validation pairs, not the evaluator's "
            f"{len(used)}, which are used here"
        )
    return notes


def _listed_training(file: Path) -> set[str]:
    """The training images of the published json; none where it cannot tell."""
    try:
        names = [_LABEL.fullmatch(Path(entry["image"]).name) for entry in _listed(file, "training")]
    except (KeyError, TypeError):
        return set()
    return {match[1] for match in names if match}


def _listed_pairs(file: Path) -> set[tuple[str, str]] | None:
    """The validation pairs of the published json; None where it cannot tell."""
    try:
        paths = [(Path(e["fixed"]), Path(e["moving"])) for e in _listed(file, "validation")]
    except (KeyError, TypeError):
        return None
    names = [(_LABEL.fullmatch(a.name), _LABEL.fullmatch(b.name)) for a, b in paths]
    return {(fixed[1], moving[1]) for fixed, moving in names if fixed and moving} or None


def _listed(file: Path, key: str) -> list[dict[str, str]]:
    try:
        content = load_json(file, DataError)
    except DataError:
        return []
    entries = content.get(key, []) if isinstance(content, dict) else []
    return entries if isinstance(entries, list) else []
