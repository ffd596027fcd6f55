"""The cells of a grid in which points lie, for trilinear interpolation on the CPU."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# At a time and per thread: buffers of a megabyte go back to the system after each use, and are
# zeroed anew for the next one.
POINTS = 2**14


@dataclass(frozen=True, eq=False)
class Cells:
    """Where points lie; coordinates beyond the ends of an axis are held at them.

    Attributes:
        node: (N,) int32, the lowest node of each cell in the flattened grid.
        steps: From a node to the next one along (d, h, w) in the flattened grid; 0 along an axis
            of one node, where the upper node has no weight.
        d: (N,) where between the nodes, 0 to 1; NaN where the coordinate is.
        h: So along h.
        w: So along w.
    """

    node: Tensor
    steps: tuple[int, int, int]
    d: Tensor
    h: Tensor
    w: Tensor

    @classmethod
    def of(cls, points: Tensor, shape: tuple[int, int, int]) -> "Cells":
        """The cells of some points.

        Args:
            points: (3, N) floating point, index coordinates of the grid.
            shape: Nodes of the grid along (d, h, w), fewer than 2^31 in all.
        """
        last = _last(points, shape)
        held = torch.minimum(points.clamp(min=0), last)  # faster than a clamp by tensors
        corner = torch.minimum(held.floor(), (last - 1).clamp(min=0))
        between = held.sub_(corner)
        d, h, w = corner.nan_to_num_(0).int()
        node = w.add_(h, alpha=shape[2]).add_(d, alpha=shape[1] * shape[2])
        strides = shape[1] * shape[2], shape[2], 1
        steps = [s if n > 1 else 0 for s, n in zip(strides, shape, strict=True)]
        return cls(node, (steps[0], steps[1], steps[2]), *between)

    def lower_rows(self) -> Tensor:
        """(N, 4) int32, the lower nodes along w: lower and upper along h, for both along d."""
        d, h, _ = self.steps
        return self._rows((0, h, d, d + h))

    def rows(self) -> Tensor:
        """(N, 8) int32, all nodes of the cell: lower and upper along w, for both of h, of d."""
        d, h, w = self.steps
        return self._rows((0, w, h, h + w, d, d + w, d + h, d + h + w))

    def lower_weights(self) -> Tensor:
        """(N, 4) of the values at `lower_rows`, for bilinear interpolation along (d, h)."""
        return columns(*self._along_d_and_h())

    def weights(self) -> Tensor:
        """(N, 8) of the values at `rows`."""
        result = self.d.new_empty(len(self.d), 8)
        for number, weight in enumerate(self._along_d_and_h()):
            lower, upper = result[:, 2 * number], result[:, 2 * number + 1]
            torch.mul(weight, self.w, out=upper)
            torch.sub(weight, upper, out=lower)
        return result

    def _along_d_and_h(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        upper = self.d * self.h
        lower_d = self.h - upper
        lower_h = self.d - upper
        return 1 - self.d - lower_d, lower_d, lower_h, upper

    def _rows(self, offsets: tuple[int, ...]) -> Tensor:
        result = self.node.new_empty(len(self.node), len(offsets))
        for number, offset in enumerate(offsets):
            torch.add(self.node, offset, out=result[:, number])
        return result


def inside(points: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """(3, N) 1 where a point (3, N) is between the ends of an axis of a grid, else 0."""
    return ((points > 0) & (points < _last(points, shape))).to(points.dtype)


def columns(*values: Tensor) -> Tensor:
    """(N,) each to (N, k); faster than `torch.stack` of floats along the last axis."""
    result = values[0].new_empty(len(values[0]), len(values))
    for number, column in enumerate(values):
        result[:, number] = column
    return result


def parts(points: Tensor) -> Iterator[slice]:
    """Slices of the points (3, N), so many at a time as suits the caches."""
    each = POINTS * torch.get_num_threads()
    for start in range(0, points.shape[1], each):
        yield slice(start, start + each)


def _last(points: Tensor, shape: tuple[int, int, int]) -> Tensor:
    return torch.tensor(shape, dtype=points.dtype).view(3, 1) - 1
