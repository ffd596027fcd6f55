"""What the caller of a batch has a say in: which pairs are done already, what follows each."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from autoreg.inference.result import is_complete


def _nothing(folder: Path, *, fresh: bool) -> None:
    """What is done after a pair unless somebody asks for more."""


class AfterPair(Protocol):
    """Hears of every pair that is complete."""

    def __call__(self, folder: Path, *, fresh: bool) -> None:
        """Do something with a pair's folder; `fresh` unless it was complete already."""


@dataclass(frozen=True)
class PairHooks:
    """What a caller wants to have a say in; by default nothing.

    Attributes:
        is_complete: Whether a folder already holds what is wanted of a request, given by its
            digest; asked for with `skip_complete` alone.
        after: Is called after every pair that did not fail, before the next one begins.
    """

    is_complete: Callable[[Path, str], bool] = is_complete
    after: AfterPair = _nothing
