"""Whether a file holds what was to be written, where a library does not say that it failed."""

from itertools import zip_longest
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from autoreg.io.quiet import quiet_libraries


def holds_image(path: Path, image: sitk.Image) -> bool:
    """Whether a file holds the very numbers of an image."""
    try:
        with quiet_libraries():
            found = sitk.ReadImage(str(path))
    except RuntimeError:
        return False
    if found.GetPixelID() != image.GetPixelID():
        return False
    held, given = sitk.GetArrayViewFromImage(found), sitk.GetArrayViewFromImage(image)
    if held.shape != given.shape:
        return False
    # Layer by layer: comparing makes copies.
    return all(
        np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        for a, b in zip(held, given, strict=True)
    )


def holds_transform(path: Path, transform: sitk.Transform) -> bool:
    """Whether a file holds the very numbers of a transform."""
    try:
        with quiet_libraries():
            found = sitk.ReadTransform(str(path))
    except RuntimeError:
        return False
    pairs = [
        (_numbers(a), _numbers(b)) for a, b in zip_longest(_members(found), _members(transform))
    ]
    return all(np.array_equal(a, b) for a, b in pairs)


def _members(transform: sitk.Transform) -> list[sitk.Transform]:
    transform = transform.Downcast()
    if not isinstance(transform, sitk.CompositeTransform):
        return [transform]
    numbers = range(transform.GetNumberOfTransforms())
    return [member for n in numbers for member in _members(transform.GetNthTransform(n))]


def _numbers(transform: sitk.Transform | None) -> NDArray[np.float64]:
    """All that a transform without members consists of."""
    if transform is None:
        return np.empty(0)
    fixed = np.array(transform.GetFixedParameters())
    if isinstance(transform, sitk.DisplacementFieldTransform):
        # Without a Python number for each of millions of parameters.
        field = sitk.GetArrayViewFromImage(transform.GetDisplacementField())
        return np.concatenate([fixed, field.ravel()])
    return np.concatenate([fixed, transform.GetParameters()])
