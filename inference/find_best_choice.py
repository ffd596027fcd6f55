"""Which candidate to use: the simplest one that no other one beats beyond chance."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeGuard

import numpy as np

from autoreg.evaluation.paired import CONFIDENCE, FEWEST, PairedDifference, paired_difference
from autoreg.inference.find_best_candidates import ORDER, Candidate

Values = tuple[float | None, ...]

LEVEL = 0.05
# More of the image than that is clearly more: 3500 voxels of 7 million. A judgement, not measured.
NDV_TOLERANCE = 5e-4
# Times that differ by less, as a ratio or by seconds, are the same.
_SAME_RATIO, _SAME_SECONDS = 1.5, 1.0

RULE = (
    "The simplest candidate is taken that no other one beats. One beats another if it is better "
    f"beyond chance: Wilcoxon's signed-rank test has p < {LEVEL} divided by the number of other "
    f"candidates, and the {100 * CONFIDENCE:.0f} % confidence interval of the mean paired "
    "difference (Student's t) excludes 0; with so few pairs that this test could not come out so, "
    "it has to be better on every pair. Its mean non-diffeomorphic volume (NDV) must not be more "
    f"than {100 * NDV_TOLERANCE:g} % of the image higher. It also beats one that is no better on "
    "average and whose NDV is higher by more than that, beyond chance. Never taken: what failed on "
    "a pair, and what has an NDV that much higher than the simplest candidate's. From simple to "
    "complex: " + ORDER + "."
)


@dataclass(frozen=True)
class Entry:
    """One candidate with what decides.

    Attributes:
        candidate: Which.
        accuracy: One value per pair, by the measure of the comparison.
        ndv: Non-diffeomorphic volume of each pair, a fraction of the image.
        seconds: Mean time of a pair's registration; None where times cannot be compared.
        failures: Pairs without a result.
    """

    candidate: Candidate
    accuracy: Values
    ndv: Values
    seconds: float | None
    failures: int = 0

    @property
    def mean(self) -> float:
        """Mean accuracy of the pairs that have one."""
        return _mean(self.accuracy)

    @property
    def mean_ndv(self) -> float:
        """Mean non-diffeomorphic volume."""
        return _mean(self.ndv)


@dataclass(frozen=True)
class Duel:
    """One candidate against another.

    Attributes:
        challenger: Name of the one.
        champion: Name of the other.
        difference: In accuracy, challenger minus champion.
        ndv_difference: In NDV, likewise.
        beaten: Whether the champion is.
        verdict: Why, in words.
    """

    challenger: str
    champion: str
    difference: PairedDifference
    ndv_difference: PairedDifference
    beaten: bool
    verdict: str


@dataclass(frozen=True)
class Choice:
    """What came of it.

    Attributes:
        best: The candidate to use.
        order: Names of all candidates, from simple to complex.
        duels: What decided: each simpler candidate against one that beats it, each that folds too
            much against the simplest, each other one against the best.
    """

    best: Candidate
    order: tuple[str, ...]
    duels: tuple[Duel, ...]


def in_order(entries: Sequence[Entry]) -> list[Entry]:
    """From simple to complex; see `ORDER`.

    Args:
        entries: In the order of preference between equals.
    """
    known = {entry.candidate: entry.seconds for entry in entries}

    def slowness(entry: Entry) -> int:
        alike = [s for one, s in known.items() if one.effort == entry.candidate.effort]
        if entry.seconds is None or None in alike:
            return 0
        fastest = min(s for s in alike if s is not None)
        if entry.seconds <= fastest + _SAME_SECONDS:
            return 0
        return int(math.log(entry.seconds / max(fastest, _SAME_SECONDS), _SAME_RATIO))

    return sorted(entries, key=lambda entry: (*entry.candidate.effort, slowness(entry)))


def choose(entries: Sequence[Entry], better: Literal["higher", "lower"]) -> Choice | None:
    """Apply `RULE`.

    Args:
        entries: In the order of preference between equals, all over the same pairs.
        better: Which direction of the measure is an improvement.

    Returns:
        The choice; None if every candidate failed on some pair.
    """
    ordered = in_order(entries)
    sound = [entry for entry in ordered if not entry.failures]
    if not sound:
        return None
    limit = sound[0].mean_ndv + NDV_TOLERANCE
    smooth = [entry for entry in sound if not entry.mean_ndv > limit]
    meet = _Meeting(1 if better == "higher" else -1, len(sound) - 1)
    duels, best = _unbeaten(smooth, meet)
    others = [entry for entry in smooth if entry.candidate.name not in {d.champion for d in duels}]
    duels += [meet.duel(entry, best) for entry in others if entry != best]
    duels += [
        replace(
            meet.duel(entry, sound[0]),
            beaten=False,
            verdict=f"folds more: NDV + {100 * (entry.mean_ndv - sound[0].mean_ndv):.3g} % of "
            "the image",
        )
        for entry in sound
        if entry not in smooth
    ]
    return Choice(best.candidate, tuple(e.candidate.name for e in ordered), tuple(duels))


def _unbeaten(entries: Sequence[Entry], meet: "_Meeting") -> tuple[list[Duel], Entry]:
    """The first entry that no other one beats, and for each before it one that beats it.

    There is one: who beats another has no lower mean, or the same mean and a lower NDV.
    """
    duels: list[Duel] = []
    for entry in entries:
        held = [meet.duel(other, entry) for other in entries if other != entry]
        lost = [duel for duel in held if duel.beaten]
        if not lost:
            return duels, entry
        duels.append(max(lost, key=lambda duel: meet.sign * duel.difference.mean))
    return duels, entries[0]


@dataclass(frozen=True)
class _Meeting:
    """How candidates are compared: the direction of an improvement, the number of others."""

    sign: int
    tests: int

    def duel(self, challenger: Entry, champion: Entry) -> Duel:
        difference = paired_difference(challenger.accuracy, champion.accuracy)
        folds = paired_difference(challenger.ndv, champion.ndv)
        beaten, verdict = self._verdict(challenger, champion, difference, folds)
        names = challenger.candidate.name, champion.candidate.name
        return Duel(*names, difference, folds, beaten, verdict)

    def _verdict(
        self,
        challenger: Entry,
        champion: Entry,
        difference: PairedDifference,
        folds: PairedDifference,
    ) -> tuple[bool, str]:
        if _lost(challenger.accuracy, champion.accuracy):
            return False, "not judged: a pair lost the value that it has there"
        gain = self.sign * difference.mean
        how = "beyond chance" if can_test(difference.pairs, self.tests) else "on every pair"
        if beyond_chance(challenger.accuracy, champion.accuracy, self.tests):
            if gain < 0:
                return False, f"worse {how}"
            if folds.mean > NDV_TOLERANCE:
                return False, f"better, but folds more: NDV + {100 * folds.mean:.3g} % of the image"
            return True, f"better {how}"
        fewer = folds.mean < -NDV_TOLERANCE
        if gain >= 0 and fewer and beyond_chance(challenger.ndv, champion.ndv, self.tests):
            return True, f"no worse, and folds less {how}"
        return False, f"no difference {how}"


def beyond_chance(values: Values, reference: Values, tests: int) -> bool:
    """Whether a mean difference is more than chance would bring about; see `RULE`.

    Args:
        values: One for each pair.
        reference: Of the other candidate.
        tests: How many such questions are asked.
    """
    difference = paired_difference(values, reference)
    if not can_test(difference.pairs, tests):
        pairs = zip(values, reference, strict=True)
        signs = {np.sign(v - r) for v, r in pairs if _is_there(v) and _is_there(r)}
        return signs in ({1.0}, {-1.0})
    excludes_0 = difference.low > 0 or difference.high < 0
    return excludes_0 and difference.p is not None and difference.p < LEVEL / max(tests, 1)


def can_test(pairs: int, tests: int) -> bool:
    """Whether Wilcoxon's test of so many pairs can have a p that is low enough."""
    return pairs >= FEWEST and 2.0 ** (1 - pairs) < LEVEL / max(tests, 1)


def _lost(values: Values, before: Values) -> bool:
    """Whether a value is missing that was there before, as of landmarks that got lost."""
    return any(_is_there(b) and not _is_there(v) for v, b in zip(values, before, strict=True))


def _is_there(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _mean(values: Values) -> float:
    finite = [v for v in values if _is_there(v)]
    return float(np.mean(finite)) if finite else float("nan")
