"""Coarser and finer copies of volumes for multi-resolution work."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from autoreg.numerics.bspline import cubic_spline


def pooled(x: Tensor, factors: tuple[int, ...]) -> Tensor:
    """Means over boxes of voxels; what is left over at the ends is held and averaged, too.

    Args:
        x: (C, D, H, W).
        factors: Voxels of a box along (d, h, w).
    """
    if all(f == 1 for f in factors):
        return x
    missing = [-n % f for n, f in zip(x.shape[1:], factors, strict=True)]
    if any(missing):
        d, h, w = missing
        x = functional.pad(x[None], (0, w, 0, h, 0, d), mode="replicate")[0]
    return functional.avg_pool3d(x[None], factors)[0]


def doubled(x: Tensor) -> Tensor:
    """Cubic splines through (D, H, W), at every half sample: (2 D - 1, 2 H - 1, 2 W - 1)."""
    for axis in range(3):
        if x.shape[axis] > 1:
            matrix = _doubling(x.shape[axis]).to(x)
            x = torch.tensordot(matrix, x, dims=([1], [axis])).movedim(0, axis)
    return x.contiguous()


def _doubling(samples: int) -> Tensor:
    """(2 samples - 1, samples): the interpolating cubic spline, mirrored at its ends."""
    nodes = np.arange(samples, dtype=np.float64)

    def splines(at: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        values = cubic_spline(at[:, None] - nodes)
        if samples > 1:
            values[:, 1] += cubic_spline(at + 1)
            values[:, -2] += cubic_spline(at - samples)
        return values

    matrix = np.linalg.solve(splines(nodes).T, splines(np.arange(2 * samples - 1) / 2).T).T
    return torch.from_numpy(np.ascontiguousarray(matrix)).float()
