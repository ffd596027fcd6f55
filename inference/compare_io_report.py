"""A comparison as a page, as csv files and as the files of each setting's own evaluation."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autoreg.errors import AutoregError
from autoreg.evaluation.protocols import PROTOCOLS
from autoreg.evaluation.referee_report import write_referee_reports
from autoreg.evaluation.referee_summary import referee_summary
from autoreg.evaluation.report import Cell, csv_text, write_reports
from autoreg.evaluation.scores import Failure
from autoreg.evaluation.summary import summarise
from autoreg.failures import FAILURES, reason_of
from autoreg.inference.compare_io import Comparison
from autoreg.inference.compare_io_lost import lost_labels
from autoreg.inference.compare_io_page import page_text
from autoreg.inference.compare_io_settings import Setting
from autoreg.inference.compare_io_table import (
    PairedTest,
    all_columns,
    conflicts_of,
    mean_of,
    seconds_of,
    shown_columns,
    steps_of,
    tests_of,
    value_of,
    values_of,
)
from autoreg.io.atomic import write_text_atomic

logger = logging.getLogger(__name__)

PAGE_FILE = "compare_io.md"
SETTINGS_FILE = "compare_io_settings.csv"
PAIRS_FILE = "compare_io_pairs.csv"
TESTS_FILE = "compare_io_tests.csv"
ACCURACY_FILE = "compare_io_accuracy.png"
CONFLICTS_FILE = "compare_io_conflicts.png"


def write_comparison(comparison: Comparison) -> tuple[str, bool]:
    """Write all reports.

    Args:
        comparison: What was found.

    Returns:
        The page, and whether every figure could be drawn.

    Raises:
        AutoregError: if there is no pair on which all settings succeeded.
    """
    if not comparison.common:
        failed = [f"  {f.case}, {f.setting.title}: {f.reason}" for f in comparison.failures]
        what = "nothing to compare: no pair succeeded in every setting"
        raise AutoregError("\n".join([what, *failed]))
    out = comparison.request.output
    for setting in comparison.settings:
        _write_evaluation(comparison, setting)
    tests = tests_of(comparison, shown_columns(comparison))
    write_text_atomic(out / SETTINGS_FILE, settings_csv(comparison))
    write_text_atomic(out / PAIRS_FILE, pairs_csv(comparison))
    write_text_atomic(out / TESTS_FILE, tests_csv(tests))
    figures, drawn = _draw(comparison, out)
    text = page_text(comparison, tests, figures)
    write_text_atomic(out / PAGE_FILE, text)
    return text, drawn


def _write_evaluation(comparison: Comparison, setting: Setting) -> None:
    """What autoreg_evaluate writes into the folder of a setting, from the scores at hand."""
    folder = comparison.request.folder(setting)
    order = sorted(comparison.scored[setting.name].values(), key=lambda pair: pair.folder.name)
    failures = [Failure(f.case, f.reason) for f in comparison.failures if f.setting == setting]
    where, protocol = str(folder.absolute()), comparison.request.protocol
    if protocol == "plain":
        plain = [pair.scores.plain for pair in order if pair.scores.plain]
        write_reports(summarise(where, plain, failures), folder)
        return
    referee = [pair.scores.referee for pair in order if pair.scores.referee]
    labels = order[0].scores.labels
    summary = referee_summary(where, PROTOCOLS[protocol], labels, referee, failures)
    write_referee_reports(summary, folder)


def settings_csv(comparison: Comparison) -> str:
    """One row per setting, in stored units (ratios as fractions); means over the common pairs."""
    columns = all_columns(comparison.request.protocol)
    header = ["setting", "mode", "optimised", "steps", "refine", "pairs", "failed_pairs"]
    for column in columns:
        header += [f"{column.key}_mean", f"{column.key}_std"]
    header += ["conflict_rate_mean", "conflict_rate_std", "steps_taken_mean"]
    header += ["register_seconds_mean", "register_seconds_std", "labels_lost"]
    failed = Counter(failure.setting for failure in comparison.failures)
    rows: list[list[Cell]] = []
    for s in comparison.settings:
        row: list[Cell] = [s.name, s.mode, s.optimised, s.steps, s.refine]
        row += [len(comparison.common), failed[s]]
        for column in columns:
            mean = mean_of(
                comparison.request.protocol, column.key, values_of(comparison, s, column.key)
            )
            row += [None, None] if mean is None else [mean.mean, mean.std]
        conflicts, seconds = conflicts_of(comparison, s), seconds_of(comparison, s)
        row += [*_spread(conflicts), float(np.mean(steps_of(comparison, s))), *_spread(seconds)]
        scored = comparison.scored[s.name]
        rows.append([*row, sum(len(lost_labels(scored[case])) for case in comparison.common)])
    return csv_text(header, rows)


def _spread(values: Sequence[float]) -> list[Cell]:
    return [float(np.mean(values)), float(np.std(values))] if values else [None, None]


def pairs_csv(comparison: Comparison) -> str:
    """One row per setting and pair; a failed one has its reason and no numbers."""
    columns = all_columns(comparison.request.protocol)
    keys = [column.key for column in columns]
    header = ["setting", "case", "compared", *keys, "steps_taken", "stopped", "conflicts"]
    header += ["seconds", "register_seconds", "device", "labels_lost", "failure"]
    common, rows = set(comparison.common), list[list[Cell]]()
    reasons = {(f.setting, f.case): f.reason for f in comparison.failures}
    for setting in comparison.request.settings:
        for pair in comparison.pairs:
            scored = comparison.scored[setting.name].get(pair.case)
            if scored is None:
                reason = reasons.get((setting, pair.case), "")
                rows.append([setting.name, pair.case, 0, *[None] * (len(header) - 4), reason])
                continue
            row: list[Cell] = [setting.name, pair.case, int(pair.case in common)]
            row += [value_of(scored, key) for key in keys]
            io = scored.result.optimisation
            projected = setting.mode == "gradient_projection"
            row += [io.steps if io else 0, io.stopped if io else None]
            row += [io.conflicts if io and projected else None]
            result = scored.result
            row += [result.seconds, result.stages.register, result.device]
            rows.append([*row, len(lost_labels(scored)), None])
    return csv_text(header, rows)


def tests_csv(tests: Sequence[PairedTest]) -> str:
    """One row per test, in stored units."""
    header = ["metric", "setting", "reference", "pairs", "left_out", "undefined", "mean_difference"]
    header += ["ci95_low", "ci95_high", "p_wilcoxon", "p_holm", "untested"]
    rows: list[list[Cell]] = []
    for test in tests:
        d = test.difference
        row: list[Cell] = [test.column.key, test.setting.name, test.reference.name, d.pairs]
        rows.append(
            [*row, d.left_out, d.undefined, d.mean, d.low, d.high, d.p, test.p_holm, d.untested]
        )
    return csv_text(header, rows)


def _draw(comparison: Comparison, out: Path) -> tuple[tuple[str, ...], bool]:
    """Draw what there is to draw; the names of the files, and whether all went well."""
    # pyplot's parts take a second to import
    from autoreg.inference.compare_io_figures import accuracy_figure, conflict_figure

    drawn: list[str] = []
    for name, draw in ((ACCURACY_FILE, accuracy_figure), (CONFLICTS_FILE, conflict_figure)):
        (out / name).unlink(missing_ok=True)  # of an earlier comparison
        try:
            if draw(comparison, out / name):
                drawn.append(name)
        except FAILURES as error:
            logger.error("%s: not drawn: %s", name, reason_of(error, name, "close other programs"))
            return tuple(drawn), False
    return tuple(drawn), True
