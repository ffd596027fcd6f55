"""LPBA40 (LONI): T1 brain MRI of 40 subjects with 56 structures, delineated by hand.

Published as two archives that both unpack to a folder LPBA40: delineation_space/Sxx with the label
map of each subject in a common upright frame (181x217x181, 1 mm), and native_space/Sxx with the
brain (bias-corrected, skull-stripped), a tissue map and the AIR transform between the two. All
images are Analyze 7.5.

SITReg's preparation is followed (`lpba40_images`), and its split: 25 training, 5 validation (10
pairs) and 10 test subjects (45 pairs).
"""

from dataclasses import dataclass, replace
from pathlib import Path

from autoreg.dataset_conversion.air_transforms import AirVolume, read_air_transform
from autoreg.dataset_conversion.analyze_images import AnalyzeFile, open_analyze, voxel_file
from autoreg.dataset_conversion.catalogue import CATALOGUE
from autoreg.dataset_conversion.checks import archive_problems, find_root
from autoreg.dataset_conversion.conversion import (
    Conversion,
    ConvertedCase,
    Made,
    Options,
    Split,
    unordered_pairs,
)
from autoreg.dataset_conversion.file_errors import problem_of
from autoreg.dataset_conversion.lpba40_images import LABELS, write_brain, write_labels
from autoreg.errors import AutoregError
from autoreg.io.problems import Problem

NAME = "LPBA40"
SHAPE_XYZ = (181, 217, 181)
# Voxels cut off before and after, along x, y, z, as SITReg does: 160x192x160 are left.
CROP_XYZ = ((11, 10), (20, 5), (0, 21))
SUBJECTS = tuple(f"S{number:02d}" for number in range(1, 41))
VALIDATION = ("S14", "S16", "S19", "S26", "S39")
TEST = ("S11", "S12", "S13", "S15", "S24", "S28", "S29", "S32", "S34", "S38")
_ARCHIVES = {
    "delineation_space": "LPBA40_Subjects_Delineation_Space_MRI_and_label_files.zip",
    "native_space": "LPBA40_Subjects_Native_Space_MRI_data_and_masks.zip",
}
_WHERE = f"get it from {CATALOGUE['lpba40'].origin}"
_AGAIN = f"download or unpack it again; {_WHERE}"
_VOXEL_TOLERANCE_MM = 1e-3
_SPLIT_NOTE = (
    "SITReg's split: 25 training, 5 validation (10 pairs) and 10 test subjects (45 pairs); other "
    "papers split otherwise, so their Dice cannot be compared"
)


@dataclass(frozen=True)
class _Subject:
    """The published files of one subject."""

    root: Path
    name: str

    @property
    def label_header(self) -> Path:
        folder = self.root / "delineation_space" / self.name
        return folder / f"{self.name}.delineation.structure.label.hdr"

    @property
    def brain_header(self) -> Path:
        return self._native / f"{self.name}.native.brain.bfc.hdr"

    @property
    def tissue_header(self) -> Path:
        return self._native / "tissue" / f"{self.name}.native.tissue.hdr"

    @property
    def transform(self) -> Path:
        return self._native / "transforms" / f"{self.name}.delineation.to.native.air"

    @property
    def _native(self) -> Path:
        return self.root / "native_space" / self.name

    @property
    def label_files(self) -> tuple[Path, ...]:
        return self.label_header, voxel_file(self.label_header)

    @property
    def files(self) -> tuple[Path, ...]:
        headers = self.brain_header, self.tissue_header, self.label_header
        return (*(path for h in headers for path in (h, voxel_file(h))), self.transform)

    def case(self, crop: tuple[tuple[int, int], ...]) -> ConvertedCase:
        split: Split = "test" if self.name in TEST else "training"
        settings = {"crop_xyz": crop}
        brain = Made(write_brain, self.files, ".nii.gz", settings)
        labels = Made(write_labels, self.label_files, ".nii.gz", settings)
        return ConvertedCase(self.name, (brain,), split, labels=labels)


