"""What training and instance optimisation minimise: similarity + lambda * regularity.

    similarity = sim(moving o phi_fm, fixed) + sim(fixed o phi_mf, moving)

With LNCC and GradICON this is the published loss of uniGradICON; with windowed NCC, diffusion and
lambda 2 it is twice that of SITReg at lambda 1, which takes means over the two directions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from autoreg.losses.factory import Regularity, build_regularity, build_similarity
from autoreg.losses.folding import folded_volume
from autoreg.losses.similarity import Loss, Similarity
from autoreg.networks.base import MapPair
from autoreg.numerics.coordinates import Size
from autoreg.numerics.maps import CoordinateMap
from autoreg.numerics.warp import sample_at_unit
from autoreg.plan import Plan


@dataclass(frozen=True)
class LossValues:
    """A loss as plain numbers.

    Attributes:
        similarity: Sum over both directions.
        regularity: Without its weight.
        total: similarity + weight * regularity + folding weight * folding.
        folding: Non-diffeomorphic volume of both maps together, voxels; None where the plan gives
            it no weight.
    """

    similarity: float
    regularity: float
    total: float
    folding: float | None = None


@dataclass(frozen=True, eq=False)
class PairLoss:
    """The loss of a pair (or batch of pairs), as scalars that can be differentiated.

    Attributes:
        similarity: Sum over both directions.
        regularity: Without its weight.
        folding: Non-diffeomorphic volume, sum over both maps; None if it isn't asked for.
        weighted_regularity: lambda * regularity + folding weight * folding.
        total: What is minimised.
    """

    similarity: Tensor
    regularity: Tensor
    folding: Tensor | None
    weighted_regularity: Tensor
    total: Tensor

    def values(self) -> LossValues:
        """The numbers, in one transfer from the device."""
        scalars = [self.similarity, self.regularity, self.total]
        scalars += [] if self.folding is None else [self.folding]
        similarity, regularity, total, *folding = torch.stack(scalars).detach().tolist()
        return LossValues(similarity, regularity, total, folding[0] if folding else None)


@dataclass(frozen=True, eq=False)
class PairObjective:
    """The objective of one pair: whatever depends on the images alone is computed already.

    Attributes:
        moving: (B, C, D, H, W).
        fixed: (B, C, D, H, W).
        to_fixed: Similarity of the warped moving image to the fixed one.
        to_moving: Similarity of the warped fixed image to the moving one.
        regularity: Of the two maps.
        weight: lambda.
        folding_weight: Of the non-diffeomorphic volume; 0: it is not computed.
    """

    moving: Tensor
    fixed: Tensor
    to_fixed: Loss
    to_moving: Loss
    regularity: Regularity
    weight: float
    folding_weight: float = 0.0

    def __call__(self, maps: MapPair, generator: torch.Generator) -> PairLoss:
        """The loss of the maps that a network gave.

        Args:
            maps: Between the two images.
            generator: Of the regularity's random points; on the CPU, so that every device sees
                the same ones.

        Returns:
            The loss; the images are sampled with zeros outside, as published.
        """
        shape = self.fixed.shape[2:]
        maps = evaluated(maps, shape)
        forth, back = maps.fixed_to_moving, maps.moving_to_fixed
        warped_moving = sample_at_unit(self.moving, forth.dense(shape), "zeros")
        warped_fixed = sample_at_unit(self.fixed, back.dense(shape), "zeros")
        similarity = self.to_fixed(warped_moving) + self.to_moving(warped_fixed)
        regularity = self.regularity(forth, back, shape, generator)
        weighted, folding = self.weight * regularity, None
        if self.folding_weight > 0:
            volumes = [folded_volume(one.displacement_vox(shape)) for one in (forth, back)]
            folding = volumes[0] + volumes[1]
            weighted = weighted + self.folding_weight * folding
        return PairLoss(similarity, regularity, folding, weighted, weighted + similarity)


@dataclass(frozen=True, eq=False)
class Objective:
    """Similarity, regularity and the weight between them.

    Attributes:
        similarity: Of a warped image and the one it is brought onto.
        regularity: Of the two maps.
        weight: lambda.
        folding_weight: Of the non-diffeomorphic volume of both maps.
    """

    similarity: Similarity
    regularity: Regularity
    weight: float
    folding_weight: float = 0.0

    @classmethod
    def from_plan(cls, plan: Plan) -> "Objective":
        """The objective that a plan asks for: its loss, on a grid of its spacing.

        Raises:
            PlanError: for an unknown name or parameter.
        """
        loss = plan.loss
        return cls(
            build_similarity(loss),
            build_regularity(loss, plan.grid.spacing_mm),
            loss.regularity_weight,
            loss.folding_weight,
        )

    def bind(
        self,
        moving: Tensor,
        fixed: Tensor,
        moving_mask: Tensor | None = None,
        fixed_mask: Tensor | None = None,
    ) -> PairObjective:
        """The objective of one pair or batch of pairs.

        Args:
            moving: (B, C, D, H, W).
            fixed: (B, C, D, H, W).
            moving_mask: (B, 1, D, H, W), not 0 where the moving image counts as a target.
            fixed_mask: Likewise of the fixed image.

        Returns:
            Function of the network's maps.
        """
        return PairObjective(
            moving=moving,
            fixed=fixed,
            to_fixed=self.similarity.bind(fixed, fixed_mask),
            to_moving=self.similarity.bind(moving, moving_mask),
            regularity=self.regularity,
            weight=self.weight,
            folding_weight=self.folding_weight,
        )


@dataclass(frozen=True, eq=False)
class _Evaluated(CoordinateMap):
    """A map whose points at the nodes of one grid are known."""

    map: CoordinateMap
    at_nodes: Tensor

    def __call__(self, points_unit: Tensor) -> Tensor:
        return self.map(points_unit)

    def select(self, batch: slice) -> "_Evaluated":
        return _Evaluated(self.map.select(batch), self.at_nodes[batch])

    @property
    def device(self) -> torch.device:
        return self.at_nodes.device

    def dense(self, shape: Size) -> Tensor:
        if tuple(shape) == tuple(self.at_nodes.shape[2:]):
            return self.at_nodes
        return self.map.dense(shape)


def evaluated(maps: MapPair, shape: Size) -> MapPair:
    """Maps that are computed at the nodes of a grid once, however often these are asked for.

    Args:
        maps: Between two images.
        shape: Nodes of the grid along (d, h, w).

    Returns:
        The same maps; their `dense` and `displacement_vox` on this grid cost nothing more.
    """

    def one(chain: CoordinateMap) -> CoordinateMap:
        return chain if isinstance(chain, _Evaluated) else _Evaluated(chain, chain.dense(shape))

    return MapPair(one(maps.fixed_to_moving), one(maps.moving_to_fixed))
