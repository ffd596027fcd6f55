"""What a setting lost: labels and landmarks of which the warp leaves nothing, by pair and in words.

A mean without the lost labels can look better than it is, and the labels that are lost are the hard
ones: they are named, and `autoreg_evaluate`'s HD95 is compared over what both settings kept.
"""

import math
from collections.abc import Sequence

import numpy as np

from autoreg.evaluation.report import counted
from autoreg.evaluation.scores import LabelScore
from autoreg.inference.compare_io import Comparison
from autoreg.inference.compare_io_run import ScoredPair
from autoreg.inference.compare_io_settings import Setting

# autoreg_evaluate leaves lost labels out of it; a referee's HD95 is infinite with one.
HD95_OF_FINITE = "hd95_mm"
_MOST_NAMED = 12


def lost_labels(pair: ScoredPair, *, initial: bool = False) -> tuple[int, ...]:
    """The labels of both images of which nothing is left on the fixed grid.

    Args:
        pair: A scored one.
        initial: Whether before registration, which no referee looks at.
    """
    if pair.scores.plain is not None:
        if initial:
            scores = pair.scores.plain.labels
            return tuple(s.label for s in scores if math.isinf(s.initial_hd95_mm))
        return tuple(s.label for s in pair.scores.plain.labels if s.state == "lost")
    if pair.scores.referee is None or initial:
        return ()
    return tuple(s.label for s in pair.scores.referee.labels if s.state == "lost")


def lost_notes(comparison: Comparison) -> list[str]:
    """What was lost in each setting, pair by pair, and what that does to the means."""
    notes = []
    if comparison.settings:
        notes += _labels_note(comparison, comparison.settings[0], initial=True)
    for setting in comparison.settings:
        notes += _labels_note(comparison, setting)
        notes += _landmarks_note(comparison, setting)
    return notes


def hd95_of_both(
    comparison: Comparison, setting: Setting, reference: Setting
) -> tuple[list[float | None], list[float | None]]:
    """`autoreg_evaluate`'s HD95 of the common pairs, over the labels that both settings kept.

    Returns:
        Of `setting` and of `reference`: means over labels; None where a pair has no labels, NaN
        where none was kept by both.
    """
    values: tuple[list[float | None], list[float | None]] = ([], [])
    for case in comparison.common:
        tables = [_plain_labels(comparison.scored[one.name][case]) for one in (setting, reference)]
        kept = set.intersection(*({s.label for s in t if _is_finite(s)} for t in tables))
        for column, table in zip(values, tables, strict=True):
            found = [s.hd95_mm for s in table if s.label in kept]
            none = float("nan") if table else None
            column.append(float(np.mean(found)) if found else none)
    return values


def _plain_labels(pair: ScoredPair) -> tuple[LabelScore, ...]:
    return () if pair.scores.plain is None else pair.scores.plain.labels


def _is_finite(score: LabelScore) -> bool:
    return math.isfinite(score.hd95_mm)


def _labels_note(comparison: Comparison, setting: Setting, *, initial: bool = False) -> list[str]:
    scored = comparison.scored[setting.name]
    found = {case: lost_labels(scored[case], initial=initial) for case in comparison.common}
    count = sum(map(len, found.values()))
    if not count:
        return []
    plain = comparison.request.protocol == "plain"
    effect = "Dice 0, HD95 without them" if plain else "Dice 0, HD95 infinite"
    where = _listed([f"{case} ({', '.join(map(str, v))})" for case, v in found.items() if v])
    title = "before registration" if initial else setting.title
    return [f"{title}: {counted(count, 'label')} lost, {effect}: {where}."]


def _landmarks_note(comparison: Comparison, setting: Setting) -> list[str]:
    scored = comparison.scored[setting.name]
    found = [text for case in comparison.common if (text := _lost_landmarks(case, scored[case]))]
    return [f"{setting.title}: landmarks lost, TRE without a value: {_listed(found)}."] * bool(
        found
    )


def _lost_landmarks(case: str, pair: ScoredPair) -> str:
    """A pair without a mean of its landmarks' errors, with what its scores say of it; else ""."""
    referee = pair.scores.referee
    if referee is None:
        return ""
    means = [value for key, value in referee.scores.items() if key.startswith("tre")]
    if not any(value is not None and math.isnan(value) for value in means):
        return ""
    told = [note.rpartition(": ")[2] for note in referee.notes if note.startswith("landmarks lost")]
    return f"{case} ({'; '.join(told)})" if told else case


def _listed(texts: Sequence[str]) -> str:
    more = len(texts) - _MOST_NAMED
    return ", ".join(texts[:_MOST_NAMED]) + (
        f" and {counted(more, 'more pair')}" if more > 0 else ""
    )
