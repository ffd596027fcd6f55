"""Analyze 7.5 images: NAME.hdr beside NAME.img or NAME.img.gz.

The header has no affine. The voxels are given in the file's own order (x, y, z), unscaled; what
direction that is, the data set must know.

References:
    Mayo Clinic, ANALYZE 7.5 file format.
"""

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nibabel.analyze import AnalyzeImage
from nibabel.filebasedimages import ImageFileError
from nibabel.fileholders import FileHolder
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from autoreg.dataset_conversion.checks import incomplete
from autoreg.errors import DataError
from autoreg.io.nibabel_images import load_voxels, require_three_axes

_NIFTI_MAGIC = (b"ni1\x00", b"n+1\x00")
_MAGIC_OFFSET = 344
_HEADER_ERRORS = (
    ImageFileError, HeaderDataError, WrapStructError, OSError, EOFError, ValueError, struct.error,
)  # fmt: skip


@dataclass(frozen=True)
class AnalyzeFile:
    """An Analyze image on disk whose header has been read.

    Attributes:
        header: NAME.hdr.
        voxels: NAME.img or NAME.img.gz.
        shape: Voxels along x, y, z.
        voxel_size_mm: Along x, y, z.
        image: nibabel's.
    """

    header: Path
    voxels: Path
    shape: tuple[int, int, int]
    voxel_size_mm: tuple[float, float, float]
    image: Any

    def read(self) -> NDArray[Any]:
        """The voxels (x, y, z) as stored.

        Raises:
            DataError: if they are cut off or damaged.
        """
        return load_voxels(self.image, self.voxels).reshape(self.shape)


def voxel_file(header: Path) -> Path:
    """The file that holds an image's voxels: NAME.img if it is there, else NAME.img.gz."""
    plain = header.with_suffix(".img")
    return plain if plain.is_file() else header.with_suffix(".img.gz")


def open_analyze(header: Path) -> AnalyzeFile:
    """Read the header of an Analyze image and see whether its voxels are all there.

    Args:
        header: NAME.hdr.

    Raises:
        DataError: if one of the two files is missing, cut off or damaged, if the header is none of
            Analyze or one of NIfTI, or if the image is not three-dimensional and scalar.
    """
    try:
        content = header.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{header}: no such file") from error
    except OSError as error:
        raise DataError(f"{header}: cannot be read ({error.strerror})") from error
    if content[_MAGIC_OFFSET : _MAGIC_OFFSET + 4] in _NIFTI_MAGIC:
        raise DataError(f"{header}: a NIfTI header; fetch the published Analyze image")
    voxels = voxel_file(header)
    files = {"header": FileHolder(str(header)), "image": FileHolder(str(voxels))}
    try:
        image = AnalyzeImage.from_file_map(files)
    except _HEADER_ERRORS as error:
        raise DataError(f"{header}: no Analyze header ({error}); fetch it again") from error
    size = tuple(int(n) for n in image.shape)
    require_three_axes(size, header)
    dtype = image.get_data_dtype()
    if dtype.kind not in "iuf" or min(size) < 1:
        raise DataError(f"{header}: {size} voxels of type {dtype}, expected one number each")
    _require_voxels(voxels, math.prod(size) * dtype.itemsize)
    x, y, z = (abs(float(zoom)) for zoom in image.header.get_zooms()[:3])
    return AnalyzeFile(header, voxels, (size[0], size[1], size[2]), (x, y, z), image)


def _require_voxels(path: Path, expected: int) -> None:
    what = incomplete(path)
    if what is None and path.suffix != ".gz" and path.stat().st_size < expected:
        what = f"{path.stat().st_size} bytes of {expected}: it is cut off"
    if what is None and path.suffix == ".gz":
        what = _cut_off_gzip(path, expected)
    if what is not None:
        raise DataError(f"{path}: {what}; download or unpack it again")


def _cut_off_gzip(path: Path, expected: int) -> str | None:
    """What is wrong with a gzip file by its last four bytes, the size it unpacks to."""
    with path.open("rb") as file:
        begin = file.read(2)
        file.seek(-min(4, path.stat().st_size), 2)
        end = file.read()
    if begin != b"\x1f\x8b" or len(end) < 4:
        return "no gzip file"
    stated: int = struct.unpack("<I", end)[0]
    return None if stated == expected % 2**32 else f"{stated} bytes after unpacking, not {expected}"
