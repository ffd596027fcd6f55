"""OASIS: T1 brain MRI of 414 subjects, as neurite's release or as Learn2Reg 2021 task 3.

Neurite's release has subjects.txt and a folder per subject: `aligned_norm` and `aligned_seg35`
(160x192x224, affinely aligned to Talairach space), `norm` and `seg35` (256x256x256, scanner space);
skull-stripped and bias-corrected by FreeSurfer, intensities 0 to 1, labels by SAMSEG. SITReg's
split goes by the order of subjects.txt: 255 training, 20 validation (190 pairs) and 139 test
subjects (9591 pairs). Learn2Reg's training subjects are the same 414, of which it validates on the
last 20: 19 pairs, fixed k and moving k+1. Its own edition has axes 1 and 2 swapped (160x224x192),
other names, and is read in place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoreg.dataset_conversion.catalogue import CATALOGUE
from autoreg.dataset_conversion.checks import (
    archive_problems,
    file_problems,
    find_root,
    grid_problems,
    off_grid_problems,
)
from autoreg.dataset_conversion.conversion import (
    Content,
    Conversion,
    ConvertedCase,
    Made,
    Options,
    consecutive_pairs,
    unordered_pairs,
)
from autoreg.dataset_conversion.cropping import crop_image
from autoreg.dataset_conversion.learn2reg import Expected, plan_in_place
from autoreg.io.cases import Pair
from autoreg.io.problems import Problem

NAME = "OASIS"
SUBJECT_COUNT = 414
LEARN2REG = Expected(
    name="OASIS_L2R",
    json_name="OASIS_dataset.json",
    shape_xyz=(160, 224, 192),
    images=tuple(f"imagesTr/OASIS_{number:04d}_0000" for number in range(1, SUBJECT_COUNT + 1)),
    companions=("labelsTr",),
    origin="learn2reg.grand-challenge.org (OASIS of 2021)",
)
# Voxels cut off before and after, along the file's three axes.
CROP_XYZ = ((0, 0), (24, 24), (16, 16))
_SITREG_PARTS = (255, 275)
_LEARN2REG_VALIDATION = 20
_WHERE = f"get it from {CATALOGUE['oasis'].origin}"

_ONE_SIDE = (
    "cerebral_white_matter", "cerebral_cortex", "lateral_ventricle", "inferior_lateral_ventricle",
    "cerebellum_white_matter", "cerebellum_cortex", "thalamus", "caudate", "putamen", "pallidum",
)  # fmt: skip
_OTHER_SIDE = (
    "hippocampus", "amygdala", "accumbens", "ventral_dc", "vessel", "choroid_plexus",
)  # fmt: skip
_MIDDLE = ("third_ventricle", "fourth_ventricle", "brain_stem")
LABELS = {
    name: value
    for value, name in enumerate(
        (
            *(f"left_{name}" for name in _ONE_SIDE),
            *_MIDDLE,
            *(f"left_{name}" for name in _OTHER_SIDE),
            *(f"right_{name}" for name in _ONE_SIDE),
            *(f"right_{name}" for name in _OTHER_SIDE),
        ),
        start=1,
    )
}


@dataclass(frozen=True)
class _Variant:
    """Files of one subject, their shape, and whether they are cropped."""

    image: str
    labels: str
    shape_xyz: tuple[int, int, int]
    crop: bool = False


_ALIGNED = _Variant("aligned_norm.nii.gz", "aligned_seg35.nii.gz", (160, 192, 224))
VARIANTS = {
    "aligned": _ALIGNED,
    "cropped": _Variant(_ALIGNED.image, _ALIGNED.labels, _ALIGNED.shape_xyz, crop=True),
    "scanner": _Variant("norm.nii.gz", "seg35.nii.gz", (256, 256, 256)),
    "learn2reg": _ALIGNED,
}


def plan_conversion(source: Path, options: Options) -> Conversion:
    """Plan the data set OASIS.

    Args:
        source: Holds subjects.txt and the folders of subjects, or Learn2Reg's OASIS_dataset.json.
        options: `variant` is one of `VARIANTS`; Learn2Reg's edition has none.
    """
    root = find_root(source, _is_neurite)
    if root is not None:
        return _plan_neurite(source, root, options.variant or "aligned")
    if find_root(source, LEARN2REG.is_root) is not None:
        return _plan_learn2reg(source, options.variant)
    return Conversion(NAME, source, problems=_nothing_here(source))


def _is_neurite(folder: Path) -> bool:
    return (folder / "subjects.txt").is_file() or any(folder.glob("OASIS_OAS1_*_MR1"))


def _plan_learn2reg(source: Path, variant: str) -> Conversion:
    conversion = plan_in_place(source, LEARN2REG)
    if not variant:
        return conversion
    found = f"Learn2Reg's edition together with --variant {variant}"
    remedy = "leave out --variant, or use neurite's release"
    problem = Problem(str(source), found, "neurite's release, which has variants", remedy)
    return Conversion(NAME, source, problems=(problem,))


def _nothing_here(source: Path) -> tuple[Problem, ...]:
    expected = "subjects.txt and the folders OASIS_OAS1_<subject>_MR1, or OASIS_dataset.json"
    if any(source.rglob("p_*.pkl")) or any(source.rglob("subject_*.pkl")):
        found = "pickled images, as TransMorph's authors repackaged OASIS"
        remedy = f"that edition is not converted; {_WHERE}"
        return (Problem(str(source), found, expected, remedy),)
    problem = Problem(str(source), "no images of OASIS", expected, f"unpack OASIS; {_WHERE}")
    return (problem, *archive_problems(source))


def _plan_neurite(source: Path, root: Path, variant: str) -> Conversion:
    choice = VARIANTS[variant]
    problems: list[Problem] = []
    subjects = _subjects(root / "subjects.txt", problems)
    missing = _missing(root, subjects, choice)
    absent = {Path(problem.file) for problem in missing}
    present = [name for name in subjects if not absent & set(_files(root, name, choice))]
    files = [_files(root, name, choice) for name in present]
    damaged = file_problems(path for both in files for path in both)
    bad = {problem.file for problem in damaged}
    whole = [both for both in files if not {str(path) for path in both} & bad]
    problems += damaged
    problems += grid_problems([image for image, _ in whole], choice.shape_xyz, "neurite's release")
    problems += off_grid_problems(whole)
    split = _split(subjects, variant)
    return Conversion(
        name=NAME,
        source=source,
        cases=tuple(_case(root, name, choice, name in split.test) for name in present),
        modality=("T1",),
        labels=LABELS,
        validation_pairs=split.validation_pairs,
        test_pairs=split.test_pairs,
        description=f"OASIS, neurite's release: {CATALOGUE['oasis'].variants[variant]}",
        reference=CATALOGUE["oasis"].origin,
        problems=tuple(problems),
        missing=(*missing, *(archive_problems(source) if missing else ())),
        notes=(split.note,),
    )


def _subjects(file: Path, problems: list[Problem]) -> list[str]:
    """The subjects in the published order, on which the splits rest."""
    expected = f"{SUBJECT_COUNT} subjects, one in each line"
    try:
        names = [line.strip() for line in file.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError):
        problems.append(Problem(str(file), "no such file, or no text", expected, _WHERE))
        return []
    if len(names) != SUBJECT_COUNT or len(set(names)) != len(names):
        found = f"{len(names)} subjects, {len(set(names))} of them different"
        problems.append(Problem(str(file), found, expected, f"the splits rest on it: {_WHERE}"))
    return list(dict.fromkeys(names))


def _files(root: Path, subject: str, choice: _Variant) -> tuple[Path, Path]:
    return root / subject / choice.image, root / subject / choice.labels


def _missing(root: Path, subjects: Sequence[str], choice: _Variant) -> list[Problem]:
    paths = [path for name in subjects for path in _files(root, name, choice)]
    remedy = f"unpack the archive again; {_WHERE}"
    expected = "an image and a label map of each subject"
    return [
        Problem(str(path), "no such file", expected, remedy) for path in paths if not path.is_file()
    ]


def _case(root: Path, subject: str, choice: _Variant, test: bool) -> ConvertedCase:
    image, labels = (_content(path, choice) for path in _files(root, subject, choice))
    return ConvertedCase(subject, (image,), "test" if test else "training", labels=labels)


def _content(path: Path, choice: _Variant) -> Content:
    if not choice.crop:
        return path
    return Made(crop_image, (path,), ".nii.gz", {"crop_xyz": CROP_XYZ})


@dataclass(frozen=True)
class _Split:
    test: frozenset[str]
    validation_pairs: tuple[Pair, ...]
    test_pairs: tuple[Pair, ...]
    note: str


def _split(subjects: Sequence[str], variant: str) -> _Split:
    if variant == "learn2reg":
        held_out = subjects[-_LEARN2REG_VALIDATION:]
        pairs = consecutive_pairs(held_out, fixed="first")
        note = f"{len(pairs)} validation pairs, as in Learn2Reg 2021; they are the test pairs, too"
        return _Split(frozenset(), pairs, pairs, note)
    first, last = _SITREG_PARTS
    validation, test = subjects[first:last], subjects[last:]
    pairs, test_pairs = unordered_pairs(validation), unordered_pairs(test)
    note = (
        f"SITReg's split: {len(subjects[:first])} training, {len(validation)} validation "
        f"({len(pairs)} pairs) and {len(test)} test subjects ({len(test_pairs)} pairs)"
    )
    return _Split(frozenset(test), pairs, test_pairs, note)
