"""Displacement fields in files that ITK, ANTs and 3D Slicer read."""

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from autoreg.errors import DataError, GeometryError, UsageError
from autoreg.geometry.grid import Geometry
from autoreg.io.images import NIFTI_SUFFIXES, save_itk, set_itk_geometry
from autoreg.io.nibabel_images import load_nibabel, load_voxels


def write_displacement(path: Path, u_mm: NDArray[np.float32], geometry: Geometry) -> None:
    """Write a displacement field as an ITK vector image, completely or not at all.

    A point p of `geometry` goes to p + u(p). In NIfTI this is a 5-D file with the intent code
    1007 (vector) whose components are LPS, as ITK writes and expects them.

    Args:
        path: Ends in .nii.gz, .nii, .nrrd or .mha.
        u_mm: (D, H, W, 3), xyz LPS mm.
        geometry: The grid of the displacement.

    Raises:
        GeometryError: if the shapes do not fit.
        UsageError: if the file cannot be written.
    """
    if u_mm.shape != (*geometry.shape, 3):
        raise GeometryError(
            f"{path}: a displacement on a grid of {geometry.shape} has the shape "
            f"{(*geometry.shape, 3)}, found {u_mm.shape}"
        )
    if not np.isfinite(u_mm).all():
        raise UsageError(f"{path}: the displacement has values that are NaN or infinite")
    image = sitk.GetImageFromArray(np.ascontiguousarray(u_mm, dtype=np.float32), isVector=True)
    set_itk_geometry(image, geometry)
    save_itk(path, image)


def read_displacement(path: Path) -> tuple[NDArray[np.float32], Geometry]:
    """Read a displacement field written by `write_displacement`, ITK or ANTs.

    Args:
        path: An image of three components per voxel, xyz LPS mm.

    Returns:
        (D, H, W, 3) float32 and the grid.

    Raises:
        DataError: if the file is missing, unreadable or no displacement field.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        found = (reader.GetDimension(), reader.GetNumberOfComponents())
        if found != (3, 3):
            raise DataError(
                f"{path}: {found[0]}-D with {found[1]} components per voxel; a displacement "
                "field is 3-D with 3 components (LPS mm)"
            )
        u_mm = _vectors(reader, path).astype(np.float32, copy=False)
    except RuntimeError as error:
        raise DataError(f"{path}: cannot be read by SimpleITK: {error}") from error
    if not np.isfinite(u_mm).all():
        raise DataError(f"{path}: the displacement has values that are NaN or infinite")
    geometry = Geometry.from_itk(
        reader.GetSize(), reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection()
    )
    return u_mm, geometry


def _vectors(reader: sitk.ImageFileReader, path: Path) -> NDArray[Any]:
    """The (D, H, W, 3) numbers of the file."""
    if not path.name.lower().endswith(NIFTI_SUFFIXES):
        array: NDArray[Any] = sitk.GetArrayFromImage(reader.Execute())
        return array
    # ITK reads truncated NIfTI files without a word; nibabel refuses them.
    voxels = load_voxels(load_nibabel(path), path)
    return np.moveaxis(voxels.reshape(*reader.GetSize(), 3), (2, 1, 0), (0, 1, 2))
