"""What applying and converting transforms share: checks of files, grids, and what is told."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoreg.errors import DataError, UsageError
from autoreg.geometry.grid import FloatArray, Geometry
from autoreg.geometry.spline_displacement import InverseSplineDisplacement
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


def unknown_note(where: NDArray[np.intp], grid: Geometry, chain: Chain, then: str) -> str | None:
    """Where a transform has no inverse and why, in words; None if it has one everywhere.

    Args:
        where: (N, 3), the voxels (d, h, w) at which it has none.
        grid: The voxels' grid.
        chain: The transform.
        then: What was written there.
    """
    if not len(where):
        return None
    low, high = span(grid.to_world(where))
    share = 100 * len(where) / np.prod(grid.shape)
    return (
        f"{why_unknown(chain)}, so that its inverse is unknown at {len(where)} voxels "
        f"({share:.3g} %), between ({low}) and ({high}) mm; {then}"
    )


def why_unknown(chain: Chain) -> str:
    """Why the inverse of a displacement may be missing, in words."""
    if any(isinstance(part, InverseSplineDisplacement) for part in chain.parts):
        # Between the edge of its domain and where that is moved to, ITK's transform leaves a gap.
        return (
            "the B-spline folds, or nothing is moved there from the edge of its control points, "
            "beyond which ITK moves nothing"
        )
    return "the displacement folds"


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


def size_text(grid: Geometry) -> str:
    """Voxels along the file's axes, in words."""
    return "x".join(str(n) for n in grid.shape[::-1])


def _point(point: FloatArray) -> str:
    return ", ".join(f"{value:.1f}" for value in point)
