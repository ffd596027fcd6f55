"""Where a displacement field folds, and which points its folds cover."""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from autoreg.numerics.coordinates import slabs
from autoreg.numerics.tetrahedra import determinant

_LATTICE_POINTS = 2**25
_SLAB_NODES = 400_000


@dataclass(frozen=True, eq=False)
class FoldedCells:
    """The cells of a grid that a deformation turns inside out, as boxes around their images.

    A deformation that is the identity far away covers every point at least once; a point that
    it covers several times lies in the image of at least one inverted cell. So a point outside
    of all these boxes has exactly one pre-image, as far as pre-images lie in the grid or within a
    voxel around it: folds of the held edge values further out are not among the cells.

    Attributes:
        lower_vox: (M, 3) smallest corner of each box, index coordinates.
        upper_vox: (M, 3) largest corner.
    """

    lower_vox: Tensor
    upper_vox: Tensor

    def covers(self, points_vox: Tensor) -> Tensor:
        """Which points may have more than one pre-image.

        The boxes are widened to a lattice, so a point near a fold may be named needlessly; none
        that a box covers is missed.

        Args:
            points_vox: (3, N).

        Returns:
            (N,) bool.
        """
        if self.lower_vox.shape[0] == 0 or points_vox.shape[1] == 0:
            return torch.zeros(points_vox.shape[1], dtype=torch.bool, device=points_vox.device)
        low = torch.maximum(points_vox.amin(1), self.lower_vox.amin(0))
        high = torch.minimum(points_vox.amax(1), self.upper_vox.amax(0))
        inside = ((points_vox >= low[:, None]) & (points_vox <= high[:, None])).all(0)
        if not bool(inside.any()):
            return inside
        extent = (high - low).double()
        pitch = max(1.0, float((extent + 1).prod() / _LATTICE_POINTS) ** (1 / 3))
        size = [int(e / pitch) + 1 for e in extent.tolist()]
        marked = self._lattice(low, pitch, size)
        cells = ((points_vox[:, inside] - low[:, None]) / pitch).long()
        covered = torch.zeros_like(inside)
        covered[inside] = marked[cells[0], cells[1], cells[2]]
        return covered

    def _lattice(self, low: Tensor, pitch: float, size: list[int]) -> Tensor:
        """Lattice cells that touch a box: (size) bool."""
        limit = torch.tensor(size, device=low.device)
        first = ((self.lower_vox - low) / pitch).floor().long()
        last = ((self.upper_vox - low) / pitch).floor().long() + 1
        touching = ((last > 0) & (first < limit)).all(1)
        first = first[touching].clamp_min(0)
        last = torch.minimum(last[touching], limit)
        counts = torch.zeros([n + 1 for n in size], dtype=torch.int32, device=low.device)
        one = torch.ones(first.shape[0], dtype=torch.int32, device=low.device)
        # +1 where a box begins, -1 behind its end: the running sums count the boxes over a cell.
        for corner in itertools.product((0, 1), repeat=3):
            where = [last[:, a] if corner[a] else first[:, a] for a in range(3)]
            counts.index_put_(tuple(where), one * (-1) ** sum(corner), accumulate=True)
        for axis in range(3):
            counts = counts.cumsum(axis, dtype=torch.int32)
        return counts[: size[0], : size[1], : size[2]] > 0


def folded_cells(u_vox: Tensor) -> FoldedCells:
    """Find the cells that p -> p + u(p) inverts.

    A cell is the box between eight neighbouring nodes, in which the field is trilinear; it counts
    as inverted when the determinant is not positive at one of its corners. The grid is extended
    by a layer of held edge values on each side, because that is how fields are continued.

    Args:
        u_vox: (1, 3, D, H, W).

    Returns:
        Boxes around the images of these cells.
    """
    padded = functional.pad(u_vox, [1] * 6, mode="replicate")[0]
    boxes: list[tuple[Tensor, Tensor]] = []
    size = padded.shape[1:]
    for layers in slabs((size[0] - 1, *size[1:]), _SLAB_NODES):
        first_node = (layers.start - 1, -1, -1)
        boxes.append(_inverted_boxes(padded[:, layers.start : layers.stop + 1], first_node))
    return FoldedCells(torch.cat([b[0] for b in boxes]), torch.cat([b[1] for b in boxes]))


def _inverted_boxes(u_vox: Tensor, first_node: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Boxes (M, 3), (M, 3) around the images of the inverted cells of a field (3, D, H, W)."""
    edges = [u_vox.diff(dim=axis + 1) for axis in range(3)]
    for axis, edge in enumerate(edges):
        edge[axis] += 1
    depth, height, width = (n - 1 for n in u_vox.shape[1:])
    inverted = torch.zeros((depth, height, width), dtype=torch.bool, device=u_vox.device)
    for i, j, k in itertools.product((0, 1), repeat=3):
        a = edges[0][:, :, j : j + height, k : k + width]
        b = edges[1][:, i : i + depth, :, k : k + width]
        c = edges[2][:, i : i + depth, j : j + height]
        inverted |= determinant(a, b, c) <= 0
    cells = inverted.nonzero()
    origin = torch.tensor(first_node, device=u_vox.device)
    corners = []
    for offset in itertools.product((0, 1), repeat=3):
        nodes = cells + torch.tensor(offset, device=u_vox.device)
        corners.append(
            (nodes + origin).to(u_vox) + u_vox[:, nodes[:, 0], nodes[:, 1], nodes[:, 2]].T
        )
    every = torch.stack(corners)
    return every.amin(0), every.amax(0)
