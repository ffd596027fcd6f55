"""One resolution of a pair in the optimisation of a displacement field.

Everything lies on one box of the fixed image's grid (`autoreg.registration.field_images`); lengths
and displacements are millimetres along its axes (d, h, w), from its first voxel of full resolution.

Sums over blocks of two voxels per axis stand for the voxels wherever a window is larger than a
block anyway: windows, forces and curvatures then cost an eighth. Volumes are worked on in slabs
that fit into the processor's cache.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from autoreg.registration.field_similarity import Criterion, Response
from autoreg.registration.placed_volume import PlacedVolume, Positions, slabs_of

# Receives layers of the box and nine fields (9, layers, H, W): the force (d, h, w) and the
# curvature (dd, dh, dw, hh, hw, ww).
Sink = Callable[[slice, Tensor], None]


@dataclass(frozen=True, eq=False)
class Level:
    """Both images at one resolution.

    Attributes:
        fixed: (C, D, H, W); even along every axis that is not flat.
        moving: May be sampled more densely and reach beyond the box.
        spacing_mm: Of the fixed image's voxels at this resolution, per axis.
        first_mm: Position of its first voxel, per axis.
        flat: Which axes have one voxel alone; nothing moves along them.
        weights: (d, h, w) of the blocks: where the similarity counts, 0 to 1.
        moving_inside: Where the moving image may be looked at, 0 to 1; None: everywhere.
        criterion: The similarity.
        pooled: Voxels of the fixed and of the moving image in one of this resolution.
    """

    fixed: Tensor
    moving: PlacedVolume
    spacing_mm: tuple[float, float, float]
    first_mm: tuple[float, float, float]
    flat: tuple[bool, bool, bool]
    weights: Tensor
    moving_inside: PlacedVolume | None
    criterion: Criterion
    pooled: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along (d, h, w)."""
        _, d, h, w = self.fixed.shape
        return d, h, w

    @property
    def block_shape(self) -> tuple[int, int, int]:
        """Blocks along (d, h, w)."""
        d, h, w = self.weights.shape
        return d, h, w

    @property
    def voxel_mm(self) -> float:
        """Size of a voxel: its smallest edge along the axes that are not flat."""
        return min(s for s, flat in zip(self.spacing_mm, self.flat, strict=True) if not flat)

    @property
    def voxels_per_block(self) -> int:
        """Of this resolution."""
        return 1 << (3 - sum(self.flat))

    def voxels_mm(self) -> Positions:
        """Per axis, where the voxels lie."""
        axes = zip(self.first_mm, self.spacing_mm, self.shape, strict=True)
        return [np.asarray(first + step * np.arange(n), np.float64) for first, step, n in axes]

    def blocks_mm(self) -> Positions:
        """Per axis, where the middles of the blocks lie."""
        axes = zip(self.voxels_mm(), self.flat, strict=True)
        return [x if flat else (x[0::2] + x[1::2]) / 2 for x, flat in axes]

    @cached_property
    def slabs(self) -> list[slice]:
        """Layers that are worked on at a time; whole blocks."""
        return slabs_of(self.shape, self.fixed.device)

    @property
    def voxel_volume(self) -> float:
        """Of a voxel, mm to the power of the axes that are not flat."""
        sizes = zip(self.spacing_mm, self.flat, strict=True)
        return float(np.prod([s for s, flat in sizes if not flat]))

    def blocks_of(self, layers: slice) -> slice:
        """The blocks of a slab along d."""
        return layers if self.flat[0] else slice(layers.start // 2, layers.stop // 2)

    def warp(self, field: Tensor, matrices: list[Tensor]) -> Tensor:
        """The moving image at the displaced voxels.

        Args:
            field: (3, d, h, w) mm, a displacement on some coarser grid.
            matrices: Per axis, from that grid to this level's voxels.

        Returns:
            (C, D, H, W).
        """
        return self.moving.displaced(field, matrices, self.voxels_mm(), "border")

    def weights_at(self, field: Tensor, matrices: list[Tensor]) -> Tensor:
        """Where the similarity counts: in both images.

        Args:
            field: As for `warp`.
            matrices: Per axis, from that grid to the middles of the blocks.

        Returns:
            (d, h, w) of the blocks, 0 to 1.
        """
        if self.moving_inside is None:
            return self.weights
        inside = self.moving_inside.displaced(field, matrices, self.blocks_mm(), "zeros")
        return self.weights * inside[0]

    def similarity(self, warped: Tensor, weights: Tensor) -> Response:
        """How similar the images are, and what would make them more so.

        Args:
            warped: (C, D, H, W).
            weights: (d, h, w) of the blocks.

        Returns:
            Of the criterion.
        """
        sums = self.warped_sums(warped)
        return self.criterion.respond(self.fixed_sums, sums, weights, self.voxels_per_block)

    def warped_sums(self, warped: Tensor) -> Tensor:
        """(3, C, d, h, w): block sums of the warped image w, of w^2 and of w f."""
        sums = torch.empty(3, len(warped), *self.block_shape).to(warped)
        for layers in self.slabs:
            w, f = warped[:, layers], self.fixed[:, layers]
            parts = torch.stack([w, w * w, w * f])
            sums[:, :, self.blocks_of(layers)] = self.block_sums(parts.flatten(0, 1)).view(
                3, len(warped), -1, *self.block_shape[1:]
            )
        return sums

    @cached_property
    def fixed_sums(self) -> Tensor:
        """(2, C, d, h, w): block sums of the fixed image and of its square."""
        f = self.fixed
        pieces = [self.block_sums(torch.cat([f[:, s], f[:, s].square()])) for s in self.slabs]
        return torch.cat(pieces, dim=1).view(2, len(f), *self.block_shape)

    def block_sums(self, x: Tensor) -> Tensor:
        """Sums over blocks: (N, D, H, W) to (N, d, h, w)."""
        # The last axis as a product of matrices: a stride of two is slow there.
        if not self.flat[2]:
            x = x @ self._pairs
        if not self.flat[1]:
            x = x[:, :, 0::2] + x[:, :, 1::2]
        return x if self.flat[0] else x[:, 0::2] + x[:, 1::2]

    @cached_property
    def _pairs(self) -> Tensor:
        width = self.shape[2]
        pairs = torch.zeros(width, width // 2).to(self.fixed)
        pairs[torch.arange(width), torch.arange(width) // 2] = 1
        return pairs

    def forces(self, warped: Tensor, response: Response, sink: Sink) -> None:
        """What pulls at each voxel, and how stiffly, slab by slab.

        Of the objective J of the criterion: the force is s g, the curvature h g g^T, with g the
        gradient of the warped image, s = f P - w Q - R the derivative of J by its intensities, and
        h their Gauss-Newton curvature.

        Args:
            warped: (C, D, H, W).
            response: Of `similarity`.
            sink: Takes the slabs.
        """
        for layers in self.slabs:
            total = torch.zeros(9, layers.stop - layers.start, *self.shape[1:]).to(warped)
            blocks = self.blocks_of(layers)
            for channel in range(len(warped)):
                spread = self._spread(response.fields[:, channel, blocks])
                self._add_forces(
                    total, warped[channel], self.fixed[channel, layers], spread, layers
                )
            sink(layers, total)

    def _spread(self, blocks: Tensor) -> Tensor:
        """Block values (N, d, h, w) along the last axis, (N, d, h, W)."""
        return blocks if self.flat[2] else blocks @ self._pairs.T

    def _add_forces(
        self, total: Tensor, warped: Tensor, fixed: Tensor, spread: Tensor, layers: slice
    ) -> None:
        slopes = self._slopes(warped, layers)
        p, q, r, curvature = (b[:, None, :, None] for b in spread)
        w = self._in_blocks(warped[layers])
        pull = (self._in_blocks(fixed) * p).sub_(w * q).sub_(r).view(fixed.shape)
        bent = (self._in_blocks(slopes) * curvature[None]).view(slopes.shape)
        total[:3].addcmul_(slopes, pull[None])
        total[3:6].addcmul_(bent, slopes[:1])
        total[6:8].addcmul_(bent[1:], slopes[1:2])
        total[8].addcmul_(bent[2], slopes[2])

    def _in_blocks(self, x: Tensor) -> Tensor:
        """(..., D, H, W) as (..., d, 2, h, 2, W), with 1 instead of 2 along flat axes."""
        *rest, depth, height, width = x.shape
        two_d, two_h = (1 if flat else 2 for flat in self.flat[:2])
        return x.view(*rest, depth // two_d, two_d, height // two_h, two_h, width)

    def _slopes(self, warped: Tensor, layers: slice) -> Tensor:
        """Central differences per mm of some layers, 0 at the ends; (3, layers, H, W)."""
        depth = self.shape[0]
        x = warped[layers]
        slopes = torch.zeros(3, *x.shape).to(x)
        first, last = max(layers.start, 1), min(layers.stop, depth - 1)
        inner = slice(first - layers.start, max(last, first) - layers.start)
        if last > first:
            above, below = warped[first + 1 : last + 1], warped[first - 1 : last - 1]
            torch.sub(above, below, out=slopes[0, inner])
        if x.shape[1] > 1:
            torch.sub(x[:, 2:], x[:, :-2], out=slopes[1, :, 1:-1])
        if x.shape[2] > 1:
            torch.sub(x[:, :, 2:], x[:, :, :-2], out=slopes[2, :, :, 1:-1])
        per_mm = [0.0 if f else 0.5 / s for f, s in zip(self.flat, self.spacing_mm, strict=True)]
        slopes *= torch.tensor(per_mm).to(x).view(3, 1, 1, 1)
        return slopes
