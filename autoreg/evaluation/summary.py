"""Scores of pairs to a summary over all of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from autoreg import __version__
from autoreg.evaluation.scores import (
    SUMMARY_FORMAT,
    CaseScores,
    Failure,
    LabelScore,
    LabelSummary,
    LandmarkSummary,
    MetricSummary,
    Pooled,
    Statistic,
    Summary,
)

Value = float | None


@dataclass(frozen=True)
class Metric:
    """One column of the evaluation.

    Attributes:
        title: For tables.
        unit: Of the stored values; empty for ratios.
        better: Which direction is an improvement.
        registered: Its value after registration.
        initial: Its value before, for what exists before.
        percent: Tables show the stored fraction in per cent.
    """

    title: str
    unit: str
    better: Literal["higher", "lower", "neither"]
    registered: Callable[[CaseScores], Value]
    initial: Callable[[CaseScores], Value] | None = None
    percent: bool = False


METRICS: dict[str, Metric] = {
    "dice": Metric("Dice", "", "higher", lambda c: c.registered.dice, lambda c: c.initial.dice),
    "hd95_mm": Metric(
        "HD95", "mm", "lower", lambda c: c.registered.hd95_mm, lambda c: c.initial.hd95_mm
    ),
    "tre_mean_mm": Metric(
        "TRE mean",
        "mm",
        "lower",
        lambda c: c.registered.tre_mean_mm,
        lambda c: c.initial.tre_mean_mm,
    ),
    "tre_p95_mm": Metric(
        "TRE p95", "mm", "lower", lambda c: c.registered.tre_p95_mm, lambda c: c.initial.tre_p95_mm
    ),
    "lncc": Metric("LNCC", "", "higher", lambda c: c.registered.lncc, lambda c: c.initial.lncc),
    "ndv_fraction": Metric("NDV", "", "lower", lambda c: c.field.ndv_fraction, percent=True),
    "ndv_foreground_fraction": Metric(
        "NDV foreground", "", "lower", lambda c: c.field.ndv_foreground_fraction, percent=True
    ),
    "folded_fraction": Metric(
        "folded voxels", "", "lower", lambda c: c.field.folded_fraction, percent=True
    ),
    "jacobian_minimum": Metric("min. Jacobian", "", "higher", lambda c: c.field.jacobian_minimum),
    "sdlogj_plus3": Metric("SDlogJ (+3)", "", "lower", lambda c: c.field.sdlogj_plus3),
    "sdlogj_foreground": Metric(
        "SDlogJ foreground", "", "lower", lambda c: c.field.sdlogj_foreground
    ),
    "inverse_error_mean_mm": Metric(
        "inverse error mean", "mm", "lower", lambda c: c.field.inverse_error_mean_mm
    ),
    "inverse_error_p95_mm": Metric(
        "inverse error p95", "mm", "lower", lambda c: c.field.inverse_error_p95_mm
    ),
    "inverse_overlap_fraction": Metric(
        "overlap", "", "neither", lambda c: c.field.inverse_overlap_fraction, percent=True
    ),
    "prediction_seconds": Metric("prediction time", "s", "lower", lambda c: c.prediction_seconds),
}


def statistic(values: Sequence[Value]) -> Statistic:
    """Mean and population standard deviation of the finite values, with all counts.

    Args:
        values: None where the score does not apply; such values count nowhere.
    """
    present = np.array([value for value in values if value is not None], dtype=np.float64)
    finite = present[np.isfinite(present)]
    return Statistic(
        mean=float(finite.mean()) if finite.size else float("nan"),
        std=float(finite.std()) if finite.size else float("nan"),
        finite=int(finite.size),
        nan=int(np.isnan(present).sum()),
        infinite=int(np.isinf(present).sum()),
    )


def summarise(
    predictions: str, cases: Sequence[CaseScores], failures: Sequence[Failure]
) -> Summary:
    """The summary of an evaluation.

    Args:
        predictions: The folder that was evaluated.
        cases: Scores of the pairs.
        failures: The pairs without scores.

    Returns:
        The summary; metrics that apply to no pair are left out.
    """
    metrics = {
        name: MetricSummary(
            better=metric.better,
            unit=metric.unit,
            initial=metric.initial and statistic([metric.initial(case) for case in cases]),
            registered=statistic([metric.registered(case) for case in cases]),
        )
        for name, metric in METRICS.items()
        if any(metric.registered(case) is not None for case in cases)
    }
    return Summary(
        format=SUMMARY_FORMAT,
        autoreg_version=__version__,
        predictions=predictions,
        metrics=metrics,
        labels=_label_summaries(cases),
        landmarks=_landmark_summary(cases),
        cases=tuple(cases),
        failures=tuple(failures),
    )


def _label_summaries(cases: Sequence[CaseScores]) -> tuple[LabelSummary, ...]:
    by_label: dict[int, list[LabelScore]] = {}
    for case in cases:
        for score in case.labels:
            by_label.setdefault(score.label, []).append(score)
    return tuple(
        LabelSummary(
            label=label,
            name=next((s.name for s in scores if s.name), ""),
            lost=sum(s.state == "lost" for s in scores),
            initial_dice=statistic([s.initial_dice for s in scores]),
            dice=statistic([s.dice for s in scores]),
            initial_hd95_mm=statistic([s.initial_hd95_mm for s in scores]),
            hd95_mm=statistic([s.hd95_mm for s in scores]),
        )
        for label, scores in sorted(by_label.items())
    )


def _landmark_summary(cases: Sequence[CaseScores]) -> LandmarkSummary | None:
    scores = [score for case in cases for score in case.landmarks]
    if not scores:
        return None
    return LandmarkSummary(
        len(scores),
        _pooled([score.initial_tre_mm for score in scores]),
        _pooled([score.tre_mm for score in scores]),
    )


def _pooled(values: Sequence[float]) -> Pooled:
    quantiles = (float(q) for q in np.percentile(values, (25, 50, 75, 95)))
    return Pooled(float(np.mean(values)), *quantiles)
