"""The errors that autoreg raises on purpose.

A message says what is wrong, which file or case, what was found, what was expected and what to do.
Commands print it in one line and exit with status 2; anything else is a defect in autoreg.
"""

import difflib
from collections.abc import Iterable


class AutoregError(Exception):
    """Base of every error that a user can cause or mend."""


class GeometryError(AutoregError):
    """Shapes, spacings or frames that do not fit together."""


class DataError(AutoregError):
    """A data set, image, label map, mask or landmark file that cannot be used."""


class PlanError(AutoregError):
    """A plan or fingerprint with a missing, unknown or impossible value."""


class CheckpointError(AutoregError):
    """Weights or a checkpoint that cannot be loaded."""


class UsageError(AutoregError):
    """Arguments of a command or function that contradict each other or what is on disk."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A remedy for an unknown word: the closest known one, or the list of all.

    Example:
        >>> did_you_mean("epcohs", ["epochs", "seed"])
        'did you mean "epochs"?'
    """
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1)
    return f'did you mean "{close[0]}"?' if close else "known: " + (", ".join(known) or "none")
