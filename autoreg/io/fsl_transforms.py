"""FSL's transforms: flirt's matrices and the displacement fields of fnirt and convertwarp.

FSL counts millimetres from the first voxel along the file's axes; where these axes are
right-handed in RAS ("neurological") it counts the first one from its other end. What its files
mean therefore depends on both images.
"""

from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

from autoreg.errors import DataError, UsageError
from autoreg.geometry.grid import FloatArray, Geometry
from autoreg.geometry.transforms import Affine, DisplacementField, Transform
from autoreg.io.atomic import atomic_path, write_text_atomic
from autoreg.io.nibabel_images import load_nibabel, load_voxels

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_DISPLACEMENT_INTENT = 2006  # FSL_FNIRT_DISPLACEMENT_FIELD
_COEFFICIENT_INTENTS = (2007, 2008, 2009)


def index_to_fsl(geometry: Geometry) -> FloatArray:
    """From array indices (d, h, w) to FSL's millimetres (x, y, z), 4x4."""
    sizes, spacings = geometry.shape[::-1], geometry.spacing_mm[::-1]
    matrix = np.diag([*spacings, 1.0])
    # The reversed axis order is an odd permutation; from LPS to RAS no hand changes.
    if -np.linalg.det(geometry.index_to_world[:3, :3]) > 0:
        matrix[0] *= -1
        matrix[0, 3] = spacings[0] * (sizes[0] - 1)
    return matrix[:, [2, 1, 0, 3]]


def read_flirt(path: Path, fixed: Geometry, moving: Geometry) -> Affine:
    """Read the matrix that flirt wrote for `-in moving -ref fixed`.

    Args:
        path: 4x4 numbers as text, from FSL's millimetres of the moving image to the fixed one's.
        fixed: Grid of the fixed image.
        moving: Grid of the moving image.

    Returns:
        The map from points of the fixed image to points of the moving image.

    Raises:
        DataError: if the file is missing or holds no invertible 4x4 matrix.
    """
    try:
        matrix = np.loadtxt(path, dtype=np.float64)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no matrix of flirt, 4 lines of 4 numbers ({error})") from error
    usable = matrix.shape == (4, 4) and bool(np.isfinite(matrix).all())
    usable = usable and np.allclose(matrix[3], (0, 0, 0, 1), atol=1e-6)
    if not usable or abs(np.linalg.det(matrix[:3, :3])) < 1e-12:
        raise DataError(
            f"{path}: no matrix of flirt, expected an invertible 4x4 one with the last line 0 0 0 1"
        )
    to_moving = moving.index_to_world @ np.linalg.inv(index_to_fsl(moving))
    whole = to_moving @ np.linalg.inv(matrix) @ index_to_fsl(fixed) @ fixed.world_to_index
    whole[3] = (0, 0, 0, 1)
    return Affine(whole)


def write_flirt(path: Path, affine: Affine, fixed: Geometry, moving: Geometry) -> None:
    """Write an affine map as flirt does; see `read_flirt`."""
    to_moving = index_to_fsl(moving) @ moving.world_to_index
    from_fixed = fixed.index_to_world @ np.linalg.inv(index_to_fsl(fixed))
    matrix = np.linalg.inv(to_moving @ affine.matrix @ from_fixed)
    lines = ["  ".join(f"{value:.12g}" for value in row) for row in matrix]
    write_text_atomic(path, "\n".join(lines) + "\n")


def read_fsl_warp(
    path: Path, fixed: Geometry, moving: Geometry, *, absolute: bool
) -> tuple[Transform, ...]:
    """Read a displacement field of FSL (fnirt --fout, convertwarp).

    Args:
        path: NIfTI (X, Y, Z, 3) on the fixed image's grid, FSL's millimetres.
        fixed: Grid of the fixed image.
        moving: Grid of the moving image.
        absolute: Whether it holds points of the moving image instead of displacements.

    Returns:
        The displacement in the world of the fixed image, then the map that makes it a point of
        the moving image.

    Raises:
        DataError: if the file cannot be read or does not fit the fixed image.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    image = load_nibabel(path)
    intent = int(image.header["intent_code"]) if "intent_code" in image.header else 0
    if intent in _COEFFICIENT_INTENTS:
        raise DataError(
            f"{path}: holds coefficients of fnirt, expected a field; make one with FSL: "
            "fnirtfileutils --withaff --in=COEFFICIENTS --out=FIELD"
        )
    array = load_voxels(image, path)
    expected = (*fixed.shape[::-1], 3)
    if array.shape != expected or array.dtype.kind not in "iuf":
        raise DataError(f"{path}: {array.dtype} of {array.shape}, expected numbers of {expected}")
    vectors = np.transpose(array, (2, 1, 0, 3)).astype(np.float64)
    if not np.isfinite(vectors).all():
        raise DataError(f"{path}: the displacement has values that are NaN or infinite")
    to_fsl = index_to_fsl(fixed)
    if absolute:
        vectors -= _points(to_fsl, fixed)
    to_index = np.linalg.inv(to_fsl[:3, :3])
    u_vox = np.einsum("ax,dhwx->adhw", to_index, vectors).astype(np.float32)
    to_moving = moving.index_to_world @ np.linalg.inv(index_to_fsl(moving))
    return DisplacementField(u_vox, fixed), Affine(to_moving @ to_fsl @ fixed.world_to_index)


def write_fsl_warp(
    path: Path,
    index_moving: NDArray[np.float64],
    fixed: Geometry,
    moving: Geometry,
    *,
    absolute: bool,
) -> None:
    """Write a displacement field as FSL reads it (applywarp), completely or not at all.

    Args:
        path: Ends in .nii.gz or .nii.
        index_moving: (D, H, W, 3), the array index (d, h, w) in the moving image that corresponds
            to each voxel of the fixed image.
        fixed: Grid of the fixed image.
        moving: Grid of the moving image.
        absolute: Whether to write points of the moving image instead of displacements.

    Raises:
        UsageError: if the file cannot be written.
    """
    if not path.name.endswith((".nii.gz", ".nii")):
        raise UsageError(f"{path}: FSL's displacement fields are written as .nii.gz or .nii")
    to_fsl = index_to_fsl(moving)
    vectors = np.einsum("xa,dhwa->dhwx", to_fsl[:3, :3], index_moving) + to_fsl[:3, 3]
    if not absolute:
        vectors -= _points(index_to_fsl(fixed), fixed)
    array = np.ascontiguousarray(np.transpose(vectors, (2, 1, 0, 3)), dtype=np.float32)
    image = nibabel.Nifti1Image(array, _LPS_TO_RAS @ fixed.index_to_world[:, [2, 1, 0, 3]])
    image.header["intent_code"] = _DISPLACEMENT_INTENT
    image.header.set_zooms((*fixed.spacing_mm[::-1], 1.0))
    image.header.set_xyzt_units("mm")
    with atomic_path(path) as temporary:
        nibabel.save(image, temporary)


def _points(index_to_point: FloatArray, geometry: Geometry) -> NDArray[np.float64]:
    """(D, H, W, 3) of all voxels."""
    axes = [np.arange(n, dtype=np.float64) for n in geometry.shape]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    points: NDArray[np.float64] = np.einsum("xa,dhwa->dhwx", index_to_point[:3, :3], index)
    return points + index_to_point[:3, 3]
