"""Images, label maps and masks in files: whatever SimpleITK or nibabel reads.

SimpleITK decides where an image lies; `nibabel_images` steps in where it cannot read a file.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import DTypeLike, NDArray

from autoreg.errors import DataError, GeometryError, UsageError
from autoreg.geometry.grid import Geometry
from autoreg.geometry.volume import Kind, Volume
from autoreg.io.atomic import atomic_path, unwritten
from autoreg.io.nibabel_images import (
    last_line,
    load_nibabel,
    nibabel_array,
    nibabel_geometry,
    require_three_axes,
)
from autoreg.io.nifti_writer import write_nifti
from autoreg.io.quiet import quiet_libraries
from autoreg.io.read_back import holds_image

# Formats of one file each: an image of two files cannot appear completely or not at all.
WRITTEN_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
NIFTI_SUFFIXES = (".nii.gz", ".nii")


def read_image(paths: Sequence[Path], kind: Kind, *, exact: bool = False) -> Volume:
    """Read an image; several files are the channels of one image.

    Args:
        paths: One file per channel; label maps and masks have one.
        kind: "intensity" gives float32. "label" gives int32 and accepts whole numbers stored as
            floating-point ones. "mask" gives bool: everything but 0 is inside.
        exact: With "label": integers keep the file's type, so that none is too large.

    Returns:
        The volume.

    Raises:
        DataError: if a file is missing, unreadable, not three-dimensional, not scalar, has no
            whole numbers where labels are expected, or if the channels differ in geometry.
    """
    channels = [_read_scalar(path) for path in paths]
    geometry = channels[0][1]
    for path, (_, other) in zip(paths, channels, strict=True):
        difference = geometry.difference(other)
        if difference is not None:
            raise DataError(
                f"{path}: not on the grid of {paths[0]}, the first channel of the same image: "
                f"{difference}; resample it"
            )
    arrays = [
        _converted(array, kind, path, exact=exact)
        for path, (array, _) in zip(paths, channels, strict=True)
    ]
    return Volume(np.stack(arrays), geometry, kind)


def read_on_grid(
    paths: Sequence[Path], kind: Kind, grid: Geometry, owner: str = "its image"
) -> Volume:
    """Read an image that must lie on a grid.

    Args:
        paths: As for `read_image`.
        kind: As for `read_image`.
        grid: For a label map, its image's.
        owner: Whose grid that is, for the message.

    Raises:
        DataError: as `read_image`, or if the image lies elsewhere.
    """
    volume = read_image(paths, kind)
    require_grid(paths[0], volume.geometry, grid, owner)
    return volume


def require_grid(path: Path, found: Geometry, grid: Geometry, owner: str) -> None:
    """Refuse a file that lies elsewhere.

    Raises:
        DataError: saying in what it differs.
    """
    difference = grid.difference(found)
    if difference is not None:
        raise DataError(
            f"{path}: lies elsewhere than {owner}: {difference} ({owner} first); resample it to "
            "that grid"
        )


def read_geometry(path: Path) -> Geometry:
    """Read where an image lies from its header alone.

    Raises:
        DataError: as `read_image`, as far as the header tells.
    """
    try:
        return _itk_header(path)[1]
    except RuntimeError as error:
        return nibabel_geometry(load_nibabel(path, error), path)


def write_image(path: Path, volume: Volume, dtype: DTypeLike | None = None) -> None:
    """Write a volume of one channel, completely or not at all.

    Args:
        path: Ends in .nii.gz, .nii, .nrrd or .mha.
        volume: One channel.
        dtype: Number type in the file; real numbers are rounded and clamped for an integer type.
            None keeps the array's (masks become uint8).

    Raises:
        UsageError: if the volume has several channels or the file cannot be written.
    """
    if volume.array.shape[0] != 1:
        raise UsageError(
            f"{path}: {volume.array.shape[0]} channels; write each channel to a file of its own"
        )
    save_itk(path, to_sitk(with_type(volume, None if dtype is None else np.dtype(dtype))))


def save_itk(path: Path, image: sitk.Image, *, noisy: bool = False) -> None:
    """Write a SimpleITK image, completely or not at all.

    ITK notices a full disk neither in NIfTI, which is therefore written by `write_nifti`, nor
    always in the other formats, which are therefore read back.

    Args:
        path: Ends in one of `WRITTEN_SUFFIXES`.
        image: The image.
        noisy: See `write_nifti`.

    Raises:
        UsageError: if the suffix is none of `WRITTEN_SUFFIXES` or the file cannot be written.
    """
    if not path.name.endswith(WRITTEN_SUFFIXES):
        raise UsageError(f"{path}: images are written as {', '.join(WRITTEN_SUFFIXES)}")
    with atomic_path(path) as temporary:
        try:
            if path.name.endswith(NIFTI_SUFFIXES):
                write_nifti(temporary, image, noisy=noisy)
                return
            with quiet_libraries():
                sitk.WriteImage(image, str(temporary), useCompression=True)
        except RuntimeError as error:
            raise unwritten(path, last_line(error), temporary) from error
        if not holds_image(temporary, image):
            raise unwritten(path, "what was written could not be read back", temporary)


def with_type(volume: Volume, dtype: np.dtype[Any] | None) -> Volume:
    """The volume in another number type; real numbers are rounded and clamped for integers."""
    array = volume.array
    if dtype is None or array.dtype.kind == "b" or array.dtype == dtype:
        return volume
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if array.dtype.kind == "f" and dtype.itemsize >= 4:
            array = array.astype(np.float64)  # float32 holds no limit of 32 bits
        array = np.clip(np.rint(array), limits.min, limits.max)
    return Volume(array.astype(dtype), volume.geometry, volume.kind)


def to_sitk(volume: Volume) -> sitk.Image:
    """A volume as a SimpleITK image; several channels become a vector image, masks uint8."""
    array = volume.array.astype(np.uint8) if volume.kind == "mask" else volume.array
    if array.shape[0] == 1:
        image = sitk.GetImageFromArray(array[0])
    else:
        image = sitk.GetImageFromArray(np.moveaxis(array, 0, -1), isVector=True)
    set_itk_geometry(image, volume.geometry)
    return image


def set_itk_geometry(image: sitk.Image, geometry: Geometry) -> None:
    """Give a SimpleITK image its spacing, origin and direction."""
    _, spacing, origin, direction = geometry.to_itk()
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(direction)


def from_sitk(
    image: sitk.Image, kind: Kind, name: str = "SimpleITK image", *, exact: bool = False
) -> Volume:
    """A three-dimensional SimpleITK image as a volume; vector components become channels.

    Args:
        image: The image.
        kind: As for `read_image`.
        name: What it is, in messages: its file.
        exact: As for `read_image`.

    Raises:
        DataError: if the image is not three-dimensional or its numbers do not suit `kind`.
    """
    if image.GetDimension() != 3:
        raise DataError(f"{name}: of {image.GetDimension()} dimensions; expected 3")
    geometry = Geometry.from_itk(
        image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()
    )
    array = sitk.GetArrayFromImage(image)
    channels = np.moveaxis(array, -1, 0) if array.ndim == 4 else array[None]
    converted = [_converted(c, kind, Path(name), exact=exact) for c in channels]
    return Volume(np.stack(converted), geometry, kind)


def _read_scalar(path: Path) -> tuple[NDArray[Any], Geometry]:
    """The (D, H, W) array as stored, and its geometry."""
    try:
        reader, geometry = _itk_header(path)
        if path.name.lower().endswith(NIFTI_SUFFIXES):
            # ITK fills what is missing of a truncated NIfTI file and says nothing; nibabel refuses.
            return nibabel_array(load_nibabel(path), path), geometry
        with quiet_libraries():
            array = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        image = load_nibabel(path, error)
        return nibabel_array(image, path), nibabel_geometry(image, path)
    return array.reshape(geometry.shape), geometry


def _itk_header(path: Path) -> tuple[sitk.ImageFileReader, Geometry]:
    """A reader that has seen the header, and the geometry; RuntimeError if ITK cannot read it."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    with quiet_libraries():
        reader.ReadImageInformation()
    _require_scalar_volume(reader, path)
    axes = reader.GetDimension()
    direction = np.reshape(reader.GetDirection(), (axes, axes))[:3, :3]
    size, spacing, origin = reader.GetSize(), reader.GetSpacing(), reader.GetOrigin()
    return reader, _geometry(size, spacing, origin, direction, path)


