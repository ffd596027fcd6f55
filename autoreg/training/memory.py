"""How much memory a training step on a cycle of three cases needs."""

import torch
from torch import Tensor

from autoreg.io.cases import Pair
from autoreg.networks.base import RegistrationNetwork
from autoreg.plan import Plan
from autoreg.planning.memory import step_bytes, supervision_bytes, training_bytes
from autoreg.registration.objective import Objective
from autoreg.training.batches import PairBatch
from autoreg.training.draws import CYCLE
from autoreg.training.gradients import GradientRule, GradientSum
from autoreg.training.processes import ALONE, Processes
from autoreg.training.steps import Cycles, StepDraws, StepLoss, backward_cycle


def most_training_bytes(plan: Plan, *, cuda: bool, processes: Processes = ALONE) -> int:
    """Peak of training: of a step on pairs, or on a cycle where the plan trains on such.

    Args:
        plan: See `planning.memory.estimate_memory`.
        cuda: Estimate the device's memory instead of the process's.
        processes: That share each batch; the peak is that of one of them.
    """
    pairs = training_bytes(plan, cuda=cuda, processes=processes.count)
    if plan.training.group_consistency.weight == 0:
        return pairs
    return max(pairs, cycle_bytes(plan, cuda=cuda))


def cycle_bytes(plan: Plan, *, cuda: bool) -> int:
    """Peak of one training step on a cycle."""
    training = plan.training
    cycles = Cycles(training.group_consistency.weight, plan.grid.spacing_mm)
    draws = StepDraws(lambda number: None, torch.Generator)

    def step(
        network: RegistrationNetwork, objective: Objective, moving: Tensor, fixed: Tensor
    ) -> None:
        batch = PairBatch(fixed, moving, (Pair("", ""),) * CYCLE, is_cycle=True)
        gradients = GradientSum(network, GradientRule(training))
        backward_cycle(network, StepLoss(objective), batch, draws, gradients, cycles)

    return step_bytes(plan, step, CYCLE, cuda=cuda) + supervision_bytes(plan, 1)
