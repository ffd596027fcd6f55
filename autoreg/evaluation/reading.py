"""Files of a pair, checked for existence and for lying on the fixed image's grid."""

from collections.abc import Sequence
from pathlib import Path

from autoreg.errors import DataError
from autoreg.geometry.grid import Geometry
from autoreg.geometry.volume import Kind, Volume
from autoreg.io.image_headers import read_channels
from autoreg.io.images import require_grid

FIXED = "the fixed image"


def existing(name: str | Path) -> Path:
    """The path of a file.

    Raises:
        DataError: if it is not there (any more).
    """
    path = Path(name)
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; the evaluation needs it where the prediction found or left it"
        )
    return path


def read_image_of(names: Sequence[str | Path], kind: Kind) -> Volume:
    """Read a two- or three-dimensional image, one file per channel."""
    return read_channels([existing(name) for name in names], kind)[0]


def read_on_fixed(names: Sequence[str | Path], kind: Kind, grid: Geometry) -> Volume:
    """Read an image, one file per channel, that must lie on the grid of the fixed image.

    Raises:
        DataError: if it is missing, cannot be read or lies elsewhere.
    """
    volume = read_image_of(names, kind)
    require_grid(Path(names[0]), volume.geometry, grid, FIXED)
    return volume
