"""What is done to each axis of a grid by itself, as matrices: interpolation and smoothing."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def separable(x: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Apply one matrix per axis.

    Args:
        x: (C, d, h, w).
        matrices: (n_d, d), (n_h, h), (n_w, w).

    Returns:
        (C, n_d, n_h, n_w).
    """
    along_d, along_h, along_w = matrices
    x = along_h @ (x @ along_w.T)
    channels, depth, height, width = x.shape
    result = along_d @ x.reshape(channels, depth, -1)
    return result.view(channels, -1, height, width)


def cubic_convolution_matrix(at: npt.NDArray[np.float64], samples: int) -> Tensor:
    """Interpolation that passes through the samples with continuous slopes; edge values are held.

    Args:
        at: (n,) index coordinates of the samples.
        samples: How many there are.

    Returns:
        (n, samples) float32; each row sums to 1.

    References:
        Keys, Cubic convolution interpolation for digital image processing, IEEE TASSP 1981.
    """
    held = np.clip(at, 0, samples - 1)
    before = np.floor(held).astype(np.int64)
    t = held - before
    weights = (
        -t / 2 + t**2 - t**3 / 2,
        1 - 5 / 2 * t**2 + 3 / 2 * t**3,
        t / 2 + 2 * t**2 - 3 / 2 * t**3,
        -(t**2) / 2 + t**3 / 2,
    )
    matrix = np.zeros((len(at), samples))
    for offset, weight in zip((-1, 0, 1, 2), weights, strict=True):
        columns = np.clip(before + offset, 0, samples - 1)
        np.add.at(matrix, (np.arange(len(at)), columns), weight)
    return torch.from_numpy(matrix).float()


def gaussian_matrix(samples: int, sigma: float) -> Tensor:
    """Smoothing with edge values held.

    Args:
        samples: How many there are.
        sigma: Standard deviation in samples; positive.

    Returns:
        (samples, samples) float32; each row sums to 1.
    """
    radius = math.ceil(4 * sigma)
    taps = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (taps / sigma) ** 2)
    weights /= weights.sum()
    matrix = np.zeros((samples, samples))
    rows = np.arange(samples)
    for tap, weight in zip(taps, weights, strict=True):
        np.add.at(matrix, (rows, np.clip(rows + tap, 0, samples - 1)), weight)
    return torch.from_numpy(matrix).float()
