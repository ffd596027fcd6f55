"""The evaluation as files and as a table for the terminal."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from autoreg.evaluation.scores import (
    CaseScores,
    Failure,
    LandmarkSummary,
    MetricSummary,
    Statistic,
    Summary,
)
from autoreg.evaluation.summary import METRICS, Metric
from autoreg.io.atomic import write_text_atomic
from autoreg.io.records import save_record

SUMMARY_FILE = "summary.json"
CASES_FILE = "evaluation.csv"
LABELS_FILE = "labels.csv"
LANDMARKS_FILE = "landmarks.csv"
_ARROWS = {"higher": "↑", "lower": "↓", "neither": " "}
_MOST_CASES = 20  # more rows than that scroll the summary off the screen

Cell = str | int | float | None


def write_reports(summary: Summary, folder: Path) -> None:
    """Write summary.json, evaluation.csv, labels.csv and landmarks.csv.

    Args:
        summary: What to write.
        folder: Where; it is made if missing. The last two appear where there are labels and
            landmarks.
    """
    save_record(summary, folder / SUMMARY_FILE)
    write_text_atomic(folder / CASES_FILE, cases_csv(summary.cases))
    details = (
        (LABELS_FILE, labels_csv, bool(summary.labels)),
        (LANDMARKS_FILE, landmarks_csv, summary.landmarks is not None),
    )
    for name, text, wanted in details:
        if wanted:
            write_text_atomic(folder / name, text(summary.cases))
        else:
            (folder / name).unlink(missing_ok=True)  # of an earlier evaluation


def cases_csv(cases: Sequence[CaseScores]) -> str:
    """One row per pair; an empty cell does not apply, "nan" and "inf" are values."""
    header = ["case"]
    for name, metric in METRICS.items():
        header += [f"initial_{name}", name] if metric.initial else [name]
    header += ["hd95_infinite", "labels_not_scored", "landmarks", "foreground", "notes"]
    rows: list[list[Cell]] = []
    for case in cases:
        row: list[Cell] = [case.case]
        for metric in METRICS.values():
            row += [metric.initial(case)] if metric.initial else []
            row.append(metric.registered(case))
        unscored = sum(math.isnan(score.dice) for score in case.labels)
        row += [case.registered.hd95_infinite, unscored, len(case.landmarks), case.foreground]
        rows.append([*row, "; ".join(case.notes)])
    return csv_text(header, rows)


def labels_csv(cases: Sequence[CaseScores]) -> str:
    """One row per pair and label."""
    header = ["case", "label", "name", "state"]
    header += ["initial_dice", "dice", "initial_hd95_mm", "hd95_mm"]
    rows: Iterable[list[Cell]] = (
        [case.case, s.label, s.name, s.state, s.initial_dice, s.dice, s.initial_hd95_mm, s.hd95_mm]
        for case in cases
        for s in case.labels
    )
    return csv_text(header, rows)


def landmarks_csv(cases: Sequence[CaseScores]) -> str:
    """One row per pair and landmark, counted from 1 in the order of the landmark files."""
    rows: Iterable[list[Cell]] = (
        [case.case, number, score.initial_tre_mm, score.tre_mm]
        for case in cases
        for number, score in enumerate(case.landmarks, 1)
    )
    return csv_text(["case", "landmark", "initial_tre_mm", "tre_mm"], rows)


def terminal_table(summary: Summary) -> str:
    """The summary for people: each metric before and after, then pairs and what went wrong."""
    parts = [_metric_table(summary)] if summary.cases else []
    if 1 < len(summary.cases) <= _MOST_CASES:
        parts.append(_case_table(summary.cases))
    parts += note_lines(summary.cases, CASES_FILE)
    parts += failure_lines(summary.failures)
    return "\n\n".join(parts)


class Noted(Protocol):
    """A pair with notes."""

    @property
    def case(self) -> str:
        """Its name."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What deserves a look."""


def note_lines(cases: Sequence[Noted], file: str) -> list[str]:
    """The notes of all pairs as one text, or nothing.

    Args:
        cases: The pairs.
        file: Where the rest stands if there are too many.
    """
    notes = [f"  {case.case}: {note}" for case in cases for note in case.notes]
    if not notes:
        return []
    more = len(notes) - _MOST_CASES
    tail = [f"  ... and {more} more in {file}"] if more > 0 else []
    return ["\n".join(["notes", *notes[:_MOST_CASES], *tail])]


