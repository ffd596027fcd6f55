"""What a training step minimised, as plain numbers, and the means and sums of these."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class StepValues:
    """What a step minimised, before its update.

    Attributes:
        similarity: Mean over the pairs.
        regularity: Mean over the pairs, without its weight.
        total: All that was minimised.
        folding: Mean non-diffeomorphic volume of a pair, voxels; None if it has no weight.
        cycle: Cycle error, sum over both directions, without its weight; None for pairs.
        supervised: Mean over the pairs of what labels and landmarks add, weighted; None without.
    """

    similarity: float
    regularity: float
    total: float
    folding: float | None = None
    cycle: float | None = None
    supervised: float | None = None


def weighted_mean(values: Sequence[tuple[float, StepValues]]) -> StepValues:
    """The mean of steps, each with its weight; of what some don't have, over those that have it."""

    def mean(numbers: list[tuple[float, float | None]]) -> float | None:
        known = [(weight, n) for weight, n in numbers if n is not None]
        return sum(w * n for w, n in known) / sum(w for w, _ in known) if known else None

    return _each_value(values, mean)


def weighted_sum(values: Sequence[tuple[float, StepValues]]) -> StepValues:
    """The sum of values, each with its weight; all have the same ones."""

    def total(numbers: list[tuple[float, float | None]]) -> float | None:
        known = [weight * n for weight, n in numbers if n is not None]
        return sum(known) if known else None

    return _each_value(values, total)


_Numbers = list[tuple[float, float | None]]


def _each_value(
    values: Sequence[tuple[float, StepValues]], join: Callable[[_Numbers], float | None]
) -> StepValues:
    joined = {
        name: join([(weight, getattr(one, name)) for weight, one in values])
        for name in StepValues.__dataclass_fields__
    }
    return StepValues(**joined)  # type: ignore[arg-type]  # the required ones are never None
