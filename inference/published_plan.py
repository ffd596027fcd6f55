"""The plan that goes with imported weights: what the published code does, value by value."""

from dataclasses import dataclass, replace
from typing import TypeVar

from autoreg.network_plan import GradICONPlan, NetworkPlan, Shape
from autoreg.plan import (
    PLAN_FORMAT,
    AlignmentPlan,
    GridPlan,
    InstanceOptimisationPlan,
    IntensityPlan,
    LossPlan,
    MemoryPlan,
    Plan,
)
from autoreg.planning.budget import get_budget
from autoreg.planning.memory import estimate_memory
from autoreg.planning.recipes import recipe_of
from autoreg.training_plan import AugmentationPlan, TrainingPlan

_T = TypeVar("_T")

PUBLISHED_GRID: Shape = (175, 175, 175)

# A field of view of about 20 cm, so that 175 nodes lie 1.2 mm apart. Alignment "boxes" stretches
# the grid over each image whatever stands here; only people read it.
_NOMINAL_FIELD_OF_VIEW_MM = 210.0

INTENSITY = {
    "MR": IntensityPlan("quantiles", 0.0, 0.99),
    "CT": IntensityPlan("window", -1000.0, 1000.0),
}

_SHARED_REASONS = {
    "grid.antialias": "the published code resizes without antialiasing",
    "budget": "the smallest GPU budget that holds training at this batch size and instance "
    "optimisation",
    "memory": "estimated by autoreg.planning.memory for CUDA",
}

_UNIGRADICON_REASONS = {
    "grid.shape": "given to autoreg_import_weights; the weights were trained at 175 175 175",
    "grid.spacing_mm": "nominal: a field of view of 210 mm; the grid is stretched over each image",
    "alignment.kind": "the published code lays each image's voxel box on the whole grid",
    "intensity.MR": "unigradicon.preprocess, mri: minimum to the int(0.99 n)-th smallest value",
    "intensity.CT": "unigradicon.preprocess, ct: window of -1000 to 1000 HU",
    "network.level_factors": "read from the names in the file",
    "network.width": "read from the shapes in the file",
    "loss": "uniGradICON (MICCAI 2024): 1 - LNCC, sigma 5, and GradICON with lambda 1.5",
    "training": "for fine-tuning on one's own data; the learning rate is the published 5e-5",
    "instance_optimisation": "gradient projection with AMSGrad at 2e-5 and weight decay 1e-3, 50 "
    "steps as unigradicon-register; vanilla Adam is the published procedure",
}

_ARRAY_REASONS = {
    "grid.spacing_mm": "of the training data; the grid is stretched over each image",
    "alignment.kind": "the published code takes the arrays as they are, one laid on the other",
    "training": "for fine-tuning on one's own data; the learning rate is the published 1e-4",
    "instance_optimisation": "gradient projection with AMSGrad and weight decay 1e-3, 50 steps; "
    "there is none in the published code",
}

SITREG_REASONS = {
    **_ARRAY_REASONS,
    "grid.shape": "the authors' input_shape, in the other order of axes, or --grid",
    "intensity": "clip, shift_and_normalize and normalize of the authors' configuration, or "
    "--window",
    "network": "the authors' configuration; whether the deformation networks are normalised is "
    "read from the file",
    "network.axes": "the authors feed the arrays of nibabel, in which x is the first axis",
    "network.compatibility": "the weights were trained with the authors' code",
    "loss": "the authors' losses; the weight is twice theirs because both directions are added",
}

TRANSMORPH_REASONS = {
    **_ARRAY_REASONS,
    "grid.shape": "spatial_trans.grid of the file, in the other order of axes, or --grid",
    "intensity": "the training data lie in [0, 1] (IXI, OASIS) or are divided by 255 (LUMIR); or "
    "--window",
    "network": "read from the names and shapes in the file; drop_path as in all published "
    "configurations",
    "network.axes": "the authors feed the arrays of nibabel, in which x is the first axis",
    "network.compatibility": "upstream where the published network samples inside itself, which "
    "its weights have learnt to make up for",
    "loss": "published: NCC in windows of 9 and squared gradient 1:1 (OASIS: and Dice, which is "
    "left out); the weight is doubled because both directions are added",
}


