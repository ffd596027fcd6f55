"""Learn2Reg's data sets that autoreg reads as published: checked, and put among the raw data."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from autoreg.dataset_conversion.checks import (
    archive_problems,
    file_problems,
    find_root,
    grid_problems,
    off_grid_problems,
)
from autoreg.dataset_conversion.conversion import Conversion
from autoreg.io.dataset import RawDataset, scan_dataset
from autoreg.io.problems import Problem


@dataclass(frozen=True)
class Expected:
    """What a Learn2Reg data set was published with.

    Attributes:
        name: Of the converted data set.
        json_name: Its description.
        shape_xyz: Voxels along the file's first, second and third axis.
        images: Paths without ending that must be there; empty: those that the json lists.
        companions: Folders in which every training image has a file: labelsTr, masksTr, ...; the
            organisers may have kept those of validation images.
        origin: Where it is published.
    """

    name: str
    json_name: str
    shape_xyz: tuple[int, int, int]
    images: tuple[str, ...]
    companions: tuple[str, ...]
    origin: str

    def is_root(self, folder: Path) -> bool:
        """Whether a folder is the data set's: it has the json, or images of that name."""
        name = self.json_name.removesuffix("_dataset.json")
        return (folder / self.json_name).is_file() or any(folder.glob(f"imagesTr/{name}_*"))


def plan_in_place(source: Path, expected: Expected) -> Conversion:
    """Plan a data set that needs no conversion: all its files are used as they are.

    Args:
        source: Holds the json, or a folder with it.
        expected: What was published.
    """
    where = f"get it from {expected.origin}"
    root = find_root(source, expected.is_root)
    if root is None:
        absent = Problem(
            str(source), f"no {expected.json_name}", expected.json_name, f"unpack it; {where}"
        )
        return Conversion(expected.name, source, problems=(absent, *archive_problems(source)))
    if not (root / expected.json_name).is_file():
        found = "no such file; it says which images are training, validation and pairs"
        problem = Problem(str(root / expected.json_name), found, "the published file", where)
        return Conversion(expected.name, source, problems=(problem,))
    dataset, problems = scan_dataset(root)
    problems = (*problems, *_content_problems(root, dataset, expected, where))
    if problems:
        problems = (*problems, *archive_problems(source))
    notes = tuple(_notes(root, dataset, expected))
    return Conversion(expected.name, source, problems=problems, notes=notes, in_place=root)


def _content_problems(
    root: Path, dataset: RawDataset, expected: Expected, where: str
) -> Iterable[Problem]:
    cases = (*dataset.training, *dataset.test)
    damaged = file_problems(path for case in cases for path in case.files)
    bad = {problem.file for problem in damaged}
    yield from damaged
    whole = [case for case in cases if not {str(path) for path in case.files} & bad]
    edition = f"{expected.name} of Learn2Reg"
    yield from grid_problems([case.images[0] for case in whole], expected.shape_xyz, edition)
    maps = ((case.images[0], m) for case in whole for m in (case.labels, case.mask) if m)
    yield from off_grid_problems(maps)
    for stem in expected.images:
        if not any((root / stem).parent.glob(f"{Path(stem).name}.nii*")):
            file = f"{root / stem}.nii.gz"
            yield Problem(file, "no such file", "an image, as published", where)
    validation = {n for pair in dataset.validation_pairs or () for n in (pair.fixed, pair.moving)}
    for folder, name in _without_companion(root, dataset, expected):
        if name not in validation:
            what = f"one file in {folder} for each image"
            yield Problem(str(root / folder / name), "no such file", what, where)


def _without_companion(
    root: Path, dataset: RawDataset, expected: Expected
) -> Iterable[tuple[str, str]]:
    """(folder, case) for each training or validation case without a file there."""
    for folder in expected.companions:
        present = {path.name.partition(".")[0] for path in (root / folder).glob("*")}
        yield from ((folder, case.name) for case in dataset.training if case.name not in present)


def _notes(root: Path, dataset: RawDataset, expected: Expected) -> Iterable[str]:
    yield (
        "Learn2Reg's layout needs no conversion: training, prediction and evaluation read it in "
        "place"
    )
    absent = Counter(folder for folder, _ in _without_companion(root, dataset, expected))
    for folder, count in absent.items():
        yield f"{count} validation images have no file in {folder}"
