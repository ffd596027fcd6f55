"""Images, label maps, masks and points through chains of transforms; Jacobian determinants."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from autoreg.errors import UsageError
from autoreg.geometry.grid import Geometry
from autoreg.geometry.interpolation import Interpolation
from autoreg.geometry.resampling import (
    field_from_mm,
    resample_known,
    sample_displacement_known,
)
from autoreg.geometry.transforms import map_where_known
from autoreg.geometry.volume import Kind, Volume
from autoreg.inference.apply_warnings import warn_not_finite, warn_of_image, warn_of_points
from autoreg.inference.transform_request import (
    check_output,
    grid_of,
    require_dimension,
    size_text,
    unknown_note,
)
from autoreg.io.image_headers import read_either, read_grid, stored_type, write_either
from autoreg.io.images import WRITTEN_SUFFIXES
from autoreg.io.landmarks import (
    read_named_landmarks,
    read_voxel_landmarks,
    write_landmarks,
    write_voxel_landmarks,
)
from autoreg.io.names import LANDMARK_SUFFIXES
from autoreg.io.slicer_landmarks import NamedPoints
from autoreg.io.transform_files import Chain, read_chain
from autoreg.numerics.jacobian import jacobian_determinant

logger = logging.getLogger(__name__)

Content = Literal["image", "labels", "mask"]
_KINDS: dict[Content, Kind] = {"image": "intensity", "labels": "label", "mask": "mask"}


@dataclass(frozen=True)
class ImageOptions:
    """How an image is carried over.

    Attributes:
        content: What its numbers are.
        interpolation: None is linear for images, nearest for label maps and masks.
        outside: The value beyond the moving image.
    """

    content: Content
    interpolation: Interpolation | None
    outside: float


@dataclass(frozen=True)
class PointOptions:
    """How points are carried over.

    Attributes:
        voxels: They are indices along the files' axes: of the reference on the way in, of the
            moving image on the way out.
        moving: The image whose voxels are counted on the way out.
    """

    voxels: bool
    moving: Path | None


def apply_to_image(
    source: Path,
    transforms: Sequence[str],
    reference: Path | None,
    output: Path,
    options: ImageOptions,
) -> str:
    """Pull an image back onto a grid through a chain, interpolated once; write and describe it.

    Args:
        source: The moving image.
        transforms: See `read_chain`.
        reference: An image on the wanted grid; None takes the grid of the first displacement.
        output: The file to be written.
        options: See `ImageOptions`.

    Returns:
        What was done, in one line.

    Raises:
        DataError: if a file cannot be read or is of another dimension.
        UsageError: if the output cannot be written or the options contradict each other.
    """
    if options.content != "image" and options.interpolation == "cubic":
        raise UsageError(f"--kind {options.content} goes with linear or nearest, not with cubic")
    chain = read_chain(transforms)
    check_output(output, [source, reference, *chain.files], WRITTEN_SUFFIXES)
    grid = grid_of(reference, chain)
    dtype = _written_type(source, options)
    volume, dimension = read_either(source, _kind(options, dtype), exact=options.content == "image")
    require_dimension(source, dimension, chain)
    warn_not_finite(volume, options.interpolation, source)
    found = resample_known(
        volume,
        chain.transform,
        grid,
        outside=options.outside,
        interpolation=options.interpolation,
    )
    warn_of_image(found, volume, chain, source)
    write_either(output, found.volume, dtype, dimension)
    inside = 100 * found.inside / found.volume.array[0].size
    return f"{output}: {size_text(grid)} voxels, {inside:.3g} % of them inside {source.name}"


def apply_to_points(
    source: Path,
    transforms: Sequence[str],
    reference: Path | None,
    output: Path,
    options: PointOptions,
) -> str:
    """Map points of the fixed image to the moving image through a chain; write and describe them.

    Args:
        source: A point list of 3D Slicer, or csv: header x,y,z and LPS mm, or voxels without a
            header.
        transforms: See `read_chain`.
        reference: The fixed image, for voxels.
        output: Likewise; voxels if these were read.
        options: See `PointOptions`.

    Returns:
        What was done, in one line.

    Raises:
        DataError: if a file cannot be read.
        UsageError: if the output cannot be written or the options contradict each other.
    """
    if options.voxels != (options.moving is not None):
        raise UsageError(
            "points in voxels need --moving, the image whose voxels the result counts, and points "
            "in mm do not: give --voxels and --moving together"
        )
    if options.voxels and not source.name.lower().endswith(".csv"):
        raise UsageError(f"{source}: Slicer's points are in mm; drop --voxels and --moving")
    if reference is not None and not options.voxels:
        raise UsageError("--reference says nothing about points in mm; drop it, or add --voxels")
    chain = read_chain(transforms)
    endings = [".csv"] if options.voxels else LANDMARK_SUFFIXES
    check_output(output, [source, reference, options.moving, *chain.files], endings)
    given = (
        NamedPoints(read_voxel_landmarks(source, grid_of(reference, chain)))
        if options.voxels
        else read_named_landmarks(source)
    )
    points = given.points_mm
    mapped, known = map_where_known(chain.transform, points)
    warn_of_points(points, known, chain, source)
    if options.moving is None:
        write_landmarks(output, mapped, given.names)
    else:
        grid, dimension = read_grid(options.moving)
        require_dimension(options.moving, dimension, chain)
        write_voxel_landmarks(output, mapped, grid)
    length = float(np.linalg.norm(mapped - points, axis=1).mean())
    return f"{output}: {len(points)} points, moved by {length:.2f} mm on average"


def write_jacobian(
    transforms: Sequence[str], reference: Path | None, output: Path, *, logarithm: bool
) -> str:
    """Write the Jacobian determinant of a chain: how many times its volume each voxel's image has.

    Args:
        transforms: See `read_chain`.
        reference: An image on the wanted grid; None takes the grid of the first displacement.
        output: The file to be written, float32.
        logarithm: Write its natural logarithm, which folded voxels (not positive) do not have.

    Returns:
        What was done, in one line.

    Raises:
        DataError: if a file cannot be read or is of another dimension.
        UsageError: if the output cannot be written.
    """
    chain = read_chain(transforms)
    check_output(output, [reference, *chain.files], WRITTEN_SUFFIXES)
    grid = grid_of(reference, chain)
    determinant, known = jacobian_on_grid(chain, grid)
    note = unknown_note(np.argwhere(~known), grid, chain, "it is NaN there and beside them")
    if note is not None:
        logger.warning("warning: %s", note)
    folded = int(np.count_nonzero(determinant <= 0))
    values = determinant
    if logarithm:
        if folded:
            logger.warning("warning: the logarithm is NaN at the %d voxels that fold", folded)
        positive = np.where(determinant > 0, determinant, np.float32(np.nan))
        values = np.log(positive)
    write_either(output, Volume.intensity(values, grid), None, chain.dimension)
    low, high = np.nanmin(determinant), np.nanmax(determinant)
    return (
        f"{output}: {size_text(grid)} voxels, determinant from {low:.4g} to {high:.4g}, "
        f"{folded} of them fold (not positive)"
    )


def jacobian_on_grid(chain: Chain, grid: Geometry) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The Jacobian determinant of a whole chain by central differences on a grid.

    Returns:
        (D, H, W) float32, NaN where a difference meets a point that is not known; and (D, H, W)
        which points are known.
    """
    u_mm, known = sample_displacement_known(chain.transform, grid)
    u_vox = torch.from_numpy(field_from_mm(u_mm, grid).u_vox)[None]
    determinant: NDArray[np.float32] = jacobian_determinant(u_vox)[0].numpy()
    if not known.all():
        determinant[ndimage.binary_dilation(~known)] = np.nan
    return determinant, known


def _kind(options: ImageOptions, dtype: np.dtype[Any] | None) -> Kind:
    whole = dtype is not None and dtype.kind in "iu"
    if options.content == "image" and options.interpolation == "nearest" and whole:
        return "label"  # whole numbers stay exact, however large
    return _KINDS[options.content]


def _written_type(source: Path, options: ImageOptions) -> np.dtype[Any] | None:
    """The number type of the result: the file's own, uint8 for masks."""
    dtype = np.dtype(np.uint8) if options.content == "mask" else stored_type(source)
    if dtype is not None and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if not options.outside.is_integer() or not (limits.min <= options.outside <= limits.max):
            raise UsageError(
                f"--outside {options.outside:g}: {source} holds {dtype}, whole numbers from "
                f"{limits.min} to {limits.max}"
            )
    elif options.content == "labels" and not options.outside.is_integer():
        raise UsageError(f"--outside {options.outside:g}: labels are whole numbers")
    return dtype
