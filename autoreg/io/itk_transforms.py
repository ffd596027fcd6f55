"""ITK's transform files: .tfm, .txt, .h5, .hdf5 and .mat, which ANTs and 3D Slicer share."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from autoreg.errors import AutoregError, DataError, GeometryError, UsageError
from autoreg.geometry.grid import FloatArray, Geometry
from autoreg.geometry.resampling import field_from_mm
from autoreg.geometry.spline_displacement import SplineDisplacement
from autoreg.geometry.transforms import Affine, DisplacementField, Transform
from autoreg.io.atomic import atomic_path, unwritten
from autoreg.io.images import set_itk_geometry
from autoreg.io.nibabel_images import last_line
from autoreg.io.planar import lifted_geometry, set_planar_geometry
from autoreg.io.quiet import quiet_libraries
from autoreg.io.read_back import holds_transform
from autoreg.io.transforms import Dimension, displacement_image, field_to_mm

ITK_SUFFIXES = (".tfm", ".txt", ".h5", ".hdf5", ".mat")
_TEXT_SUFFIXES = (".tfm", ".txt")
_TOLERANCE_MM = 1e-6


def read_itk_transform(path: Path) -> tuple[tuple[Transform, ...], Dimension]:
    """Read the transform that ITK wrote to a file.

    Args:
        path: Ends in one of `ITK_SUFFIXES`.

    Returns:
        Its parts, the one that is applied first to points being the first (ITK's composites keep
        them the other way round), and whether it is of two- or three-dimensional images. In
        two-dimensional ones z stays as it is.

    Raises:
        DataError: if the file is missing, unreadable, or of a kind that is not known.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    _require_one_transform(path)
    try:
        with quiet_libraries():
            transform = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        raise DataError(_unreadable(path, error)) from error
    dimension = transform.GetDimension()
    if dimension not in (2, 3):
        raise DataError(f"{path}: a transform of {dimension} dimensions, expected 2 or 3")
    try:
        return _parts(transform, str(path)), 2 if dimension == 2 else 3
    except GeometryError as error:
        raise DataError(f"{path}: {error}") from error


def write_itk_transform(path: Path, parts: Sequence[Transform], dimension: Dimension) -> None:
    """Write a transform as ITK does, completely or not at all.

    One part is written as it is, several as a composite; affine ones alone are multiplied.

    Args:
        path: Ends in one of `ITK_SUFFIXES`; .mat holds no composite.
        parts: `Affine`s, `DisplacementField`s and `SplineDisplacement`s, the one that is applied
            first being the first.
        dimension: Of the images.

    Raises:
        GeometryError: if a transform of two-dimensional images leaves their plane.
        UsageError: if the file cannot hold or be written with this transform.
    """
    whole = to_itk_transform(parts, dimension, str(path))
    if path.suffix == ".mat" and isinstance(whole, sitk.CompositeTransform):
        raise UsageError(
            f"{path}: a .mat file holds one transform, and this is a chain of "
            f"{whole.GetNumberOfTransforms()}; write .h5 or .tfm"
        )
    with atomic_path(path) as temporary:
        try:
            with quiet_libraries():
                sitk.WriteTransform(whole, str(temporary))
        except RuntimeError as error:
            raise unwritten(path, last_line(error), temporary) from error
        # ITK does not notice that a disk is full.
        if not holds_transform(temporary, whole):
            raise unwritten(path, "what was written could not be read back", temporary)


def to_itk_transform(parts: Sequence[Transform], dimension: Dimension, name: str) -> sitk.Transform:
    """A chain as SimpleITK's transform; see `write_itk_transform`.

    Args:
        parts: As there.
        dimension: As there.
        name: What it is for, in messages.
    """
    itk = [_to_itk(part, dimension, name) for part in merged_affines(parts)]
    # ITK applies the transform that was added last first.
    return itk[0] if len(itk) == 1 else sitk.CompositeTransform(itk[::-1])


def merged_affines(parts: Sequence[Transform]) -> list[Transform]:
    """The same chain, in which no affine map follows another; the identity if it is empty."""
    merged: list[Transform] = []
    for part in parts:
        last = merged[-1] if merged else None
        if isinstance(part, Affine) and isinstance(last, Affine):
            merged[-1] = Affine(part.matrix @ last.matrix)
        else:
            merged.append(part)
    return merged or [Affine(np.eye(4))]


