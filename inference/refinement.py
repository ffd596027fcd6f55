"""Whether and how predictions are refined, and what is said of it."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from autoreg.field_plan import FieldPlan, RefinementPlan, similarity_of, suited
from autoreg.inference.choices import RefineChoice
from autoreg.inference.pair_checks import agreement_of, agreement_warnings
from autoreg.inference.predictor import Prediction
from autoreg.io.result import FieldOptimisationRecord
from autoreg.plan import Plan
from autoreg.registration.field_presets import PRESETS, preset_plan
from autoreg.training.refinement_record import Decision

_REMEDY = 'set instance_optimisation.refine.field.similarity to "mind", or use --refine off'


def chosen_refinement(
    choice: RefineChoice, plan: Plan, decided: Callable[[], Decision]
) -> Decision:
    """What a user's choice comes to.

    Args:
        choice: "auto": as it was decided; "off"; or a preset.
        plan: Of the model; its modalities decide the similarity of a preset.
        decided: By the plan, and by training's measurement; asked for with "auto" alone.
    """
    if choice == "auto":
        return decided()
    if choice == "off":
        return Decision(None, "--refine off")
    similarity = similarity_of(plan.fixed_modalities, plan.moving_modalities)
    return Decision(replace(preset_plan(choice), similarity=similarity), f"--refine {choice}")


def obeyed_plan(plan: Plan, decided: Decision) -> Plan:
    """The plan with nothing about refinement left to be decided."""
    refine = None if decided.field is None else RefinementPlan("always", decided.field)
    return replace(plan, instance_optimisation=replace(plan.instance_optimisation, refine=refine))


def refinement_of_pair(
    plan: Plan, fixed: Sequence[str] | None, moving: Sequence[str] | None
) -> FieldPlan | None:
    """How a pair is refined: as the plan says, but never different modalities by their correlation.

    Args:
        plan: From `obeyed_plan`.
        fixed: Modalities of the fixed image, where they are not the plan's; likewise the other.
        moving: See `fixed`.
    """
    refine = plan.instance_optimisation.refine
    if refine is None:
        return None
    return suited(refine.field, fixed or plan.fixed_modalities, moving or plan.moving_modalities)


def refinement_record(
    prediction: Prediction,
    choice: RefineChoice,
    plan: Plan,
) -> tuple[FieldOptimisationRecord | None, tuple[str, ...]]:
    """The refinement as it stands in result.json, and what a reader should be warned of.

    Args:
        prediction: Refined or not.
        choice: The user's.
        plan: From `obeyed_plan`.
    """
    found = prediction.refinement
    if found is None:
        return None, ()
    before = found.start.agreement
    after = found.pair.coarse.agreement(prediction.transform)
    similarity, refine = found.plan.similarity, plan.instance_optimisation.refine
    planned = choice == "auto" and refine is not None and refine.field.similarity == similarity
    record = FieldOptimisationRecord(
        preset=choice if choice in PRESETS else None,
        similarity=similarity,
        similarity_reason="the plan's" if planned else "suits the modalities",
        correlation_aligned=agreement_of(before, similarity),
        correlation_registered=agreement_of(after, similarity),
        steps=len(found.field.steps),
        refined=found.field.refined,
        seconds=found.seconds,
        network_mm=found.network_mm,
        refinement_mm=found.refinement_mm,
        cpu_seconds=found.field.cpu_seconds,
    )
    warnings = agreement_warnings(found.plan, before, after, _REMEDY)
    return record, (*found.start.warnings, *warnings)
