"""Instance optimisation: the network's weights fine-tuned on one pair, then put back.

A field on top of the network's maps is optimised by the same code: `registration.field_network`.

Wrap it in `preserved`, read the result inside, and the next pair starts from the trained weights:

    with preserved(network):
        trace = optimise(network, objective, plan.instance_optimisation)
        maps = network(moving, fixed)
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from autoreg.errors import AutoregError
from autoreg.networks.base import RegistrationNetwork
from autoreg.plan import InstanceOptimisationPlan
from autoreg.registration.gradient_projection import project
from autoreg.registration.objective import LossValues, PairLoss, PairObjective


@dataclass(frozen=True)
class TraceStep:
    """One step of instance optimisation.

    Attributes:
        step: Counted from 1.
        loss: Before the step's update.
        cosine: Of the angle between the gradients of similarity and regularity; None in mode
            "vanilla", which never takes them apart.
        conflict: Whether one was projected.
        seconds: Wall time.
    """

    step: int
    loss: LossValues
    cosine: float | None
    conflict: bool
    seconds: float


@dataclass(frozen=True)
class Trace:
    """The course of an instance optimisation.

    Attributes:
        steps: All steps taken.
        conflicts: Number of steps with a conflict.
        stopped: Why it ended: "steps" (the plan's number was reached) or "flat" (the loss no
            longer fell).
    """

    steps: tuple[TraceStep, ...]
    conflicts: int
    stopped: Literal["steps", "flat"]


@contextmanager
def preserved(network: nn.Module) -> Iterator[None]:
    """Put a network back bit by bit when the block ends, also by an exception.

    That is: parameters, buffers, gradients, `requires_grad` flags and the modes (train or eval) of
    all modules.

    Args:
        network: The network; it may be changed inside the block.
    """
    parameters = list(network.parameters())
    tensors: list[Tensor] = [*parameters, *network.buffers()]
    copies = [tensor.detach().clone() for tensor in tensors]
    flags = [(p, p.requires_grad, p.grad) for p in parameters]
    modes = [(module, module.training) for module in network.modules()]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, copy in zip(tensors, copies, strict=True):
                tensor.copy_(copy)
        for parameter, requires_grad, gradient in flags:
            parameter.requires_grad_(requires_grad)
            parameter.grad = gradient
        for module, training in modes:
            module.training = training


def optimise(
    network: RegistrationNetwork,
    objective: PairObjective,
    plan: InstanceOptimisationPlan,
    on_step: Callable[[TraceStep], None] | None = None,
) -> Trace:
    """Fine-tune all weights of a network on one pair, in eval mode.

    The norms use their running statistics; those stay, everything else changes (`preserved`).

    Args:
        network: On the images' device; a `FieldNetwork` where the plan wants a field optimised.
        objective: Of the pair.
        plan: Mode, steps, optimiser and stopping. Weight decay is the coupled one of Adam, so it
            joins the gradient after projection; a field has none, which would draw it to 0.
        on_step: Hears of every step when it is done, for a progress bar.

    Returns:
        What happened.

    Raises:
        AutoregError: if the loss stops being a number.
    """
    network.eval()
    parameters = list(network.requires_grad_(True).parameters())
    weights = plan.optimised == "network"
    optimiser = torch.optim.Adam(
        parameters,
        lr=getattr(plan, _rate_name(plan)),
        weight_decay=plan.weight_decay if weights else 0.0,
        amsgrad=plan.optimiser == "amsgrad",
    )
    coin = torch.Generator().manual_seed(plan.seed)
    noise = torch.Generator().manual_seed(plan.seed)
    steps: list[TraceStep] = []
    stopped: Literal["steps", "flat"] = "steps"
    while len(steps) < plan.steps:
        start = time.perf_counter()
        with torch.enable_grad():
            maps = network(objective.moving, objective.fixed)
            loss = objective(maps, noise)
        values = loss.values()
        _require_number(values, len(steps) + 1, plan)
        cosine, conflict = _set_gradients(parameters, loss, plan, coin)
        del maps, loss  # the graph's memory is free before Adam takes its own
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - start
        steps.append(TraceStep(len(steps) + 1, values, cosine, conflict, seconds))
        if on_step is not None:
            on_step(steps[-1])
        if _is_flat([step.loss.total for step in steps], plan):
            stopped = "flat"
            break
    return Trace(tuple(steps), sum(step.conflict for step in steps), stopped)


def _set_gradients(
    parameters: list[nn.Parameter],
    loss: PairLoss,
    plan: InstanceOptimisationPlan,
    coin: torch.Generator,
) -> tuple[float | None, bool]:
    """Put the joint gradient into `.grad`; give cosine and conflict."""
    if plan.mode == "gradient_projection":
        # One forward serves both gradients; only the second one frees its graph.
        g_similarity = _gradients(loss.similarity, parameters, retain_graph=True)
        g_regularity = _gradients(loss.weighted_regularity, parameters, retain_graph=False)
        projection = project(g_similarity, g_regularity, plan.projection, coin)
        gradients, cosine, conflict = projection.gradient, projection.cosine, projection.conflict
    else:
        gradients = _gradients(loss.total, parameters, retain_graph=False)
        cosine, conflict = None, False
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    return cosine, conflict


def _gradients(loss: Tensor, parameters: list[nn.Parameter], *, retain_graph: bool) -> list[Tensor]:
    # Zeros for what has no part in the result: published networks carry unused parameters.
    return list(
        torch.autograd.grad(
            loss, parameters, retain_graph=retain_graph, allow_unused=True, materialize_grads=True
        )
    )


def _is_flat(totals: list[float], plan: InstanceOptimisationPlan) -> bool:
    window = plan.flat_window
    if window == 0 or len(totals) < 2 * window:
        return False
    before = sum(totals[-2 * window : -window]) / window
    return before - sum(totals[-window:]) / window < plan.flat_tolerance * abs(before)


def _rate_name(plan: InstanceOptimisationPlan) -> Literal["learning_rate", "field_learning_rate"]:
    return "learning_rate" if plan.optimised == "network" else "field_learning_rate"


def _require_number(values: LossValues, step: int, plan: InstanceOptimisationPlan) -> None:
    if math.isfinite(values.total):
        return
    raise AutoregError(
        f"instance optimisation: the loss is {values.total} in step {step} (similarity "
        f"{values.similarity}, regularity {values.regularity}), a finite number was expected; "
        + (
            "the weights or images are not usable: check the model and both images"
            if step == 1
            else f"lower instance_optimisation.{_rate_name(plan)} (now "
            f"{getattr(plan, _rate_name(plan)):g}) in the plan, or take fewer steps"
        )
    )
