"""What a user should know of an image or of points that were carried over."""

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoreg.errors import DataError
from autoreg.geometry.grid import FloatArray
from autoreg.geometry.interpolation import Interpolation
from autoreg.geometry.resampling import Resampled
from autoreg.geometry.transforms import map_where_known
from autoreg.geometry.volume import Volume
from autoreg.inference.transform_request import (
    corners_mm,
    numbered,
    span,
    unknown_note,
    why_unknown,
)
from autoreg.io.transform_files import Chain

logger = logging.getLogger(__name__)


def warn_not_finite(volume: Volume, interpolation: Interpolation | None, source: Path) -> None:
    """Say what becomes of voxels that are no numbers: backgrounds of functional MRI often are."""
    number = int(np.count_nonzero(~np.isfinite(volume.array))) if volume.kind == "intensity" else 0
    if not number:
        return
    if interpolation == "cubic":
        raise DataError(
            f"{source}: {number} voxels are NaN or infinite, which cubic interpolation would "
            "spread over the whole image; use --interpolation linear or nearest, or repair it"
        )
    logger.warning(
        "warning: %s: %d of %d voxels are NaN or infinite; so is the result where %s",
        source,
        number,
        volume.array.size,
        "one of them is the nearest voxel"
        if interpolation == "nearest"
        else "one of them is among the eight voxels around a point",
    )


def warn_of_image(found: Resampled, volume: Volume, chain: Chain, source: Path) -> None:
    """Say where a result is not known, or that nothing of the image is in it."""
    grid = found.volume.geometry
    note = unknown_note(found.unknown, grid, chain, "they hold the outside value")
    if note is not None:
        logger.warning("warning: %s", note)
    if found.inside == 0:
        mapped, _ = map_where_known(chain.transform, corners_mm(grid))
        (low, high), (first, last) = span(mapped), span(corners_mm(volume.geometry))
        logger.warning(
            "warning: nothing of %s is in the result: the transform takes the reference's corners "
            "to between (%s) and (%s) mm, and the image lies between (%s) and (%s) mm; check the "
            "order and direction of the transforms",
            source, low, high, first, last,
        )  # fmt: skip


def warn_of_points(
    points_mm: FloatArray, known: NDArray[np.bool_], chain: Chain, source: Path
) -> None:
    """Say which points lie outside the displacement, or have no known counterpart."""
    if chain.grid is not None:
        beyond = np.flatnonzero(~chain.grid.contains(points_mm))
        if beyond.size:
            logger.warning(
                "warning: %s: %d of %d points lie outside the grid of the displacement, whose "
                "edge values they take (point %s): points of the fixed image are expected; those "
                "of the moving image want the inverse",
                source, beyond.size, len(points_mm), numbered(beyond),
            )  # fmt: skip
    lost = np.flatnonzero(~known)
    if lost.size:
        logger.warning(
            "warning: %s: %s, so that its inverse is unknown at %d of %d points (point %s); the "
            "result holds the best point found",
            source, why_unknown(chain), lost.size, len(points_mm), numbered(lost),
        )  # fmt: skip
