"""Impossible values of a plan, all of them told at once."""

from collections.abc import Iterable, Iterator

from autoreg.errors import PlanError


def refuse(problems: Iterable[str]) -> None:
    """Refuse a record that has problems.

    Raises:
        PlanError: with all of them.
    """
    found = list(problems)
    if found:
        raise PlanError("; ".join(found))


def negative(record: object, place: str, *names: str) -> Iterator[str]:
    """Problems with values of a record that must be at least 0.

    Args:
        record: Has them as attributes.
        place: Of the record in the plan.
        names: Of the values.
    """
    for name in names:
        value = getattr(record, name)
        if not value >= 0:
            yield f"{place}.{name} must not be negative, found {value}"


def not_positive(record: object, place: str, *names: str) -> Iterator[str]:
    """Problems with values that must be above 0, or tuples of such values or None."""
    for name in names:
        value = getattr(record, name)
        values = value if isinstance(value, tuple) else (value,)
        if not all(v is None or v > 0 for v in values):
            yield f"{place}.{name} must be positive, found {value}"
