"""Cubic B-splines: from control points to a displacement, and how large these may get.

A grid of control points has a whole number of samples per control point along each axis, aligned at
the edge of the field of view: sample i sits at t = (i + 1/2) / factor - 1/2 of the control grid.

References:
    Honkamaa and Marttinen, "SITReg: Multi-resolution architecture for symmetric, inverse
    consistent, and topology preserving image registration", MELBA 2024:026.
"""

import functools

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autoreg.numerics.coordinates import Size

# The samples of a control cell and the next one lie in -1/2 < t <= 1: all other splines are zero
# there.
_SUPPORT = np.arange(-2, 3)


def spline_matrix(controls: int, factor: int, samples: int) -> Tensor:
    """The values of one axis as a matrix that acts on its control points.

    Control points beyond the ends are those at the ends (replicated).

    Args:
        controls: Number of control points.
        factor: Samples per control point.
        samples: Number of samples; may be fewer or more than controls * factor.

    Returns:
        (samples, controls) float64; each row sums to 1.
    """
    t = (np.arange(samples) + 0.5) / factor - 0.5
    rows = np.arange(samples)
    matrix = np.zeros((samples, controls))
    for offset in range(-1, 3):
        control = np.floor(t) + offset
        columns = np.clip(control, 0, controls - 1).astype(np.int64)
        np.add.at(matrix, (rows, columns), cubic_spline(t - control))
    return torch.tensor(matrix.tolist(), dtype=torch.float64)


def spline_field(control_points: Tensor, factors: tuple[int, int, int], shape: Size) -> Tensor:
    """The cubic B-spline of control points, sampled on a finer grid; no prefilter, no scaling.

    Args:
        control_points: (B, C, d, h, w), floating point.
        factors: Samples per control point along (d, h, w).
        shape: Samples along (d, h, w).

    Returns:
        (B, C, *shape), in the units of the control points; differentiable.
    """
    d, h, w = (
        spline_matrix(controls, factor, samples).to(control_points)
        for controls, factor, samples in zip(control_points.shape[2:], factors, shape, strict=True)
    )
    batch, channels, controls, *plane = control_points.shape
    along_d = d @ control_points.reshape(batch, channels, controls, -1)
    field: Tensor = h @ (along_d.view(batch, channels, -1, *plane) @ w.T)
    return field


@functools.cache
def control_point_bound(factors: tuple[int, int, int]) -> float:
    """The largest control points whose sampled spline cannot fold, in voxels of the control grid.

    If no component of any control point exceeds it, the spline, sampled `factors` times per control
    point and interpolated linearly, has max_i sum_d |d u_i / d x_d| <= 1, with equality for the
    worst signs. Below it x + u(x) is invertible, its Jacobian determinant positive, and the fixed
    point iteration for the inverse contracts.

    The derivative is linear in the other coordinates of a cell, hence largest at its corners: per
    axis a pair of neighbouring samples and one of the two as the corner. A mirror image swaps the
    corners and turns the sign of a difference, so that positive signs stand for all; the mirror
    image along all axes at once spares half of the first axis.

    Args:
        factors: Samples per control point along (d, h, w).

    Returns:
        1 / K, with K = max over corners of sum_j |sum_d factor_d * difference_d of the tensor
        product spline of control point j|.

    References:
        Honkamaa and Marttinen, MELBA 2024:026 (optimal bounds, there too by exhaustive search).
    """
    (value_d, slope_d), (value_h, slope_h), (value_w, slope_w) = map(_corners, factors)
    half = 2 * ((factors[0] - 1) // 2)
    slope_hw = _outer(slope_h, value_w) + _outer(value_h, slope_w)
    value_hw = _outer(value_h, value_w)
    largest = 0.0
    for value, slope in zip(value_d[half:], slope_d[half:], strict=True):
        # One control point along d after the other: the whole sum is never in memory.
        sums = sum(
            np.abs(s * value_hw + v * slope_hw).sum(axis=-1)
            for v, s in zip(value, slope, strict=True)
        )
        largest = max(largest, float(np.max(sums)))
    return 1.0 / largest


def _corners(factor: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Values and slopes of the splines at all corners of one period; both (corners, support).

    The mirror image of the pair i is the pair factor - 2 - i; that of the last one, which crosses
    into the next control cell, is itself.
    """
    t = (np.arange(factor + 1) + 0.5) / factor - 0.5
    values = cubic_spline(t[:, None] - _SUPPORT)
    slopes = factor * np.diff(values, axis=0)
    corners = np.stack([values[:-1], values[1:]], axis=1).reshape(2 * factor, -1)
    return corners, np.repeat(slopes, 2, axis=0)


def _outer(
    first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """(m, j) and (n, k) to (m n, j k)."""
    return np.asarray(np.kron(first, second), dtype=np.float64)


def cubic_spline(t: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The cubic B-spline."""
    t = np.abs(t)
    near = 2 / 3 - t**2 + t**3 / 2
    far = np.maximum(2 - t, 0) ** 3 / 6
    return np.asarray(np.where(t < 1, near, far), dtype=np.float64)