def failure_lines(failures: Sequence[Failure]) -> list[str]:
    """The pairs that could not be evaluated as one text, or nothing."""
    if not failures:
        return []
    failed = [f"  {failure.case}: {failure.reason}" for failure in failures]
    return ["\n".join([f"{counted(len(failed), 'pair')} NOT evaluated", *failed])]


def _metric_table(summary: Summary) -> str:
    rows = [("", "before", "after", "pairs", "")]
    for name, result in summary.metrics.items():
        metric = METRICS[name]
        unit = "%" if metric.percent else metric.unit
        title = f"{metric.title}{f' [{unit}]' if unit else ''} {_ARROWS[result.better]}"
        before = _spread(result.initial, metric) if result.initial else ""
        after = _spread(result.registered, metric)
        rows.append((title, before, after, str(result.registered.finite), _caveat(result)))
    lost = sum(label.lost for label in summary.labels)
    legend = "mean ± standard deviation over pairs; ↑ higher is better, ↓ lower is better"
    lines = [f"{counted(len(summary.cases), 'pair')} evaluated; {legend}", *aligned(rows)]
    if lost:
        lines.append(
            f"{counted(lost, 'label')} lost by the warp (Dice 0; HD95 infinite, not in its mean)"
        )
    if summary.landmarks is not None:
        lines.append(_landmarks_text(summary.landmarks))
    return "\n".join(lines)


def _landmarks_text(found: LandmarkSummary) -> str:
    before, after = (
        " / ".join(f"{value:.2f}" for value in (p.mean, p.p25, p.p50, p.p75))
        for p in (found.initial_tre_mm, found.tre_mm)
    )
    return (
        f"TRE of all {counted(found.count, 'landmark')} [mm], mean / 25 / 50 / 75 %: {before} "
        f"before, {after} after"
    )


def _case_table(cases: Sequence[CaseScores]) -> str:
    shown = {
        name: metric
        for name, metric in METRICS.items()
        if name in ("dice", "hd95_mm", "tre_mean_mm", "lncc", "ndv_fraction")
        and any(metric.registered(case) is not None for case in cases)
    }
    titles = [
        f"{m.title}{' [%]' if m.percent else f' [{m.unit}]' if m.unit else ''} {_ARROWS[m.better]}"
        for m in shown.values()
    ]
    rows = [("pair", *titles)]
    for case in cases:
        cells = []
        for metric in shown.values():
            after = _number(metric.registered(case), metric)
            before = _number(metric.initial(case), metric) + " → " if metric.initial else ""
            cells.append(before + after)
        rows.append((case.case, *cells))
    return "\n".join(aligned(rows))


def _spread(result: Statistic, metric: Metric) -> str:
    if result.finite == 0:
        return "no finite value"
    if result.finite == 1:
        return _number(result.mean, metric)
    return f"{_number(result.mean, metric)} ± {_number(result.std, metric)}"


def _caveat(result: MetricSummary) -> str:
    texts = []
    for when, stat in (("before", result.initial), ("after", result.registered)):
        for count, what in ((stat.nan, "NaN"), (stat.infinite, "inf")) if stat else ():
            if count:
                texts.append(f"{count} {what} {when}")
    remarks = ["no improvement"] if _worse(result) else []
    return "; ".join([*remarks, *([f"left out: {', '.join(texts)}"] if texts else [])])


def _worse(result: MetricSummary) -> bool:
    """Whether the mean after registration is no better than before; False without a mean."""
    if result.initial is None:
        return False
    gain = result.registered.mean - result.initial.mean
    return gain <= 0 if result.better == "higher" else result.better == "lower" and gain >= 0


def _number(value: float | None, metric: Metric) -> str:
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(value)
    value = 100 * value if metric.percent else value
    if value != 0 and abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"


def aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows as lines: the first column flush left, the others right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines


def counted(number: int, what: str) -> str:
    """A number with its noun: "1 pair", "2 pairs"."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """Rows as csv text; None is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
