"""Images of either dimension, and the number type of their files: for commands on any image.

A two-dimensional image is held as one layer (see `planar`) and written as it came.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk

from autoreg.errors import DataError, GeometryError
from autoreg.geometry.grid import Geometry
from autoreg.geometry.volume import Kind, Volume
from autoreg.io.images import (
    NIFTI_SUFFIXES,
    from_sitk,
    read_geometry,
    read_image,
    require_grid,
    save_itk,
    to_sitk,
    with_type,
)
from autoreg.io.nibabel_images import last_line, load_nibabel, load_voxels
from autoreg.io.planar import lifted_geometry, require_planar
from autoreg.io.quiet import quiet_libraries

_TYPES = {
    sitk.sitkUInt8: "uint8",
    sitk.sitkInt8: "int8",
    sitk.sitkUInt16: "uint16",
    sitk.sitkInt16: "int16",
    sitk.sitkUInt32: "uint32",
    sitk.sitkInt32: "int32",
    sitk.sitkUInt64: "uint64",
    sitk.sitkInt64: "int64",
    sitk.sitkFloat32: "float32",
    sitk.sitkFloat64: "float64",
}


def read_either(path: Path, kind: Kind, *, exact: bool = False) -> tuple[Volume, Literal[2, 3]]:
    """Read a two- or three-dimensional image, and say which it is.

    Args:
        path: The file.
        kind: As for `read_image`.
        exact: As for `read_image`.

    Raises:
        DataError: as `read_image`.
    """
    reader = _planar_reader(path)
    if reader is None:
        return read_image([path], kind, exact=exact), 3
    try:
        image = _planar_image(reader, path)
    except RuntimeError as error:
        raise DataError(f"{path}: cannot be read by SimpleITK: {last_line(error)}") from error
    return from_sitk(sitk.JoinSeries([image]), kind, str(path), exact=exact), 2


def read_channels(paths: Sequence[Path], kind: Kind) -> tuple[Volume, Literal[2, 3]]:
    """Read a two- or three-dimensional image of one file per channel, and say which it is.

    Raises:
        DataError: as `read_image`, or if the channels are of several dimensions.
    """
    channels = [read_either(path, kind) for path in paths]
    first, dimension = channels[0]
    for path, (volume, other) in zip(paths, channels, strict=True):
        if other != dimension:
            raise DataError(f"{path}: a {other}-D image, but {paths[0]} is a {dimension}-D one")
        require_grid(path, volume.geometry, first.geometry, f"{paths[0]}, its first channel,")
    if len(channels) == 1:
        return first, dimension
    array = np.concatenate([volume.array for volume, _ in channels])
    return Volume(array, first.geometry, kind), dimension


def read_on_grid_either(path: Path, kind: Kind, grid: Geometry, owner: str = "its image") -> Volume:
    """Read a two- or three-dimensional image that must lie on a grid; as `read_on_grid`.

    Raises:
        DataError: as `read_on_grid`.
    """
    volume, _ = read_either(path, kind)
    require_grid(path, volume.geometry, grid, owner)
    return volume


def read_grid(path: Path) -> tuple[Geometry, Literal[2, 3]]:
    """Read from its header where a two- or three-dimensional image lies, and which it is.

    Raises:
        DataError: as `read_geometry`.
    """
    reader = _planar_reader(path)
    if reader is None:
        return read_geometry(path), 3
    grid = (reader.GetSize(), reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection())
    try:
        return lifted_geometry(*grid), 2
    except GeometryError as error:
        raise DataError(f"{path}: {error}; correct the header") from error


def write_either(
    path: Path, volume: Volume, dtype: np.dtype[Any] | None, dimension: Literal[2, 3]
) -> None:
    """Write a volume of one channel, completely or not at all.

    Args:
        path: As for `write_image`.
        volume: One channel.
        dtype: As for `write_image`.
        dimension: 2 writes a grid (1, H, W) as a two-dimensional image.

    Raises:
        GeometryError: if what is to be two-dimensional is not.
        UsageError: as `write_image`.
    """
    image = to_sitk(with_type(volume, dtype))
    if dimension == 2:
        require_planar(volume.geometry, str(path))
        image = image[:, :, 0]
    save_itk(path, image)


def stored_type(path: Path) -> np.dtype[Any] | None:
    """The number type of an image file; None if ITK cannot tell."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        with quiet_libraries():
            reader.ReadImageInformation()
    except RuntimeError:  # a format that only nibabel reads
        return None
    name = _TYPES.get(reader.GetPixelID())
    return None if name is None else np.dtype(name)


def stored_integer_type(path: Path) -> np.dtype[Any] | None:
    """The integer type of an image file; None if it holds real numbers, or ITK cannot tell."""
    found = stored_type(path)
    return found if found is not None and found.kind in "iu" else None


def _planar_reader(path: Path) -> sitk.ImageFileReader | None:
    """A reader that has seen the header of a scalar two-dimensional image; None for all others."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        with quiet_libraries():
            reader.ReadImageInformation()
    except RuntimeError:  # nibabel may read it, or knows what is wrong
        return None
    if reader.GetDimension() != 2:
        return None
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    if reader.GetNumberOfComponents() != 1 or "complex" in kind or "vector" in kind:
        raise DataError(
            f"{path}: {reader.GetNumberOfComponents()} components per pixel ({kind}), expected one "
            "number; write each channel to a file of its own"
        )
    return reader


def _planar_image(reader: sitk.ImageFileReader, path: Path) -> sitk.Image:
    if not path.name.lower().endswith(NIFTI_SUFFIXES):
        with quiet_libraries():
            return reader.Execute()
    # ITK fills what is missing of a truncated NIfTI file and says nothing; nibabel refuses.
    voxels = load_voxels(load_nibabel(path), path)
    image = sitk.GetImageFromArray(np.ascontiguousarray(voxels.reshape(reader.GetSize()).T))
    image.SetSpacing(reader.GetSpacing())
    image.SetOrigin(reader.GetOrigin())
    image.SetDirection(reader.GetDirection())
    return image
