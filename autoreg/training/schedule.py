"""What changes from epoch to epoch: learning rate and weight of the cycle error."""

import numpy as np
import torch

from autoreg.training_plan import TrainingPlan

_POLYNOMIAL_POWER = 0.9


def learning_rate(training: TrainingPlan, epoch: int) -> float:
    """The optimiser's rate in an epoch.

    Args:
        training: Its rate, schedule and number of epochs.
        epoch: Counted from 0.
    """
    if training.schedule == "constant":
        return training.learning_rate
    share = 1 - epoch / training.epochs
    return float(training.learning_rate * share**_POLYNOMIAL_POWER)


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Replace the rate of all parameters.

    In every epoch, also a constant one: an optimiser's loaded state brings the rate with which it
    was saved.
    """
    for group in optimiser.param_groups:
        group["lr"] = rate


def cycle_weight(training: TrainingPlan, epoch: float) -> float:
    """Weight of the cycle error.

    Args:
        training: With group consistency.
        epoch: Completed epochs, the running one as a fraction.

    Returns:
        0 before `from_epoch`, from there a line up to the full weight after `ramp_epochs`.
    """
    group = training.group_consistency
    if epoch < group.from_epoch:
        return 0.0
    if epoch >= group.from_epoch + group.ramp_epochs:
        return group.weight
    return group.weight * (epoch - group.from_epoch) / group.ramp_epochs


def seed_layers(*key: int) -> None:
    """Seed what layers draw themselves (dropped paths) by where the training stands.

    Hence a continued training draws what the uninterrupted one would have drawn, and a pass
    through the network can be repeated.

    Args:
        key: Such as seed, epoch, step and pair.
    """
    torch.manual_seed(_seed(key))


def seeded(*key: int) -> torch.Generator:
    """A generator on the CPU, so that every device draws the same.

    Args:
        key: See `seed_layers`; other keys give other numbers, except for zeros at the end.
    """
    return torch.Generator().manual_seed(_seed(key))


def _seed(key: tuple[int, ...]) -> int:
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return int(state[0])
