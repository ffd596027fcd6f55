"""SITReg: symmetric, inverse consistent and topology preserving by construction.

Attribute names are those of the authors' code, so that weights trained with it load once the empty
entries `*._indicator` are left out.
"""

from typing import cast

import torch
from torch import Tensor, nn

from autoreg.network_plan import SITRegPlan
from autoreg.networks.base import MapPair, RegistrationNetwork
from autoreg.networks.sitreg_affine import AffineHead
from autoreg.networks.sitreg_features import FeatureExtractor
from autoreg.networks.sitreg_heads import DeformationHead
from autoreg.networks.sitreg_own import own_steps
from autoreg.networks.sitreg_parts import Parts
from autoreg.networks.sitreg_upstream import upstream_steps
from autoreg.numerics.index_maps import IndexChain
from autoreg.numerics.maps import CoordinateMap


class SITReg(RegistrationNetwork):
    """The network of a plan; any grid shape, no axis needs to be divisible by anything.

    Both directions come from one computation, and swapping the images swaps the maps bit by bit.
    There is no randomness and no statistics of a batch: train and eval mode do the same, and a
    pair's result doesn't depend on the other pairs of its batch. The layers start with torch's
    usual values, which move voxels by some tenths; from last layers ten or a hundred times smaller
    it learnt more slowly.

    Args:
        plan: Channels, resolutions and which of the two forms.
        channels: Of one image.

    References:
        Honkamaa and Marttinen, SITReg, MELBA 2024:026, doi 10.59275/j.melba.2024-276b.
    """

    def __init__(self, plan: SITRegPlan, channels: int) -> None:
        super().__init__()
        self._plan = plan
        self._feature_extractor = FeatureExtractor(
            channels,
            plan.features,
            plan.feature_convolutions,
            plan.groups,
            checkpointing=plan.checkpointing,
        )
        groups = plan.groups if plan.normalise_deformations else None
        self._not_none_dense_extration_networks = nn.ModuleList(
            DeformationHead(features, heads, plan.deformation_convolutions, groups)
            for features, heads in zip(plan.features, plan.deformation_features, strict=True)
            if heads is not None
        )
        if plan.affine:
            self._affine_extraction_network = AffineHead(
                plan.features[-1], chained=plan.compatibility == "own"
            )

    def forward(self, moving: Tensor, fixed: Tensor) -> MapPair:
        """The maps of both directions; see the base class."""
        # The same reversal there and back: (d, h, w) <-> (w, h, d).
        reverse = self._plan.axes == "whd"
        images = torch.cat([moving, fixed])
        steps = own_steps if self._plan.compatibility == "own" else upstream_steps
        chains = steps(self.parts(), images.permute(0, 1, 4, 3, 2) if reverse else images)
        depth, height, width = fixed.shape[2:]
        fixed_to_moving, moving_to_fixed = (
            IndexChain(
                (depth, height, width),
                tuple(step.permuted() for step in chain) if reverse else chain,
            )
            for chain in chains
        )
        return MapPair(fixed_to_moving, moving_to_fixed)

    def one_direction(self, moving: Tensor, fixed: Tensor) -> CoordinateMap:
        """The map from the fixed to the moving grid alone; see the base class.

        The network computes both at once; what is saved is the evaluation of the other map.
        """
        return self.forward(moving, fixed).fixed_to_moving

    def parts(self) -> Parts:
        """The layers, and how the plan wants them used."""
        plan, heads = self._plan, iter(self._not_none_dense_extration_networks)
        by_resolution = [None if c is None else next(heads) for c in plan.deformation_features]
        sizes = plan.voxel_size if plan.axes == "dhw" else plan.voxel_size[::-1]
        return Parts(
            extractor=self._feature_extractor,
            heads=cast(tuple[DeformationHead | None, ...], tuple(by_resolution)),
            affine_head=self._affine_extraction_network if plan.affine else None,
            bound_share=plan.bound_share,
            voxel_size=sizes,
            checkpointing=plan.checkpointing,
        )
