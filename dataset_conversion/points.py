"""Landmarks from how they were published to csv files in LPS millimetres."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autoreg.dataset_conversion.conversion import PointFrame
from autoreg.errors import DataError
from autoreg.geometry.grid import FloatArray, Geometry
from autoreg.io.images import read_geometry
from autoreg.io.landmarks import read_landmarks, read_voxel_landmarks, write_landmarks

_RAS_TO_LPS = np.array([-1.0, -1.0, 1.0])
_CSV_SUFFIX = ".csv"


def has_frame(path: Path) -> bool:
    """Whether a point file says by itself where its points lie.

    The lists of 3D Slicer do, and so do csv files with the header `x,y,z`, which stands for LPS
    millimetres here; csv files that begin with numbers do not.
    """
    if not path.name.lower().endswith(_CSV_SUFFIX):
        return True
    try:
        with path.open(encoding="utf-8-sig") as file:
            first = file.readline()
    except (OSError, UnicodeDecodeError):
        return True  # read_landmarks says what is wrong
    try:
        _ = [float(cell) for cell in first.split(",")]
    except ValueError:
        return True
    return False


def points_to_csv(target: Path, inputs: Sequence[Path], frame: PointFrame | None = None) -> None:
    """Write one case's points as csv with the header x,y,z, LPS millimetres.

    Args:
        target: The csv file.
        inputs: The points, and the image that voxel indices belong to.
        frame: Of a csv file without a header; None: there is a header, or it is a Slicer list.

    Raises:
        DataError: if a file cannot be read.
    """
    points, image = inputs
    if has_frame(points):
        write_landmarks(target, read_landmarks(points))
    elif frame is None:
        raise DataError(f"{points}: has no header x,y,z; say with --landmark-frame what it holds")
    elif frame == "voxels":
        write_landmarks(target, read_voxel_landmarks(points, read_geometry(image)))
    else:
        numbers = _plain_numbers(points)
        write_landmarks(target, numbers * _RAS_TO_LPS if frame == "ras_mm" else numbers)


def _plain_numbers(path: Path) -> FloatArray:
    """Three numbers per line as they stand: indices of a grid that is the world's own."""
    identity = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    world = Geometry.from_itk((2, 2, 2), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), identity)
    return read_voxel_landmarks(path, world)
