"""The plan that goes with imported weights: what the published code does, value by value."""

from dataclasses import replace

from autoreg.plan import (
    PLAN_FORMAT,
    AlignmentPlan,
    AugmentationPlan,
    GridPlan,
    InstanceOptimisationPlan,
    IntensityPlan,
    LossPlan,
    MemoryPlan,
    NetworkPlan,
    Plan,
    Shape,
    TrainingPlan,
)
from autoreg.planning.budget import get_budget
from autoreg.planning.memory import estimate_memory

PUBLISHED_GRID: Shape = (175, 175, 175)

# A field of view of about 20 cm, so that 175 nodes lie 1.2 mm apart. Alignment "boxes" stretches
# the grid over each image whatever stands here; only people read it.
_NOMINAL_FIELD_OF_VIEW_MM = 210.0

INTENSITY = {
    "MR": IntensityPlan("quantiles", 0.0, 0.99),
    "CT": IntensityPlan("window", -1000.0, 1000.0),
}

_REASONS = {
    "grid.shape": "given to autoreg_import_weights; the weights were trained at 175 175 175",
    "grid.spacing_mm": "nominal: a field of view of 210 mm; the grid is stretched over each image",
    "grid.antialias": "the published code resizes without antialiasing",
    "alignment.kind": "the published code lays each image's voxel box on the whole grid",
    "intensity.MR": "unigradicon.preprocess, mri: minimum to the int(0.99 n)-th smallest value",
    "intensity.CT": "unigradicon.preprocess, ct: window of -1000 to 1000 HU",
    "network.level_factors": "read from the names in the file",
    "network.width": "read from the shapes in the file",
    "loss": "uniGradICON (MICCAI 2024): 1 - LNCC, sigma 5, and GradICON with lambda 1.5",
    "training": "for fine-tuning on one's own data; the learning rate is the published 5e-5",
    "instance_optimisation": "gradient projection with AMSGrad at 2e-5 and weight decay 1e-3, 50 "
    "steps as unigradicon-register; vanilla Adam is the published procedure",
    "budget": "the smallest GPU budget that holds a training step of this batch size",
    "memory": "estimated by autoreg.planning.memory for CUDA",
}


def published_plan(network: NetworkPlan, channels: int, grid: Shape, modality: str) -> Plan:
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
    modalities = (modality,) * channels
    plan = Plan(
        format=PLAN_FORMAT,
        configuration="imported",
        dataset="unigradicon",
        budget="80gb",
        fixed_modalities=modalities,
        moving_modalities=modalities,
        labels={},
        grid=GridPlan(grid, (round(d, 3), round(h, 3), round(w, 3)), antialias=False),
        alignment=AlignmentPlan("boxes"),
        intensity=INTENSITY,
        network=network,
        loss=LossPlan("lncc", {"sigma": 5.0}, "gradicon", 1.5),
        training=_training(),
        instance_optimisation=_instance_optimisation(),
        memory=MemoryPlan(0, 0, 0, 0),
        reasons=_REASONS,
    )
    return _with_budget(plan)


def _with_budget(plan: Plan) -> Plan:
    """The smallest GPU budget that holds a training step, else the largest there is."""
    memory = estimate_memory(plan, limit=0, cuda=True)
    budgets = [get_budget(name) for name in ("8gb", "24gb", "80gb")]
    holding = [budget for budget in budgets if memory.training <= budget.memory_bytes]
    chosen = holding[0] if holding else budgets[-1]
    return replace(plan, budget=chosen.name, memory=replace(memory, limit=chosen.memory_bytes))


def _training() -> TrainingPlan:
    return TrainingPlan(
        epochs=80,
        shallow_epochs=0,
        pairs_per_epoch=100,
        batch_size=4,
        learning_rate=5e-5,
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
    )


def _instance_optimisation() -> InstanceOptimisationPlan:
    return InstanceOptimisationPlan(
        mode="gradient_projection",
        projection="random_one",
        steps=50,
        optimiser="amsgrad",
        learning_rate=2e-5,
        weight_decay=1e-3,
        flat_window=0,
        flat_tolerance=0.0,
        seed=0,
    )
