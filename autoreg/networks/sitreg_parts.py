"""What the own form of SITReg and the authors' one have in common.

All coordinates are index coordinates of the full grid. A batch of 2B holds what belongs to the
moving images first, then what belongs to the fixed ones; or forward first, then reverse.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autoreg.networks.precision import widened
from autoreg.networks.sitreg_affine import AffineHead, centred_to_index, half_affine
from autoreg.networks.sitreg_features import FeatureExtractor, checkpointed
from autoreg.networks.sitreg_heads import DeformationHead
from autoreg.numerics.bspline import control_point_bound, spline_field
from autoreg.numerics.coordinates import index_grid
from autoreg.numerics.feature_sampling import sample_features
from autoreg.numerics.index_maps import AffineStep

# Of a head, at a time: less memory, but the layers at a slab's faces are computed twice.
_SLAB_LAYERS = 32
_SLAB_VOXELS = 2**17


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
        points = (points + 0.5) / self.spacing - 0.5
        return sample_features(widened(features), points.expand(features.shape[0], -1, -1, -1, -1))


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

        if torch.is_grad_enabled() and not self.checkpointing:
            return predict(features, points)
        again = torch.is_grad_enabled() and resolution.index == self.finest_head
        slabs = []
        for layers, around in _slabs(resolution.shape, head.reach):
            slab = checkpointed(again, predict, features, points[:, :, around])
            first = layers.start - around.start
            slabs.append(slab[:, :, first : first + layers.stop - layers.start])
        return torch.cat(slabs, dim=2) if len(slabs) > 1 else slabs[0]


def _slabs(shape: Sequence[int], reach: int | None) -> Iterator[tuple[slice, slice]]:
    """Cut a resolution along its first axis for a head, one slab at a time being in memory.

    Args:
        shape: Of the resolution.
        reach: Layers beyond a slab on which its control points depend; None: all.

    Yields:
        The layers of a slab, and these with the layers around them that they depend on.
    """
    if reach is None:
        yield slice(0, shape[0]), slice(0, shape[0])
        return
    thickness = max(_SLAB_LAYERS, _SLAB_VOXELS // (shape[1] * shape[2]))
    for start in range(0, shape[0], thickness):
        stop = min(start + thickness, shape[0])
        yield slice(start, stop), slice(max(start - reach, 0), min(stop + reach, shape[0]))


def swapped(x: Tensor) -> Tensor:
    """Both halves of a batch in the other order."""
    return x.roll(x.shape[0] // 2, 0)
