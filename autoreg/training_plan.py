"""The part of the plan that says how the network is trained."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from autoreg.plan_checks import negative, not_positive, refuse


@dataclass(frozen=True)
class AugmentationPlan:
    """Random changes of training images, drawn as the paper describes.

    Attributes:
        from_epoch: First epoch (counted from 0) that is augmented.
        affine_probability: One gate per image for rotation, translation and scaling together.
        rotation_deg: Uniform in +-, about each axis of the grid.
        translation_mm: Uniform in +-, along each axis of the grid.
        scaling: Uniform in 1 +-, one factor.
        flip_probability: One draw per pair; both images are flipped.
        flip_axis: Axis of the grid (0 = d, 1 = h, 2 = w); the paper's "vertical".
        gamma_probability: Gate per image.
        gamma: Exponent uniform in 1 +-.
    """

    from_epoch: int
    affine_probability: float
    rotation_deg: float
    translation_mm: float
    scaling: float
    flip_probability: float
    flip_axis: Literal[0, 1, 2]
    gamma_probability: float
    gamma: float

    def __post_init__(self) -> None:
        refuse(self._problems())

    def _problems(self) -> Iterator[str]:
        for name in ("affine_probability", "flip_probability", "gamma_probability"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                yield f"augmentation.{name} must lie in [0, 1], found {value}"
        for name in ("scaling", "gamma"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                yield f"augmentation.{name} must lie in [0, 1), found {value}"


@dataclass(frozen=True)
class GroupConsistencyPlan:
    """Training on triplets of images whose maps must compose to the identity around the circle.

    Attributes:
        weight: Of the mean squared cycle error, the sum over both directions, in the square of
            half the grid's longest side; 0: pairs alone are trained on.
        from_epoch: First epoch (counted from 0) with it.
        ramp_epochs: Epochs over which the weight rises linearly from 0.
    """

    weight: float = 0.0
    from_epoch: int = 0
    ramp_epochs: int = 0

    def __post_init__(self) -> None:
        place = "training.group_consistency"
        refuse(negative(self, place, "weight", "from_epoch", "ramp_epochs"))


@dataclass(frozen=True)
class SupervisionPlan:
    """What training learns from besides the images, where a pair has it.

    Attributes:
        masks: Whether the similarity to an image counts inside that image's mask alone.
        dice_weight: Of the soft Dice loss of both label maps; 0: not computed.
        landmark_weight: Of the mean distance of corresponding landmarks, per millimetre; 0: not
            computed.
    """

    masks: bool = False
    dice_weight: float = 0.0
    landmark_weight: float = 0.0

    def __post_init__(self) -> None:
        refuse(negative(self, "training.supervision", "dice_weight", "landmark_weight"))


@dataclass(frozen=True)
class TrainingPlan:
    """How the network is trained.

    Attributes:
        epochs: Number of epochs in all.
        shallow_epochs: From scratch, so many of them train a cascade without its last level,
            which is then added (as published); ignored with --pretrained, and by networks that
            have no such level.
        pairs_per_epoch: Pairs drawn in one epoch.
        batch_size: Pairs per step; cycles have three, whatever it is.
        learning_rate: Of the optimiser, where `schedule` starts.
        augmentation: Random changes of the images.
        validation_every: Epochs between validations and checkpoints.
        seed: Of every random draw.
        optimiser: "adam", or "amsgrad" (TransMorph's).
        schedule: Of the learning rate: "constant", or "polynomial": (1 - epoch / epochs)^0.9
            (TransMorph's).
        group_consistency: Training on triplets, as for the best SITReg.
        accumulation_steps: A batch is computed in so many parts, one after the other, whose
            gradients are added: less memory for the same batch.
        precision: In which the network's convolutions and matrix products are computed while
            training; weights, maps and losses are float32 always.
        batch_norm: "batch": normalise by the statistics of the batch (of a part of it with
            `accumulation_steps`), over all processes, and keep running ones for prediction;
            "frozen": by the running ones as they are, for training from pretrained weights.
            Networks without batch normalisation are the same either way.
        gradients: How those of similarity and regularity are joined: "vanilla" (their sum) or
            "gradient_projection", as in instance optimisation.
        projection: As `InstanceOptimisationPlan.projection`.
        early_stopping: End after so many validations without a better one; 0: never.
        supervision: Masks, labels and landmarks in the loss.
    """

    epochs: int
    shallow_epochs: int
    pairs_per_epoch: int
    batch_size: int
    learning_rate: float
    augmentation: AugmentationPlan
    validation_every: int
    seed: int
    optimiser: Literal["adam", "amsgrad"] = "adam"
    schedule: Literal["constant", "polynomial"] = "constant"
    group_consistency: GroupConsistencyPlan = GroupConsistencyPlan()
    accumulation_steps: int = 1
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    batch_norm: Literal["batch", "frozen"] = "batch"
    gradients: Literal["vanilla", "gradient_projection"] = "vanilla"
    projection: Literal["random_one", "both"] = "random_one"
    early_stopping: int = 0
    supervision: SupervisionPlan = SupervisionPlan()

    def __post_init__(self) -> None:
        refuse(self._problems())

    def _problems(self) -> Iterator[str]:
        counts = ("epochs", "pairs_per_epoch", "batch_size", "validation_every")
        for name in (*counts, "accumulation_steps"):
            value = getattr(self, name)
            if value < 1:
                yield f"training.{name} must be at least 1, found {value}"
        if self.accumulation_steps > self.batch_size >= 1:
            yield (
                f"training.accumulation_steps {self.accumulation_steps} cannot exceed "
                f"training.batch_size {self.batch_size}: a part has one pair or more"
            )
        yield from negative(self, "training", "shallow_epochs", "early_stopping")
        yield from not_positive(self, "training", "learning_rate")
