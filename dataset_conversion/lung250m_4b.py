"""Lung250M-4B: 124 pairs of lung CT, inhale (fixed) and exhale (moving), 1 mm, Hounsfield units.

Published as imagesTr|Ts, masksTr|Ts with case_<3 digits>_<1 inhale, 2 exhale>.nii.gz (the tree in
the README leaves `case_` out) and lms_validation.pth, the landmarks of validation and test pairs.
imagesTs holds both; the split goes by number here. Images of the sub-sets EMPIRE10 and COPDgene
may not be passed on: masks and landmarks come with the rest, the images from their owners.

Not converted: segTr|Ts and cloudsTr|Ts (vessels), and the key points corrfieldTr. autoreg has no
use for the former, and the latter are written by the published programs as indices of voxel centres
and read by them as coordinates from a voxel's corner.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from autoreg.dataset_conversion.catalogue import CATALOGUE
from autoreg.dataset_conversion.checks import archive_problems, file_problems, find_root
from autoreg.dataset_conversion.conversion import Conversion, ConvertedCase, Made, Options, Split
from autoreg.dataset_conversion.file_errors import problem_of
from autoreg.dataset_conversion.lung250m_4b_scans import Scan, scan_problems
from autoreg.dataset_conversion.pth_landmarks import (
    LandmarkPairs,
    read_landmark_pairs,
    write_points,
)
from autoreg.errors import AutoregError
from autoreg.io.cases import Pair
from autoreg.io.problems import Problem

NAME = "Lung250M-4B"
LANDMARKS_NAME = "lms_validation.pth"
TEST = frozenset(range(104, 114))
VALIDATION = frozenset({2, 8, 54, 55, 56, 94, 97, *range(114, 124)})
_WHERE = f"get it from {CATALOGUE['lung250m_4b'].origin}"
_SCAN = re.compile(r"(?:case_)?(\d{3})_([12])\.nii\.gz")
_PHASES = (1, 2)


@dataclass(frozen=True)
class _Subset:
    """Cases of one origin.

    Attributes:
        title: As the README calls it.
        numbers: Of its cases.
        origin: Where to get its images.
    """

    title: str
    numbers: range
    origin: str = _WHERE


# The README counts 000 to 010 as EMPIRE10; the published programs have twelve such cases.
EMPIRE = _Subset(
    "EMPIRE10", range(12),
    "get the images from empire10.grand-challenge.org and run data_curation/process_empire.py of "
    "Lung250M-4B",
)  # fmt: skip
COPD = _Subset(
    "DIR-LAB COPDgene", range(104, 114),
    "get the images from med.emory.edu (DIR-Lab, COPDgene) and run data_curation/process_copd.py "
    "of Lung250M-4B",
)  # fmt: skip
SUBSETS = (
    EMPIRE,
    _Subset("TCIA-NLST", range(12, 34)),
    _Subset("TCIA-NSCLC", range(34, 54)),
    _Subset("L2R-LungCT", range(54, 84)),
    _Subset("TCIA-Ventilation", range(84, 104)),
    COPD,
    _Subset("TCIA-NLST (validation)", range(114, 124)),
)


def plan_conversion(source: Path, options: Options) -> Conversion:
    """Plan the data set Lung250M-4B.

    Args:
        source: Holds imagesTr and imagesTs, masksTr and masksTs, and lms_validation.pth (here or
            in `evaluation`), or a folder with them.
        options: None concerns this data set.
    """
    root = find_root(source, lambda folder: any(map(_SCAN.fullmatch, _names(folder))))
    if root is None:
        expected = "imagesTr/case_<3 digits>_<1 or 2>.nii.gz"
        absent = Problem(str(source), "no images of Lung250M-4B", expected, f"unpack it; {_WHERE}")
        return Conversion(NAME, source, problems=(absent, *archive_problems(source)))
    problems: list[Problem] = []
    images = _scans(root, "images", problems)
    masks = _scans(root, "masks", problems)
    complete = sorted({n for n, _ in images if all((n, phase) in images for phase in _PHASES)})
    missing = [*_missing_images(root, images), *_missing_masks(root, images, masks)]
    file, landmarks = _landmarks(root, complete, problems, missing)
    wrong, notes = _content_problems(images, masks, landmarks)
    scans = [(number, phase) for number in complete for phase in _PHASES]
    return Conversion(
        name=NAME,
        source=source,
        cases=tuple(_case(scan, images, masks, landmarks, file) for scan in scans),
        modality=("CT",),
        pairing="intra_subject",
        training_pairs=_training_pairs(complete),
        validation_pairs=_pairs(n for n in complete if n in VALIDATION),
        test_pairs=_pairs(n for n in complete if n in TEST),
        description="Lung250M-4B: inhale (_1, fixed) and exhale (_2, moving) CT, 1 mm",
        reference="Falta et al., NeurIPS 2023 (data sets and benchmarks)",
        problems=(*problems, *wrong),
        missing=(*missing, *(archive_problems(source) if missing else ())),
        notes=(*_notes(complete), *notes),
    )


def case_name(number: int, phase: int) -> str:
    """The published name of a scan, which is its case's here."""
    return f"case_{number:03d}_{phase}"


def _names(folder: Path) -> Iterable[str]:
    for images in ("imagesTr", "imagesTs"):
        yield from (path.name for path in (folder / images).glob("*.nii.gz"))