def _require_one_transform(path: Path) -> None:
    """Refuse lists of transforms: SimpleITK would take the first one and ignore the others."""
    if path.suffix not in _TEXT_SUFFIXES:
        return
    try:
        text = path.read_text("utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    kinds = re.findall(r"^Transform:\s*(\S+)", text, re.M)
    if len(kinds) > 1 and not kinds[0].startswith("CompositeTransform"):
        raise DataError(
            f"{path}: a list of {len(kinds)} transforms ({', '.join(kinds[:3])}) that does not say "
            "how they are chained; write each to a file of its own, or a CompositeTransform"
        )


def _unreadable(path: Path, error: RuntimeError) -> str:
    if path.suffix == ".mat" and _is_text_matrix(path):
        return (
            f"{path}: holds a matrix as text, as FSL's flirt writes it, which depends on the two "
            "images: convert it first: autoreg_convert_transform --from fsl --reference FIXED "
            "--moving MOVING"
        )
    # "ITK ERROR: AffineTransform(0x55af15ba73d0): what is wrong"; other messages are of its inside.
    told = re.fullmatch(r"ITK ERROR: \w+\(\w+\): (.*)", last_line(error))
    why = f" ({told[1]})" if told else ""
    return (
        f"{path}: cannot be read as an ITK transform{why}: it is damaged, or of a kind that "
        "ITK does not know; write it again"
    )


def _is_text_matrix(path: Path) -> bool:
    try:
        return np.loadtxt(path).shape == (4, 4)
    except (OSError, ValueError):
        return False


def _parts(transform: sitk.Transform, name: str) -> tuple[Transform, ...]:
    transform = transform.Downcast()
    if isinstance(transform, sitk.CompositeTransform):
        numbers = reversed(range(transform.GetNumberOfTransforms()))
        members = [_parts(transform.GetNthTransform(n), name) for n in numbers]
        return tuple(part for member in members for part in member)
    if isinstance(transform, sitk.DisplacementFieldTransform):
        return (_field(transform.GetDisplacementField(), name),)
    if transform.IsLinear():
        return (Affine(_matrix(transform)),)
    if isinstance(transform, sitk.BSplineTransform):
        return (_spline(transform),)
    raise DataError(
        f"{name}: holds a {transform.GetName()}; affine maps, displacement fields, B-splines and "
        "composites of them can be read. Sample it as a displacement field "
        "(SimpleITK.TransformToDisplacementField) and use that"
    )


def _matrix(transform: sitk.Transform) -> FloatArray:
    """The 4x4 matrix of any linear transform, whatever its parameters are."""
    n = transform.GetDimension()
    matrix = np.eye(4)
    origin = np.array(transform.TransformPoint([0.0] * n))
    matrix[:n, 3] = origin
    for axis, unit in enumerate(np.eye(n)):
        matrix[:n, axis] = np.array(transform.TransformPoint(unit.tolist())) - origin
    return matrix


def _field(image: sitk.Image, name: str) -> DisplacementField:
    vectors = sitk.GetArrayFromImage(image).astype(np.float32)
    if not np.isfinite(vectors).all():
        raise DataError(f"{name}: the displacement has values that are NaN or infinite")
    if image.GetDimension() == 3:
        return field_from_mm(vectors, _grid(image))
    flat = np.concatenate([vectors, np.zeros_like(vectors[..., :1])], axis=-1)
    return field_from_mm(flat[None], _grid(image))


def _spline(transform: sitk.BSplineTransform) -> SplineDisplacement:
    images = transform.GetCoefficientImages()
    arrays = [sitk.GetArrayFromImage(image) for image in images]
    if len(arrays) == 2:
        arrays = [array[None] for array in (*arrays, np.zeros_like(arrays[0]))]
    return SplineDisplacement(np.stack(arrays), _grid(images[0]), transform.GetOrder())


def _grid(image: sitk.Image) -> Geometry:
    grid = (image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    return Geometry.from_itk(*grid) if image.GetDimension() == 3 else lifted_geometry(*grid)


def _to_itk(part: Transform, dimension: Dimension, name: str) -> sitk.Transform:
    if isinstance(part, DisplacementField):
        image = displacement_image(field_to_mm(part), part.geometry, dimension, name)
        return sitk.DisplacementFieldTransform(image)
    if isinstance(part, SplineDisplacement):
        return _to_itk_spline(part, dimension, name)
    if not isinstance(part, Affine):
        raise AutoregError(f"{name}: a {type(part).__name__} must be sampled before it is written")
    matrix = part.matrix
    if dimension == 2 and not _stays_in_plane(matrix):
        raise GeometryError(
            f"{name}: the affine map {np.round(matrix, 4).tolist()} of a two-dimensional image "
            "leaves its plane"
        )
    affine = sitk.AffineTransform(dimension)
    affine.SetMatrix(matrix[:dimension, :dimension].ravel().tolist())
    affine.SetTranslation(matrix[:dimension, 3].tolist())
    return affine


def _to_itk_spline(part: SplineDisplacement, dimension: Dimension, name: str) -> sitk.Transform:
    channels = part.coefficients_mm
    if dimension == 3:
        images = [sitk.GetImageFromArray(channel) for channel in channels]
        for image in images:
            set_itk_geometry(image, part.geometry)
    else:  # z is 0, as it was read
        images = [sitk.GetImageFromArray(channel[0]) for channel in channels[:2]]
        for image in images:
            set_planar_geometry(image, part.geometry, name)
    return sitk.BSplineTransform(images, part.order)


def _stays_in_plane(matrix: FloatArray) -> bool:
    across = np.concatenate([matrix[2, [0, 1, 3]], matrix[:2, 2], [matrix[2, 2] - 1]])
    return bool(np.abs(across).max() <= _TOLERANCE_MM)
