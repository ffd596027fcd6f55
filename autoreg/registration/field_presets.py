"""The presets of field optimisation: how much time a registration without a network may take."""

from autoreg.errors import PlanError, did_you_mean
from autoreg.field_plan import DensePlan, FieldPlan, SplinePlan

PRESETS: dict[str, FieldPlan] = {
    "fast": FieldPlan(
        "lncc", SplinePlan(5.0, 2.5, 0.077, (6, 12, 16), (2, 5, 5, 5), 2.0), None, 0.03
    ),
    "balanced": FieldPlan(
        "lncc",
        SplinePlan(4.0, 2.5, 0.077, (6, 12, 16), (12, 8, 8, 6), 2.0),
        DensePlan((6, 8), 0.7, 4.0, 0.05),
        0.01,
    ),
    "accurate": FieldPlan(
        "lncc",
        SplinePlan(4.0, 2.5, 0.1, (6, 12, 16), (30, 12, 8, 8), 2.0),
        DensePlan((12, 12), 0.7, 6.0, 0.05),
        0.002,
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
