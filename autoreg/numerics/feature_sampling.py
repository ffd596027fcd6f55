"""Sampling of feature maps with many channels, channels last in memory on the CPU."""

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable

from autoreg.numerics.row_sampling import (
    sample_rows,
    slopes_times,
    suits_rows,
    transposed_sampling,
)
from autoreg.numerics.warp import sample_at_index


def sample_features(volume: Tensor, points_vox: Tensor) -> Tensor:
    """Trilinear values of features at index coordinates, edge values held outside.

    On the CPU in float32 the result, as the gradient of the volume, has its channels last in
    memory, is computed by rows and differentiable once. Else it is what torch's sampler gives.

    Args:
        volume: (B, C, d, h, w), floating point.
        points_vox: (B, 3, *s) in voxels of `volume`, of its batch, type and device.

    Returns:
        (B, C, *s).
    """
    if not suits_rows(volume, points_vox):
        return sample_at_index(volume, points_vox)
    result: Tensor = _SampleRows.apply(volume, points_vox)  # type: ignore[no-untyped-call]
    return result


class _SampleRows(torch.autograd.Function):
    """`sample_features` by rows; keeps the volume and the points."""

    @staticmethod
    def forward(ctx: Any, volume: Tensor, points_vox: Tensor) -> Tensor:  # noqa: ANN401 - torch's
        ctx.save_for_backward(volume, points_vox)
        result = _channels_last(volume, points_vox.shape[2:])
        if isinstance(volume, FakeTensor):
            return result  # only memory counts
        for target, item, points in zip(result, volume, points_vox, strict=True):
            sample_rows(item, points.flatten(1), target.movedim(0, -1).flatten(0, 2))
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, Tensor | None]:  # noqa: ANN401
        volume, points_vox = ctx.saved_tensors
        by_volume, by_points = ctx.needs_input_grad
        at_volume = _channels_last(volume, volume.shape[2:]) if by_volume else None
        at_points = torch.empty_like(points_vox) if by_points else None
        if isinstance(cotangent, FakeTensor):
            return at_volume, at_points
        for number, item in enumerate(volume):
            rows = cotangent[number].movedim(0, -1).flatten(0, 2).contiguous()
            points = points_vox[number].flatten(1)
            if at_volume is not None:
                sums = transposed_sampling(rows, points, item.shape[1:])
                at_volume[number].movedim(0, -1).flatten(0, 2).copy_(sums)
            if at_points is not None:
                at_points[number] = slopes_times(rows, item, points).view_as(at_points[number])
        return at_volume, at_points


def _channels_last(volume: Tensor, shape: torch.Size) -> Tensor:
    """An empty tensor (B, C, *shape)."""
    return volume.new_empty(volume.shape[0], *shape, volume.shape[1]).movedim(-1, 1)
