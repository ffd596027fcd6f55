"""The part of the plan that says what the network is: one record for each architecture."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from autoreg.plan_checks import not_positive, refuse

ARCHITECTURES = ("gradicon", "sitreg", "transmorph")

# Of the published time-varying TransMorph.
TIME_STEPS = 7

Triple = tuple[float, float, float]
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class GradICONPlan:
    """The GradICON cascade of U-Nets.

    Attributes:
        architecture: "gradicon".
        level_factors: Resolution of each U-Net of the cascade, coarse to fine, as a fraction of
            the grid; powers of 1/2.
        width: Multiplies the published channel counts.
        checkpointing: Compute each U-Net's activations again in the backward pass instead of
            keeping them: less memory, more time.
    """

    architecture: Literal["gradicon"] = field(default="gradicon", kw_only=True)
    level_factors: tuple[float, ...]
    width: float
    checkpointing: bool = False

    def __post_init__(self) -> None:
        refuse(self._problems())

    def _problems(self) -> Iterator[str]:
        factors, allowed = self.level_factors, {2.0**-k for k in range(8)}
        if not factors:
            yield "network.level_factors needs at least one level"
        if not set(factors) <= allowed or list(factors) != sorted(factors):
            yield (
                "network.level_factors must be powers of 1/2 that never fall, coarse to fine, "
                f"found {factors}"
            )
        yield from not_positive(self, "network", "width")

    @property
    def levels(self) -> int:
        """Number of levels."""
        return len(self.level_factors)

    def without_last_level(self) -> "GradICONPlan | None":
        """What is trained first when training from scratch; None if there is but one level."""
        if self.levels == 1:
            return None
        return GradICONPlan(self.level_factors[:-1], self.width, self.checkpointing)


@dataclass(frozen=True)
class SITRegPlan:
    """SITReg: symmetric, inverse consistent and topology preserving by construction.

    The tuples have one entry per resolution, finest (the grid itself) first; each resolution is
    half the one before.

    Attributes:
        architecture: "sitreg".
        features: Channels of the feature extractor.
        feature_convolutions: Convolutions of the feature extractor.
        deformation_features: Channels of the network that predicts a resolution's deformation;
            null: none is predicted there.
        deformation_convolutions: Convolutions of each of those networks.
        groups: Of the group normalisations; divides all channel counts.
        normalise_deformations: Group normalisation in the deformation networks, too.
        bound_share: Control points are kept within this share of the bound below which a
            deformation cannot fold; below 1.
        affine: Whether an affine stage precedes, predicted from the coarsest features.
        voxel_size: Of the grid's (d, h, w), up to a common factor, by which the affine stage
            measures; with it, a plan's is in proportion to its grid.spacing_mm.
        checkpointing: Compute the finest resolution's activations again in the backward pass
            instead of keeping them: less memory, more time.
        axes: In which order the grid's axes enter the network: "dhw", or "whd" as in the arrays
            of nibabel, which the published weights are trained on.
        compatibility: "own"; or "upstream": stored inverses at full resolution, the numbering of
            levels and the affine stage as in the authors' code, for weights trained with that.
    """

    architecture: Literal["sitreg"] = field(default="sitreg", kw_only=True)
    features: tuple[int, ...]
    feature_convolutions: tuple[int, ...]
    deformation_features: tuple[int | None, ...]
    deformation_convolutions: int
    groups: int
    normalise_deformations: bool
    bound_share: float
    affine: bool = False
    voxel_size: Triple = (1.0, 1.0, 1.0)
    checkpointing: bool = False
    axes: Literal["dhw", "whd"] = "dhw"
    compatibility: Literal["own", "upstream"] = "own"

    def __post_init__(self) -> None:
        refuse(self._problems())

    def _problems(self) -> Iterator[str]:
        lists = (self.features, self.feature_convolutions, self.deformation_features)
        counts = [len(values) for values in lists]
        if counts[0] == 0 or len(set(counts)) > 1:
            yield (
                "network.features, feature_convolutions and deformation_features need the same "
                "number of resolutions, found {}, {} and {}".format(*counts)
            )
        if self.levels == 0:
            yield "network.deformation_features: all are null, one is needed"
        yield from not_positive(
            self,
            "network",
            "features",
            "feature_convolutions",
            "deformation_features",
            "deformation_convolutions",
            "voxel_size",
        )
        yield from self._numbering_problems()
        heads = self.deformation_features if self.normalise_deformations else ()
        channels = (*self.features, *heads)
        if self.groups <= 0 or any((c or 0) % self.groups for c in channels):
            yield (
                f"network.groups ({self.groups}) must divide all channel counts that are "
                f"normalised: {channels}"
            )
        if not 0 < self.bound_share < 1:
            yield f"network.bound_share must lie between 0 and 1, found {self.bound_share}"

    def _numbering_problems(self) -> Iterator[str]:
        """As many resolutions as there are heads, from the coarsest on: see `upstream_levels`."""
        reached = self.deformation_features[-self.levels :] if self.levels else (1,)
        if self.compatibility == "upstream" and all(channels is None for channels in reached):
            yield (
                'network.deformation_features: by the numbering of compatibility "upstream" none '
                f"of the deformations counts, found {self.deformation_features}"
            )

    @property
    def levels(self) -> int:
        """Number of resolutions at which a deformation is predicted."""
        return sum(channels is not None for channels in self.deformation_features)

    def without_last_level(self) -> None:
        """None: it is trained in one piece."""


@dataclass(frozen=True)
class TransMorphPlan:
    """TransMorph: a Swin transformer as encoder, a convolutional decoder.

    Attributes:
        architecture: "transmorph".
        variant: "full" (the published TransMorph); "half": the decoder ends at half the
            resolution (published for OASIS); "time_varying": works at half the resolution and
            composes the displacement from time steps (TransMorphTVF, published for LUMIR).
        embedding: Channels of the first stage; each further one has twice as many.
        depths: Transformer blocks of each stage.
        heads: Attention heads of each stage.
        window: Of the attention, tokens along the network's three axes; a token is a cube of
            4 voxels.
        drop_path: Largest rate at which whole branches are dropped in training.
        time_steps: Of the variant "time_varying" alone; the others keep the default.
        axes: In which order the grid's axes enter the network: "dhw", or "whd" as in the arrays
            of nibabel, which the published weights are trained on.
        compatibility: "own"; or "upstream": sampling inside the network with the two mixed
            conventions of the authors' code (variants "half" and "time_varying" alone).
        checkpointing: Compute the transformer blocks' activations again in the backward pass
            instead of keeping them: less memory, more time.
    """

    architecture: Literal["transmorph"] = field(default="transmorph", kw_only=True)
    variant: Literal["full", "half", "time_varying"]
    embedding: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: Shape
    drop_path: float
    time_steps: int = TIME_STEPS
    axes: Literal["dhw", "whd"] = "dhw"
    compatibility: Literal["own", "upstream"] = "own"
    checkpointing: bool = True

    def __post_init__(self) -> None:
        refuse(self._problems())

    def _problems(self) -> Iterator[str]:
        stages = 3 if self.variant == "time_varying" else 4
        if not len(self.depths) == len(self.heads) == stages:
            yield (
                f'network: variant "{self.variant}" has {stages} stages, found depths '
                f"{self.depths} and heads {self.heads}"
            )
        yield from not_positive(self, "network", "depths", "heads", "window", "time_steps")
        if self.embedding <= 0 or self.embedding % 2:
            yield f"network.embedding must be even and positive, found {self.embedding}"
        channels = [self.embedding * 2**i for i in range(len(self.heads))]
        if any(heads > 0 and c % heads for c, heads in zip(channels, self.heads, strict=True)):
            yield (
                f"network.heads {self.heads} must divide the channels of their stages, {channels}"
            )
        if not 0 <= self.drop_path < 1:
            yield f"network.drop_path must lie between 0 and 1, found {self.drop_path}"
        yield from self._idle_values()

    def _idle_values(self) -> Iterator[str]:
        """What would do nothing in this variant."""
        if self.variant != "time_varying" and self.time_steps != TIME_STEPS:
            yield (
                f'network.time_steps: variant "{self.variant}" has none, found {self.time_steps}; '
                f'leave it out (or at {TIME_STEPS}), or take variant "time_varying"'
            )
        if self.variant == "full" and self.compatibility == "upstream":
            yield (
                'network.compatibility "upstream" is of the variants "half" and "time_varying": '
                'the published "full" samples nothing inside itself; take "own"'
            )

    @property
    def levels(self) -> int:
        """1: the displacement is predicted at once."""
        return 1

    def without_last_level(self) -> None:
        """None: it is trained in one piece."""


NetworkPlan = GradICONPlan | SITRegPlan | TransMorphPlan
