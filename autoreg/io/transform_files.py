"""Transforms in files, and chains of them as commands are given them.

`inverse:` before a file's name asks for the inverse. A chain is given in the order of
antsApplyTransforms: the first transform is the first that a point of the fixed image goes through.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoreg.errors import DataError, GeometryError, UsageError
from autoreg.geometry.grid import Geometry
from autoreg.geometry.resampling import field_from_mm
from autoreg.geometry.transforms import Composite, DisplacementField, Transform
from autoreg.io.images import WRITTEN_SUFFIXES
from autoreg.io.itk_transforms import ITK_SUFFIXES, read_itk_transform
from autoreg.io.result import (
    DISPLACEMENT_FILE,
    INVERSE_FILE,
    UNFINISHED_FILE,
    is_whole,
    read_result,
)
from autoreg.io.transforms import (
    Dimension,
    displacement_dimension,
    read_displacement,
)

logger = logging.getLogger(__name__)

INVERSE_PREFIX = "inverse:"


@dataclass(frozen=True, eq=False)
class Chain:
    """Transforms one after the other.

    Attributes:
        parts: The one that a point goes through first is the first.
        dimension: Of the images that they belong to.
        grid: Where points must lie for the chain to know them: the grid of the displacement that
            comes first; None if an affine map, a B-spline or an inverse does.
        files: All that was read.
    """

    parts: tuple[Transform, ...]
    dimension: Dimension
    grid: Geometry | None
    files: tuple[Path, ...]

    @property
    def transform(self) -> Composite:
        """The chain as one transform."""
        return Composite(self.parts)


def read_chain(specs: Sequence[str]) -> Chain:
    """Read the transforms that a user names, in order.

    Args:
        specs: Of each one a file or the folder of a registered pair, after `inverse:` for its
            inverse. A folder gives its displacement, or the inverse that is stored in it, also
            where a later registration into it failed (with a warning).

    Raises:
        DataError: if one cannot be read, or 2-D ones are mixed with 3-D ones.
        UsageError: if there are none.
    """
    if not specs:
        raise UsageError("no transform is given")
    links = [read_link(spec) for spec in specs]
    for spec, link in zip(specs, links, strict=True):
        if link.dimension != links[0].dimension:
            raise DataError(
                f"{spec}: a transform of {link.dimension}-D images in a chain with {specs[0]}, "
                f"which is of {links[0].dimension}-D ones"
            )
    return Chain(
        tuple(part for link in links for part in link.parts),
        links[0].dimension,
        links[0].grid,
        tuple(file for link in links for file in link.files),
    )


def parse_link(spec: str) -> tuple[Path, bool]:
    """The file or folder that a text names, and whether its inverse is meant.

    Raises:
        UsageError: if it names none.
    """
    name = spec.removeprefix(INVERSE_PREFIX)
    if not name.strip():
        raise UsageError(
            f'the transform "{spec}" names no file (an unset variable?); name the file, or the '
            "folder of a registered pair"
        )
    return Path(name), spec.startswith(INVERSE_PREFIX)


def read_link(spec: str) -> Chain:
    """Read one transform; see `read_chain`."""
    path, inverted = parse_link(spec)
    if path.is_dir():
        # The stored inverse is not inverted again.
        return _read_file(_file_of_result(path, inverse=inverted))
    if not path.exists():
        raise DataError(f"{path}: no such file{_ants_hint(spec)}")
    link = _read_file(path)
    if not inverted:
        return link
    inverse = Composite(link.parts).inverse()
    return Chain(inverse.transforms, link.dimension, None, link.files)


def _read_file(path: Path) -> Chain:
    name = path.name.lower()
    if name.endswith(WRITTEN_SUFFIXES):
        dimension = displacement_dimension(path)
        field = _field(path)
        return Chain((field,), dimension, field.geometry, (path,))
    if name.endswith(ITK_SUFFIXES):
        parts, dimension = read_itk_transform(path)
        first = parts[0] if parts else None
        grid = first.geometry if isinstance(first, DisplacementField) else None
        return Chain(parts, dimension, grid, (path,))
    known = ", ".join((*WRITTEN_SUFFIXES, *ITK_SUFFIXES))
    raise DataError(
        f"{path}: unknown ending of a transform; known: {known}, or the folder of a registered pair"
    )


def _field(path: Path) -> DisplacementField:
    try:
        return field_from_mm(*read_displacement(path))
    except GeometryError as error:
        raise DataError(f"{path}: {error}") from error


def _file_of_result(folder: Path, *, inverse: bool) -> Path:
    unfinished = folder / UNFINISHED_FILE
    if unfinished.is_file() and not _has_whole_result(folder):
        raise DataError(
            f"{folder}: its registration is not finished ({unfinished.name} says why); register "
            "the pair again"
        )
    if unfinished.is_file():
        logger.warning(
            "warning: %s: the result of an earlier registration is used; the last one is not "
            "finished (%s says why)",
            folder,
            unfinished.name,
        )
    path = folder / (INVERSE_FILE if inverse else DISPLACEMENT_FILE)
    if not path.is_file():
        raise DataError(f"{folder}: no folder of a registered pair: it holds no {path.name}")
    return path


def _has_whole_result(folder: Path) -> bool:
    try:
        return is_whole(folder, read_result(folder))
    except DataError:
        return False


def _ants_hint(spec: str) -> str:
    if spec.startswith("["):
        return f"; the inverse of a transform is asked for with {INVERSE_PREFIX}FILE"
    return ""
