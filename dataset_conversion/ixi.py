"""IXI as TransMorph's authors publish it: an atlas and 576 T1 brain MRI, as pickles.

Published as IXI_data/{Train,Val,Test}/subject_<number>.pkl (403, 58 and 115) and atlas.pkl. Each
holds a tuple of two arrays of 160x192x224 voxels: a skull-stripped, affinely aligned image with
intensities 0 to 1, and FreeSurfer's label map. The task is to bring the atlas (moving) onto each
subject (fixed). Pickles are opened by `safe_pickle`, which runs nothing that is in them.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from autoreg.dataset_conversion.catalogue import CATALOGUE
from autoreg.dataset_conversion.checks import archive_problems, find_root
from autoreg.dataset_conversion.conversion import Conversion, ConvertedCase, Made, Options, Split
from autoreg.dataset_conversion.ixi_images import LABELS, PAPER_LABELS, write_image_of, write_labels
from autoreg.io.cases import Pair
from autoreg.io.problems import Problem

NAME = "IXI"
ATLAS = "atlas"
COUNTS = {"Train": 403, "Val": 58, "Test": 115}
SHAPE_XYZ = (160, 192, 224)
_SUBJECT = re.compile(r"(subject_\d+)\.pkl")
_WHERE = f"get it from {CATALOGUE['ixi'].origin}"
_AGAIN = f"download or unpack it again; {_WHERE}"
# The last byte of every pickle, "that is all".
_STOP = b"."


def plan_conversion(source: Path, options: Options) -> Conversion:
    """Plan the data set IXI.

    Args:
        source: Holds Train, Val, Test and atlas.pkl, or a folder with them.
        options: `variant`: "all" or "paper".
    """
    root = find_root(source, _is_root)
    if root is None:
        expected = "Train/subject_<number>.pkl and atlas.pkl"
        absent = Problem(str(source), "no images of IXI", expected, f"unpack IXI_data; {_WHERE}")
        return Conversion(NAME, source, problems=(absent, *archive_problems(source)))
    found = _Found(root)
    variant = options.variant or "all"
    labels = LABELS if variant == "all" else PAPER_LABELS
    training, validation, test = (found.names(part) for part in COUNTS)
    return Conversion(
        name=NAME,
        source=source,
        cases=tuple(_case(name, path, name in test, labels) for name, path in found.files.items()),
        modality=("T1",),
        labels=labels,
        pairing="atlas",
        atlas=ATLAS,
        training_pairs=_atlas_onto(training),
        validation_pairs=_atlas_onto(validation),
        test_pairs=_atlas_onto(test),
        description=f"IXI, TransMorph's release: {CATALOGUE['ixi'].variants[variant]}",
        reference="Chen et al., Medical Image Analysis 82, 2022, 102615; brain-development.org",
        problems=tuple(found.problems),
        missing=(*found.missing, *(archive_problems(source) if found.missing else ())),
        notes=(_pairs_note(len(training), len(validation), len(test)),),
    )


def _pairs_note(training: int, validation: int, test: int) -> str:
    return (
        f"{training} training, {validation} validation and {test} test pairs: the atlas (moving) "
        "onto each subject (fixed)"
    )


def _is_root(folder: Path) -> bool:
    subjects = (path for part in COUNTS for path in (folder / part).glob("*.pkl"))
    return any(_SUBJECT.fullmatch(path.name) for path in subjects)


@dataclass
class _Found:
    """The published files, and what is wrong with them or missing.

    Attributes:
        root: Folder of Train, Val, Test and atlas.pkl.
        files: Case to pickle, the atlas first.
        parts: Case to Train, Val or Test.
        problems: What forbids the conversion.
        missing: What was published and is not there.
    """

    root: Path
    files: dict[str, Path] = field(default_factory=dict)
    parts: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    missing: list[Problem] = field(default_factory=list)

    def __post_init__(self) -> None:
        atlas = self.root / f"{ATLAS}.pkl"
        if atlas.is_file():
            self.files[ATLAS] = atlas
        else:
            # Nothing can be paired without it, so that no part of the data set is of use.
            self.problems.append(Problem(str(atlas), "no such file", "the atlas", _AGAIN))
        for part, count in COUNTS.items():
            self._look(part)
            present = len(self.names(part))
            if present < count:
                where = str(self.root / part)
                expected = f"{count} subjects"
                self.missing.append(Problem(where, f"{present} subjects", expected, _AGAIN))
            elif present > count:
                remedy = f"another edition, or files that do not belong there; {_WHERE}"
                problem = Problem(
                    str(self.root / part), f"{present} subjects", f"{count} subjects", remedy
                )
                self.problems.append(problem)
        self.problems += [p for path in self.files.values() if (p := _cut_off(path)) is not None]

    def names(self, part: str) -> list[str]:
        """The cases of Train, Val or Test, by number."""
        names = [name for name, other in self.parts.items() if other == part]
        return sorted(names, key=lambda name: int(name.rpartition("_")[2]))

    def _look(self, part: str) -> None:
        for path in sorted((self.root / part).glob("*")):
            match = _SUBJECT.fullmatch(path.name)
            if path.name.startswith("."):
                continue
            if match is None:
                remedy = "another edition, or a file that does not belong there: move it away"
                expected = "subject_<number>.pkl"
                self.problems.append(Problem(str(path), f"the name {path.name}", expected, remedy))
            elif match[1] in self.files:
                what = f"the same subject as {self.files[match[1]]}"
                remedy = "remove one of the two: what is tested must not be trained"
                self.problems.append(Problem(str(path), what, "each subject once", remedy))
            else:
                self.files[match[1]] = path
                self.parts[match[1]] = part


def _cut_off(path: Path) -> Problem | None:
    """Whether a pickle lacks its end; the rest is read when it is converted."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(-min(1, size), 2)
        end = file.read()
    if end == _STOP:
        return None
    found = f"{size} bytes without the end of a pickle: it is cut off"
    return Problem(str(path), found, "a complete pickle", _AGAIN)


def _case(name: str, path: Path, is_test: bool, labels: dict[str, int]) -> ConvertedCase:
    split: Split = "test" if is_test else "training"
    shape = {"shape_xyz": SHAPE_XYZ}
    image = Made(write_image_of, (path,), ".nii.gz", shape)
    kept = sorted(labels.values())
    label_map = Made(write_labels, (path,), ".nii.gz", {**shape, "kept": kept})
    return ConvertedCase(name, (image,), split, labels=label_map)


def _atlas_onto(names: list[str]) -> tuple[Pair, ...]:
    return tuple(Pair(name, ATLAS) for name in names)
