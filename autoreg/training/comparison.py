"""In what two plans differ, in the words of the plan file."""

from collections.abc import Sequence

from autoreg.io.records import dump_json, to_plain
from autoreg.network_plan import NetworkPlan, SITRegPlan, TransMorphPlan
from autoreg.plan import Plan

EXPLANATIONS = ("reasons", "memory")  # they tell of a plan and decide nothing


def plan_differences(
    before: Plan,
    now: Plan,
    *,
    only: Sequence[str] | None = None,
    ignored: Sequence[str] = EXPLANATIONS,
) -> list[str]:
    """The values in which two plans differ.

    Args:
        before: A plan that something was done by.
        now: Another one.
        only: Top-level keys to compare; by default all.
        ignored: Keys to leave out, like "reasons" or "network.drop_path".

    Returns:
        One text per value, like "training.batch_size was 4 and is now 2"; of networks of two
        architectures, whose keys are not the same, the architectures alone.
    """
    old, new = _flat(to_plain(before), ""), _flat(to_plain(now), "")
    is_other = before.network.architecture != now.network.architecture
    names = [
        name
        for name in sorted({*old, *new})
        if not {name, name.split(".")[0]} & set(ignored)
        and (only is None or name.split(".")[0] in only)
        and not (is_other and name.startswith("network.") and name != "network.architecture")
    ]
    return [
        f"{name} was {_text(old, name)} and is now {_text(new, name)}"
        for name in names
        if old.get(name, _ABSENT) != new.get(name, _ABSENT)
    ]


def weight_differences(trained: Plan, now: Plan, only: Sequence[str]) -> list[str]:
    """The values in which a plan does not fit weights; see `plan_differences`.

    Args:
        trained: The plan that the weights were trained by.
        now: The plan that is to use them.
        only: Top-level keys to compare.
    """
    return plan_differences(trained, now, only=only, ignored=_free_of_weights(now.network))


def _free_of_weights(network: NetworkPlan) -> tuple[str, ...]:
    """Keys that say how a network is computed or trained, and not what its weights mean."""
    if isinstance(network, TransMorphPlan):
        return ("network.checkpointing", "network.drop_path")
    if isinstance(network, SITRegPlan) and not network.affine:
        return ("network.checkpointing", "network.voxel_size")
    return ("network.checkpointing",)


_ABSENT = object()


def _flat(value: object, prefix: str) -> dict[str, object]:
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    flat: dict[str, object] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _text(values: dict[str, object], name: str) -> str:
    return dump_json(values[name]).strip() if name in values else "absent"
