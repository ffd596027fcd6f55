"""Transforms from one program's file into another's."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from autoreg.errors import DataError, UsageError
from autoreg.geometry.grid import Geometry
from autoreg.geometry.resampling import (
    field_from_mm,
    mapped_slabs,
    sample_displacement_known,
)
from autoreg.geometry.spline_displacement import SplineDisplacement
from autoreg.geometry.transforms import Affine, Composite, DisplacementField, Transform
from autoreg.inference.transform_request import check_output, grid_of, size_text, unknown_note
from autoreg.io.fsl_transforms import read_flirt, read_fsl_warp, write_flirt, write_fsl_warp
from autoreg.io.image_headers import read_grid
from autoreg.io.images import WRITTEN_SUFFIXES
from autoreg.io.itk_transforms import ITK_SUFFIXES, merged_affines, write_itk_transform
from autoreg.io.learn2reg_transforms import LEARN2REG_SUFFIXES, read_learn2reg, write_learn2reg
from autoreg.io.transform_files import Chain, parse_link, read_chain
from autoreg.io.transforms import write_displacement

logger = logging.getLogger(__name__)

Format = Literal["displacement", "itk", "learn2reg", "fsl", "fsl-absolute"]
_ENDINGS: dict[Format, tuple[str, ...]] = {
    "displacement": WRITTEN_SUFFIXES,
    "itk": ITK_SUFFIXES,
    "learn2reg": LEARN2REG_SUFFIXES,
    "fsl": (".mat", ".nii.gz", ".nii"),
    "fsl-absolute": (".nii.gz", ".nii"),
}
# What ITK's files hold exactly, in words.
_ITK_NAMES: dict[type, str] = {
    Affine: "affine",
    DisplacementField: "displacement",
    SplineDisplacement: "B-spline",
}
# Forms that mean something only together with the two images.
_OF_TWO_IMAGES = ("learn2reg", "fsl", "fsl-absolute")


@dataclass(frozen=True)
class Conversion:
    """What is to be converted into what.

    Attributes:
        sources: See `read_chain`; of a form that needs both images, one.
        output: The file to be written.
        origin: Form of the source; None is one that says what it is.
        target: Form of the output; None goes by its ending.
        reference: The fixed image.
        moving: The moving image.
        half_resolution: Write Learn2Reg's form of 2020 and 2021.
    """

    sources: tuple[str, ...]
    output: Path
    origin: Format | None = None
    target: Format | None = None
    reference: Path | None = None
    moving: Path | None = None
    half_resolution: bool = False


def convert_transform(conversion: Conversion) -> str:
    """Read, convert and write a transform.

    Returns:
        What was done, in one line.

    Raises:
        DataError: if a file cannot be read.
        GeometryError: if the target cannot hold the transform.
        UsageError: if the output cannot be written, or an option is missing or does nothing.
    """
    target = conversion.target or format_of(conversion.output)
    _check_options(conversion, target)
    chain = _read(conversion)
    inputs = [conversion.reference, conversion.moving, *chain.files]
    check_output(conversion.output, inputs, _ENDINGS[target])
    if target == "displacement":
        return _write_displacement(conversion, chain)
    if target == "itk":
        return _write_itk(conversion, chain)
    if chain.dimension != 3:
        raise UsageError(f"{conversion.output}: {target} transforms are of 3-D images alone")
    fixed, moving = _both_grids(conversion)
    if target == "learn2reg":
        return _write_learn2reg(conversion, chain, fixed, moving)
    return _write_fsl(conversion, chain, fixed, moving, absolute=target == "fsl-absolute")


def format_of(output: Path) -> Format:
    """The form that a file's ending says.

    Raises:
        UsageError: if it says nothing, or could be more than one.
    """
    if output.name.startswith("disp_") and output.name.endswith((".nii.gz", ".nii")):
        raise UsageError(
            f"{output}: the name is one of Learn2Reg's; say --to learn2reg (voxels) or --to "
            "displacement (mm)"
        )
    guesses: tuple[Format, ...] = ("displacement", "itk", "learn2reg")
    for guess in guesses:
        if output.name.endswith(_ENDINGS[guess]):
            return guess
    endings = ", ".join(dict.fromkeys(e for guess in guesses for e in _ENDINGS[guess]))
    raise UsageError(f"{output}: unknown ending; known: {endings}; or say --to")


def _check_options(conversion: Conversion, target: Format) -> None:
    both = conversion.origin in _OF_TWO_IMAGES or target in _OF_TWO_IMAGES
    if conversion.moving is not None and not both:
        raise UsageError("--moving is of use for learn2reg and fsl alone; drop it")
    if conversion.half_resolution and target != "learn2reg":
        raise UsageError("--half-resolution is of use for --to learn2reg alone; drop it")
    if conversion.origin in _OF_TWO_IMAGES and len(conversion.sources) != 1:
        raise UsageError(f"--from {conversion.origin} reads one file; convert each by itself")


def _read(conversion: Conversion) -> Chain:
    if conversion.origin not in _OF_TWO_IMAGES:
        chain = read_chain(conversion.sources)
        _check_origin(conversion.origin, chain)
        return chain
    (source,) = conversion.sources
    path, inverted = parse_link(source)
    fixed, moving = _both_grids(conversion)
    parts: tuple[Transform, ...]
    if conversion.origin == "learn2reg":
        parts = read_learn2reg(path, fixed, moving)
    elif path.suffix == ".mat":
        parts = (read_flirt(path, fixed, moving),)
    else:
        absolute = conversion.origin == "fsl-absolute"
        parts = read_fsl_warp(path, fixed, moving, absolute=absolute)
    if inverted:
        return Chain(Composite(parts).inverse().transforms, 3, None, (path,))
    return Chain(parts, 3, fixed, (path,))


def _check_origin(origin: Format | None, chain: Chain) -> None:
    for file in chain.files:
        if origin is not None and not file.name.lower().endswith(_ENDINGS[origin]):
            raise UsageError(f"{file}: --from {origin} ends in {', '.join(_ENDINGS[origin])}")


def _both_grids(conversion: Conversion) -> tuple[Geometry, Geometry]:
    if conversion.reference is None or conversion.moving is None:
        raise UsageError(
            "transforms of Learn2Reg and FSL depend on both images: give --reference FIXED and "
            "--moving MOVING"
        )
    grids = []
    for path in (conversion.reference, conversion.moving):
        grid, dimension = read_grid(path)
        if dimension != 3:
            raise DataError(f"{path}: a 2-D image; Learn2Reg's and FSL's are 3-D")
        grids.append(grid)
    return grids[0], grids[1]


def _write_displacement(conversion: Conversion, chain: Chain) -> str:
    grid, u_mm = _sampled(conversion, chain)
    write_displacement(conversion.output, u_mm, grid, chain.dimension)
    return f"{conversion.output}: displacement, {size_text(grid)} voxels, LPS mm"


def _sampled(conversion: Conversion, chain: Chain) -> tuple[Geometry, NDArray[np.float32]]:
    grid = grid_of(conversion.reference, chain)
    u_mm, known = sample_displacement_known(chain.transform, grid)
    note = unknown_note(np.argwhere(~known), grid, chain, "they hold the best displacement found")
    if note is not None:
        logger.warning("warning: %s", note)
    return grid, u_mm


def _write_itk(conversion: Conversion, chain: Chain) -> str:
    parts: Sequence[Transform] = merged_affines(chain.parts)
    exact = all(type(part) in _ITK_NAMES for part in parts)
    # For a form of two images --reference says what the file means, not that it is to be sampled.
    stays = conversion.origin in _OF_TWO_IMAGES and [type(part) for part in parts] == [Affine]
    if not exact or (conversion.reference is not None and not stays):
        grid, u_mm = _sampled(conversion, chain)
        parts = (field_from_mm(u_mm, grid),)
    write_itk_transform(conversion.output, parts, chain.dimension)
    names = ", then ".join(_ITK_NAMES[type(part)] for part in parts)
    return f"{conversion.output}: ITK transform: {names}"


def _write_learn2reg(
    conversion: Conversion, chain: Chain, fixed: Geometry, moving: Geometry
) -> str:
    index = _indices(chain, fixed, moving)
    nodes = np.indices(fixed.shape, dtype=np.float64)
    u_vox = (np.moveaxis(index, -1, 0) - nodes).astype(np.float32)
    write_learn2reg(conversion.output, u_vox, half_resolution=conversion.half_resolution)
    return f"{conversion.output}: Learn2Reg displacement, {size_text(fixed)} voxels"


def _write_fsl(
    conversion: Conversion, chain: Chain, fixed: Geometry, moving: Geometry, *, absolute: bool
) -> str:
    output = conversion.output
    if output.suffix != ".mat":
        index = _indices(chain, fixed, moving)
        write_fsl_warp(output, index, fixed, moving, absolute=absolute)
        kind = "absolute" if absolute else "relative"
        return f"{output}: FSL {kind} warp, {size_text(fixed)} voxels"
    (part, *others) = merged_affines(chain.parts)
    if others or not isinstance(part, Affine):
        raise UsageError(f"{output}: flirt's .mat holds an affine map alone; write .nii.gz")
    write_flirt(output, part, fixed, moving)
    return f"{output}: flirt matrix, moving to fixed"


def _indices(chain: Chain, fixed: Geometry, moving: Geometry) -> NDArray[np.float64]:
    """(D, H, W, 3): where the voxels of the fixed image are, in indices of the moving one."""
    index = np.empty((*fixed.shape, 3))
    where = np.empty(fixed.shape, dtype=np.bool_)
    for layers, _, points, known in mapped_slabs(chain.transform, fixed):
        index[layers] = moving.to_index(points).reshape(-1, *fixed.shape[1:], 3)
        where[layers] = known.reshape(-1, *fixed.shape[1:])
    note = unknown_note(np.argwhere(~where), fixed, chain, "they hold the best displacement found")
    if note is not None:
        logger.warning("warning: %s", note)
    return index
