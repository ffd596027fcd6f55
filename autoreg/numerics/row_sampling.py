"""Trilinear sampling of any number of channels on the CPU, and its transpose, by rows.

A row holds the channels of a node. A value is a weighted sum of the eight rows of a cell
(FBGEMM's embedding bags); the transpose adds to each row (scipy's product with a sparse matrix).
Both work on whole rows where torch's `grid_sample` takes channel by channel: measured, 4 to 17
times less time. The numbers are torch's with padding "border", up to rounding.
"""

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional

from autoreg.numerics.cells import Cells, inside, parts


def suits_rows(volume: Tensor, points_vox: Tensor) -> bool:
    """Whether sampling by rows can be used.

    Args:
        volume: (B, C, d, h, w).
        points_vox: (B, 3, *s).
    """
    return (
        volume.device.type == "cpu"
        and volume.dtype == points_vox.dtype == torch.float32
        and 0 < volume.shape[2:].numel() < 2**31
    )


def sample_rows(volume: Tensor, points_vox: Tensor, result: Tensor) -> None:
    """Write the values at points, edge values held outside.

    Args:
        volume: (C, d, h, w) float32 on the CPU; best with channels last in memory.
        points_vox: (3, N) float32, index coordinates.
        result: (N, C), overwritten; NaN where a coordinate is.
    """
    rows, shape = _rows(volume), _shape(volume)
    for part in parts(points_vox):
        cells = Cells.of(points_vox[:, part], shape)
        result[part] = functional.embedding_bag(
            cells.rows(), rows, per_sample_weights=cells.weights(), mode="sum"
        )


def transposed_sampling(
    cotangent: Tensor, points_vox: Tensor, shape: tuple[int, int, int]
) -> Tensor:
    """The transpose of `sample_rows` as a linear function of the volume.

    Args:
        cotangent: (N, C) float32.
        points_vox: (3, N) float32, index coordinates.
        shape: Nodes along (d, h, w).

    Returns:
        (d h w, C): at each node the sum of the cotangents by the node's weights.
    """
    channels = cotangent.shape[1]
    result = np.zeros((shape[0] * shape[1] * shape[2], channels), dtype=np.float32)
    for part in parts(points_vox):
        cells = Cells.of(points_vox[:, part], shape)
        rows = cells.rows()
        count = len(rows)
        # Points of one part lie near each other: only so many rows are touched.
        low, high = (int(limit) for limit in torch.aminmax(rows))
        ends = np.arange(0, 8 * count + 1, 8, dtype=np.int32)
        entries = (cells.weights().view(-1).numpy(), rows.sub_(low).view(-1).numpy(), ends)
        matrix = sparse.csc_array(entries, shape=(high - low + 1, count), copy=False)
        result[low : high + 1] += matrix @ cotangent[part].numpy()
    return torch.from_numpy(result)


def slopes_times(cotangent: Tensor, volume: Tensor, points_vox: Tensor) -> Tensor:
    """The derivatives of the values by the points, times a cotangent and summed over channels.

    Args:
        cotangent: (N, C) float32, contiguous.
        volume: (C, d, h, w) float32 on the CPU.
        points_vox: (3, N) float32, index coordinates.

    Returns:
        (3, N) along (d, h, w); 0 along an axis on and beyond whose ends a point lies.
    """
    table, shape = _rows(volume), _shape(volume)
    result = torch.empty_like(points_vox)
    for part in parts(points_vox):
        cells = Cells.of(points_vox[:, part], shape)
        dots = _dots(cotangent[part], table, cells.rows())
        corners = dots.T.contiguous().view(2, 2, 2, -1)  # lower and upper along (d, h, w)
        along_w = corners[:, :, 1] - corners[:, :, 0]
        at_w = torch.lerp(corners[:, :, 0], corners[:, :, 1], cells.w)
        torch.sub(*torch.lerp(at_w[:, 0], at_w[:, 1], cells.h).flip(0), out=result[0, part])
        torch.sub(*torch.lerp(at_w[0], at_w[1], cells.d).flip(0), out=result[1, part])
        along_w = torch.lerp(along_w[:, 0], along_w[:, 1], cells.h)
        torch.lerp(along_w[0], along_w[1], cells.d, out=result[2, part])
        result[:, part] *= inside(points_vox[:, part], shape)
    return result


def _dots(cotangent: Tensor, table: Tensor, rows: Tensor) -> Tensor:
    """The products of each point's cotangent with the rows of its cell (N, 8)."""
    count, corners = rows.shape
    starts = torch.arange(0, count * corners, corners, dtype=rows.dtype)
    owners = torch.arange(count, dtype=rows.dtype).repeat_interleave(corners)
    summed, no_padding = 0, -1  # torch's numbers
    dots: Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        cotangent, table, rows.view(-1), starts, owners, summed, no_padding
    )
    return dots.view(count, corners)


def _rows(volume: Tensor) -> Tensor:
    """(d h w, C); no copy if the channels are last in memory."""
    return volume.movedim(0, -1).reshape(-1, volume.shape[0]).contiguous()


def _shape(volume: Tensor) -> tuple[int, int, int]:
    _, depth, height, width = volume.shape
    return depth, height, width
