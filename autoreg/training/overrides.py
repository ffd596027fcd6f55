"""Values of the plan that the command line replaces."""

import logging
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from autoreg.errors import UsageError
from autoreg.plan import Plan
from autoreg.training.memory import most_training_bytes
from autoreg.training.processes import ALONE, Processes
from autoreg.training_plan import TrainingPlan

logger = logging.getLogger(__name__)

# Values of the training's inner records.
_INNER = {
    "augmentation_from": "augmentation.from_epoch",
    "group_consistency_from": "group_consistency.from_epoch",
    "group_consistency_ramp": "group_consistency.ramp_epochs",
}

# What changes the memory of a step.
_MEMORY = {"batch_size", "accumulation_steps", "precision", "gradients"}


@dataclass(frozen=True)
class Overrides:
    """One field per flag; None: the plan's value holds.

    Attributes:
        epochs: `training.epochs`.
        shallow_epochs: `training.shallow_epochs`.
        augmentation_from: `training.augmentation.from_epoch`.
        pairs_per_epoch: `training.pairs_per_epoch`.
        batch_size: `training.batch_size`.
        learning_rate: `training.learning_rate`.
        validation_every: `training.validation_every`.
        seed: `training.seed`.
        accumulation_steps: `training.accumulation_steps`.
        precision: `training.precision`.
        gradients: `training.gradients`.
        early_stopping: `training.early_stopping`.
    """

    epochs: int | None = None
    shallow_epochs: int | None = None
    augmentation_from: int | None = None
    pairs_per_epoch: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    validation_every: int | None = None
    seed: int | None = None
    accumulation_steps: int | None = None
    precision: Literal["float32", "bfloat16", "float16"] | None = None
    gradients: Literal["vanilla", "gradient_projection"] | None = None
    early_stopping: int | None = None


def override(
    plan: Plan, overrides: Overrides, *, pretrained: bool, processes: Processes = ALONE
) -> Plan:
    """The plan with the command line's values.

    A new number of epochs moves the beginnings of the second stage, of the augmentation and of
    group consistency in proportion, and stretches the latter's ramp, unless they are given as well:
    otherwise a short training would end in its first stage.

    Args:
        plan: From plans.json.
        overrides: From the command line.
        pretrained: Whether the training starts from weights, hence without a first stage.
        processes: That share each batch. What they need is warned of; the plan holds the memory of
            a single one whatever their number, so that another one can go on.

    Returns:
        The plan that the training obeys, with reasons that tell what came from where.

    Raises:
        UsageError: if a first stage is asked for that the network does not have, that pretrained
            weights skip or that would last to the end, or group consistency would never begin.
        PlanError: if a value is impossible.
    """
    given = {f.name: getattr(overrides, f.name) for f in fields(overrides)}
    given = {name: value for name, value in given.items() if value is not None}
    reasons = {_key(name): f"set by --{name.replace('_', '-')}" for name in given}
    training = plan.training
    _require_first_stage(plan, overrides.shallow_epochs or 0, pretrained)
    for name, value in _moved_with_epochs(plan, given).items():
        given[name] = value
        reasons[_key(name)] = f"moved with --epochs {given['epochs']} from {training.epochs}"
        logger.info("--epochs %d: %s moves to %d", given["epochs"], _key(name), value)
    if pretrained:
        given["shallow_epochs"] = 0
        reasons[_key("shallow_epochs")] = "0: the training starts from pretrained weights"
    training = replace(training, **_nested(training, given))
    _require_every_stage(plan, training)
    changed = replace(plan, training=training, reasons={**plan.reasons, **reasons})
    planned = not _MEMORY & set(given) and training.group_consistency.weight == 0
    planned = planned and processes.count == 1
    return changed if planned else _with_memory(changed, processes)


def _require_first_stage(plan: Plan, epochs: int, pretrained: bool) -> None:
    """What --shallow-epochs asks for must be possible."""
    if epochs and plan.network.without_last_level() is None:
        raise UsageError(
            f"--shallow-epochs {epochs}: the network of configuration "
            f'"{plan.configuration}" ({plan.network.architecture}) has no last level that could '
            "join later; drop it"
        )
    if epochs and pretrained:
        raise UsageError(
            f"--shallow-epochs {epochs}: with --pretrained all levels are trained from the first "
            "epoch; drop one of the two"
        )


def _nested(training: TrainingPlan, given: dict[str, Any]) -> dict[str, Any]:
    """The values, those of the inner records in new inner records."""
    nested: dict[str, Any] = {}
    for name, value in given.items():
        record, _, key = _INNER.get(name, name).rpartition(".")
        if record:
            inner = nested.get(record, getattr(training, record))
            nested[record] = replace(inner, **{key: value})
        else:
            nested[key] = value
    return nested


def _require_every_stage(plan: Plan, training: TrainingPlan) -> None:
    if plan.network.without_last_level() and training.epochs <= training.shallow_epochs:
        raise UsageError(
            f"training.epochs is {training.epochs} and training.shallow_epochs "
            f"{training.shallow_epochs}: the last level would never be trained. Give a lower "
            "--shallow-epochs or more --epochs"
        )
    group = training.group_consistency
    if group.weight > 0 and training.epochs <= group.from_epoch:
        raise UsageError(
            f"training.epochs is {training.epochs} and training.group_consistency.from_epoch "
            f"{group.from_epoch}: it would never begin. Lower from_epoch in the plan, or set "
            "training.group_consistency.weight to 0"
        )


def _moved_with_epochs(plan: Plan, given: dict[str, Any]) -> dict[str, int]:
    """When things begin and how long they grow, in proportion to a given number of epochs."""
    training = plan.training
    if "epochs" not in given:
        return {}
    planned = {
        "shallow_epochs": training.shallow_epochs,
        "augmentation_from": training.augmentation.from_epoch,
        "group_consistency_from": training.group_consistency.from_epoch,
        "group_consistency_ramp": training.group_consistency.ramp_epochs,
    }
    # Rounded down, so that the last level trains for at least one epoch, however few there are.
    moved = {n: v * given["epochs"] // training.epochs for n, v in planned.items()}
    return {n: v for n, v in moved.items() if n not in given and v != planned[n]}


def _with_memory(plan: Plan, processes: Processes) -> Plan:
    """The plan with the training's memory estimated for its batch size and its cycles."""
    cuda = plan.budget != "cpu"
    alone = most_training_bytes(plan, cuda=cuda)
    needed, where = alone, ""
    if processes.count > 1:
        needed = most_training_bytes(plan, cuda=cuda, processes=processes)
        where = f" for each of {processes.count} processes"
        if not cuda:
            # A budget's device is one process's own, the machine's memory is not.
            needed *= processes.local_count
            where = f" for {processes.local_count} processes on this machine"
    if needed > plan.memory.limit:
        cycles = " and cycles of three" if plan.training.group_consistency.weight else ""
        logger.warning(
            "batches of %d%s need about %.1f GiB of memory%s, more than the %.1f GiB of budget %s",
            plan.training.batch_size, cycles, needed / 2**30, where, plan.memory.limit / 2**30,
            plan.budget,
        )  # fmt: skip
    return replace(plan, memory=replace(plan.memory, training=alone))


def _key(name: str) -> str:
    return f"training.{_INNER.get(name, name)}"
