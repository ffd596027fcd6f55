"""Resampling of volumes onto another grid."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from autoreg.numerics.coordinates import Size, slabs, transformed_index_grid
from autoreg.numerics.warp import Mode, Padding, sample_at_index

_FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))
_TRUNCATE = 4.0  # sigmas, as in scipy.ndimage


def resample(
    volume: Tensor,
    shape: Size,
    output_to_input_index: NDArray[np.float64],
    padding: Padding = "border",
    mode: Mode = "linear",
    *,
    antialias: bool = False,
) -> Tensor:
    """Sample a volume on another grid: `out(i) = volume(M i)`.

    With "border" and a matrix that lays voxel box on voxel box this is
    `torch.nn.functional.interpolate(mode="trilinear", align_corners=False)`.

    Args:
        volume: (B, C, d, h, w).
        shape: Voxels of the result along (D, H, W).
        output_to_input_index: M, 4x4 float64, on homogeneous array indices.
        padding: See `sample_at_index`.
        mode: See `sample_at_index`.
        antialias: Blur the volume first, along the axes that the output undersamples.

    Returns:
        (B, C, D, H, W), computed in slabs.
    """
    matrix = np.asarray(output_to_input_index, dtype=np.float64)
    if antialias:
        volume = gaussian_blur(volume, antialias_sigmas_vox(matrix))
    on_device = torch.from_numpy(matrix.copy()).to(volume.device)
    dtype = volume.dtype if volume.is_floating_point() else torch.float32
    pieces = [
        sample_at_index(
            volume, transformed_index_grid(on_device, shape, layers, dtype=dtype), padding, mode
        )
        for layers in slabs(shape)
    ]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)


def antialias_sigmas_vox(output_to_input_index: NDArray[np.float64]) -> tuple[float, float, float]:
    """The blur that a coarser output needs, per input axis.

    With f the output spacing in input voxels along an axis, sigma = sqrt(f^2 - 1) / 2.355: a
    Gaussian of the input's resolution becomes one of the output's. 0 where f <= 1.

    Args:
        output_to_input_index: 4x4.

    Returns:
        Standard deviations along the input's (d, h, w), in its voxels.

    References:
        Cardoso et al., "Scale factor point spread function matching: beyond aliasing in image
        resampling", MICCAI 2015.
    """
    factors = np.linalg.norm(output_to_input_index[:3, :3], axis=1)
    d, h, w = (math.sqrt(max(float(f) ** 2 - 1, 0.0)) / _FWHM_PER_SIGMA for f in factors)
    return d, h, w


def gaussian_blur(volume: Tensor, sigmas_vox: tuple[float, float, float]) -> Tensor:
    """Separable Gaussian smoothing with edge values held outside.

    Equals `scipy.ndimage.gaussian_filter(mode="nearest", truncate=4)`.

    Args:
        volume: (B, C, D, H, W), floating point.
        sigmas_vox: Standard deviation along (d, h, w), voxels; 0 leaves an axis alone.

    Returns:
        (B, C, D, H, W).
    """
    for axis, sigma in enumerate(sigmas_vox):
        radius = int(_TRUNCATE * sigma + 0.5)
        if radius > 0:
            volume = _blur_axis(volume, sigma, radius, axis + 2)
    return volume


def _blur_axis(volume: Tensor, sigma: float, radius: int, axis: int) -> Tensor:
    # Sums of slices: no copy of the volume with every tap, unlike convolutions on the CPU.
    taps = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (taps / sigma) ** 2)
    weights /= weights.sum()
    pad = [0] * 6
    pad[2 * (4 - axis)] = pad[2 * (4 - axis) + 1] = radius
    padded = functional.pad(volume, pad, mode="replicate")
    size = volume.shape[axis]
    result = torch.zeros_like(volume)
    for start, weight in enumerate(weights.tolist()):
        result.add_(padded.narrow(axis, start, size), alpha=weight)
    return result
