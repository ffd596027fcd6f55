"""Verification of a raw data set: every problem at once, each with file and remedy.

Different shapes, spacings, origins, directions and orientations of different cases are legal.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoreg.errors import AutoregError, DataError
from autoreg.geometry.grid import Geometry
from autoreg.geometry.volume import Kind
from autoreg.io.dataset import Case, RawDataset, landmarks_mm, pair_landmarks, scan_dataset
from autoreg.io.images import read_image
from autoreg.io.landmarks import malformed_lines
from autoreg.io.names import FCSV_SUFFIX, MARKUPS_SUFFIX
from autoreg.io.problems import Problem, report
from autoreg.parallel import choose_workers, map_cases
from autoreg.planning.sizes import largest_image_voxels

# Measured: 10.5 bytes per voxel with files of 8 and 16 bit; those of float64 take 7 more.
_BYTES_PER_VOXEL = 20
_SHOWN = 5
# Fewer along an axis is a picture or a stack of a few: nothing to register in three dimensions.
_FEWEST_VOXELS = 4


def require_valid(folder: Path, workers: int | None = None, progress: bool = False) -> RawDataset:
    """Read a raw data set and make sure that it can be planned, preprocessed and trained with.

    Args:
        folder: The data set's folder.
        workers: Number of processes; None: from processors, free memory and image size.
        progress: Whether to show a bar.

    Returns:
        The data set.

    Raises:
        DataError: listing all problems, of dataset.json, file names and contents alike.
    """
    dataset, problems = _verify(folder, workers, progress)
    if problems:
        raise DataError(report(str(folder), problems))
    return dataset


def verify(folder: Path, workers: int | None = None, progress: bool = False) -> tuple[Problem, ...]:
    """Every problem of a raw data set; arguments as in `require_valid`."""
    return _verify(folder, workers, progress)[1]


def _verify(
    folder: Path, workers: int | None, progress: bool
) -> tuple[RawDataset, tuple[Problem, ...]]:
    dataset, structural = scan_dataset(folder)
    problems = [*structural, *_check_amount(dataset)]
    listed = frozenset(dataset.labels.values())
    cases = (*dataset.training, *dataset.test)
    tasks = [(case.name, _Task(case, listed)) for case in cases]
    needed = _BYTES_PER_VOXEL * largest_image_voxels(cases)
    count = choose_workers(len(tasks), needed, workers)
    found = dict(map_cases(_check_case, tasks, workers=count, title="verifying", progress=progress))
    for case in cases:
        problems += found[case.name].problems
    counts = {path: n for result in found.values() for path, n in result.point_counts.items()}
    problems += _check_point_counts(dataset, counts)
    return dataset, tuple(dict.fromkeys(problems))


@dataclass(frozen=True)
class _Task:
    """One case to check; `label_values` is empty where dataset.json lists no labels."""

    case: Case
    label_values: frozenset[int]


@dataclass(frozen=True)
class _Result:
    problems: tuple[Problem, ...]
    point_counts: dict[Path, int]


def _check_amount(dataset: RawDataset) -> list[Problem]:
    """Are there enough cases and pairs to train with?"""
    where, cases = str(dataset.folder), len(dataset.training)
    if cases < 2:
        found = "no training case" if cases == 0 else "one training case"
        remedy = "add images to imagesTr (documentation/dataset_format.md)"
        return [Problem(where, found, "at least two training cases", remedy)]
    if dataset.training_pair_count > 0:
        return []
    expected = "at least one pair to train with"
    if dataset.training_pairs is None:
        left = len(dataset.pool)
        found = f"validation_pairs leave {left} cases, and training_pairs is absent"
        remedy = "list training_pairs, or name fewer cases in validation_pairs"
    else:
        found = f'no training pair (pairing is "{dataset.pairing}")'
        remedy = "list training_pairs, or name the cases of one subject <subject>_<visit>"
    return [Problem(where, found, expected, remedy)]


def _check_case(task: _Task) -> _Result:
    """Open every file of a case."""
    case, problems, counts = task.case, list[Problem](), dict[Path, int]()
    geometry = _check_images(case, problems)
    if case.labels is not None:
        labels = _load(case.labels, "label", geometry, case, problems)
        if labels is not None and task.label_values:
            _check_label_values(case.labels, labels, task.label_values, problems)
    if case.mask is not None:
        mask = _load(case.mask, "mask", geometry, case, problems)
        if mask is not None and not mask.any():
            remedy = "draw the mask, or remove the file: without it the whole image counts"
            problems.append(Problem(str(case.mask), "all voxels 0", "voxels inside", remedy))
    for file in case.landmark_files:
        if geometry is not None:
            points = _check_landmarks(case, file, geometry, problems)
            if points is not None:
                counts[file] = len(points)
    return _Result(tuple(problems), counts)


def _check_images(case: Case, problems: list[Problem]) -> Geometry | None:
    """Check each channel; the geometry is that of the first readable one."""
    geometry = None
    for path in case.images:
        try:
            volume = read_image([path], "intensity")
        except AutoregError as error:
            problems.append(_unreadable(path, error, "a three-dimensional scalar image"))
            continue
        problems += _check_extent(path, volume.geometry.shape)
        problems += _check_intensities(path, volume.single)
        if geometry is None:
            geometry = volume.geometry
        else:
            _compare(path, volume.geometry, geometry, "the case's first channel", problems)
    return geometry


def _check_extent(path: Path, shape: tuple[int, int, int]) -> list[Problem]:
    if min(shape) >= _FEWEST_VOXELS:
        return []
    found = f"{shape} voxels along (d, h, w), too thin for three-dimensional registration"
    expected = f"at least {_FEWEST_VOXELS} voxels along every axis"
    remedy = "join the slices of a body to one volume, or exclude the case: 2-D is not supported"
    return [Problem(str(path), found, expected, remedy)]


def _check_intensities(path: Path, array: NDArray[Any]) -> list[Problem]:
    finite = np.isfinite(array)
    if not finite.all():
        bad = int(array.size - np.count_nonzero(finite))
        first = tuple(int(i) for i in np.unravel_index(int(np.argmin(finite)), array.shape))
        found = f"{bad} of {array.size} voxels NaN or infinite, the first at (d, h, w) = {first}"
        return [Problem(str(path), found, "finite intensities", "repair or exclude the image")]
    lowest, highest = float(array.min()), float(array.max())
    if lowest == highest:
        found = "an empty image (all voxels 0)" if lowest == 0 else f"all voxels {lowest:g}"
        remedy = "export the image again, or exclude the case"
        return [Problem(str(path), found, "an image with contrast", remedy)]
    return []


def _load(
    path: Path,
    kind: Kind,
    geometry: Geometry | None,
    case: Case,
    problems: list[Problem],
) -> NDArray[Any] | None:
    """Read a label map or mask and compare its geometry with the image's."""
    try:
        volume = read_image([path], kind)
    except AutoregError as error:
        expected = "a label map of whole numbers" if kind == "label" else "a mask image"
        problems.append(_unreadable(path, error, expected))
        return None
    if geometry is not None:
        _compare(path, volume.geometry, geometry, f"the image {case.images[0].name}", problems)
    return volume.single


