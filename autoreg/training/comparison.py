"""In what two plans differ, in the words of the plan file."""

from collections.abc import Sequence

from autoreg.io.records import dump_json, to_plain
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
        ignored: Top-level keys to leave out.

    Returns:
        One text per value, like "training.batch_size was 4 and is now 2".
    """
    old, new = _flat(to_plain(before), ""), _flat(to_plain(now), "")
    names = [
        name
        for name in sorted({*old, *new})
        if name.split(".")[0] not in ignored and (only is None or name.split(".")[0] in only)
    ]
    return [
        f"{name} was {_text(old, name)} and is now {_text(new, name)}"
        for name in names
        if old.get(name, _ABSENT) != new.get(name, _ABSENT)
    ]


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
