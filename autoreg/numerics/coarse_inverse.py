"""The inverse of a displacement on its own grid, quickly: solved at every second voxel first."""

import torch
from torch import Tensor

from autoreg.numerics.axis_matrices import cubic_convolution_matrix, separable
from autoreg.numerics.coordinates import index_grid, sample_index_linear, slabs
from autoreg.numerics.invert import Inverter

_TOLERANCE_VOX = 2e-3
_SLAB_VOXELS = 2**18
_CORRECTIONS = 1


def coarse_inverse(u_vox: Tensor) -> Tensor:
    """V with v(y) = -u(y + v(y)).

    Every second voxel along each axis is solved for; the others are interpolated cubically and
    corrected by a step of Newton's method, for which the Jacobian of y + v(y), by differences of v,
    stands for the inverse of that of x + u(x). Near folds what is left is large: measure it.

    Args:
        u_vox: (3, D, H, W) voxels, channels (d, h, w).

    Returns:
        (3, D, H, W).
    """
    shape = u_vox.shape[1:]
    strides = [1 if n < 2 else 2 for n in shape]
    sizes = [-(-n // s) for n, s in zip(shape, strides, strict=True)]
    scale = torch.tensor(strides).to(u_vox).view(1, 3, 1, 1, 1)
    nodes = index_grid(sizes, device=u_vox.device, dtype=u_vox.dtype) * scale
    coarse = (Inverter(u_vox[None], _TOLERANCE_VOX).points(nodes) - nodes)[0]
    matrices = [
        cubic_convolution_matrix(torch.arange(n).double().numpy() / s, size).to(u_vox)
        for n, s, size in zip(shape, strides, sizes, strict=True)
    ]
    result = separable(coarse, matrices)
    for _ in range(_CORRECTIONS):
        before = result.clone()
        for layers in slabs(shape, _SLAB_VOXELS):
            result[:, layers] -= _correction(u_vox, before, layers)
    return result


def _correction(u_vox: Tensor, v: Tensor, layers: slice) -> Tensor:
    """(I + Dv) (v + u(y + v)) in some layers of the grid, (3, layers, H, W)."""
    depth = v.shape[1]
    part = v[:, layers]
    nodes = index_grid(part.shape[1:], device=v.device, dtype=v.dtype)
    nodes[:, 0] += layers.start
    left = part + sample_index_linear(u_vox[None], nodes + part, "border")[0]
    low, high = max(layers.start - 1, 0), min(layers.stop + 1, depth)
    result = left.clone()
    for axis in range(3):
        if v.shape[1 + axis] < 2:
            continue
        around = v[:, low:high] if axis == 0 else part
        slopes = torch.gradient(around, dim=1 + axis)[0]
        if axis == 0:
            slopes = slopes[:, layers.start - low :][:, : part.shape[1]]
        result.addcmul_(slopes, left[axis : axis + 1])
    return result
