"""Plan: what will be done with a data set, in a record that every room may hold.

It is written as JSON, meant to be edited by people, and read strictly (`io.records`).
Grid axes (d, h, w), spacings in millimetres, world points xyz in LPS millimetres.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from autoreg.field_plan import RefinementPlan
from autoreg.network_plan import NetworkPlan, Shape, SITRegPlan, Triple
from autoreg.plan_checks import negative, not_positive, refuse
from autoreg.training_plan import TrainingPlan

PLAN_FORMAT = 1

BUDGETS = ("cpu", "8gb", "24gb", "80gb")

# Relative difference of numbers that were rounded before they were written.
_ROUNDING = 1e-3


@dataclass(frozen=True)
class GridPlan:
    """The grid on which the network works.

    Attributes:
        shape: Nodes along (d, h, w).
        spacing_mm: Distance of the nodes. With alignment "boxes" it is the typical one, because
            there the grid is stretched over each image's own box.
        antialias: Blur an image before sampling it on a coarser grid (the published code doesn't).
    """

    shape: Shape
    spacing_mm: Triple
    antialias: bool

    def __post_init__(self) -> None:
        refuse(not_positive(self, "grid", "shape", "spacing_mm"))


@dataclass(frozen=True)
class AlignmentPlan:
    """Where the grid lies in each image, which is also the pair's initial alignment.

    Attributes:
        kind: "world": one place in world coordinates for all images (they are aligned already);
            "centres": around each image's centre of foreground mass, axes along L, P, S;
            "boxes": stretched over each image's voxel box, whatever its spacing, position and
            direction, as in the published uniGradICON.
        centre_mm: With "world": the world point (x, y, z) of the grid's middle.
    """

    kind: Literal["world", "centres", "boxes"]
    centre_mm: Triple | None = None

    def __post_init__(self) -> None:
        if (self.centre_mm is not None) != (self.kind == "world"):
            refuse(['alignment.centre_mm goes with kind "world" and only with it'])


@dataclass(frozen=True)
class IntensityPlan:
    """How the intensities of one modality become [0, 1].

    Attributes:
        kind: "window": `lower` and `upper` are intensities (CT: Hounsfield units);
            "quantiles": they are fractions of all voxels of the image, q meaning the
            max(1, int(q * voxels))-th smallest value (uniGradICON's rule: 0 is the minimum).
        lower: Becomes 0; everything below is clamped.
        upper: Becomes 1; everything above is clamped.
    """

    kind: Literal["window", "quantiles"]
    lower: float
    upper: float

    def __post_init__(self) -> None:
        refuse(self._problems())

    def _problems(self) -> Iterator[str]:
        if not self.lower < self.upper:
            yield f"intensity: lower {self.lower} >= upper {self.upper}"
        if self.kind == "quantiles" and not (0 <= self.lower and self.upper <= 1):
            yield f"intensity quantiles lie in [0, 1], found {self.lower} to {self.upper}"


# Contrasts of magnetic resonance, for models that make no difference between them.
_MR_CONTRASTS = {"MRI", "T1", "T1W", "T1C", "T1CE", "T1GD", "T2", "T2W", "FLAIR", "PD", "PDW"}


def intensity_name(modality: str, intensity: Mapping[str, IntensityPlan]) -> str | None:
    """Under which name a plan scales a modality; None if it does not.

    Its own, or "MR" for a contrast of magnetic resonance that the plan has no scheme of its own
    for, as published models have none.
    """
    if modality in intensity:
        return modality
    if modality.upper() in _MR_CONTRASTS and "MR" in intensity:
        return "MR"
    return None


@dataclass(frozen=True)
class LossPlan:
    """Similarity + weight * regularity.

    Attributes:
        similarity: A name in `autoreg.losses.factory`.
        similarity_parameters: Its parameters, e.g. {"sigma": 5.0} in voxels of the grid.
        regularity: A name in `autoreg.losses.factory`.
        regularity_weight: lambda.
        folding_weight: Of the non-diffeomorphic volume (the sum over both maps, voxels), which is
            added to the regularity; 0: not computed.
    """

    similarity: str
    similarity_parameters: dict[str, float]
    regularity: str
    regularity_weight: float
    folding_weight: float = 0.0

    def __post_init__(self) -> None:
        refuse(negative(self, "loss", "regularity_weight", "folding_weight"))


@dataclass(frozen=True)
class InstanceOptimisationPlan:
    """How the network's weights, or a field on top of its maps, are optimised on each pair (IO).

    Attributes:
        mode: "gradient_projection", "vanilla" (plain sum of the gradients) or "none".
        projection: On conflict, "random_one": a fair coin picks the gradient to be projected
            (the paper); "both": each is projected onto the normal plane of the other.
        steps: Upper bound of the number of steps.
        optimiser: "amsgrad" (the paper) or "adam" (the published uniGradICON).
        learning_rate: Of the optimiser, for weights.
        weight_decay: Of weights; coupled, added to the gradient after projection.
        flat_window: Stop early when the mean loss of the last `flat_window` steps is less than
            `flat_tolerance` (relative) below that of the `flat_window` steps before; 0: never.
        flat_tolerance: See `flat_window`.
        seed: Of the coin and of the regulariser's random points.
        refine: Optimisation of a displacement field that follows, at the fixed image's own
            resolution; None: there is none.
        optimised: What the mode optimises: "network": its weights; "velocity": one stationary
            velocity, whose exponential follows the network's maps, inverted for the second one;
            "displacements": one displacement for each map, tied to each other by the loss alone.
        field_learning_rate: In place of `learning_rate` for a field, which has no weight decay;
            voxels of the grid.
    """

    mode: Literal["gradient_projection", "vanilla", "none"]
    projection: Literal["random_one", "both"]
    steps: int
    optimiser: Literal["amsgrad", "adam"]
    learning_rate: float
    weight_decay: float
    flat_window: int
    flat_tolerance: float
    seed: int
    refine: RefinementPlan | None = None
    optimised: Literal["network", "velocity", "displacements"] = "network"
    field_learning_rate: float = 0.1

    def __post_init__(self) -> None:
        refuse(self._problems())

    def _problems(self) -> Iterator[str]:
        place = "instance_optimisation"
        yield from negative(self, place, "steps", "weight_decay", "flat_window")
        yield from not_positive(self, place, "learning_rate", "field_learning_rate")


@dataclass(frozen=True)
class MemoryPlan:
    """Estimated peak memory of the process, bytes (on CUDA: of the device).

    Attributes:
        limit: What the budget allows.
        training: One training step at the planned batch size.
        instance_optimisation: A prediction with IO.
        prediction: A prediction without IO.
    """

    limit: int
    training: int
    instance_optimisation: int
    prediction: int


@dataclass(frozen=True)
class Plan:
    """Everything that preprocessing, training and prediction obey.

    Attributes:
        format: Version of this record.
        configuration: Name of the configuration in plans.json.
        dataset: Name of the data set.
        budget: "cpu", "8gb", "24gb" or "80gb".
        fixed_modalities: Modality of each channel of fixed images, e.g. ("MR",).
        moving_modalities: The same of moving images.
        labels: Name to value of the structures of label maps; empty if none are known.
        grid: Target grid.
        alignment: Initial alignment.
        intensity: One scheme per modality name.
        network: The network.
        loss: Similarity and regularity; the same in training and IO.
        training: Training.
        instance_optimisation: IO.
        memory: Estimates.
        reasons: For each chosen value (key like "grid.shape"): rule, inputs and source.
    """

    format: int
    configuration: str
    dataset: str
    budget: Literal["cpu", "8gb", "24gb", "80gb"]
    fixed_modalities: tuple[str, ...]
    moving_modalities: tuple[str, ...]
    labels: dict[str, int]
    grid: GridPlan
    alignment: AlignmentPlan
    intensity: dict[str, IntensityPlan]
    network: NetworkPlan
    loss: LossPlan
    training: TrainingPlan
    instance_optimisation: InstanceOptimisationPlan
    memory: MemoryPlan
    reasons: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        refuse(self._problems())

    def _problems(self) -> Iterator[str]:
        if self.format != PLAN_FORMAT:
            yield (
                f"plan format {self.format} is not {PLAN_FORMAT}, the one this version reads; "
                "plan again with autoreg_plan"
            )
        fixed, moving = self.fixed_modalities, self.moving_modalities
        if not len(fixed) == len(moving) > 0:
            yield (
                "fixed_modalities and moving_modalities need the same positive number of "
                f"channels, found {fixed} and {moving}"
            )
        for modality in dict.fromkeys((*fixed, *moving)):
            if modality not in self.intensity:
                yield f'intensity: no scheme for modality "{modality}"'
        optimisation = self.instance_optimisation
        velocity = optimisation.mode != "none" and optimisation.optimised == "velocity"
        if velocity and self.loss.regularity == "gradicon":
            yield (
                'instance_optimisation.optimised "velocity" gives maps that are inverse to each '
                'other whatever it is, and loss.regularity "gradicon" punishes inconsistent '
                'inverses alone, so that nothing would be regularised; use "displacements", or '
                '"diffusion" or "bending" as regularity'
            )
        if isinstance(self.network, SITRegPlan):
            yield from self._sitreg_problems(self.network)

    def _sitreg_problems(self, network: SITRegPlan) -> Iterator[str]:
        if self.loss.regularity == "gradicon":
            yield (
                'loss.regularity "gradicon" punishes inconsistent inverses, and those of "sitreg" '
                "are consistent by construction, so that nothing would be regularised; use "
                '"diffusion"'
            )
        if not network.affine:
            return
        sizes, spacing = network.voxel_size, self.grid.spacing_mm
        ratios = [size / mm for size, mm in zip(sizes, spacing, strict=True)]
        if max(ratios) > min(ratios) * (1 + _ROUNDING):
            yield (
                f"network.affine measures by network.voxel_size, {list(sizes)}, which is not in "
                f"proportion to grid.spacing_mm, {list(spacing)}; set it to the same values"
            )
        if min(self.grid.shape) == 1:
            yield (
                "network.affine needs two voxels along each axis, or its inverse is not exact; "
                f"found grid.shape {list(self.grid.shape)}; set it to false"
            )
