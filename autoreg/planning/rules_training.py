"""Planning rules for training and instance optimisation."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from autoreg.network_plan import Triple
from autoreg.plan import InstanceOptimisationPlan
from autoreg.planning.budget import Budget
from autoreg.planning.choice import Choice
from autoreg.planning.costs import StepSeconds
from autoreg.planning.recipes import Recipe
from autoreg.training_plan import AugmentationPlan, TrainingPlan

EPOCHS = 80
# The paper augments from epoch 50 of 80 on.
AUGMENTED_FROM = 0.625
FEWEST_PAIRS = 100
MOST_PAIRS = 1000
VALIDATIONS = 16

WEIGHT_DECAY = 1e-3
IO_STEPS = 50
FEWEST_IO_STEPS = 10
FLAT_WINDOW = 10
FLAT_TOLERANCE = 1e-4

ROTATION_DEG = 10.0
TRANSLATION_MM = 5.0
# Of the field of view: 5 mm are a shift of a head, but a tenth of a hippocampus box.
LARGEST_TRANSLATION = 0.05


@dataclass(frozen=True)
class Workload:
    """What decides how long things take.

    Attributes:
        seconds: On a CPU.
        pairs: Ordered training pairs there are.
    """

    seconds: StepSeconds
    pairs: int


@dataclass(frozen=True)
class Batch:
    """Pairs of a step, and how they are computed.

    Attributes:
        size: Pairs of a step.
        parts: In so many parts they are computed, one after the other.
        reason: Of the size.
        parts_reason: Of the parts.
    """

    size: int
    parts: int
    reason: str
    parts_reason: str


SINGLE_PAIRS = Batch(1, 1, "rule batch_size: a CPU gains nothing from more", "1: single pairs")


def choose_batch(budget: Budget, recipe: Recipe, bytes_at: Callable[[int, int], int]) -> Batch:
    """Rules `batch_size` and `accumulation_steps`: as published, in as few parts as fit.

    Parts change nothing but time, except for the statistics of batch normalisation, which are then
    those of a part. A smaller batch would have the same statistics, and noisier gradients besides,
    for which the published learning rate was not made.

    Args:
        budget: Its memory; on the CPU the batch is 1, where it only costs the sum of its pairs and
            saves updates.
        recipe: Its batch, as published.
        bytes_at: Estimated training memory of a batch size and a number of parts.
    """
    if not budget.cuda:
        return SINGLE_PAIRS
    size, parts = recipe.batch, 1
    while parts < size and bytes_at(size, parts) > budget.memory_bytes:
        parts = min(2 * parts, size)
    limit = f"{budget.memory_bytes / 2**30:.1f} GiB"
    reason = f"rule batch_size: {recipe.batch} as published"
    if size > 1 and bytes_at(size, parts) > budget.memory_bytes:
        # Single pairs fit; the gradients that are kept between parts are too much.
        size = parts = 1
        reason += f", but not even parts of one pair fit {limit}"
    return Batch(size, parts, reason, f"rule accumulation_steps: the fewest parts that fit {limit}")


def choose_training(
    budget: Budget, workload: Workload, batch: Batch, extent_mm: Triple, recipe: Recipe
) -> tuple[TrainingPlan, dict[str, str]]:
    """Training and its reasons (rules `pairs_per_epoch`, `learning_rate`, `augmentation`, ...).

    Args:
        budget: Time limit.
        workload: Of one pair.
        batch: See `choose_batch`.
        extent_mm: Of the grid along (d, h, w).
        recipe: Of the architecture.
    """
    pairs = choose_pairs_per_epoch(budget, workload)
    rate = choose_learning_rate(recipe, batch.size)
    augmentation, augmentation_reason = choose_augmentation(extent_mm)
    training = TrainingPlan(
        epochs=EPOCHS,
        shallow_epochs=round(recipe.shallow_share.value * EPOCHS),
        pairs_per_epoch=pairs.value,
        batch_size=batch.size,
        learning_rate=rate.value,
        augmentation=augmentation,
        validation_every=EPOCHS // VALIDATIONS,
        seed=0,
        optimiser=recipe.optimiser.value,
        schedule=recipe.schedule.value,
        accumulation_steps=batch.parts,
    )
    return training, {
        "training.epochs": "paper: 80",
        "training.shallow_epochs": recipe.shallow_share.reason,
        "training.pairs_per_epoch": pairs.reason,
        "training.batch_size": batch.reason,
        "training.learning_rate": rate.reason,
        "training.augmentation": augmentation_reason,
        "training.validation_every": f"{VALIDATIONS} validations in all",
        "training.seed": "any whole number",
        "training.optimiser": recipe.optimiser.reason,
        "training.schedule": recipe.schedule.reason,
        "training.group_consistency": recipe.group_reason,
        "training.accumulation_steps": batch.parts_reason,
        "training.precision": "float32: the others are yours to try",
        "training.batch_norm": "by the batch, as published",
        "training.gradients": "paper: gradient projection in instance optimisation alone",
        "training.projection": "see gradients",
        "training.early_stopping": "0: all epochs, as published",
        "training.supervision": "none: the published training learns from the images alone",
    }


def choose_pairs_per_epoch(budget: Budget, workload: Workload) -> Choice[int]:
    """Rule `pairs_per_epoch`: as many as there are ordered pairs, within 100 to 1000.

    1000 as published for each of uniGradICON's data sets; below 100 an epoch would be no unit to
    validate by. On the CPU no more than the time budget for training allows.
    """
    count = min(MOST_PAIRS, max(FEWEST_PAIRS, workload.pairs))
    text = f"rule pairs_per_epoch: {workload.pairs} ordered pairs, within 100 to 1000 (published)"
    if budget.training_hours is None:
        return Choice(count, text)
    seconds = workload.seconds.training
    most = max(1, int(3600 * budget.training_hours / (EPOCHS * seconds)))
    return Choice(
        min(count, most),
        f"{text}, at most {most} for {EPOCHS} epochs in {budget.training_hours:g} hours at "
        f"{seconds:.1f} s a pair",
    )


def choose_learning_rate(recipe: Recipe, batch: int) -> Choice[float]:
    """Rule `learning_rate`: as published on GPUs, higher on the CPU.

    On the CPU networks are narrower, so that they start from nothing, with a few thousand steps
    where the published trainings took hundreds of thousands. Measured for GradICON with half the
    width on three brains (40 x 44 x 32, 240 steps): the loss fell from 0.814 to 0.670 at 5e-5, to
    0.623 at 5e-4 and to 0.663 at 2e-3.

    Args:
        recipe: Of the architecture; SITReg's rate was published as 1e-4 for each pair of a batch.
        batch: Pairs of a step.
    """
    rate = recipe.learning_rate
    if batch == recipe.batch or not recipe.rate_per_pair:
        return rate
    return Choice(
        rate.value * batch / recipe.batch, f"{rate.reason}, in proportion to the batch of {batch}"
    )


def choose_augmentation(extent_mm: Triple) -> tuple[AugmentationPlan, str]:
    """Rule `augmentation`: the paper's, the translation within 5 % of the field of view.

    The flip turns head and feet round ("vertical"), which is the first axis of every grid that
    is laid into the world.
    """
    translation = min(TRANSLATION_MM, round(LARGEST_TRANSLATION * min(extent_mm), 1))
    plan = AugmentationPlan(
        from_epoch=round(AUGMENTED_FROM * EPOCHS),
        affine_probability=0.5,
        rotation_deg=ROTATION_DEG,
        translation_mm=translation,
        scaling=0.03,
        flip_probability=0.5,
        flip_axis=0,
        gamma_probability=0.1,
        gamma=0.2,
    )
    return plan, (
        "paper: from epoch 50 of 80, rotation 10 degrees, translation 5 mm (rule augmentation: "
        "within 5 % of the grid), scaling 3 %, vertical flip (axis 0 is superior-inferior), gamma"
    )


def choose_instance_optimisation(
    budget: Budget, workload: Workload, recipe: Recipe
) -> tuple[InstanceOptimisationPlan, dict[str, str]]:
    """Instance optimisation and its reasons (rules `io_steps` and `stopping`)."""
    steps = choose_io_steps(budget, workload)
    early = budget.pair_seconds is not None
    plan = InstanceOptimisationPlan(
        mode="gradient_projection",
        projection="random_one",
        steps=steps.value,
        optimiser="amsgrad",
        learning_rate=recipe.io_learning_rate.value,
        weight_decay=WEIGHT_DECAY,
        flat_window=FLAT_WINDOW if early else 0,
        flat_tolerance=FLAT_TOLERANCE if early else 0.0,
        seed=0,
    )
    return plan, {
        "instance_optimisation.mode": "paper: gradient projection",
        "instance_optimisation.projection": "paper: on conflict a coin picks the gradient that is "
        "projected",
        "instance_optimisation.steps": steps.reason,
        "instance_optimisation.optimiser": "paper: AMSGrad",
        "instance_optimisation.weight_decay": "paper: 1e-3",
        "instance_optimisation.learning_rate": recipe.io_learning_rate.reason,
        "instance_optimisation.flat_window": (
            f"rule stopping: time counts on a CPU: stop when {FLAT_WINDOW} steps lower the loss by "
            f"less than {FLAT_TOLERANCE:.2%}"
            if early
            else "rule stopping: all steps, as published"
        ),
        "instance_optimisation.flat_tolerance": "see flat_window",
        "instance_optimisation.seed": "any whole number",
        "instance_optimisation.optimised": "paper: the network's weights",
        "instance_optimisation.field_learning_rate": "measured, for a field in place of weights",
    }


def choose_io_steps(budget: Budget, workload: Workload) -> Choice[int]:
    """Rule `io_steps`: 50 as published; on the CPU as many of them as fit the time for a pair.

    The seconds of a step are estimated from the network's multiply-adds (`costs.cpu_step_seconds`),
    for one core; at least 10 steps.
    """
    if budget.pair_seconds is None:
        return Choice(IO_STEPS, f"paper: {IO_STEPS}")
    seconds = workload.seconds.optimisation
    steps = max(FEWEST_IO_STEPS, min(IO_STEPS, math.floor(budget.pair_seconds / seconds)))
    return Choice(
        steps,
        f"rule io_steps: {budget.pair_seconds:g} s a pair at {seconds:.1f} s a step (one core), "
        f"{FEWEST_IO_STEPS} to {IO_STEPS} (paper)",
    )
