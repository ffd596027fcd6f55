"""What applying and converting transforms share: checks of files, grids, and what is told."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoreg.errors import DataError, UsageError
from autoreg.geometry.grid import FloatArray, Geometry
from autoreg.io.atomic import require_writable
from autoreg.io.image_headers import read_grid
from autoreg.io.transform_files import Chain

_SHOWN = 5


def check_output(output: Path, inputs: Sequence[Path | None], endings: Sequence[str]) -> None:
    """Refuse an output that cannot be written, before the work begins.

    Args:
        output: The file to be written.
        inputs: Files that are read.
        endings: What it may end in.

    Raises:
        UsageError: saying why.
    """
    if not output.name.endswith(tuple(endings)):
        raise UsageError(f"{output}: unknown ending; expected {', '.join(endings)}")
    if output.is_dir():
        raise UsageError(f"{output}: is a folder; expected the name of a file")
    for file in inputs:
        if file is not None and file.resolve() == output.resolve():
            raise UsageError(f"{output}: is also read; write to another file")
    require_writable(output.parent)


def grid_of(reference: Path | None, chain: Chain) -> Geometry:
    """The grid to compute on: the reference image's, else that of the chain's first displacement.

    Raises:
        DataError: if the reference cannot be read or is of another dimension than the chain.
        UsageError: if there is none.
    """
    if reference is None:
        if chain.grid is None:
            raise UsageError(
                "an affine map, a B-spline or an inverse, which has no grid of its own, comes "
                "first: name the image whose grid is meant with --reference"
            )
        return chain.grid
    grid, dimension = read_grid(reference)
    require_dimension(reference, dimension, chain)
    return grid


def require_dimension(path: Path, dimension: int, chain: Chain) -> None:
    """Refuse an image of another dimension than the transforms are of.

    Raises:
        DataError: naming both.
    """
    if dimension != chain.dimension:
        raise DataError(
            f"{path}: a {dimension}-D image, but {chain.files[0]} is a transform of "
            f"{chain.dimension}-D images"
        )


def unknown_voxels(known: NDArray[np.bool_], grid: Geometry, then: str) -> str | None:
    """Where a transform has no inverse, in words; None if it has one everywhere.

    Args:
        known: (D, H, W).
        grid: The voxels' grid.
        then: What was written there.
    """
    where = np.argwhere(~known)
    if not len(where):
        return None
    low, high = span(grid.to_world(where))
    return (
        f"the displacement folds, so that its inverse is unknown at {len(where)} voxels "
        f"({100 * len(where) / known.size:.3g} %), between ({low}) and ({high}) mm; {then}"
    )


def numbered(numbers: NDArray[np.intp]) -> str:
    """The first of some numbers, counted from 1."""
    shown = ", ".join(str(n + 1) for n in numbers[:_SHOWN].tolist())
    return shown + (", ..." if numbers.size > _SHOWN else "")


def span(points_mm: FloatArray) -> tuple[str, str]:
    """The smallest and largest coordinates of points (N, 3), in words."""
    low, high = points_mm.min(0), points_mm.max(0)
    return _point(low), _point(high)


def corners_mm(grid: Geometry) -> FloatArray:
    """World points (8, 3) of the outermost voxels."""
    return grid.to_world(np.array(list(np.ndindex(2, 2, 2))) * (np.array(grid.shape) - 1))


def _point(point: FloatArray) -> str:
    return ", ".join(f"{value:.1f}" for value in point)
