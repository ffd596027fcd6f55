"""The presets of field optimisation: how much time a registration without a network may take."""

from autoreg.errors import PlanError, did_you_mean
from autoreg.field_plan import DensePlan, FieldPlan, SplinePlan

PRESETS: dict[str, FieldPlan] = {
    "fast": FieldPlan(
        "lncc", SplinePlan(5.0, 3.0, 0.03, 4.0, (6, 12, 16), (2, 5, 5), 6, 2.0), None, 0.03
    ),
    "balanced": FieldPlan(
        "lncc",
        SplinePlan(4.0, 2.5, 0.025, 4.0, (16, 32, 40), (12, 8, 8, 6), 10, 2.0),
        DensePlan((6, 8), 0.7, 4.0, 0.05),
        0.01,
    ),
    "accurate": FieldPlan(
        "lncc",
        SplinePlan(4.0, 2.5, 0.019, 4.0, (24, 48, 64), (30, 12, 8, 8), 10, 2.0),
        DensePlan((12, 12), 0.7, 8.0, 0.05),
        0.002,
        both_directions=True,
    ),
}
DEFAULT_PRESET = "balanced"


def preset_plan(name: str) -> FieldPlan:
    """The plan of a preset.

    Raises:
        PlanError: for an unknown name.
    """
    if name not in PRESETS:
        raise PlanError(f'preset "{name}": unknown; {did_you_mean(name, PRESETS)}')
    return PRESETS[name]
