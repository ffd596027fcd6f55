"""Trilinear sampling of displacements on the CPU by weighted sums of table rows.

The same numbers as torch's `grid_sample` with padding "border", up to rounding, in less time
(benchmarks/field_sampling.py measures it): the sums run in FBGEMM's vectorised embedding bags. A
row of the table holds the components of a node and of its neighbour along w; four rows make a cell.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from autoreg.numerics.cells import Cells, columns, inside, parts

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
        for part in parts(points):
            cells = Cells.of(points[:, part], self.shape)
            before, after = self._sums(cells.lower_rows(), cells.lower_weights())
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
        for part in parts(points):
            cells = Cells.of(points[:, part], self.shape)
            rows = cells.lower_rows()
            for axis, weights in enumerate((_weights_along_d(cells), _weights_along_h(cells))):
                before, after = self._sums(rows, weights)
                for component in range(_COMPONENTS):
                    torch.lerp(
                        before[component],
                        after[component],
                        cells.w,
                        out=result[component, axis, part],
                    )
            before, after = self._sums(rows, cells.lower_weights())
            for component in range(_COMPONENTS):
                torch.sub(after[component], before[component], out=result[component, 2, part])
            result[:, :, part] *= inside(points[:, part], self.shape)
        return result.view(1, _COMPONENTS, *points_vox.shape[1:])

    def _sums(self, rows: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted sums of rows, for the lower and the upper node along w; both (3, N)."""
        sums = functional.embedding_bag(rows, self.rows, per_sample_weights=weights, mode="sum").T
        return sums[:_COMPONENTS], sums[_PADDED : _PADDED + _COMPONENTS]


def _weights_along_d(cells: Cells) -> Tensor:
    """(N, 4) of the derivatives along d."""
    return columns(cells.h - 1, -cells.h, 1 - cells.h, cells.h)


def _weights_along_h(cells: Cells) -> Tensor:
    """(N, 4) of the derivatives along h."""
    return columns(cells.d - 1, 1 - cells.d, -cells.d, cells.d)
