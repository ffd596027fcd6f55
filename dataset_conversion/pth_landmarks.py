"""Landmarks in files of torch.save: the `lms_validation.pth` of Lung250M-4B."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from autoreg.errors import DataError
from autoreg.geometry.grid import FloatArray, Geometry
from autoreg.io.images import read_geometry
from autoreg.io.landmarks import write_landmarks
from autoreg.io.weights import read_torch_file

# The published programs normalise a coordinate p of an axis of N voxels to (p - N/2) / (N/2) and
# sample with torch's align_corners=False, so 0 is the first voxel's outer face, not its centre.
_CENTRE_OF_FIRST_VOXEL = 0.5

# By key, the points (N, 3) of the fixed and of the moving image: voxel indices (x, y, z) along the
# axes of its image's file, 0 being the centre of the first voxel.
LandmarkPairs = dict[str, tuple[FloatArray, FloatArray]]


def read_landmark_pairs(path: Path) -> LandmarkPairs:
    """Corresponding landmarks of several pairs, from a dictionary of tensors (N, 6).

    Args:
        path: Written by torch.save; only tensors and plain values are read, nothing is run.

    Returns:
        The landmarks by the dictionary's keys.

    Raises:
        DataError: if an entry is no table of finite numbers with six columns.
        CheckpointError: if the file is missing, damaged, or holds anything but plain values.
    """
    content = read_torch_file(path, "fetch the published file again")
    if not isinstance(content, dict) or not content:
        raise DataError(f"{path}: {type(content).__name__}, expected a dictionary of landmarks")
    pairs: LandmarkPairs = {}
    for key, table in content.items():
        if not isinstance(table, torch.Tensor) or table.ndim != 2 or table.shape[1] != 6:
            found = tuple(table.shape) if isinstance(table, torch.Tensor) else type(table).__name__
            raise DataError(f'{path}: entry "{key}": {found}, expected a tensor (N, 6) of points')
        points = table.to(torch.float64).numpy() - _CENTRE_OF_FIRST_VOXEL
        if len(points) == 0 or not np.isfinite(points).all():
            raise DataError(f'{path}: entry "{key}": no points or not finite ones')
        pairs[str(key)] = (points[:, :3], points[:, 3:])
    return pairs


def voxels_to_world(points_xyz: FloatArray, geometry: Geometry) -> FloatArray:
    """World points (N, 3), LPS mm, of voxel indices along the axes of an image's file.

    Args:
        points_xyz: (N, 3); the file's first axis first, which is the array's last.
        geometry: Of the image.
    """
    return geometry.to_world(points_xyz[:, ::-1])


def write_points(target: Path, inputs: Sequence[Path], key: str, moving: bool) -> None:
    """Write one image's landmarks as csv with the header x,y,z, LPS mm.

    Args:
        target: The csv file.
        inputs: The image, and the file of landmarks.
        key: Of the pair.
        moving: Whether the image is the pair's moving one.

    Raises:
        AutoregError: if a file cannot be read.
    """
    image, landmarks = inputs
    points = read_landmark_pairs(landmarks)[key][1 if moving else 0]
    write_landmarks(target, voxels_to_world(points, read_geometry(image)))
