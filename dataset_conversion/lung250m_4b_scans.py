"""What the headers of Lung250M-4B's scans tell: masks on other grids, landmarks outside, spacing.

The images of COPDgene and EMPIRE10 are prepared by the user with the published programs, which crop
them to the published masks: images that were not cropped show here.
"""

from collections.abc import Mapping
from pathlib import Path

from autoreg.dataset_conversion.file_errors import problem_of
from autoreg.dataset_conversion.pth_landmarks import LandmarkPairs, voxels_to_world
from autoreg.errors import AutoregError
from autoreg.geometry.grid import FloatArray, Geometry
from autoreg.io.images import read_geometry
from autoreg.io.problems import Problem

_SPACING_MM = 1.0
_SPACING_TOLERANCE_MM = 1e-3
_REMEDY = (
    "use the published image; those of COPDgene and EMPIRE10 are to be cropped by data_curation's "
    "programs"
)

# Number of the case and phase: 1 inhale, 2 exhale.
Scan = tuple[int, int]


def scan_problems(
    images: Mapping[Scan, Path], masks: Mapping[Scan, Path], landmarks: LandmarkPairs
) -> tuple[list[Problem], list[str]]:
    """Scans whose image, mask and landmarks do not belong together.

    Args:
        images: Complete files.
        masks: Complete files.
        landmarks: By the case's number.

    Returns:
        The problems, and notes for the user.
    """
    problems: list[Problem] = []
    other_spacing = []
    for scan, path in sorted(images.items()):
        grid = _geometry(path, problems)
        if grid is None:
            continue
        mask = _geometry(masks[scan], problems) if scan in masks else None
        difference = grid.difference(mask) if mask is not None else None
        if difference is not None:
            expected = f"the grid of its lung mask {masks[scan].name}"
            problems.append(Problem(str(path), difference, expected, _REMEDY))
        elif str(scan[0]) in landmarks:
            problems += _outside(path, grid, landmarks[str(scan[0])][scan[1] - 1])
        if max(abs(size - _SPACING_MM) for size in grid.spacing_mm) > _SPACING_TOLERANCE_MM:
            other_spacing.append(path.name)
    if not other_spacing:
        return problems, []
    note = (
        f"{len(other_spacing)} images, as {other_spacing[0]}, are not of {_SPACING_MM:g} mm: the "
        "published evaluation counts voxels, autoreg millimetres"
    )
    return problems, [note]


def _geometry(path: Path, problems: list[Problem]) -> Geometry | None:
    try:
        return read_geometry(path)
    except AutoregError as error:
        problems.append(problem_of(error, path, "a three-dimensional image", "download it again"))
        return None


def _outside(path: Path, grid: Geometry, points_xyz: FloatArray) -> list[Problem]:
    inside = grid.contains(voxels_to_world(points_xyz, grid))
    if inside.all():
        return []
    found = f"{int((~inside).sum())} of {len(inside)} landmarks lie outside of the image"
    return [Problem(str(path), found, "all landmarks inside", _REMEDY)]
