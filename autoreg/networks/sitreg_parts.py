"""What the own form of SITReg and the authors' one have in common.

All coordinates are index coordinates of the full grid. A batch of 2B holds what belongs to the
moving images first, then what belongs to the fixed ones; or forward first, then reverse.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from autoreg.networks.sitreg_affine import AffineHead, centred_to_index, half_affine
from autoreg.networks.sitreg_features import FeatureExtractor
from autoreg.networks.sitreg_heads import DeformationHead
from autoreg.numerics.bspline import control_point_bound, spline_field
from autoreg.numerics.coordinates import index_grid
from autoreg.numerics.index_maps import AffineStep
from autoreg.numerics.warp import sample_at_index


@dataclass(frozen=True)
class Resolution:
    """One resolution of a grid, and the coarser grid on which its deformations are sampled.

    Attributes:
        index: 0 is the grid itself, each further one is half as fine.
        grid_shape: Of the full grid.
        samples: Samples of the deformation per control point and axis.
    """

    index: int
    grid_shape: tuple[int, ...]
    samples: int

    @property
    def spacing(self) -> int:
        """Full-grid voxels per voxel of this resolution; a control point sits in each of them."""
        return int(2**self.index)

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels of this resolution along (d, h, w)."""
        return _divided(self.grid_shape, self.spacing)

    @property
    def field_factor(self) -> int:
        """Full-grid voxels per node of the sampled deformation."""
        return self.spacing // self.samples

    @property
    def field_factors(self) -> tuple[int, int, int]:
        """The same per axis."""
        return (self.field_factor,) * 3

    @property
    def field_shape(self) -> tuple[int, ...]:
        """Nodes of the sampled deformation along (d, h, w)."""
        return _divided(self.grid_shape, self.field_factor)

    @property
    def bound(self) -> float:
        """Largest control point, in voxels of this resolution, below which no cell can fold."""
        return control_point_bound((self.samples,) * 3)

    def field(self, control_points: Tensor) -> Tensor:
        """The deformation of some control points.

        Args:
            control_points: (B, 3, *shape) in voxels of this resolution.

        Returns:
            (B, 3, *field_shape), full-grid voxels.
        """
        # Item by item: matrix products round differently where the items of a batch meet, and
        # swapped images shall give swapped maps to the last bit.
        items = [
            spline_field(item, (self.samples,) * 3, self.field_shape)
            for item in torch.split(control_points, 1)
        ]
        return torch.cat(items) * self.spacing

    def centres(self, like: Tensor) -> Tensor:
        """The middles of this resolution's voxels (1, 3, *shape), full-grid voxels."""
        return _nodes(self.shape, self.spacing, like)

    def field_nodes(self, like: Tensor) -> Tensor:
        """The nodes of the sampled deformation (1, 3, *field_shape), full-grid voxels."""
        return _nodes(self.field_shape, self.field_factor, like)

    def sampled(self, features: Tensor, points: Tensor) -> Tensor:
        """Features of this resolution at points of the full grid, edge values held outside.

        Args:
            features: (B, C, *shape).
            points: (B, 3, d, h, w), full-grid voxels.

        Returns:
            (B, C, d, h, w).
        """
        return sample_at_index(features, (points + 0.5) / self.spacing - 0.5)


def _divided(shape: Sequence[int], factor: int) -> tuple[int, ...]:
    return tuple(-(-n // factor) for n in shape)


def _nodes(shape: Sequence[int], factor: int, like: Tensor) -> Tensor:
    nodes = index_grid(shape, device=like.device, dtype=like.dtype)
    return nodes * factor + (factor - 1) / 2


@dataclass(frozen=True, eq=False)
class Parts:
    """The layers of a network, and how they are used.

    Attributes:
        extractor: Of the features.
        heads: Per resolution, finest first; None: no deformation is predicted there.
        affine_head: Of the affine stage, if there is one.
        bound_share: Largest control point as a share of the bound.
        voxel_size: Of the grid's axes in the order in which they enter, up to a common factor.
        checkpointing: Compute the finest head's activations again in the backward pass.
    """

    extractor: FeatureExtractor
    heads: tuple[DeformationHead | None, ...]
    affine_head: AffineHead | None
    bound_share: float
    voxel_size: tuple[float, ...]
    checkpointing: bool

    @property
    def finest_head(self) -> int:
        """The finest resolution with a head."""
        return next(i for i, head in enumerate(self.heads) if head is not None)

    def half_affine(self, coarsest: Tensor, shape: Sequence[int]) -> AffineStep | None:
        """The half affine maps of both images; None without an affine stage.

        Args:
            coarsest: Features (2B, C, d, h, w).
            shape: Of the full grid.
        """
        if self.affine_head is None:
            return None
        matrices = half_affine(self.affine_head(coarsest))
        return AffineStep(centred_to_index(matrices, shape, self.voxel_size))

    def control_points(self, resolution: Resolution, features: Tensor, points: Tensor) -> Tensor:
        """The control points of a resolution.

        Args:
            resolution: One with a head.
            features: Of that resolution (2B, C, d, h, w), not warped yet.
            points: Where they are taken, (2B, 3, d, h, w) full-grid voxels.

        Returns:
            (2B, 3, d, h, w) voxels of the resolution, forward first.
        """
        head = self.heads[resolution.index]
        if head is None:
            raise ValueError(f"resolution {resolution.index} has no head")
        limit = self.bound_share * resolution.bound

        def predict(features: Tensor, points: Tensor) -> Tensor:
            result: Tensor = head(resolution.sampled(features, points), limit)
            return result

        if not self.checkpointing or resolution.index > self.finest_head:
            return predict(features, points)
        result: Tensor = checkpoint(
            predict, features, points, use_reentrant=False, preserve_rng_state=False
        )
        return result


def swapped(x: Tensor) -> Tensor:
    """Both halves of a batch in the other order."""
    return x.roll(x.shape[0] // 2, 0)
