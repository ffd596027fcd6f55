"""Learn2Reg's displacements: voxels, in files that do not know where they lie.

The point of the fixed image with the index i (along the file's axes x, y, z) corresponds to the
index i + u(i) of the moving image. Components are in the order of the file's axes.
"""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from autoreg.errors import DataError, UsageError
from autoreg.geometry.grid import Geometry
from autoreg.geometry.transforms import Affine, DisplacementField, Transform
from autoreg.io.atomic import atomic_path
from autoreg.io.nibabel_images import load_nibabel, load_voxels

LEARN2REG_SUFFIXES = (".nii.gz", ".npz")
# As the organisers' evaluators of 2020 and 2021 do.
_ZOOM_ORDER = 2


def read_learn2reg(path: Path, fixed: Geometry, moving: Geometry) -> tuple[Transform, ...]:
    """Read a displacement of the Learn2Reg challenges, in any of their forms.

    (X, Y, Z, 3) or (3, X, Y, Z), NIfTI or .npz with one array, at full resolution; or half of it
    (2020, 2021), with values in voxels of the full one, which is brought to the full resolution
    with splines of order 2 as the organisers' evaluation does.

    Args:
        path: Ends in .nii.gz, .nii or .npz.
        fixed: Grid of the fixed image.
        moving: Grid of the moving image.

    Returns:
        The displacement in the world of the fixed image, then the map from its indices to those
        of the moving image.

    Raises:
        DataError: if the file cannot be read or does not fit the fixed image.
    """
    array = _load(path)
    size = fixed.shape[::-1]
    half = tuple(n // 2 for n in size)
    if array.shape == (*size, 3):
        u_xyz = np.moveaxis(array, -1, 0)
    elif array.shape == (3, *size):
        u_xyz = array
    elif array.shape in ((3, *half), (*half, 3)) and all(n % 2 == 0 for n in size):
        u_xyz = _enlarged(array if array.shape[0] == 3 else np.moveaxis(array, -1, 0))
    else:
        raise DataError(
            f"{path}: an array of {array.shape}; for a fixed image of {size} voxels (x, y, z) "
            f"expected {(*size, 3)}, {(3, *size)}, or half the resolution {(3, *half)}"
        )
    if not np.isfinite(u_xyz).all():
        raise DataError(f"{path}: the displacement has values that are NaN or infinite")
    u_vox = u_xyz[::-1].transpose(0, 3, 2, 1).astype(np.float32)
    to_moving = Affine(moving.index_to_world @ fixed.world_to_index)
    return DisplacementField(u_vox, fixed), to_moving


def write_learn2reg(
    path: Path, u_vox: NDArray[np.float32], *, half_resolution: bool = False
) -> None:
    """Write a displacement as the Learn2Reg challenges want it, completely or not at all.

    Args:
        path: Ends in .nii.gz (float32, (X, Y, Z, 3), identity matrix in the header) or .npz (the
            same array).
        u_vox: (3, D, H, W), channels (d, h, w): the index in the moving image that corresponds to
            each voxel of the fixed image, minus its own.
        half_resolution: Write the form of 2020 and 2021: .npz, float16, (3, X/2, Y/2, Z/2).

    Raises:
        UsageError: if the file cannot be written in this form.
    """
    if not path.name.endswith(LEARN2REG_SUFFIXES):
        raise UsageError(f"{path}: Learn2Reg displacements are written as .nii.gz or .npz")
    u_xyz = u_vox.transpose(0, 3, 2, 1)[::-1].astype(np.float32)
    if half_resolution:
        _write_half(path, u_xyz)
        return
    array = np.ascontiguousarray(np.moveaxis(u_xyz, 0, -1))
    with atomic_path(path) as temporary:
        if path.suffix == ".npz":
            np.savez_compressed(temporary, array)
        else:
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), temporary)


def _write_half(path: Path, u_xyz: NDArray[np.float32]) -> None:
    if path.suffix != ".npz" or any(n % 2 for n in u_xyz.shape[1:]):
        raise UsageError(
            f"{path}: Learn2Reg's half resolution is an .npz file of an image with even sizes; "
            f"this one has {u_xyz.shape[1:]} voxels (x, y, z)"
        )
    small = [ndimage.zoom(component, 0.5, order=_ZOOM_ORDER) for component in u_xyz]
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, np.stack(small).astype(np.float16))


def _enlarged(u_xyz: NDArray[Any]) -> NDArray[np.float32]:
    full = u_xyz.astype(np.float32)
    return np.stack([ndimage.zoom(component, 2, order=_ZOOM_ORDER) for component in full])


def _load(path: Path) -> NDArray[Any]:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.suffix != ".npz":
        array = np.squeeze(load_voxels(load_nibabel(path), path))
        return _real(array, path)
    try:
        with np.load(path, allow_pickle=False) as stored:
            names = list(stored)
            if len(names) != 1:
                raise DataError(f"{path}: holds {len(names)} arrays ({names}), expected one")
            return _real(stored[names[0]], path)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); replace it by an intact copy"
        ) from error


def _real(array: NDArray[Any], path: Path) -> NDArray[Any]:
    if array.dtype.kind not in "iuf":
        raise DataError(f"{path}: numbers of type {array.dtype}, expected real ones")
    return array
