"""What training and instance optimisation minimise: similarity + lambda * regularity.

    similarity = sim(moving o phi_fm, fixed) + sim(fixed o phi_mf, moving)

With LNCC and GradICON this is the published loss of uniGradICON.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from autoreg.losses.factory import Regularity, build_regularity, build_similarity
from autoreg.losses.similarity import Loss, Similarity
from autoreg.networks.base import MapPair
from autoreg.numerics.coordinates import Size
from autoreg.numerics.maps import FieldChain
from autoreg.numerics.warp import sample_at_unit
from autoreg.plan import LossPlan


@dataclass(frozen=True)
class LossValues:
    """A loss as plain numbers.

    Attributes:
        similarity: Sum over both directions.
        regularity: Without its weight.
        total: similarity + weight * regularity.
    """

    similarity: float
    regularity: float
    total: float


@dataclass(frozen=True, eq=False)
class PairLoss:
    """The loss of a pair (or batch of pairs), as scalars that can be differentiated.

    Attributes:
        similarity: Sum over both directions.
        regularity: Without its weight.
        weighted_regularity: lambda * regularity.
        total: What is minimised.
    """

    similarity: Tensor
    regularity: Tensor
    weighted_regularity: Tensor
    total: Tensor

    def values(self) -> LossValues:
        """The numbers, in one transfer from the device."""
        scalars = torch.stack([self.similarity, self.regularity, self.total]).detach()
        similarity, regularity, total = scalars.tolist()
        return LossValues(similarity, regularity, total)


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
    """

    moving: Tensor
    fixed: Tensor
    to_fixed: Loss
    to_moving: Loss
    regularity: Regularity
    weight: float

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
        fixed_to_moving = _evaluated(maps.fixed_to_moving, shape)
        moving_to_fixed = _evaluated(maps.moving_to_fixed, shape)
        warped_moving = sample_at_unit(self.moving, fixed_to_moving.at_nodes, "zeros")
        warped_fixed = sample_at_unit(self.fixed, moving_to_fixed.at_nodes, "zeros")
        similarity = self.to_fixed(warped_moving) + self.to_moving(warped_fixed)
        regularity = self.regularity(fixed_to_moving, moving_to_fixed, shape, generator)
        weighted = self.weight * regularity
        return PairLoss(similarity, regularity, weighted, weighted + similarity)


@dataclass(frozen=True, eq=False)
class Objective:
    """Similarity, regularity and the weight between them.

    Attributes:
        similarity: Of a warped image and the one it is brought onto.
        regularity: Of the two maps.
        weight: lambda.
    """

    similarity: Similarity
    regularity: Regularity
    weight: float

    @classmethod
    def from_plan(cls, loss: LossPlan) -> "Objective":
        """The objective that a plan asks for.

        Raises:
            PlanError: for an unknown name or parameter.
        """
        return cls(build_similarity(loss), build_regularity(loss), loss.regularity_weight)

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
        )


@dataclass(frozen=True, eq=False)
class _EvaluatedChain(FieldChain):
    """A chain whose points at its grid's nodes are known, for the warp and for the regularity."""

    at_nodes: Tensor

    def dense(self, shape: Size) -> Tensor:
        if tuple(shape) == tuple(self.at_nodes.shape[2:]):
            return self.at_nodes
        return super().dense(shape)


def _evaluated(chain: FieldChain, shape: Size) -> _EvaluatedChain:
    return _EvaluatedChain(chain.fields, chain.dense(shape))
