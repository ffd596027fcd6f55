"""Displacement fields in files that ITK, ANTs and 3D Slicer read."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from autoreg.errors import DataError, GeometryError, UsageError
from autoreg.geometry.grid import Geometry
from autoreg.geometry.transforms import DisplacementField
from autoreg.io.images import NIFTI_SUFFIXES, save_itk, set_itk_geometry
from autoreg.io.nibabel_images import last_line, load_nibabel, load_voxels, nibabel_geometry
from autoreg.io.planar import lifted_geometry, set_planar_geometry
from autoreg.io.quiet import quiet_libraries

Dimension = Literal[2, 3]

# NIfTI's "displacement vector", which 3D Slicer writes: ITK keeps its components in RAS.
_INTENT_RAS = 1006


def write_displacement(
    path: Path, u_mm: NDArray[np.float32], geometry: Geometry, dimension: Dimension = 3
) -> None:
    """Write a displacement field as an ITK vector image, completely or not at all.

    A point p of `geometry` goes to p + u(p). In NIfTI this is a 5-D file with the intent code
    1007 (vector) whose components are LPS, as ITK writes and expects them.

    Args:
        path: Ends in .nii.gz, .nii, .nrrd or .mha.
        u_mm: (D, H, W, 3), xyz LPS mm.
        geometry: The grid of the displacement.
        dimension: 2 writes a grid (1, H, W) as the field of a two-dimensional image.

    Raises:
        GeometryError: if the shapes do not fit, or the field of a two-dimensional image leaves
            its plane.
        UsageError: if the file cannot be written.
    """
    if not np.isfinite(u_mm).all():
        raise UsageError(f"{path}: the displacement has values that are NaN or infinite")
    image = displacement_image(u_mm.astype(np.float32, copy=False), geometry, dimension, str(path))
    save_itk(path, image, noisy=True)


def displacement_image(
    u_mm: NDArray[Any], geometry: Geometry, dimension: Dimension, name: str
) -> sitk.Image:
    """A displacement as SimpleITK's vector image, of the array's number type.

    Args:
        u_mm: (D, H, W, 3), xyz LPS mm.
        geometry: The grid of the displacement.
        dimension: 2 for the field of a two-dimensional image.
        name: What it is for, in messages.

    Raises:
        GeometryError: as `write_displacement`.
    """
    if u_mm.shape != (*geometry.shape, 3):
        raise GeometryError(
            f"{name}: a displacement on a grid of {geometry.shape} has the shape "
            f"{(*geometry.shape, 3)}, found {u_mm.shape}"
        )
    if dimension == 3:
        image = sitk.GetImageFromArray(np.ascontiguousarray(u_mm), isVector=True)
        set_itk_geometry(image, geometry)
        return image
    if u_mm[..., 2].any():
        raise GeometryError(
            f"{name}: the displacement of a two-dimensional image leaves its plane by up to "
            f"{np.abs(u_mm[..., 2]).max():.3g} mm"
        )
    image = sitk.GetImageFromArray(np.ascontiguousarray(u_mm[0, ..., :2]), isVector=True)
    set_planar_geometry(image, geometry, name)
    return image


def read_displacement(path: Path) -> tuple[NDArray[np.float32], Geometry]:
    """Read a displacement field written by `write_displacement`, ITK, ANTs or 3D Slicer.

    Args:
        path: An image of three components per voxel, xyz LPS mm; or, of a two-dimensional image,
            of two.

    Returns:
        (D, H, W, 3) float32 and the grid; of a two-dimensional image (1, H, W, 3), z being 0.

    Raises:
        DataError: if the file is missing, unreadable or no displacement field.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        with quiet_libraries():
            reader.ReadImageInformation()
        found = (int(reader.GetDimension()), int(reader.GetNumberOfComponents()))
        if found == (2, 3) and path.name.lower().endswith(NIFTI_SUFFIXES):
            return _single_layer(path)
        if found not in ((3, 3), (2, 2)):
            raise DataError(_no_displacement(path, found))
        u_mm = _vectors(reader, path).astype(np.float32, copy=False)
    except RuntimeError as error:
        raise DataError(f"{path}: cannot be read by SimpleITK: {last_line(error)}") from error
    if not np.isfinite(u_mm).all():
        raise DataError(f"{path}: the displacement has values that are NaN or infinite")
    grid = (reader.GetSize(), reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection())
    try:
        return u_mm, lifted_geometry(*grid) if reader.GetDimension() == 2 else Geometry.from_itk(
            *grid
        )
    except GeometryError as error:
        raise DataError(f"{path}: {error}; correct the header") from error


def displacement_dimension(path: Path) -> Dimension:
    """2 for the displacement of a two-dimensional image, else 3; from the header alone."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        with quiet_libraries():
            reader.ReadImageInformation()
    except RuntimeError as error:
        raise DataError(f"{path}: cannot be read by SimpleITK: {last_line(error)}") from error
    return 2 if reader.GetDimension() == reader.GetNumberOfComponents() == 2 else 3


def field_to_mm(field: DisplacementField) -> NDArray[np.float64]:
    """The displacement of a field at its nodes, (D, H, W, 3) xyz LPS mm."""
    matrix = field.geometry.index_to_world[:3, :3]
    return np.asarray(np.einsum("xa,adhw->dhwx", matrix, field.u_vox))


def _no_displacement(path: Path, found: tuple[int, int]) -> str:
    remedy = ""
    if found == (4, 1):
        remedy = (
            "; if it holds Learn2Reg or FSL displacements, convert it first: "
            "autoreg_convert_transform --from learn2reg (or fsl)"
        )
    return (
        f"{path}: {found[0]}-D with {found[1]} components per voxel; a displacement field is 3-D "
        f"with 3 components (LPS mm), or 2-D with 2{remedy}"
    )


def _single_layer(path: Path) -> tuple[NDArray[np.float32], Geometry]:
    """The displacement of a three-dimensional image of one layer in NIfTI, which ITK flattens."""
    image = load_nibabel(path)
    size = image.shape[:3]
    if image.shape != (*size, 1, 3):
        raise DataError(_no_displacement(path, (2, 3)))
    u_mm = load_voxels(image, path).reshape(*size, 3).transpose(2, 1, 0, 3).astype(np.float32)
    if int(image.header["intent_code"]) == _INTENT_RAS:
        u_mm *= np.array([-1, -1, 1], dtype=np.float32)
    if not np.isfinite(u_mm).all():
        raise DataError(f"{path}: the displacement has values that are NaN or infinite")
    layer = SimpleNamespace(shape=size, affine=image.affine)
    return np.ascontiguousarray(u_mm), nibabel_geometry(layer, path)


def _vectors(reader: sitk.ImageFileReader, path: Path) -> NDArray[Any]:
    """The (D, H, W, 3) numbers of the file."""
    dimension = int(reader.GetDimension())
    if path.name.lower().endswith(NIFTI_SUFFIXES):
        # ITK reads truncated NIfTI files without a word; nibabel refuses them.
        image = load_nibabel(path)
        array = load_voxels(image, path).reshape(*reader.GetSize(), dimension)
        axes = tuple(reversed(range(dimension)))
        array = np.moveaxis(array, axes, tuple(range(dimension)))
        if int(image.header["intent_code"]) == _INTENT_RAS:
            array = array * np.array([-1, -1, 1][:dimension], dtype=array.dtype)
    else:
        with quiet_libraries():
            array = sitk.GetArrayFromImage(reader.Execute())
    if array.ndim == 4:
        return array
    return np.concatenate([array, np.zeros_like(array[..., :1])], axis=-1)[None]