def _require_scalar_volume(reader: sitk.ImageFileReader, path: Path) -> None:
    size = tuple(int(n) for n in reader.GetSize())
    require_three_axes(size, path)
    components = reader.GetNumberOfComponents()
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    if components != 1 or "complex" in kind or "vector" in kind:
        raise DataError(
            f"{path}: {components} components per voxel ({kind}), expected one number; "
            "write each channel to a file of its own"
        )


def _geometry(
    size: Sequence[int],
    spacing: Sequence[float],
    origin: Sequence[float],
    direction: NDArray[np.float64],
    path: Path,
) -> Geometry:
    try:
        return Geometry.from_itk(size[:3], spacing[:3], origin[:3], list(direction.ravel()))
    except GeometryError as error:
        raise DataError(f"{path}: {error}; correct the header") from error


def _converted(array: NDArray[Any], kind: Kind, path: Path, *, exact: bool = False) -> NDArray[Any]:
    if array.dtype.kind == "c":
        raise DataError(f"{path}: complex numbers; expected real ones")
    if kind == "intensity":
        return array.astype(np.float32, copy=False)
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise DataError(f"{path}: {int(np.isnan(array).sum())} voxels of this {kind} are NaN")
    if kind == "mask":
        inside: NDArray[np.bool_] = array != 0
        return inside
    if exact and array.dtype.kind in "iu":
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    return _whole_numbers(array, path)


def _whole_numbers(array: NDArray[Any], path: Path) -> NDArray[np.int32]:
    limits = np.iinfo(np.int32)
    if array.min() < limits.min or array.max() > limits.max:
        raise DataError(f"{path}: labels from {array.min()} to {array.max()}; expected 32 bit")
    labels = array.astype(np.int32)
    wrong = labels != array
    if wrong.any():
        raise DataError(
            f"{path}: {int(wrong.sum())} voxels of this label map are not whole numbers, for "
            f"example {float(array[wrong][0]):.6g}; a label map holds integers (was it "
            "interpolated linearly?)"
        )
    return labels
