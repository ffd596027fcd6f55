"""NIfTI files with ITK's header, written so that a full disk is noticed.

ITK's writer ignores that a disk is full: it leaves a file that is cut off and says nothing. The
header here is ITK's own, that of an image of one voxel whose sizes are then replaced; voxels go
through Python, which raises whatever the system says.
"""

import errno
import gzip
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from autoreg.errors import UsageError
from autoreg.io.compression import gzip_pieces, write_pieces
from autoreg.io.quiet import quiet_libraries

_HEADER_BYTES = 352  # of NIfTI-1 with its empty list of extensions: where ITK lets voxels begin
_FIRST_SIZE = 42  # dim[1] of NIfTI-1, the first of seven 16-bit numbers
_LARGEST_SIZE = 2**15 - 1


def write_nifti(path: Path, image: sitk.Image, *, noisy: bool = False) -> None:
    """Write an image, of one or several components per voxel, byte by byte as ITK does.

    Args:
        path: Ends in .nii or .nii.gz; is overwritten.
        image: Of two or three dimensions.
        noisy: Whether it holds numbers that hardly compress; see `gzip_pieces`.

    Raises:
        UsageError: if NIfTI cannot hold so large an image.
        OSError: if the disk is full or fails.
    """
    if max(image.GetSize()) > _LARGEST_SIZE:
        raise UsageError(
            f"{path}: NIfTI holds at most {_LARGEST_SIZE} voxels along an axis, found "
            f"{image.GetSize()}; write .nrrd or .mha"
        )
    pieces = _pieces(image, _header(path, image))
    if path.name.endswith(".gz"):
        gzip_pieces(path, pieces, 1 if noisy else _level(image), runs_only=noisy)
    else:
        write_pieces(path, pieces)


def _level(image: sitk.Image) -> int:
    """Fast for interpolated numbers, smaller files for label maps and stored images."""
    return 2 if sitk.GetArrayViewFromImage(image).dtype.kind == "f" else 4


def _header(path: Path, image: sitk.Image) -> bytes:
    """ITK's header for an image; `path` is used to write it to."""
    voxel = sitk.Image(
        [1] * image.GetDimension(), image.GetPixelID(), image.GetNumberOfComponentsPerPixel()
    )
    voxel.SetSpacing(image.GetSpacing())
    voxel.SetOrigin(image.GetOrigin())
    voxel.SetDirection(image.GetDirection())
    with quiet_libraries():
        sitk.WriteImage(voxel, str(path))
    opened = gzip.open(path) if path.name.endswith(".gz") else path.open("rb")
    try:
        with opened as file:
            header = bytearray(file.read(_HEADER_BYTES))
    except (EOFError, zlib.error):
        header = bytearray()
    if len(header) < _HEADER_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    struct.pack_into(f"<{image.GetDimension()}h", header, _FIRST_SIZE, *image.GetSize())
    return bytes(header)


def _pieces(image: sitk.Image, header: bytes) -> Iterator[memoryview | bytes]:
    """The header, then the components one after the other."""
    yield header
    array: NDArray[Any] = sitk.GetArrayViewFromImage(image)
    if image.GetNumberOfComponentsPerPixel() == 1:
        yield array.data.cast("B")
        return
    for component in np.moveaxis(array, -1, 0):
        yield np.ascontiguousarray(component).data.cast("B")
