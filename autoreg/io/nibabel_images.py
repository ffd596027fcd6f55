"""The files that SimpleITK cannot read, or does not read carefully enough, read by nibabel.

nibabel's world is RAS; it is turned into LPS here and nowhere else.
"""

import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, SpatialImage
from numpy.typing import NDArray

from autoreg.errors import DataError
from autoreg.geometry.grid import Geometry

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_NIBABEL_ERRORS = (
    ImageFileError,
    HeaderDataError,
    OSError,
    EOFError,
    ValueError,
    zlib.error,
)
_SHEAR = 1e-3


def load_nibabel(path: Path, itk_error: RuntimeError | None = None) -> Any:  # noqa: ANN401 - untyped
    """Open an image with nibabel.

    Args:
        path: The file.
        itk_error: What SimpleITK said, if it was asked before.

    Raises:
        DataError: if nibabel cannot read the header.
    """
    try:
        image = nibabel.load(path)
    except _NIBABEL_ERRORS as error:
        itk = f"; SimpleITK says: {last_line(itk_error)}" if itk_error else ""
        raise DataError(
            f"{path}: cannot be read as an image ({error}{itk}); replace it by an intact copy"
        ) from error
    if not isinstance(image, SpatialImage):
        raise DataError(f"{path}: holds no image ({type(image).__name__})")
    return image


def nibabel_geometry(image: Any, path: Path) -> Geometry:  # noqa: ANN401
    """The geometry that the header describes.

    Raises:
        DataError: if the image is not 3-D or its affine is singular or shears.
    """
    size = tuple(int(n) for n in image.shape)
    require_three_axes(size, path)
    matrix = _RAS_TO_LPS @ image.affine
    columns = matrix[:3, :3]
    spacing = np.linalg.norm(columns, axis=0)
    if not np.isfinite(matrix).all() or spacing.min() <= 0:
        raise DataError(f"{path}: its header's affine is singular: {image.affine.tolist()}")
    cosines = columns / spacing
    if np.abs(cosines.T @ cosines - np.eye(3)).max() > _SHEAR:
        raise DataError(
            f"{path}: its voxel axes are not perpendicular (the header's affine shears: "
            f"{np.round(image.affine[:3, :3], 4).tolist()}), which ITK cannot represent; "
            "resample it to a rectangular grid"
        )
    index_to_world = matrix[:, [2, 1, 0, 3]]  # the array's axes are the file's in reverse
    return Geometry((size[2], size[1], size[0]), index_to_world)


def load_voxels(image: Any, path: Path) -> NDArray[Any]:  # noqa: ANN401
    """All numbers of an image that `load_nibabel` opened, in the file's axis order.

    Raises:
        DataError: if the file is damaged or truncated.
    """
    try:
        voxels: NDArray[Any] = np.asanyarray(image.dataobj)
    except _NIBABEL_ERRORS as error:
        raise DataError(
            f"{path}: its voxels cannot be read ({error}); replace it by an intact copy"
        ) from error
    return voxels


def nibabel_array(image: Any, path: Path) -> NDArray[Any]:  # noqa: ANN401
    """The numbers of a scalar volume as an array (D, H, W).

    Raises:
        DataError: if the file is damaged or its voxels are not real numbers.
    """
    voxels = load_voxels(image, path)
    if voxels.dtype.kind not in "iufb":
        raise DataError(f"{path}: voxels of type {voxels.dtype}, expected one real number each")
    return np.ascontiguousarray(voxels.reshape(voxels.shape[:3]).T)


def require_three_axes(size: tuple[int, ...], path: Path) -> None:
    """Refuse sizes (in file order) that are not those of one volume.

    Raises:
        DataError: if there are fewer than three axes, or a fourth one longer than 1.
    """
    if len(size) < 3:
        raise DataError(f"{path}: a {len(size)}-D image of {size}, expected 3-D")
    if any(n != 1 for n in size[3:]):
        raise DataError(
            f"{path}: a {len(size)}-D image of {size}, expected 3-D; "
            "write each volume to a file of its own"
        )


def last_line(error: Exception) -> str:
    """The telling line of SimpleITK's long messages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
