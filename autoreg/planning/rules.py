"""From a fingerprint and a budget to a plan: every decision is a rule that gives its reason.

The rules are pure functions in `rules_view`, `rules_grid`, `rules_loss`, `rules_training` and
`rules_refinement`; here they are put together. `documentation/planner.md` lists them with their
sources.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from autoreg.fingerprint import Fingerprint
from autoreg.network_plan import GradICONPlan, NetworkPlan, Shape, TransMorphPlan
from autoreg.plan import PLAN_FORMAT, GridPlan, IntensityPlan, MemoryPlan, Plan
from autoreg.planning.budget import Budget
from autoreg.planning.choice import Choice
from autoreg.planning.costs import cpu_step_seconds
from autoreg.planning.memory import (
    instance_optimisation_bytes,
    prediction_bytes,
    training_bytes,
)
from autoreg.planning.recipes import Recipe, recipe_of
from autoreg.planning.rules_grid import choose_antialias, choose_shape, grid_spacing
from autoreg.planning.rules_loss import choose_intensity, choose_loss
from autoreg.planning.rules_network import NetworkNeeds, choose_architecture, choose_network
from autoreg.planning.rules_refinement import choose_refinement
from autoreg.planning.rules_training import (
    SINGLE_PAIRS,
    Batch,
    Workload,
    choose_batch,
    choose_instance_optimisation,
    choose_training,
)
from autoreg.planning.rules_view import (
    FieldOfView,
    alignment_plan,
    choose_alignment,
    displacement_mm,
    field_of_view,
)


def plan_from_fingerprint(
    fingerprint: Fingerprint,
    budget: Budget,
    configuration: str = "default",
    architecture: str | None = None,
) -> Plan:
    """Decide everything.

    Args:
        fingerprint: Of the data set.
        budget: Memory and time that may be taken.
        configuration: Name of the result in plans.json.
        architecture: One of `plan.ARCHITECTURES`; None: chosen.

    Returns:
        The plan, with a reason for every value.

    Raises:
        PlanError: if not even a tiny grid fits the budget.
    """
    draft = _draft(fingerprint, budget, configuration, architecture)
    needs = functools.cache(draft.needs)  # each takes seconds
    shape = choose_shape(
        draft.view, draft.recipe.grid, lambda shape: needs(shape).most_bytes, budget.memory_bytes
    )
    found = needs(shape.value)
    plan, training = _with_batch(draft, shape, found)
    optimisation = found.optimisation_bytes
    if plan.network != draft.plan(shape, frugal=found.frugal).network:
        optimisation = draft.optimisation_bytes(plan)
    memory = MemoryPlan(
        limit=budget.memory_bytes,
        training=training,
        instance_optimisation=optimisation,
        prediction=prediction_bytes(plan, cuda=budget.cuda, native_voxels=draft.native_voxels),
    )
    reason = "rule memory: the network run without data, every tensor counted"
    if not budget.cuda:
        reason += f"; images of up to {draft.native_voxels:.3g} voxels beside it"
    return replace(plan, memory=memory, reasons={**plan.reasons, "memory": reason})


def _draft(
    fingerprint: Fingerprint, budget: Budget, configuration: str, wanted: str | None
) -> "_Draft":
    architecture = choose_architecture(budget, wanted)
    alignment = choose_alignment(fingerprint)
    return _Draft(
        fingerprint=fingerprint,
        budget=budget,
        configuration=configuration,
        architecture=architecture,
        recipe=recipe_of(architecture.value, budget),
        view=field_of_view(fingerprint, alignment.value),
        alignment=alignment,
        displacement=displacement_mm(fingerprint, alignment.value),
    )


@dataclass(frozen=True)
class _Draft:
    """Plans of one fingerprint, budget and architecture for any grid shape."""

    fingerprint: Fingerprint
    budget: Budget
    configuration: str
    architecture: Choice[str]
    recipe: Recipe
    view: FieldOfView
    alignment: Choice[str]
    displacement: float

    @property
    def native_voxels(self) -> int:
        """Voxels of the largest image."""
        return max(math.prod(case.shape) for case in self.fingerprint.cases)

    def needs(self, shape: Shape) -> "_Needs":
        """What single pairs need at this shape; memory is saved if the budget asks for it.

        Instance optimisation needs more as a rule, so training is looked at only if that fits.
        """
        cuda, limit = self.budget.cuda, self.budget.memory_bytes
        for frugal in (False, True):
            plan, training = self.plan(Choice(shape, ""), frugal=frugal), 0
            optimisation = self.optimisation_bytes(plan)
            if optimisation <= limit:
                training = training_bytes(plan, cuda=cuda)
            found = _Needs(frugal, training, optimisation)
            if found.most_bytes <= limit or isinstance(plan.network, TransMorphPlan):
                break  # TransMorph's plan saves memory anyway
        return found

    def optimisation_bytes(self, plan: Plan) -> int:
        """What instance optimisation of a pair needs."""
        return instance_optimisation_bytes(
            plan, cuda=self.budget.cuda, native_voxels=self.native_voxels
        )

    def plan(
        self, shape: Choice[Shape], batch: Batch = SINGLE_PAIRS, *, frugal: bool = False
    ) -> Plan:
        """The plan with this shape; memory is still empty."""
        fingerprint, budget, recipe = self.fingerprint, self.budget, self.recipe
        grid, grid_reasons = self._grid(shape)
        network, network_reasons = choose_network(
            self.architecture, NetworkNeeds(budget, grid, self.displacement, frugal)
        )
        workload = self._workload(network, grid)
        intensity, intensity_reasons = _intensity(fingerprint)
        loss, loss_reasons = choose_loss(fingerprint, grid.shape, recipe)
        training, training_reasons = choose_training(
            budget, workload, batch, self.view.extent_mm, recipe
        )
        optimisation, optimisation_reasons = choose_instance_optimisation(budget, workload, recipe)
        refinement = choose_refinement(fingerprint, budget)
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
            instance_optimisation=replace(optimisation, refine=refinement.value),
            memory=MemoryPlan(budget.memory_bytes, 0, 0, 0),
            reasons={
                **grid_reasons,
                "alignment": self.alignment.reason,
                **intensity_reasons,
                **network_reasons,
                **loss_reasons,
                **training_reasons,
                **optimisation_reasons,
                "instance_optimisation.refine": refinement.reason,
            },
        )

    def _workload(self, network: NetworkPlan, grid: GridPlan) -> Workload:
        channels = len(self.fingerprint.fixed_modalities)
        seconds = cpu_step_seconds(network, channels, grid.shape)
        return Workload(seconds, self.fingerprint.training_pairs)

    def _grid(self, shape: Choice[Shape]) -> tuple[GridPlan, dict[str, str]]:
        spacing = grid_spacing(self.view, shape.value)
        antialias = choose_antialias(self.view, spacing.value)
        return GridPlan(shape.value, spacing.value, antialias.value), {
            "grid.shape": shape.reason,
            "grid.spacing_mm": spacing.reason,
            "grid.antialias": antialias.reason,
        }


def _with_batch(draft: _Draft, shape: Choice[Shape], found: "_Needs") -> tuple[Plan, int]:
    """The plan with its batch, and the bytes that its training needs."""
    cuda = draft.budget.cuda

    def most(frugal: bool) -> Callable[[int, int], int]:
        plan = draft.plan(shape, frugal=frugal)

        @functools.cache
        def needed(size: int, parts: int) -> int:
            if size == 1 and frugal == found.frugal:
                return found.training_bytes
            training = replace(plan.training, batch_size=size, accumulation_steps=parts)
            return training_bytes(replace(plan, training=training), cuda=cuda)

        return needed

    frugal, needed = found.frugal, most(found.frugal)
    batch = choose_batch(draft.budget, draft.recipe, needed)
    network = draft.plan(shape).network
    if batch.parts > 1 and isinstance(network, GradICONPlan) and not frugal:
        # Statistics of the whole batch are worth computing its activations twice.
        frugal, needed = True, most(True)
        batch = choose_batch(draft.budget, draft.recipe, needed)
    plan = draft.plan(shape, batch, frugal=frugal)
    return plan, needed(batch.size, batch.parts)


@dataclass(frozen=True)
class _Needs:
    """What single pairs need at a shape, and whether the network saves memory there."""

    frugal: bool
    training_bytes: int
    optimisation_bytes: int

    @property
    def most_bytes(self) -> int:
        return max(self.training_bytes, self.optimisation_bytes)


def _intensity(fingerprint: Fingerprint) -> tuple[dict[str, IntensityPlan], dict[str, str]]:
    choices = choose_intensity(fingerprint)
    return (
        {name: choice.value for name, choice in choices.items()},
        {f"intensity.{name}": choice.reason for name, choice in choices.items()},
    )
