"""Transform files of AIR (Automated Image Registration, R. P. Woods): *.air.

AIR brings a "reslice" volume onto the grid of a "standard" volume. Its file is the C struct
`AIR_Air16`: sixteen doubles, then for each of the two volumes 128 characters of file name, four
32-bit numbers (bits, dimensions) and three doubles (voxel sizes), then a comment and padding. The
struct is in the byte order of the machine that wrote it, and 8 bytes longer where that machine had
`long` numbers of 64 bits. The matrix is stored column after column.

Its unit is the hidden part: it takes voxel indices of the standard volume *interpolated to cubic
voxels* (of the smallest of its three voxel sizes, first voxel on first voxel) to voxel indices of
the reslice volume as it is stored.

References:
    AIR 5.3, src/AIR.h and src/AIR_read_air16.c, http://air.bmap.ucla.edu/AIR5/
"""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoreg.errors import DataError
from autoreg.geometry.grid import FloatArray

_FIELDS = "16d 128x 4I 3d 128x 4I 3d"
_SIZES = (720, 728)
_LARGEST_BITS = 64
_LARGEST_SIDE = 10_000
_LARGEST_VOXEL_MM = 1000.0

Shape = tuple[int, int, int]
Size = tuple[float, float, float]


@dataclass(frozen=True)
class AirVolume:
    """What an AIR file says of one of its two volumes.

    Attributes:
        shape: Number of voxels along x, y, z, the order of the volume's file.
        voxel_size_mm: Along x, y, z.
    """

    shape: Shape
    voxel_size_mm: Size


@dataclass(frozen=True, eq=False)
class AirTransform:
    """An affine AIR transform.

    Attributes:
        cubic_to_reslice: 4x4; takes (x, y, z, 1) voxel indices of the standard volume interpolated
            to cubic voxels to voxel indices of the reslice volume.
        standard: The volume onto whose grid AIR resamples.
        reslice: The volume that AIR resamples.
    """

    cubic_to_reslice: FloatArray
    standard: AirVolume
    reslice: AirVolume

    @property
    def reslice_to_standard(self) -> FloatArray:
        """4x4; takes (x, y, z, 1) voxel indices of reslice to those of standard, both as stored."""
        size = np.array(self.standard.voxel_size_mm)
        cubic_to_standard = np.diag([*(size.min() / size), 1.0])
        matrix: FloatArray = cubic_to_standard @ np.linalg.inv(self.cubic_to_reslice)
        return matrix


def read_air_transform(path: Path) -> AirTransform:
    """Read a linear AIR transform of either byte order.

    Args:
        path: The *.air file.

    Raises:
        DataError: if it is missing, is of another size than AIR's struct, holds impossible values
            in both byte orders, or a matrix that is singular or has a perspective part.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if len(content) not in _SIZES:
        raise DataError(
            f"{path}: {len(content)} bytes, expected an AIR transform of {_SIZES[0]} or "
            f"{_SIZES[1]}; fetch the file again"
        )
    for order in "<>":
        transform = _parse(content, order)
        if transform is not None:
            return _require_affine(transform, path)
    raise DataError(
        f"{path}: impossible dimensions, voxel sizes or matrix in either byte order, so this is no "
        "AIR transform; fetch the file again"
    )


def _parse(content: bytes, order: str) -> AirTransform | None:
    """The transform if the values are possible in this byte order.

    Small numbers of bits are huge in the wrong order, which is AIR's own test too.
    """
    values = struct.unpack_from(order + _FIELDS, content)
    matrix = np.array(values[:16]).reshape(4, 4).T
    volumes = []
    for first in (16, 23):
        bits, *sides = values[first : first + 4]
        sizes = values[first + 4 : first + 7]
        possible = 0 < bits <= _LARGEST_BITS and all(0 < n <= _LARGEST_SIDE for n in sides)
        if not possible or not all(0 < size <= _LARGEST_VOXEL_MM for size in sizes):
            return None
        volumes.append(AirVolume((sides[0], sides[1], sides[2]), sizes))
    return AirTransform(matrix, *volumes) if np.isfinite(matrix).all() else None


def _require_affine(transform: AirTransform, path: Path) -> AirTransform:
    matrix = transform.cubic_to_reslice
    if not np.allclose(matrix[3], [0, 0, 0, 1], rtol=0, atol=1e-12):
        row = ", ".join(f"{value:.6g}" for value in matrix[3])
        raise DataError(
            f"{path}: a transform with perspective (last row {row}), expected an affine one"
        )
    if abs(np.linalg.det(matrix)) < 1e-9:
        raise DataError(f"{path}: a singular matrix, expected an invertible one")
    return transform
