"""Are the values of one method better than those of another on the same pairs?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

# With five pairs, no outcome of Wilcoxon's two-sided test lies below 0.05: the smallest is 2 / 2^5.
FEWEST = 6
CONFIDENCE = 0.95


@dataclass(frozen=True)
class PairedDifference:
    """Value minus reference over the same pairs.

    Attributes:
        pairs: With a finite value on both sides; all that follows is about these.
        left_out: The others.
        undefined: Those of the others that have an infinite or undefined value, as lost labels and
            landmarks have; the rest are pairs to which the metric does not apply.
        mean: Mean difference; NaN without pairs.
        low: Lower end of its 95 % confidence interval (Student's t); NaN below two pairs.
        high: Upper end.
        p: Of Wilcoxon's signed-rank test, two-sided; None where `untested` says why there is none.
        untested: Why there was no test; empty if there was one.
    """

    pairs: int
    left_out: int
    undefined: int
    mean: float
    low: float
    high: float
    p: float | None
    untested: str


def paired_difference(
    values: Sequence[float | None], reference: Sequence[float | None]
) -> PairedDifference:
    """Compare two methods over the same pairs.

    Differences of 0 count in the mean and its interval; the test drops them (Wilcoxon's way). The
    interval is that of Student's t, mean +- t s / sqrt(n) with s of ddof 1.

    Args:
        values: One for each pair; None where the metric does not apply.
        reference: Of the other method, in the same order.

    References:
        Wilcoxon, Individual Comparisons by Ranking Methods, Biometrics Bulletin 1 (1945).
    """
    table = np.array(list(zip(values, reference, strict=True)), dtype=np.float64).reshape(-1, 2)
    finite = table[np.isfinite(table).all(axis=1)]
    differences = finite[:, 0] - finite[:, 1]
    count = len(differences)
    low = high = float("nan")
    if count > 1:
        reach = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * stats.sem(differences)
        low, high = float(differences.mean() - reach), float(differences.mean() + reach)
    mean = float(differences.mean()) if count else float("nan")
    unequal = differences[differences != 0]
    untested = _why_not(count, len(unequal))
    p = None if untested else float(stats.wilcoxon(unequal).pvalue)
    left_out = len(table) - count
    undefined = left_out - sum(
        one is None or other is None for one, other in zip(values, reference, strict=True)
    )
    return PairedDifference(count, left_out, undefined, mean, low, high, p, untested)


def _why_not(count: int, unequal: int) -> str:
    if count < FEWEST:
        return f"{count} of at least {FEWEST} pairs"
    if unequal == 0:
        return "no pair differs"
    if unequal < FEWEST:
        return f"{unequal} of at least {FEWEST} differing pairs"
    return ""


def holm(p_values: Sequence[float | None]) -> tuple[float | None, ...]:
    """Holm's correction of the p values of one family of tests.

    The k-th smallest of m values becomes the largest of (m - j + 1) p_j, j <= k, at most 1.

    Args:
        p_values: None where there was no test, which counts nowhere.

    Returns:
        The corrected values in the same order.

    References:
        Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scand. J. Stat. 6 (1979).

    Example:
        >>> holm([0.01, None, 0.04, 0.03])
        (0.03, None, 0.06, 0.06)
    """
    present = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(present):
        largest = max(largest, min(1.0, (len(present) - rank) * p))
        corrected[place] = largest
    return tuple(corrected)
