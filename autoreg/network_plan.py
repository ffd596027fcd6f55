"""The part of the plan that says what the network is: one record for each architecture."""

from dataclasses import dataclass, field
from typing import Literal

from autoreg.errors import PlanError

ARCHITECTURES = ("gradicon", "sitreg", "transmorph")

Triple = tuple[float, float, float]
Shape = tuple[int, int, int]


def require(condition: bool, message: str) -> None:
    """Refuse an impossible value of a plan.

    Raises:
        PlanError: with the message, if the condition does not hold.
    """
    if not condition:
        raise PlanError(message)


@dataclass(frozen=True)
class GradICONPlan:
    """The GradICON cascade of U-Nets.

    Attributes:
        architecture: "gradicon".
        level_factors: Resolution of each U-Net of the cascade, coarse to fine, as a fraction of
            the grid; powers of 1/2.
        width: Multiplies the published channel counts.
    """

    architecture: Literal["gradicon"] = field(default="gradicon", kw_only=True)
    level_factors: tuple[float, ...]
    width: float

    def __post_init__(self) -> None:
        require(len(self.level_factors) > 0, "network.level_factors needs at least one level")
        allowed = {2.0**-k for k in range(8)}
        require(
            all(f in allowed for f in self.level_factors)
            and list(self.level_factors) == sorted(self.level_factors),
            "network.level_factors must be powers of 1/2 that never fall, coarse to fine, "
            f"found {self.level_factors}",
        )
        require(self.width > 0, f"network.width must be positive, found {self.width}")

    @property
    def levels(self) -> int:
        """Number of levels."""
        return len(self.level_factors)

    def without_last_level(self) -> "GradICONPlan | None":
        """What is trained first when training from scratch; None if there is but one level."""
        if self.levels == 1:
            return None
        return GradICONPlan(self.level_factors[:-1], self.width)


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
        voxel_size: Of the grid's (d, h, w), up to a common factor; the affine stage needs it.
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
        count = len(self.features)
        require(
            count > 0 and len(self.feature_convolutions) == len(self.deformation_features) == count,
            "network.features, feature_convolutions and deformation_features need the same number "
            f"of resolutions, found {count}, {len(self.feature_convolutions)} and "
            f"{len(self.deformation_features)}",
        )
        require(self.levels > 0, "network.deformation_features: all are null, one is needed")
        # As many resolutions as there are heads, from the coarsest on: see `upstream_levels`.
        reached = self.deformation_features[-self.levels :]
        require(
            self.compatibility == "own" or any(channels is not None for channels in reached),
            'network.deformation_features: by the numbering of compatibility "upstream" none of '
            f"the deformations counts, found {self.deformation_features}",
        )
        for name in ("features", "feature_convolutions", "deformation_features", "voxel_size"):
            values = getattr(self, name)
            require(
                all(v is None or v > 0 for v in values),
                f"network.{name} must be positive, found {values}",
            )
        require(
            self.deformation_convolutions > 0,
            f"network.deformation_convolutions must be positive: {self.deformation_convolutions}",
        )
        heads = self.deformation_features if self.normalise_deformations else ()
        require(
            self.groups > 0 and all((c or 0) % self.groups == 0 for c in (*self.features, *heads)),
            f"network.groups ({self.groups}) must divide all channel counts that are normalised: "
            f"{(*self.features, *heads)}",
        )
        require(
            0 < self.bound_share < 1,
            f"network.bound_share must lie between 0 and 1, found {self.bound_share}",
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
        time_steps: Of the variant "time_varying".
        axes: In which order the grid's axes enter the network: "dhw", or "whd" as in the arrays
            of nibabel, which the published weights are trained on.
        compatibility: "own"; or "upstream": sampling inside the network with the two mixed
            conventions of the authors' code (variants "half" and "time_varying").
    """

    architecture: Literal["transmorph"] = field(default="transmorph", kw_only=True)
    variant: Literal["full", "half", "time_varying"]
    embedding: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: Shape
    drop_path: float
    time_steps: int = 7
    axes: Literal["dhw", "whd"] = "dhw"
    compatibility: Literal["own", "upstream"] = "own"

    def __post_init__(self) -> None:
        stages = 3 if self.variant == "time_varying" else 4
        require(
            len(self.depths) == len(self.heads) == stages,
            f'network: variant "{self.variant}" has {stages} stages, found depths {self.depths} '
            f"and heads {self.heads}",
        )
        for name in ("depths", "heads", "window"):
            values = getattr(self, name)
            require(min(values) > 0, f"network.{name} must be positive, found {values}")
        require(
            self.embedding > 0 and self.embedding % 2 == 0,
            f"network.embedding must be even and positive, found {self.embedding}",
        )
        require(
            all(self.embedding * 2**i % heads == 0 for i, heads in enumerate(self.heads)),
            f"network.heads {self.heads} must divide the channels of their stages, "
            f"{[self.embedding * 2**i for i in range(stages)]}",
        )
        require(
            0 <= self.drop_path < 1,
            f"network.drop_path must lie between 0 and 1, found {self.drop_path}",
        )
        require(
            self.time_steps > 0, f"network.time_steps must be positive, found {self.time_steps}"
        )

    @property
    def levels(self) -> int:
        """1: the displacement is predicted at once."""
        return 1

    def without_last_level(self) -> None:
        """None: it is trained in one piece."""


NetworkPlan = GradICONPlan | SITRegPlan | TransMorphPlan
