"""Choice: a value and why the planner took it."""

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T", covariant=True)


@dataclass(frozen=True)
class Choice(Generic[T]):
    """What a planning rule returns.

    Attributes:
        value: For the plan.
        reason: The rule, its inputs and its source, in a sentence; goes into plans.json.
    """

    value: T
    reason: str
