"""Trilinear sampling on the CPU by weighted sums of table rows.

The same numbers as torch's `grid_sample` with padding "border", up to rounding, in less time
(benchmarks/field_sampling.py measures it): the sums run in FBGEMM's vectorised embedding bags. A
row of the table holds the components of a node and of its neighbour along w; four rows make a cell.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

# At a time and per thread: larger buffers go back to the system after each use, and are zeroed
# anew for the next one.
_POINTS = 2**15
_COMPONENTS = 3
_PADDED = 4


@dataclass(frozen=True, eq=False)
class CellTable:
    """One displacement field, prepared for sampling.

    Attributes:
        rows: (d h w, 8) float32: the components of a node, one unused, those of the next node.
        shape: Nodes along (d, h, w).
    """

    rows: Tensor
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, u_vox: Tensor) -> "CellTable":
        """Prepare a field.

        Args:
            u_vox: (1, 3, d, h, w) float32 on the CPU.
        """
        _, _, depth, height, width = u_vox.shape
        nodes = depth * height * width
        components = u_vox.detach().reshape(_COMPONENTS, nodes).T
        rows = u_vox.new_zeros(nodes, 2 * _PADDED)
        rows[:, :_COMPONENTS] = components
        rows[:-1, _PADDED : _PADDED + _COMPONENTS] = components[1:]
        return cls(rows, (depth, height, width))

    def values(self, points_vox: Tensor) -> Tensor:
        """The field at points; edge values are held outside.

        Args:
            points_vox: (1, 3, *s) float32, index coordinates of the field's own grid.

        Returns:
            (1, 3, *s); NaN where a coordinate is.
        """
        points = points_vox.detach().reshape(_COMPONENTS, -1)
        result = torch.empty_like(points)
        for part in _parts(points):
            cells = self._cells(points[:, part])
            before, after = self._sums(cells, cells.weights())
            for axis in range(_COMPONENTS):
                torch.lerp(before[axis], after[axis], cells.w, out=result[axis, part])
        return result.view(points_vox.shape)

    def slopes(self, points_vox: Tensor) -> Tensor:
        """The derivatives of the field at points, exact within the cell of a point.

        Args:
            points_vox: (1, 3, *s) float32, index coordinates of the field's own grid.

        Returns:
            (1, 3, 3, *s): of each component (axis 1) along (d, h, w) (axis 2), per node; 0 along an
            axis on and beyond whose ends a point lies.
        """
        points = points_vox.detach().reshape(_COMPONENTS, -1)
        result = points.new_empty(_COMPONENTS, _COMPONENTS, points.shape[1])
        for part in _parts(points):
            cells = self._cells(points[:, part])
            for axis, weights in enumerate((cells.weights_along_d(), cells.weights_along_h())):
                before, after = self._sums(cells, weights)
                for component in range(_COMPONENTS):
                    torch.lerp(
                        before[component],
                        after[component],
                        cells.w,
                        out=result[component, axis, part],
                    )
            before, after = self._sums(cells, cells.weights())
            for component in range(_COMPONENTS):
                torch.sub(after[component], before[component], out=result[component, 2, part])
            result[:, :, part] *= self._inside(points[:, part])
        return result.view(1, _COMPONENTS, *points_vox.shape[1:])

    def _cells(self, points: Tensor) -> "_Cells":
        """The cells of points (3, N)."""
        last = self._last(points)
        held = torch.minimum(points.clamp(min=0), last)
        corner = torch.minimum(held.floor(), (last - 1).clamp(min=0))
        d, h, w = corner.nan_to_num(0).int()
        node = (d * self.shape[1] + h) * self.shape[2] + w
        # An axis of one node has no neighbour; its weight is 0 there.
        along_h = self.shape[2] if self.shape[1] > 1 else 0
        along_d = self.shape[1] * self.shape[2] if self.shape[0] > 1 else 0
        rows = torch.stack([node, node + along_h, node + along_d, node + (along_d + along_h)], -1)
        return _Cells(rows, *(held - corner))

    def _inside(self, points: Tensor) -> Tensor:
        """(3, N) 1 where a point is between the ends of an axis, else 0."""
        return ((points > 0) & (points < self._last(points))).to(points.dtype)

    def _last(self, points: Tensor) -> Tensor:
        return torch.tensor(self.shape, dtype=points.dtype).view(3, 1) - 1

    def _sums(self, cells: "_Cells", weights: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted sums of rows, for the lower and the upper node along w; both (3, N)."""
        sums = functional.embedding_bag(
            cells.rows, self.rows, per_sample_weights=weights, mode="sum"
        ).T
        return sums[:_COMPONENTS], sums[_PADDED : _PADDED + _COMPONENTS]


@dataclass(frozen=True, eq=False)
class _Cells:
    """Where points lie.

    Attributes:
        rows: (N, 4) int32, of the table: lower and upper node along h, for both along d.
        d: (N,) where between the nodes, 0 to 1; so h and w.
        h: See d.
        w: See d.
    """

    rows: Tensor
    d: Tensor
    h: Tensor
    w: Tensor

    def weights(self) -> Tensor:
        """(N, 4) of the values."""
        upper = self.d * self.h
        lower_d = self.h - upper
        lower_h = self.d - upper
        return _columns(1 - self.d - lower_d, lower_d, lower_h, upper)

    def weights_along_d(self) -> Tensor:
        """(N, 4) of the derivatives along d."""
        return _columns(self.h - 1, -self.h, 1 - self.h, self.h)

    def weights_along_h(self) -> Tensor:
        """(N, 4) of the derivatives along h."""
        return _columns(self.d - 1, 1 - self.d, -self.d, self.d)


def _columns(*columns: Tensor) -> Tensor:
    """(N, 4); faster than `torch.stack` of floats along the last axis."""
    result = columns[0].new_empty(len(columns[0]), len(columns))
    for number, column in enumerate(columns):
        result[:, number] = column
    return result


def _parts(points: Tensor) -> list[slice]:
    each = _POINTS * torch.get_num_threads()
    return [slice(start, start + each) for start in range(0, points.shape[1], each)]
