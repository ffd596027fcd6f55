"""The page of a comparison: table, tests, what was left out, commands by hand (Markdown)."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from autoreg.evaluation.predictions import find_cases
from autoreg.evaluation.report import counted
from autoreg.inference.compare_io import Comparison
from autoreg.inference.compare_io_lost import lost_notes
from autoreg.inference.compare_io_settings import NO_IO, Setting, commands_by_hand
from autoreg.inference.compare_io_table import (
    ACCURACY,
    Column,
    PairedTest,
    conflicts_of,
    devices_of,
    mean_of,
    seconds_of,
    shown_columns,
    steps_of,
    values_of,
    versions_of,
)

_ARROWS = {"higher": " ↑", "lower": " ↓", "neither": ""}
_LEVEL = 0.05


def page_text(comparison: Comparison, tests: Sequence[PairedTest], figures: Sequence[str]) -> str:
    """The whole page.

    Args:
        comparison: With a common pair at least.
        tests: From `tests_of`.
        figures: Names of the pictures beside the page.
    """
    parts = ["# Instance optimisation compared", _context(comparison), _table(comparison)]
    parts += _notes(comparison)
    parts += ["## Paired tests", _tests_text(comparison), *_hopeless(tests), _tests_table(tests)]
    if figures:
        parts += ["## Figures", "\n".join(f"![{Path(name).stem}]({name})" for name in figures)]
    parts += ["## By hand", _by_hand(comparison)]
    return "\n\n".join(parts) + "\n"


def _context(comparison: Comparison) -> str:
    request, common = comparison.request, len(comparison.common)
    count = counted(len(comparison.pairs), "pair")
    pairs = count if common == len(comparison.pairs) else f"{common} of {count} (see below)"
    lines = [
        f"* pairs: {request.source}{f', split {request.split}' if request.split else ''}; {pairs}",
        f"* weights: {comparison.checkpoint}",
        f"* scored by: `autoreg_evaluate --protocol {request.protocol}`"
        + (f" `--labels {request.labels}`" if request.labels else ""),
        f"* {_told('device', devices_of(comparison))}",
        f"* {_told('versions', versions_of(comparison))}",
    ]
    return "\n".join(lines)


def _told(what: str, found: Mapping[str, Sequence[str]]) -> str:
    """What the results say they were computed on or with; the settings where that differs."""
    if len(found) == 1:
        return f"{what}: {next(iter(found))}"
    parts = [f"{text} (in {', '.join(settings)})" for text, settings in found.items()]
    return f"{what}, which DIFFER between the pairs: " + "; ".join(parts)


def _table(comparison: Comparison) -> str:
    columns = shown_columns(comparison)
    head = ["setting", *(f"{c.title}{_ARROWS[c.better]}" for c in columns)]
    head += ["conflicts [%]", "steps taken", "time [s]"]
    rows = [head]
    initial = [_initial(comparison, column) for column in columns]
    if any(initial):
        rows.append(["before registration", *initial, "", "", ""])
    for setting in comparison.settings:
        cells = [_cell(comparison, setting, column) for column in columns]
        conflicts = [100 * share for share in conflicts_of(comparison, setting)]
        steps = steps_of(comparison, setting)
        tail = [_spread(conflicts, ".1f"), f"{np.mean(steps):.4g}" if any(steps) else ""]
        rows.append([setting.title, *cells, *tail, _spread(seconds_of(comparison, setting), ".2f")])
    legend = (
        f"Mean ± population standard deviation (ddof 0) over "
        f"{counted(len(comparison.common), 'pair')}; ↑ higher is better, ↓ lower is better. NDV: "
        "non-diffeomorphic volume. IO: both gradients added up; IO-GP: one projected on a "
        "conflict. Conflicts: share of the steps, which plain IO does not look at. Time: "
        "wall-clock seconds of a pair's registration on the device above, without reading and "
        "writing."
    )
    return "\n".join([*markdown(rows), "", legend])


def _initial(comparison: Comparison, column: Column) -> str:
    first = comparison.settings[0]
    values = values_of(comparison, first, column.key, initial=True)
    return _shown(comparison, column, values)


def _cell(comparison: Comparison, setting: Setting, column: Column) -> str:
    return _shown(comparison, column, values_of(comparison, setting, column.key))


def _shown(comparison: Comparison, column: Column, values: Sequence[float | None]) -> str:
    mean = mean_of(comparison.request.protocol, column.key, values)
    if mean is None:
        return ""
    text = f"{column.shown(mean.mean)} ± {column.shown(mean.std)}"
    # A mean of fewer pairs than the others' must not pass for one of all.
    return text if mean.pairs == len(values) else f"{text} (n = {mean.pairs})"


def _spread(values: Sequence[float], spec: str) -> str:
    return f"{np.mean(values):{spec}} ± {np.std(values):{spec}}" if values else ""


def _notes(comparison: Comparison) -> list[str]:
    notes = [*_nothing_known(comparison), *_shared_images(comparison), *_early(comparison)]
    notes += [*lost_notes(comparison), *_left_out(comparison), *_several_devices(comparison)]
    return ["\n".join(f"* {note}" for note in notes)] if notes else []


def _nothing_known(comparison: Comparison) -> list[str]:
    if any(column.key.startswith(ACCURACY) for column in shown_columns(comparison)):
        return []
    compared = "similarity and folds" if comparison.request.protocol == "plain" else "folds"
    note = (
        f"No pair has labels or landmarks that can be scored: {compared} alone are compared, "
        "which say nothing about accuracy."
    )
    return [note]


def _shared_images(comparison: Comparison) -> list[str]:
    common = set(comparison.common)
    pairs = [pair for pair in comparison.pairs if pair.case in common]
    images = {path for pair in pairs for path in (pair.fixed, pair.moving)}
    if len(images) == 2 * len(pairs):
        return []
    note = (
        f"The {counted(len(pairs), 'pair')} are formed of {len(images)} images, so that they are "
        "not independent of each other: the p values below are too small and the intervals too "
        "narrow."
    )
    return [note]


def _early(comparison: Comparison) -> list[str]:
    notes = []
    for setting in comparison.settings:
        early = sum(steps < setting.steps for steps in steps_of(comparison, setting))
        if early:
            notes.append(
                f"{setting.title}: {counted(early, 'pair')} stopped before the last step, since "
                "the loss no longer fell (flat_window and flat_tolerance of the plan)."
            )
    return notes


def _several_devices(comparison: Comparison) -> list[str]:
    if len(devices_of(comparison)) == 1:
        return []
    note = (
        "The pairs were not all predicted on one device, so that no time is given; "
        "compare_io_pairs.csv has the seconds and the device of each."
    )
    return [note]


def _left_out(comparison: Comparison) -> list[str]:
    notes = [
        f"{setting.title}: failed on every pair and is left out."
        for setting in comparison.request.settings
        if setting not in comparison.settings
    ]
    excluded = [pair.case for pair in comparison.pairs if pair.case not in comparison.common]
    if excluded:
        notes.append(
            f"Left out of everything above and below, because a setting failed on them: "
            f"{', '.join(excluded)}."
        )
    return notes + [
        f"Failed: {failure.case}, {failure.setting.title}: {failure.reason}"
        for failure in comparison.failures
    ]


def _tests_text(comparison: Comparison) -> str:
    reference = "no IO" if NO_IO in comparison.settings else "nothing"
    plain = comparison.request.protocol == "plain"
    of_both = " HD95 is compared over the labels that both settings kept." if plain else ""
    return (
        f"Each setting against {reference}, and IO-GP against IO with the same steps and "
        "parameters, over the same pairs: mean difference (the first minus the second) with its "
        "95 % confidence interval (Student's t), Wilcoxon's signed-rank test, two-sided, and its "
        "p value by Holm over all comparisons of the same metric. Below 6 pairs there is no test. "
        f'"better" and "worse" stand where Holm\'s p is below {_LEVEL}, and nothing is infinite or '
        "undefined that one of the two lost." + of_both
    )


def _hopeless(tests: Sequence[PairedTest]) -> list[str]:
    """Whether there are too few pairs for so many comparisons, in words."""
    done = [test for test in tests if test.p_holm is not None]
    families = {test.column.key: [t for t in done if t.column == test.column] for test in done}
    reachable = {
        # the smallest p of n pairs times the number of comparisons
        key: 2.0 ** (1 - max(test.difference.pairs for test in family)) * len(family)
        for key, family in families.items()
    }
    if not reachable or min(reachable.values()) < _LEVEL:
        return []
    text = (
        f"With so few pairs and so many comparisons Holm's p cannot be below "
        f"{min(1.0, min(reachable.values())):.2g}, whatever the values: nothing can be called "
        "significant. Compare fewer settings or more pairs."
    )
    return [text]


def _tests_table(tests: Sequence[PairedTest]) -> str:
    rows = [["metric", "first", "second", "n", "difference [95 % CI]", "p", "p (Holm)", ""]]
    rows += [_test_row(test) for test in tests]
    return "\n".join(markdown(rows))


def _test_row(test: PairedTest) -> list[str]:
    d, scale = test.difference, test.column.scale
    shown = "" if math.isnan(d.mean) else f"{scale * d.mean:+.3g}"
    if not math.isnan(d.low):
        shown += f" [{scale * d.low:+.3g}, {scale * d.high:+.3g}]"
    count = str(d.pairs) if not d.left_out else f"{d.pairs} ({d.left_out} without a value left out)"
    start = [test.column.title, test.setting.title, test.reference.title, count, shown]
    if d.p is None or test.p_holm is None:
        return [*start, "", "", f"no test: {d.untested}"]
    return [*start, f"{d.p:.3g}", f"{test.p_holm:.3g}", _verdict(test, test.p_holm)]


def _verdict(test: PairedTest, p: float) -> str:
    # Wilcoxon's test is one of ranks: the mean may have the other sign, and then nothing is said.
    if p >= _LEVEL or test.column.better == "neither":
        return ""
    # Settings that lose hard labels must not win by the pairs that are left.
    if test.difference.undefined:
        return f"not judged: something lost in {counted(test.difference.undefined, 'pair')}"
    if test.difference.low <= 0 <= test.difference.high:
        return ""
    return "better" if (test.difference.mean > 0) == (test.column.better == "higher") else "worse"


def _by_hand(comparison: Comparison) -> str:
    lines: list[str] = []
    for setting in comparison.settings:
        lines += commands_by_hand(comparison.request, setting, comparison.device)
    text = (
        "The first command of each two leaves the predictions of one setting as they are here "
        "(what is complete is kept), the second one scores them."
    )
    if len(comparison.common) < len(comparison.pairs):
        text += " They count all pairs on which the setting succeeded, the table the common ones."
    others = sorted({name for s in comparison.settings for name in _others(comparison, s)})
    if others:
        text += f" They also count what else lies there: {', '.join(others)}."
    if comparison.request.discard_fields:
        text += " Files that were removed after scoring are predicted anew."
    return "\n".join([text, "", "```", *lines, "```"])


def _others(comparison: Comparison, setting: Setting) -> set[str]:
    """Names of other pairs in a setting's folder, of an earlier comparison."""
    known = {pair.case for pair in comparison.pairs}
    return {path.name for path in find_cases(comparison.request.folder(setting))} - known


def markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table, aligned so that it can be read in a terminal, too; the first row is its head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    return [lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]]
