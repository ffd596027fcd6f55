"""Values of an image between its voxels: linear, cubic, nearest, and linear for labels."""

import itertools
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from autoreg.errors import GeometryError
from autoreg.geometry.volume import Volume
from autoreg.numerics.warp import sample_at_index

Interpolation = Literal["linear", "cubic", "nearest"]
# From array indices (3, N) dhw to values (C, N); edge values are held beyond the outermost voxels.
Sampler = Callable[[Tensor], NDArray[Any]]

_CORNERS = tuple(itertools.product((0, 1), repeat=3))
# Rounding of the weights must not decide between two labels that meet half-way.
_TIE = 1e-6


def default_interpolation(volume: Volume) -> Interpolation:
    """Linear for intensities, nearest for label maps and masks."""
    return "linear" if volume.kind == "intensity" else "nearest"


def make_sampler(volume: Volume, interpolation: Interpolation) -> Sampler:
    """Prepare a volume for interpolation.

    Args:
        volume: The image.
        interpolation: "linear"; of a label map or mask, each label's own map of zeros and ones is
            interpolated linearly and the label with the largest value wins. "cubic": cubic
            B-splines through the voxels, for intensities alone. "nearest": ties go to the larger
            index.

    Raises:
        GeometryError: for cubic interpolation of labels or masks.
    """
    if volume.kind == "intensity":
        return _cubic(volume) if interpolation == "cubic" else _intensities(volume, interpolation)
    if interpolation == "cubic":
        raise GeometryError(
            f"a {volume.kind} volume cannot be interpolated cubically; use nearest or linear"
        )
    small = np.can_cast(volume.array.dtype, np.int32)
    array = torch.from_numpy(
        np.ascontiguousarray(volume.array, dtype=np.int32 if small else np.int64)
    )
    if interpolation == "linear":
        return lambda index: _vote(array[0], index)[None]
    return lambda index: (
        sample_at_index(array[None], _batch(index), "border", "nearest")[0].flatten(1).numpy()
    )


def _intensities(volume: Volume, mode: Literal["linear", "nearest"]) -> Sampler:
    image = torch.from_numpy(np.ascontiguousarray(volume.array, dtype=np.float32))[None]

    def sample(index: Tensor) -> NDArray[Any]:
        # Ties must be the same in all parts of an image: nearest needs all digits.
        where = _batch(index.float() if mode == "linear" else index)
        values: NDArray[Any] = sample_at_index(image, where, "border", mode)[0].flatten(1).numpy()
        return values

    return sample


def _batch(index: Tensor) -> Tensor:
    """(3, N) as the (1, 3, 1, 1, N) that sampling wants."""
    return index[None, :, None, None, :]


def _cubic(volume: Volume) -> Sampler:
    """As ITK's BSplineInterpolateImageFunction: order 3, images continued as in a mirror."""
    coefficients = [
        ndimage.spline_filter(channel, order=3, output=np.float32, mode="mirror")
        for channel in volume.array
    ]

    def sample(index: Tensor) -> NDArray[Any]:
        rows = index.numpy()
        return np.stack(
            [
                ndimage.map_coordinates(c, rows, np.float32, 3, mode="mirror", prefilter=False)
                for c in coefficients
            ]
        )

    return sample


def _vote(labels: Tensor, index: Tensor) -> NDArray[Any]:
    """The label whose linearly interpolated indicator is largest; of equal ones the smaller label.

    Only the eight voxels around a point have a say, so no indicator is ever made.

    Args:
        labels: (D, H, W), whole numbers.
        index: (3, N).

    Returns:
        (N,).
    """
    _, height, width = labels.shape
    corner = torch.zeros(index.shape[1], dtype=torch.int64)
    fractions, strides = [], []
    for axis, (n, stride) in enumerate(zip(labels.shape, (height * width, width, 1), strict=True)):
        held = index[axis].clamp(0, n - 1)
        lower = held.floor().clamp(max=max(n - 2, 0))
        corner += lower.long() * stride
        fractions.append((held - lower).float())
        strides.append(stride if n > 1 else 0)
    offsets = [sum(c * s for c, s in zip(o, strides, strict=True)) for o in _CORNERS]
    around = torch.stack([labels.flatten()[corner + offset] for offset in offsets])
    result = around[0].clone()
    mixed = (around != around[0]).any(0).nonzero().flatten()
    result[mixed] = _winners(around[:, mixed], torch.stack(fractions)[:, mixed])
    winners: NDArray[Any] = result.numpy()
    return winners


def _winners(around: Tensor, fractions: Tensor) -> Tensor:
    """The label of the largest weight.

    Args:
        around: (8, N) labels of the voxels around each point, in the order of `_CORNERS`.
        fractions: (3, N) where between the voxels the point is along (d, h, w).

    Returns:
        (N,).
    """
    weights = torch.stack(
        [
            torch.stack(
                [f if bit else 1 - f for f, bit in zip(fractions, corner, strict=True)]
            ).prod(0)
            for corner in _CORNERS
        ]
    )
    scores = torch.stack([(weights * (around == label)).sum(0) for label in around])
    leading = scores >= scores.amax(0) - _TIE
    largest = torch.iinfo(around.dtype).max
    return around.masked_fill(~leading, largest).amin(0)