def _scans(root: Path, kind: str, problems: list[Problem]) -> dict[Scan, Path]:
    """Scan to file; unknown names, and scans that have two files, are reported."""
    found: dict[Scan, Path] = {}
    for folder in (root / f"{kind}Tr", root / f"{kind}Ts"):
        for path in sorted(folder.glob("*")):
            match = _SCAN.fullmatch(path.name)
            if path.name.startswith("."):
                continue
            if match is None or int(match[1]) > max(TEST | VALIDATION):
                expected = "case_<000 to 123>_<1 or 2>.nii.gz"
                remedy = "another data set, or a file that does not belong there: move it away"
                problems.append(Problem(str(path), f"the name {path.name}", expected, remedy))
                continue
            scan = int(match[1]), int(match[2])
            if scan in found:
                what = f"the same scan as {found[scan]}"
                remedy = "remove one of the two"
                problems.append(Problem(str(path), what, "one file for each scan", remedy))
            found.setdefault(scan, path)
    return found


def _missing_images(root: Path, images: dict[Scan, Path]) -> Iterable[Problem]:
    """A problem for each sub-set that is incomplete; EMPIRE10 may be absent as a whole."""
    for subset in SUBSETS:
        absent = [
            case_name(n, phase)
            for n in subset.numbers
            for phase in _PHASES
            if (n, phase) not in images
        ]
        if not absent or (subset is EMPIRE and len(absent) == 2 * len(subset.numbers)):
            continue
        # The twelfth case of EMPIRE10 is not in the README's list.
        if subset is EMPIRE and all(name.startswith("case_011") for name in absent):
            continue
        found = f"{len(absent)} images are missing: {', '.join(absent[:6])}"
        found += ", ..." if len(absent) > 6 else ""
        expected = f"{subset.title}: inhale and exhale of {len(subset.numbers)} cases"
        yield Problem(str(root / "images*"), found, expected, subset.origin)


def _missing_masks(
    root: Path, images: dict[Scan, Path], masks: dict[Scan, Path]
) -> Iterable[Problem]:
    for scan in sorted(images.keys() - masks.keys()):
        expected = "a lung mask of each image"
        file = str(root / "masks*" / f"{case_name(*scan)}.nii.gz")
        yield Problem(file, "no such file", expected, _WHERE)


def _landmarks(
    root: Path, complete: list[int], problems: list[Problem], missing: list[Problem]
) -> tuple[Path, LandmarkPairs]:
    """The file of landmarks and, where it can be used, the landmarks by case number."""
    places = [root / LANDMARKS_NAME, root / "evaluation" / LANDMARKS_NAME]
    file = next((path for path in places if path.is_file()), places[0])
    expected = "landmarks of the validation and test pairs"
    if not file.is_file():
        remedy = f"it is published in the folder evaluation; {_WHERE}"
        missing.append(Problem(str(file), "no such file", expected, remedy))
        return file, {}
    try:
        pairs = read_landmark_pairs(file)
    except AutoregError as error:
        problems.append(problem_of(error, file, expected, _WHERE))
        return file, {}
    for number in complete:
        if number in TEST | VALIDATION and str(number) not in pairs:
            found = f"no landmarks of case {number}"
            missing.append(Problem(str(file), found, expected, f"another edition: {_WHERE}"))
    return file, pairs


def _content_problems(
    images: dict[Scan, Path], masks: dict[Scan, Path], landmarks: LandmarkPairs
) -> tuple[list[Problem], list[str]]:
    """Damaged files, scans that do not fit their masks and landmarks, and notes."""
    damaged = file_problems([*images.values(), *masks.values()])
    bad = {problem.file for problem in damaged}
    intact, usable = (
        {scan: path for scan, path in files.items() if str(path) not in bad}
        for files in (images, masks)
    )
    wrong, notes = scan_problems(intact, usable, landmarks)
    return [*damaged, *wrong], notes


def _case(
    scan: Scan,
    images: dict[Scan, Path],
    masks: dict[Scan, Path],
    landmarks: LandmarkPairs,
    file: Path,
) -> ConvertedCase:
    number, phase = scan
    split: Split = "test" if number in TEST else "training"
    points = None
    if str(number) in landmarks:
        settings = {"key": str(number), "moving": phase == 2}
        points = Made(write_points, (images[scan], file), ".csv", settings)
    return ConvertedCase(
        case_name(*scan), (images[scan],), split, mask=masks.get(scan), landmarks=points
    )


def _pairs(numbers: Iterable[int]) -> tuple[Pair, ...]:
    """Inhale fixed, exhale moving."""
    return tuple(Pair(case_name(n, 1), case_name(n, 2)) for n in numbers)


def _training_pairs(complete: list[int]) -> tuple[Pair, ...]:
    """Both ways round; listed, because pairs by rule would take in those of validation."""
    forward = _pairs(n for n in complete if n not in TEST | VALIDATION)
    return tuple(p for pair in forward for p in (pair, Pair(pair.moving, pair.fixed)))


def _notes(complete: list[int]) -> list[str]:
    validation, test = VALIDATION.intersection(complete), TEST.intersection(complete)
    training = len(complete) - len(validation) - len(test)
    split = (
        f"{training} training, {len(validation)} validation and {len(test)} test pairs; case 113 "
        "is a test case: the README names it in both lists"
    )
    if set(complete) & set(EMPIRE.numbers):
        return [split]
    return [split, f"without EMPIRE10, as in SITReg's experiments; {EMPIRE.origin}"]
