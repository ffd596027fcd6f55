"""The Jacobian determinant of a deformation."""

import torch
from torch import Tensor

from autoreg.numerics.coordinates import slabs


def jacobian_determinant(u_vox: Tensor) -> Tensor:
    """det(I + grad u) at every voxel of p -> p + u(p).

    Derivatives are central differences, one-sided at the faces; along an axis of one voxel they
    are 0. The grid is worked on in slabs.

    Args:
        u_vox: (B, 3, D, H, W), voxels, channels (d, h, w).

    Returns:
        (B, D, H, W); where it is not positive the deformation folds.
    """
    depth = u_vox.shape[2]
    pieces = []
    for layers in slabs(u_vox.shape[2:]):
        first, last = max(layers.start - 1, 0), min(layers.stop + 1, depth)
        start = layers.start - first
        rows = [_gradient(u_vox[:, c, first:last], c) for c in range(3)]
        whole = _determinant(rows)
        pieces.append(whole[:, start : start + layers.stop - layers.start])
    return torch.cat(pieces, dim=1)


def _gradient(component: Tensor, channel: int) -> list[Tensor]:
    """Row `channel` of I + grad u; (B, D, H, W) -> three of the same shape."""
    row = []
    for axis in range(3):
        if component.shape[axis + 1] == 1:
            slope = torch.zeros_like(component)
        else:
            (slope,) = torch.gradient(component, dim=axis + 1)
        row.append(slope + 1 if axis == channel else slope)
    return row


def _determinant(rows: list[list[Tensor]]) -> Tensor:
    (a, b, c), (d, e, f), (g, h, i) = rows
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
