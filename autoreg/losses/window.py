"""Local means: separable windows as one banded matrix per axis.

A window along an axis of n voxels is an (n, n) matrix, and smoothing a volume is three matrix
products. On a CPU this is one to two orders of magnitude faster than the depthwise convolutions
that compute the same numbers (benchmarks/lncc.py).
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Border = Literal["zeros", "replicate"]


@dataclass(frozen=True, eq=False)
class Window:
    """A separable linear smoothing of volumes of one shape.

    Attributes:
        matrices: For the axes d, h and w: (n, n), from the voxels to their smoothed values.
    """

    matrices: tuple[Tensor, Tensor, Tensor]

    def __call__(self, volume: Tensor) -> Tensor:
        """Smooth.

        Args:
            volume: (B, C, D, H, W) of the matrices' type and device.

        Returns:
            (B, C, D, H, W).
        """
        along_d, along_h, along_w = self.matrices
        # Variances are small differences of large numbers: never in half precision.
        with torch.autocast(volume.device.type, enabled=False):
            smooth = torch.matmul(along_h, torch.matmul(volume, along_w.T))
            return torch.matmul(along_d, smooth.flatten(3)).reshape(smooth.shape)


def gaussian_window(volume: Tensor, sigma: float) -> Window:
    """The Gaussian of the published LNCC, cut off at two sigma, with zeros beyond the border.

    It has 2 floor(2 sigma) + 1 taps, which sum to 1. (Where 4 sigma rounded down is odd, the
    published code has an even number of taps and its window is off centre by half a voxel.)

    Args:
        volume: (B, C, D, H, W), for shape, type and device.
        sigma: Standard deviation, voxels; at least 0.5.

    Returns:
        The window.
    """
    half = math.floor(2 * sigma)
    taps = torch.exp(-0.5 * (torch.arange(-half, half + 1, dtype=torch.float64) / sigma) ** 2)
    return _window(volume, taps / taps.sum(), "zeros")


def box_window(volume: Tensor, width: int, border: Border) -> Window:
    """The mean over a cube.

    Args:
        volume: (B, C, D, H, W), for shape, type and device.
        width: Edge of the cube, voxels; odd.
        border: What lies beyond the border; it counts in the mean, with "zeros" too.

    Returns:
        The window.
    """
    taps = torch.full((width,), 1.0 / width, dtype=torch.float64)
    return _window(volume, taps, border)


def _window(volume: Tensor, taps: Tensor, border: Border) -> Window:
    built: dict[int, Tensor] = {}
    for n in volume.shape[2:]:
        if n not in built:
            built[n] = _banded(n, taps, border).to(volume)
    d, h, w = (built[n] for n in volume.shape[2:])
    return Window((d, h, w))


def _banded(n: int, taps: Tensor, border: Border) -> Tensor:
    half = len(taps) // 2
    columns = torch.arange(n)[:, None] + torch.arange(-half, half + 1)
    weights = taps.expand(n, -1)
    if border == "zeros":
        weights = torch.where((columns >= 0) & (columns < n), weights, 0.0)
    matrix = torch.zeros(n, n, dtype=taps.dtype)
    return matrix.scatter_add_(1, columns.clamp(0, n - 1), weights)


def at_least_float32(volume: Tensor) -> Tensor:
    """The volume in float32, or float64 if it has that."""
    return volume if volume.dtype == torch.float64 else volume.float()
