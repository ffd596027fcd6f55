"""From a fingerprint and a budget to a plan: every decision is a rule that gives its reason.

The rules are pure functions in `rules_view`, `rules_grid`, `rules_loss` and `rules_training`; here
they are put together. `documentation/planner.md` lists them with their sources.
"""

import math
from dataclasses import dataclass, replace

from autoreg.fingerprint import Fingerprint
from autoreg.plan import PLAN_FORMAT, GridPlan, IntensityPlan, MemoryPlan, NetworkPlan, Plan, Shape
from autoreg.planning.budget import Budget, macs_per_voxel
from autoreg.planning.choice import Choice
from autoreg.planning.memory import (
    estimate_memory,
    instance_optimisation_bytes,
    training_bytes,
)
from autoreg.planning.rules_grid import (
    choose_antialias,
    choose_levels,
    choose_shape,
    grid_spacing,
)
from autoreg.planning.rules_loss import choose_intensity, choose_loss
from autoreg.planning.rules_training import (
    Workload,
    choose_batch,
    choose_instance_optimisation,
    choose_training,
    choose_width,
)
from autoreg.planning.rules_view import (
    FieldOfView,
    alignment_plan,
    choose_alignment,
    displacement_mm,
    field_of_view,
)


def plan_from_fingerprint(
    fingerprint: Fingerprint, budget: Budget, configuration: str = "default"
) -> Plan:
    """Decide everything.

    Args:
        fingerprint: Of the data set.
        budget: Memory and time that may be taken.
        configuration: Name of the result in plans.json.

    Returns:
        The plan, with a reason for every value.

    Raises:
        PlanError: if not even a tiny grid fits the budget.
    """
    kind = choose_alignment(fingerprint)
    view = field_of_view(fingerprint, kind.value)
    displacement = displacement_mm(fingerprint, kind.value)
    draft = _Draft(fingerprint, budget, configuration, view, kind, displacement)
    shape = choose_shape(view, budget.grid_voxels, draft.needed_bytes, budget.memory_bytes)
    plan = draft.plan(shape)
    batch = choose_batch(
        budget, lambda size: training_bytes(_with_batch(plan, size), cuda=budget.cuda)
    )
    plan = draft.plan(shape, batch)
    memory = estimate_memory(
        plan,
        limit=budget.memory_bytes,
        cuda=budget.cuda,
        native_voxels=draft.native_voxels,
    )
    reason = "rule memory: the network run without data, every tensor counted"
    if not budget.cuda:
        reason += f"; images of up to {draft.native_voxels:.3g} voxels beside it"
    return replace(plan, memory=memory, reasons={**plan.reasons, "memory": reason})


@dataclass(frozen=True)
class _Draft:
    """Plans of one fingerprint and budget for any grid shape."""

    fingerprint: Fingerprint
    budget: Budget
    configuration: str
    view: FieldOfView
    alignment: Choice[str]
    displacement: float

    @property
    def native_voxels(self) -> int:
        """Voxels of the largest image."""
        return max(math.prod(case.shape) for case in self.fingerprint.cases)

    def needed_bytes(self, shape: Shape) -> int:
        """Memory for instance optimisation and training of single pairs.

        Instance optimisation needs more as a rule, so training is looked at only if that fits.
        """
        plan, cuda = self.plan(Choice(shape, "")), self.budget.cuda
        needed = instance_optimisation_bytes(plan, cuda=cuda, native_voxels=self.native_voxels)
        if needed > self.budget.memory_bytes:
            return needed
        return max(needed, training_bytes(plan, cuda=cuda))

    def plan(self, shape: Choice[Shape], batch: Choice[int] | None = None) -> Plan:
        """The plan with this shape; memory is still empty."""
        fingerprint, budget = self.fingerprint, self.budget
        grid, grid_reasons = self._grid(shape)
        network, network_reasons = self._network(grid)
        channels = len(fingerprint.fixed_modalities)
        macs = macs_per_voxel(network.level_factors, network.width, channels)
        workload = Workload(math.prod(grid.shape), macs, fingerprint.training_pairs)
        intensity, intensity_reasons = _intensity(fingerprint)
        loss, loss_reasons = choose_loss(fingerprint, grid.shape)
        training, training_reasons = choose_training(
            budget, workload, batch or Choice(1, ""), self.view.extent_mm
        )
        optimisation, optimisation_reasons = choose_instance_optimisation(budget, workload)
        return Plan(
            format=PLAN_FORMAT,
            configuration=self.configuration,
            dataset=fingerprint.dataset,
            budget=budget.name,
            fixed_modalities=fingerprint.fixed_modalities,
            moving_modalities=fingerprint.moving_modalities,
            labels=fingerprint.labels,
            grid=grid,
            alignment=alignment_plan(self.alignment.value, self.view),
            intensity=intensity,
            network=network,
            loss=loss,
            training=training,
            instance_optimisation=optimisation,
            memory=MemoryPlan(budget.memory_bytes, 0, 0, 0),
            reasons={
                **grid_reasons,
                "alignment": self.alignment.reason,
                **intensity_reasons,
                **network_reasons,
                **loss_reasons,
                **training_reasons,
                **optimisation_reasons,
            },
        )

    def _grid(self, shape: Choice[Shape]) -> tuple[GridPlan, dict[str, str]]:
        spacing = grid_spacing(self.view, shape.value)
        antialias = choose_antialias(self.view, spacing.value)
        return GridPlan(shape.value, spacing.value, antialias.value), {
            "grid.shape": shape.reason,
            "grid.spacing_mm": spacing.reason,
            "grid.antialias": antialias.reason,
        }

    def _network(self, grid: GridPlan) -> tuple[NetworkPlan, dict[str, str]]:
        levels = choose_levels(grid.shape, grid.spacing_mm, self.displacement)
        width = choose_width(self.budget)
        return NetworkPlan("gradicon", levels.value, width.value), {
            "network.architecture": "published: the GradICON cascade",
            "network.level_factors": levels.reason,
            "network.width": width.reason,
        }


def _intensity(fingerprint: Fingerprint) -> tuple[dict[str, IntensityPlan], dict[str, str]]:
    choices = choose_intensity(fingerprint)
    return (
        {name: choice.value for name, choice in choices.items()},
        {f"intensity.{name}": choice.reason for name, choice in choices.items()},
    )


def _with_batch(plan: Plan, size: int) -> Plan:
    return replace(plan, training=replace(plan.training, batch_size=size))
