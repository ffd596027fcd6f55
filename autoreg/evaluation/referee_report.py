"""The referee's table as files and for the terminal."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from autoreg.evaluation.protocols import PROTOCOLS, Protocol, RefereeMetric
from autoreg.evaluation.referee_scores import RefereeCase, RefereeStatistic, RefereeSummary
from autoreg.evaluation.report import Cell, aligned, counted, csv_text, failure_lines, note_lines
from autoreg.io.atomic import write_text_atomic
from autoreg.io.records import save_record

_ARROWS = {"higher": "↑", "lower": "↓"}


def write_referee_reports(summary: RefereeSummary, folder: Path) -> tuple[str, ...]:
    """Write <protocol>.json, <protocol>.csv and, where there are labels, <protocol>_labels.csv.

    Args:
        summary: What to write.
        folder: Where; it is made if missing.

    Returns:
        The names of the files.
    """
    protocol = PROTOCOLS[summary.protocol]
    names = [f"{protocol.name}.json", f"{protocol.name}.csv", f"{protocol.name}_labels.csv"]
    save_record(summary, folder / names[0])
    write_text_atomic(folder / names[1], _cases_csv(protocol, summary.cases))
    if any(case.labels for case in summary.cases):
        write_text_atomic(folder / names[2], _labels_csv(summary.cases))
        return tuple(names)
    (folder / names[2]).unlink(missing_ok=True)  # of an earlier evaluation
    return tuple(names[:2])


def referee_table(summary: RefereeSummary) -> str:
    """The summary for people: what the referee reports, what stands beside it, and notes."""
    protocol = PROTOCOLS[summary.protocol]
    parts = [_metric_table(protocol, summary)] if summary.cases else []
    parts += note_lines(summary.cases, f"{protocol.name}.csv")
    parts += failure_lines(summary.failures)
    return "\n\n".join(parts)


def _metric_table(protocol: Protocol, summary: RefereeSummary) -> str:
    title = (
        f"{counted(len(summary.cases), 'pair')} evaluated by the protocol {protocol.name}; "
        "mean ± population standard deviation over pairs"
    )
    rows: list[tuple[str, ...]] = [("", "mean", "quantile", "pairs", "")]
    for official, head in ((True, "reported by the referee"), (False, "beside it")):
        rows.append((head, "", "", "", ""))
        rows += [
            _row(_title(key, protocol, summary), protocol.metrics[key], statistic)
            for key, statistic in summary.metrics.items()
            if statistic.official is official
        ]
    return "\n".join([title, *aligned(rows)])


def _title(key: str, protocol: Protocol, summary: RefereeSummary) -> str:
    """What a row is about; SDlogJ with its region, Dice and HD95 with labels that no list names."""
    title = protocol.metrics[key].title
    if key.startswith("sdlogj") and protocol.masked_tasks:
        inside = sum(case.sdlogj_region == "mask" for case in summary.cases)
        regions = ((inside, "inside the fixed mask"), (len(summary.cases) - inside, "whole grid"))
        found = [(count, region) for count, region in regions if count]
        if len(found) == 1:
            return f"{title}, {found[0][1]}"
        parts = [f"{counted(count, 'pair')} {region}" for count, region in found]
        return f"{title}, {', '.join(parts)}"
    if key in ("dice", "hd95_vox") and summary.label_list_from == "occurring":
        return f"{title}, labels that occur"
    return title


def _row(name: str, metric: RefereeMetric, found: RefereeStatistic) -> tuple[str, ...]:
    unit = "%" if metric.percent else metric.unit
    title = f"  {name}{f' [{unit}]' if unit else ''} {_ARROWS[metric.better]}"
    mean = _number(found.mean, metric)
    spread = mean if found.pairs == 1 else f"{mean} ± {_number(found.std, metric)}"
    quantile = f"{100 * found.quantile_level:.0f} %: {_number(found.quantile, metric)}"
    return title, spread, quantile, str(found.pairs), _caveat(metric, found)


def _caveat(metric: RefereeMetric, found: RefereeStatistic) -> str:
    counts = [f"{n} {what}" for n, what in ((found.nan, "NaN"), (found.infinite, "inf")) if n]
    if not counts:
        return ""
    return f"{', '.join(counts)}; mean of the others {_number(found.finite_mean, metric)}"


def _number(value: float, metric: RefereeMetric) -> str:
    if not math.isfinite(value):
        return str(value)
    return f"{100 * value if metric.percent else value:.4f}"


def _cases_csv(protocol: Protocol, cases: Sequence[RefereeCase]) -> str:
    """One row per pair; an empty cell does not apply, "nan" and "inf" are values."""
    header = ["case", *protocol.metrics, "sdlogj_region", "labels_not_scored", "labels_lost"]
    rows: list[list[Cell]] = []
    for case in cases:
        states = [score.state for score in case.labels]
        lost = states.count("lost")
        unscored = len(states) - lost - states.count("ok")
        values: list[Cell] = [case.scores.get(key) for key in protocol.metrics]
        tail: list[Cell] = [case.sdlogj_region, unscored, lost]
        rows.append([case.case, *values, *tail, case.landmarks, "; ".join(case.notes)])
    return csv_text([*header, "landmarks", "notes"], rows)


def _labels_csv(cases: Sequence[RefereeCase]) -> str:
    """One row per pair and label."""
    rows: Iterable[list[Cell]] = (
        [case.case, s.label, s.name, s.state, s.dice, s.hd95_vox]
        for case in cases
        for s in case.labels
    )
    return csv_text(["case", "label", "name", "state", "dice", "hd95_vox"], rows)