def _check_label_values(
    path: Path, labels: NDArray[Any], listed: frozenset[int], problems: list[Problem]
) -> None:
    unlisted = [int(v) for v in np.unique(labels) if v != 0 and int(v) not in listed]
    if unlisted:
        found = f"the unlisted {_some('value', 'values', unlisted)}"
        expected = f"0 and the {_some('value', 'values', sorted(listed))} of labels in dataset.json"
        remedy = "add the values to labels, or correct the label map"
        problems.append(Problem(str(path), found, expected, remedy))


def _check_landmarks(
    case: Case, file: Path, geometry: Geometry, problems: list[Problem]
) -> NDArray[np.float64] | None:
    try:
        points = landmarks_mm(case, file)
    except AutoregError as error:
        lines = malformed_lines(file, has_header=case.landmark_frame == "lps_mm")
        remedy = "correct or remove the line in both files of every pair"
        for number, text in lines:
            expected = "three numbers separated by commas"
            problems.append(Problem(f"{file}, line {number}", repr(text), expected, remedy))
        if not lines:
            header = "the header x,y,z and " if case.landmark_frame == "lps_mm" else ""
            is_slicers = file.name.lower().endswith((FCSV_SUFFIX, MARKUPS_SUFFIX))
            expected = "a point list of 3D Slicer" if is_slicers else f"{header}one point per line"
            problems.append(_unreadable(file, error, expected))
        return None
    outside = np.flatnonzero(~geometry.contains(points))
    if outside.size:
        index = np.round(geometry.to_index(points[outside[0]]), 1).tolist()
        found = (
            f"{outside.size} of {len(points)} points outside the image: "
            f"{_some('point', 'points', [int(i) + 1 for i in outside])}; the first at (d, h, w) = "
            f"{index}, where the image has {geometry.shape} voxels"
        )
        frame = "LPS mm" if case.landmark_frame == "lps_mm" else "voxels of this image"
        remedy = f"check the frame ({frame}; RAS differs in the sign of x and y) and the image"
        problems.append(Problem(str(file), found, "points inside the image", remedy))
    return points


