"""Scores of pairs to the referee's table: undefined and infinite values are not left out."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from autoreg import __version__
from autoreg.evaluation.protocols import Protocol, RefereeMetric
from autoreg.evaluation.referee_scores import (
    REFEREE_FORMAT,
    LabelSource,
    RefereeCase,
    RefereeStatistic,
    RefereeSummary,
)
from autoreg.evaluation.scores import Failure


def referee_statistic(
    metric: RefereeMetric, values: Sequence[float | None]
) -> RefereeStatistic | None:
    """Mean, population standard deviation and quantile over the pairs, as the referees take them.

    Args:
        metric: What the values are.
        values: One for each pair; None where the metric does not apply.

    Returns:
        The statistic; None if the metric applies to no pair.
    """
    present = np.array([value for value in values if value is not None], dtype=np.float64)
    if not present.size:
        return None
    finite = present[np.isfinite(present)]
    with np.errstate(invalid="ignore"):  # inf - inf
        mean, std = float(present.mean()), float(present.std())
        quantile = float(np.quantile(present, metric.quantile))
    return RefereeStatistic(
        official=metric.official,
        better=metric.better,
        unit=metric.unit,
        mean=mean,
        std=std,
        quantile=quantile,
        quantile_level=metric.quantile,
        pairs=int(present.size),
        nan=int(np.isnan(present).sum()),
        infinite=int(np.isinf(present).sum()),
        finite_mean=float(finite.mean()) if finite.size else float("nan"),
    )


def referee_summary(
    predictions: str,
    protocol: Protocol,
    labels: tuple[int, ...] | None,
    cases: Sequence[RefereeCase],
    failures: Sequence[Failure],
) -> RefereeSummary:
    """The summary of an evaluation by a referee's rules.

    Args:
        predictions: The folder that was evaluated.
        protocol: The rules.
        labels: The user's list of labels, if there is one.
        cases: Scores of the pairs.
        failures: The pairs without scores.
    """
    statistics = {
        key: referee_statistic(metric, [case.scores.get(key) for case in cases])
        for key, metric in protocol.metrics.items()
    }
    lists = {tuple(score.label for score in case.labels) for case in cases if case.labels}
    regions = {case.sdlogj_region for case in cases}
    return RefereeSummary(
        format=REFEREE_FORMAT,
        autoreg_version=__version__,
        protocol=protocol.name,
        predictions=predictions,
        label_list=lists.pop() if len(lists) == 1 else None,
        label_list_from=_label_source(protocol, labels, cases),
        sdlogj_region=regions.pop() if len(regions) == 1 else "mixed" if regions else None,
        metrics={key: found for key, found in statistics.items() if found is not None},
        cases=_with_gaps_named(cases),
        failures=tuple(failures),
    )


def _with_gaps_named(cases: Sequence[RefereeCase]) -> tuple[RefereeCase, ...]:
    """The cases; those without the labels or landmarks that others have say so."""
    named = []
    for case in cases:
        notes = list(case.notes)
        if not case.labels and any(other.labels for other in cases):
            notes.append("not scored by labels: no label maps of both images")
        if not case.landmarks and any(other.landmarks for other in cases):
            notes.append("not scored by landmarks: none of both images")
        named.append(replace(case, notes=tuple(notes)))
    return tuple(named)


def _label_source(
    protocol: Protocol, labels: tuple[int, ...] | None, cases: Sequence[RefereeCase]
) -> LabelSource | None:
    scored = [label for case in cases for label in case.labels]
    if not scored:
        return None
    if protocol.labels is not None and labels in (None, protocol.labels):
        return "protocol"
    if labels is not None:
        return "user"
    # A data set that names structures names all that are scored.
    return "data set" if all(label.name for label in scored) else "occurring"
