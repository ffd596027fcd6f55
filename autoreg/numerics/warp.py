"""Sampling of volumes and fields, and warping by a displacement.

Pull-back everywhere: `warped(p) = volume(p + u(p))`, p on the grid of the result.
"""

from typing import Literal

import torch
from torch import Tensor

from autoreg.numerics.coordinates import index_grid, sample_index_linear, sample_unit_linear

Padding = Literal["border", "zeros"]
Mode = Literal["linear", "nearest"]


def sample_at_unit(volume: Tensor, points_unit: Tensor, padding: Padding = "border") -> Tensor:
    """Trilinear values of a volume at unit coordinates.

    Args:
        volume: (B, C, d, h, w), of any resolution.
        points_unit: (B, 3, D, H, W), channels (d, h, w). A batch of 1 in either argument serves
            the whole batch of the other one.
        padding: Outside the grid: "border" holds the edge value, "zeros" falls to 0 within one
            voxel.

    Returns:
        (B, C, D, H, W).
    """
    return sample_unit_linear(*_matched(volume, points_unit), padding)


def sample_at_index(
    volume: Tensor, points_vox: Tensor, padding: Padding = "border", mode: Mode = "linear"
) -> Tensor:
    """Values of a volume at index coordinates.

    Args:
        volume: (B, C, d, h, w); with "nearest" of any type, which is kept.
        points_vox: (B, 3, D, H, W) in voxels of `volume`, channels (d, h, w). A batch of 1 in
            either argument serves the whole batch of the other one.
        padding: Outside the grid: "border" holds the edge value. "zeros": linear values fall to
            0 within one voxel, nearest ones are 0 strictly outside [0, n - 1].
        mode: "linear", or "nearest" by the rule of scipy.ndimage: ties go to the larger index.

    Returns:
        (B, C, D, H, W).
    """
    if mode == "linear":
        return sample_index_linear(*_matched(volume, points_vox), padding)
    return _sample_nearest(volume, points_vox, padding)


def warp(
    volume: Tensor, u_vox: Tensor, padding: Padding = "border", mode: Mode = "linear"
) -> Tensor:
    """Warp a volume by a displacement on its own grid: `warped(p) = volume(p + u(p))`.

    Args:
        volume: (B, C, D, H, W).
        u_vox: (B, 3, D, H, W), voxels.
        padding: See `sample_at_index`.
        mode: See `sample_at_index`.

    Returns:
        (B, C, D, H, W).
    """
    points = index_grid(u_vox.shape[2:], device=u_vox.device, dtype=u_vox.dtype) + u_vox
    return sample_at_index(volume, points, padding, mode)


def _matched(volume: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Both arguments with a common batch and floating type."""
    dtype = torch.promote_types(volume.dtype, points.dtype)
    batch = max(volume.shape[0], points.shape[0])
    return (
        volume.to(dtype).expand(batch, *volume.shape[1:]),
        points.to(dtype).expand(batch, *points.shape[1:]),
    )


def _sample_nearest(volume: Tensor, points_vox: Tensor, padding: Padding) -> Tensor:
    # Not grid_sample: it rounds ties to even and knows no integers.
    batch = max(volume.shape[0], points_vox.shape[0])
    channels, size = volume.shape[1], volume.shape[2:]
    flat = torch.zeros_like(points_vox[:, 0], dtype=torch.int64)
    inside = torch.ones_like(points_vox[:, 0], dtype=torch.bool)
    for axis, n in enumerate(size):
        coordinate = points_vox[:, axis]
        nearest = torch.floor(coordinate + 0.5).clamp(0, n - 1).to(torch.int64)
        flat = flat * n + nearest
        inside &= (coordinate >= 0) & (coordinate <= n - 1)
    flat = flat.reshape(flat.shape[0], 1, -1).expand(batch, channels, -1)
    values = volume.reshape(volume.shape[0], channels, -1).expand(batch, -1, -1).gather(2, flat)
    values = values.reshape(batch, channels, *points_vox.shape[2:])
    return values * inside[:, None].to(values.dtype) if padding == "zeros" else values