def plan_conversion(source: Path, options: Options) -> Conversion:
    """Plan the data set LPBA40.

    Args:
        source: Holds delineation_space and native_space, or a folder LPBA40 with them.
        options: `variant`: "cropped" or "whole".
    """
    root = find_root(source, lambda folder: any((folder / s).is_dir() for s in _ARCHIVES))
    if root is None:
        return Conversion(NAME, source, problems=_nothing_here(source))
    variant = options.variant or "cropped"
    crop = CROP_XYZ if variant == "cropped" else ((0, 0),) * 3
    subjects = [_Subject(root, name) for name in SUBJECTS]
    complete = [s for s in subjects if all(path.is_file() for path in s.files)]
    missing = _missing(root, subjects)
    return Conversion(
        name=NAME,
        source=source,
        cases=tuple(subject.case(crop) for subject in complete),
        modality=("T1",),
        labels=LABELS,
        validation_pairs=unordered_pairs(VALIDATION),
        test_pairs=unordered_pairs(TEST),
        description=f"{CATALOGUE['lpba40'].variants[variant]}; the mean of white matter is 1",
        reference="Shattuck et al., NeuroImage 39(3), 2008, 1064-1080",
        problems=tuple(problem for s in complete for problem in _problems(s)),
        missing=(*missing, *(archive_problems(source) if missing else ())),
        notes=(_SPLIT_NOTE,),
    )


def _nothing_here(source: Path) -> tuple[Problem, ...]:
    expected = "the folders delineation_space and native_space"
    remedy = f"unpack {' and '.join(_ARCHIVES.values())} and the archives in them; {_WHERE}"
    absent = Problem(str(source), "no images of LPBA40", expected, remedy)
    return (absent, *archive_problems(source))


def _missing(root: Path, subjects: list[_Subject]) -> list[Problem]:
    """What is not there; a whole space is told once."""
    missing = []
    for space, archive in _ARCHIVES.items():
        remedy = f"unpack {archive} and the archive in it; {_WHERE}"
        folder = root / space
        if not folder.is_dir():
            expected = f"{space} of {len(subjects)} subjects"
            missing.append(Problem(str(folder), "no such folder", expected, remedy))
            continue
        files = (path for s in subjects for path in s.files if path.is_relative_to(folder))
        missing += [
            Problem(str(path), "no such file", "the files of 40 subjects", remedy)
            for path in files
            if not path.is_file()
        ]
    return missing


def _problems(subject: _Subject) -> list[Problem]:
    """What is wrong with a subject's files, none of which is missing."""
    problems = []
    opened: dict[Path, AnalyzeFile] = {}
    for header in (subject.label_header, subject.brain_header, subject.tissue_header):
        try:
            opened[header] = open_analyze(header)
        except AutoregError as error:
            problems.append(problem_of(error, header, "an Analyze image", _AGAIN))
    try:
        air = read_air_transform(subject.transform)
    except AutoregError as error:
        expected = "an affine AIR transform"
        return [*problems, problem_of(error, subject.transform, expected, _AGAIN)]
    if subject.label_header in opened:
        labels = opened[subject.label_header]
        problems += _misfits(labels, air.reslice, subject.transform)
        problems += _wrong_edition(labels)
    for header in (subject.brain_header, subject.tissue_header):
        if header in opened:
            # Its matrix is about the standard volume's voxel sizes only, whatever its extent.
            volume = replace(air.standard, shape=opened[header].shape)
            problems += _misfits(opened[header], volume, subject.transform)
    return problems


def _misfits(image: AnalyzeFile, volume: AirVolume, transform: Path) -> list[Problem]:
    """A transform between other volumes would move the brain without any further sign."""
    pairs = zip(image.voxel_size_mm, volume.voxel_size_mm, strict=True)
    if image.shape == volume.shape and all(abs(a - b) <= _VOXEL_TOLERANCE_MM for a, b in pairs):
        return []
    found, expected = (
        f"{' x '.join(map(str, shape))} voxels of {' x '.join(f'{s:.4g}' for s in sizes)} mm"
        for shape, sizes in (
            (image.shape, image.voxel_size_mm),
            (volume.shape, volume.voxel_size_mm),
        )
    )
    return [Problem(str(image.header), found, f"{expected}, as {transform.name} says", _AGAIN)]


def _wrong_edition(labels: AnalyzeFile) -> list[Problem]:
    if labels.shape == SHAPE_XYZ:
        return []
    found, expected = (" x ".join(map(str, shape)) for shape in (labels.shape, SHAPE_XYZ))
    remedy = f"this looks like another edition of LPBA40: unpack delineation_space; {_WHERE}"
    return [Problem(str(labels.header), f"{found} voxels", expected, remedy)]