def _check_point_counts(dataset: RawDataset, counts: dict[Path, int]) -> Iterable[Problem]:
    """Landmarks correspond line by line, so the files of a pair are equally long."""
    expected = "as many points in both files, line by line the same places"
    remedy = "remove the points that only one of the two files has"
    for fixed, moving in _pairs_with_landmarks(dataset):
        files = pair_landmarks(fixed, moving)
        if files is None:
            continue
        one, other = (counts.get(file) for file in files)
        if one is not None and other is not None and one != other:
            found = f"{one} points, but {other} in {files[1].name}, with which it is paired"
            yield Problem(str(files[0]), found, expected, remedy)


def _pairs_with_landmarks(dataset: RawDataset) -> Iterable[tuple[Case, Case]]:
    """Listed pairs; where any pair may be drawn, every case against the first with landmarks."""
    pairs = [*(dataset.training_pairs or ()), *(dataset.validation_pairs or ())]
    for pair in dict.fromkeys([*pairs, *dataset.test_pairs]):
        yield dataset.case(pair.fixed), dataset.case(pair.moving)
    if dataset.training_pairs is None:
        marked = [case for case in dataset.training if case.landmarks is not None]
        for case in marked[1:]:
            yield case, marked[0]


def _compare(
    path: Path, geometry: Geometry, reference: Geometry, name: str, problems: list[Problem]
) -> None:
    difference = reference.difference(geometry)
    if difference is not None:
        remedy = f"resample it to the grid of {name}, or correct its header"
        expected = f"the same grid as {name}"
        problems.append(Problem(str(path), difference, expected, remedy))


def _unreadable(path: Path, error: AutoregError, expected: str) -> Problem:
    """A reader's error as a problem; readers put their remedy after the last semicolon."""
    text = str(error).removeprefix(f"{path}: ").removeprefix(f"{path}, ")
    found, _, remedy = text.rpartition("; ")
    return Problem(str(path), found or text, expected, remedy if found else "repair the file")


def _some(one: str, many: str, values: list[int]) -> str:
    """Say which values: `value 3`, `values 3, 4` or `values 3, 4, ... (20 in all)`."""
    shown = ", ".join(map(str, values[:_SHOWN]))
    more = f", ... ({len(values)} in all)" if len(values) > _SHOWN else ""
    return f"{one if len(values) == 1 else many} {shown}{more}"
