"""Planning rules for SITReg: levels from the displacement, channels from the budget."""

import math
from dataclasses import dataclass

from autoreg.network_plan import Shape, SITRegPlan, Triple
from autoreg.networks.sitreg_own import SAMPLES
from autoreg.numerics.bspline import control_point_bound
from autoreg.plan import GridPlan
from autoreg.planning.budget import Budget
from autoreg.planning.choice import Choice
from autoreg.planning.rules_grid import DISPLACEMENT_SAFETY

BOUND_SHARE = 0.99
CONVOLUTIONS = 2
# Each level's deformation is made of two, and stands in each map twice.
APPLICATIONS = 4
# Two axes of the coarsest resolution have at least so many voxels.
COARSEST_SIZE = 4


@dataclass(frozen=True)
class Channels:
    """A published network, or one like it, at any number of resolutions.

    Attributes:
        features: Of the feature extractor, finest resolution first; the last one goes on.
        deformations: Of the networks that predict deformations, likewise.
        groups: Of the group normalisations.
        normalised: Whether the latter networks are normalised, too.
        levels: Resolutions of the published network, and the fewest here.
        reason: Where it comes from.
    """

    features: tuple[int, ...]
    deformations: tuple[int, ...]
    groups: int
    normalised: bool
    levels: int
    reason: str


LUMIR = Channels(
    features=(12, 32, 64, 128),
    deformations=(12, 64, 128, 256),
    groups=4,
    normalised=True,
    levels=6,
    reason="rule channels: the network that won LUMIR 2024 (and was published for NLST)",
)
OASIS = Channels(
    features=(8, 40),
    deformations=(16, 72),
    groups=2,
    normalised=False,
    levels=4,
    reason="rule channels: the network published for OASIS, a thirteenth of LUMIR's weights",
)
CPU = Channels(
    features=(8, 20),
    deformations=(8, 36),
    groups=2,
    normalised=False,
    levels=4,
    reason="rule channels: on a CPU half of the channels published for OASIS, which makes a step a "
    "fifth shorter (measured at 52 x 72 x 64); sampling and inversion take most of it",
)
_CHANNELS = {"cpu": CPU, "8gb": OASIS, "24gb": OASIS, "80gb": LUMIR}


def choose_sitreg(
    budget: Budget, grid: GridPlan, displacement_mm: float, *, frugal: bool
) -> tuple[SITRegPlan, dict[str, str]]:
    """The network and its reasons (rules `levels`, `channels`, `checkpointing`).

    Args:
        budget: Decides the channels.
        grid: Its shape and spacing.
        displacement_mm: To be captured, see `rules_view.displacement_mm`.
        frugal: Compute the finest activations twice, since the memory does not hold them.
    """
    channels = _CHANNELS[budget.name]
    levels = choose_levels(grid, displacement_mm, channels.levels)
    network = build_sitreg(channels, levels.value, grid.spacing_mm, checkpointing=frugal)
    return network, {
        "network.features": f"{channels.reason}; {levels.reason}",
        "network.feature_convolutions": "published: 2 at each resolution",
        "network.deformation_features": "see features",
        "network.deformation_convolutions": "published: 2",
        "network.groups": "published with these channels",
        "network.normalise_deformations": "published with these channels",
        "network.bound_share": "published: 0.99 of the bound below which nothing can fold",
        "network.affine": "the grids are laid onto each other by the alignment; the published "
        "network for LUMIR has no affine stage either",
        "network.voxel_size": "the grid's spacing",
        "network.checkpointing": "rule checkpointing: the finest resolution's activations "
        + ("exceed" if frugal else "fit")
        + " the memory",
        "network.axes": "as in the arrays; published weights alone ask for others",
        "network.compatibility": "the improved form; published weights alone ask for the other",
    }


def build_sitreg(
    channels: Channels, levels: int, voxel_size: Triple, *, checkpointing: bool
) -> SITRegPlan:
    """The network of so many resolutions.

    Args:
        channels: At each resolution.
        levels: Resolutions.
        voxel_size: Of the grid's (d, h, w).
        checkpointing: Compute the finest activations twice instead of keeping them.
    """
    return SITRegPlan(
        features=_extended(channels.features, levels),
        feature_convolutions=(CONVOLUTIONS,) * levels,
        deformation_features=_extended(channels.deformations, levels),
        deformation_convolutions=CONVOLUTIONS,
        groups=channels.groups,
        normalise_deformations=channels.normalised,
        bound_share=BOUND_SHARE,
        voxel_size=voxel_size,
        checkpointing=checkpointing,
    )


def choose_levels(grid: GridPlan, displacement_mm: float, fewest: int) -> Choice[int]:
    """Rule `levels`: the fewest resolutions that reach 1.5 times the displacement.

    Not fewer than the published network has (coarse ones cost an eighth of the next finer one),
    and none on which two axes would have fewer than 4 voxels.

    Args:
        grid: Its shape and spacing.
        displacement_mm: To be captured.
        fewest: Of the published network.

    References:
        Honkamaa & Marttinen, MELBA 2024:026, for the bound of the control points.
    """
    needed_vox = DISPLACEMENT_SAFETY * displacement_mm / min(grid.spacing_mm)
    most = most_levels(grid.shape)
    levels = min(fewest, most)
    while levels < most and reach_vox(levels) < needed_vox:
        levels += 1
    reached = reach_vox(levels)
    reason = (
        f"rule levels: displacement {displacement_mm:.1f} mm x {DISPLACEMENT_SAFETY:g} = "
        f"{needed_vox:.1f} voxels, {levels} resolutions reach {reached:.1f}"
    )
    if reached < needed_vox:
        reason += f", and more would leave fewer than {COARSEST_SIZE} voxels along two axes"
    return Choice(levels, reason)


def most_levels(shape: Shape) -> int:
    """Resolutions on whose coarsest two axes have 4 voxels, at least 1.

    Example:
        >>> most_levels((160, 224, 192))
        6
    """
    return 1 + int(math.log2(max(1.0, sorted(shape)[1] / COARSEST_SIZE)))


def reach_vox(levels: int) -> float:
    """The longest displacement along an axis, in voxels of the grid.

    4 * 0.99 * sum of bound_k 2^k over the resolutions k = 0, 1, ...

    Example:
        >>> round(reach_vox(4), 1)
        22.8
    """
    reach = 0.0
    for k in range(levels):
        samples = min(2**k, SAMPLES)
        bound = BOUND_SHARE * control_point_bound((samples, samples, samples))
        reach += APPLICATIONS * bound * 2**k
    return reach


def _extended(channels: tuple[int, ...], levels: int) -> tuple[int, ...]:
    """So many entries: the first ones, the last one repeated."""
    return (*channels, *(channels[-1:] * levels))[:levels]
