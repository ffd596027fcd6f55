"""The gradient of one step, summed over parts of a batch and over processes, then joined."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoreg.registration.gradient_projection import Projection, project
from autoreg.training.processes import ALONE, Processes
from autoreg.training_plan import TrainingPlan


@dataclass(frozen=True, eq=False)
class GradientRule:
    """How the gradients of a step come together.

    Attributes:
        training: Whether those of similarity and regularity are projected, and how.
        processes: Over which they are summed.
        scaler: Keeps small gradients of float16 above zero; None for other precisions.
    """

    training: TrainingPlan
    processes: Processes = ALONE
    scaler: torch.amp.GradScaler | None = None

    @property
    def projects(self) -> bool:
        """Whether similarity and regularity are taken apart."""
        return self.training.gradients == "gradient_projection"


class GradientSum:
    """Collects the gradients of one step; `finish` puts them into `.grad`.

    Without gradient projection everything is added to `.grad` at once. With it the gradients of
    similarity and regularity are kept apart, over all parts and processes, and joined in the end:
    conflicts are those of the whole batch.

    Args:
        network: Whose parameters have gradients.
        rule: How they come together.
    """

    def __init__(self, network: nn.Module, rule: GradientRule) -> None:
        self._parameters = [p for p in network.parameters() if p.requires_grad]
        self._rule = rule
        self._similarity: list[Tensor] = []
        self._regularity: list[Tensor] = []
        for parameter in self._parameters:
            parameter.grad = None

    def add(self, similarity: Tensor, regularity: Tensor) -> None:
        """Add the gradient of two scalars, which are to be minimised together.

        Args:
            similarity: With its supervision, if there is some.
            regularity: With its weight.
        """
        if not self._rule.projects:
            torch.autograd.backward(self._scaled(regularity + similarity))
            return
        for total, loss, last in (
            (self._similarity, similarity, False),
            (self._regularity, regularity, True),
        ):
            gradients = torch.autograd.grad(
                self._scaled(loss),
                self._parameters,
                retain_graph=not last,
                allow_unused=True,
                materialize_grads=True,
            )
            if total:
                torch._foreach_add_(total, gradients)
            else:
                total.extend(gradients)

    def finish(self, coin: torch.Generator) -> Projection | None:
        """Sum over the processes and put the joint gradient into `.grad`, scaled if it has to be.

        Args:
            coin: Thrown on a conflict; the same on every process.

        Returns:
            How the two gradients stood to each other, where they are kept apart.
        """
        if not self._rule.projects:
            known = [p.grad for p in self._parameters if p.grad is not None]
            self._sum(known)
            return None
        self._sum([*self._similarity, *self._regularity])
        # A common factor changes neither angles nor projections.
        projection = project(
            self._similarity, self._regularity, self._rule.training.projection, coin
        )
        for parameter, gradient in zip(self._parameters, projection.gradient, strict=True):
            parameter.grad = gradient
        return projection

    def _scaled(self, loss: Tensor) -> Tensor:
        scaler = self._rule.scaler
        return loss if scaler is None else scaler.scale(loss)

    def _sum(self, gradients: Sequence[Tensor]) -> None:
        if self._rule.processes.count == 1:
            return
        # One message in place of hundreds.
        joined = self._rule.processes.sum_(torch.cat([g.flatten() for g in gradients]))
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, summed in zip(gradients, torch.split(joined, sizes), strict=True):
            gradient.copy_(summed.view_as(gradient))