@dataclass(frozen=True)
class Published:
    """What plans of imported weights differ in.

    Attributes:
        dataset: Name that stands for the training data.
        grid: The network's.
        intensity: By modality.
        modalities: Of the channels of either image.
        network: From the weights.
        loss: As published.
        reasons: Of these values.
    """

    dataset: str
    grid: GridPlan
    intensity: dict[str, IntensityPlan]
    modalities: tuple[str, ...]
    network: NetworkPlan
    loss: LossPlan
    reasons: dict[str, str]


def published_plan(network: GradICONPlan, channels: int, grid: Shape, modality: str) -> Plan:
    """The plan of imported uniGradICON weights.

    Args:
        network: From the weights.
        channels: Of one image.
        grid: Nodes (d, h, w).
        modality: "MR" or "CT"; both schemes are in the plan, and this one is the default.

    Returns:
        The plan.

    References:
        uncbiag/uniGradICON 1.0.4, `itk_wrapper.py` and `__init__.py`.
    """
    d, h, w = (_NOMINAL_FIELD_OF_VIEW_MM / n for n in grid)
    return complete_plan(
        Published(
            dataset="unigradicon",
            grid=GridPlan(grid, (round(d, 3), round(h, 3), round(w, 3)), antialias=False),
            intensity=INTENSITY,
            modalities=(modality,) * channels,
            network=network,
            loss=LossPlan("lncc", {"sigma": 5.0}, "gradicon", 1.5),
            reasons=_UNIGRADICON_REASONS,
        )
    )


def complete_plan(published: Published) -> Plan:
    """A plan of imported weights, with training and instance optimisation to go on with.

    Args:
        published: What the published code does.
    """
    plan = Plan(
        format=PLAN_FORMAT,
        configuration="imported",
        dataset=published.dataset,
        budget="80gb",
        fixed_modalities=published.modalities,
        moving_modalities=published.modalities,
        labels={},
        grid=published.grid,
        alignment=AlignmentPlan("boxes"),
        intensity=published.intensity,
        network=published.network,
        loss=published.loss,
        training=_training(published.network),
        instance_optimisation=_instance_optimisation(published.network),
        memory=MemoryPlan(0, 0, 0, 0),
        reasons=_SHARED_REASONS | published.reasons,
    )
    return _with_budget(plan)


def reversed_axes(values: tuple[_T, _T, _T]) -> tuple[_T, _T, _T]:
    """What belongs to the axes (x, y, z) of a nibabel array as (d, h, w) of our arrays, or back."""
    first, second, third = values
    return third, second, first


def _with_budget(plan: Plan) -> Plan:
    """The smallest GPU budget that holds all that a plan does, else the largest there is."""
    memory = estimate_memory(plan, limit=0, cuda=True)
    budgets = [get_budget(name) for name in ("8gb", "24gb", "80gb")]
    needed = max(memory.training, memory.instance_optimisation)
    holding = [budget for budget in budgets if needed <= budget.memory_bytes]
    chosen = holding[0] if holding else budgets[-1]
    return replace(plan, budget=chosen.name, memory=replace(memory, limit=chosen.memory_bytes))


def _training(network: NetworkPlan) -> TrainingPlan:
    recipe = recipe_of(network.architecture, get_budget("24gb"))
    return TrainingPlan(
        epochs=80,
        shallow_epochs=0,
        pairs_per_epoch=100,
        batch_size=recipe.batch,
        learning_rate=recipe.learning_rate.value,
        augmentation=AugmentationPlan(
            from_epoch=50,
            affine_probability=0.5,
            rotation_deg=10.0,
            translation_mm=5.0,
            scaling=0.03,
            flip_probability=0.5,
            flip_axis=0,
            gamma_probability=0.1,
            gamma=0.2,
        ),
        validation_every=5,
        seed=0,
        optimiser=recipe.optimiser.value,
        schedule=recipe.schedule.value,
    )


def _instance_optimisation(network: NetworkPlan) -> InstanceOptimisationPlan:
    recipe = recipe_of(network.architecture, get_budget("24gb"))
    return InstanceOptimisationPlan(
        mode="gradient_projection",
        projection="random_one",
        steps=50,
        optimiser="amsgrad",
        learning_rate=recipe.io_learning_rate.value,
        weight_decay=1e-3,
        flat_window=0,
        flat_tolerance=0.0,
        seed=0,
    )
