"""The outcome as a table for the terminal and as files: json, csv, commands."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autoreg import __version__
from autoreg.evaluation.paired import PairedDifference, paired_difference
from autoreg.evaluation.report import Cell, counted, csv_text
from autoreg.inference.compare_io_page import markdown
from autoreg.inference.compare_io_table import Column, Mean, all_columns, mean_of
from autoreg.inference.find_best import Found
from autoreg.inference.find_best_bias import bias_notes
from autoreg.inference.find_best_candidates import WITHOUT_NETWORK, Candidate
from autoreg.inference.find_best_choice import RULE, can_test
from autoreg.inference.find_best_record import (
    BEST_FORMAT,
    BestConfiguration,
    CandidateRecord,
    PairRecord,
)
from autoreg.io.atomic import write_text_atomic
from autoreg.io.records import save_record

BEST_FILE = "best_configuration.json"
PAIRS_FILE = "best_configuration_pairs.csv"
COMMANDS_FILE = "commands.txt"

_WIDTH = 100
_SHOWN = ("dice", "hd95_mm", "tre_mean_mm", "ndv_fraction", "sdlogj_plus3")


def write_best(found: Found, sections: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Write all files.

    Args:
        found: The outcome.
        sections: Of the commands: what they are for, and the commands.

    Returns:
        The text for the terminal.
    """
    out = found.request.output
    commands = commands_text(found, sections)
    write_text_atomic(out / PAIRS_FILE, pairs_csv(found))
    write_text_atomic(out / COMMANDS_FILE, commands)
    save_record(_record(found, sections), out / BEST_FILE)
    parts = [_table(found), _duels_text(found), *_listed(_notes(found)), _conclusion(found)]
    return "\n\n".join([*parts, commands.rstrip()]) + "\n"


def commands_text(found: Found, sections: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Content of commands.txt: lines that begin with # tell what the following ones do."""
    lines = [f"# {found.request.contest.dataset}: {found.choice.best.title}"]
    for purpose, commands in sections:
        lines += [f"# {purpose}", *commands]
    return "\n".join(lines) + "\n"


def _columns(found: Found) -> list[Column]:
    wanted = (*_SHOWN, found.measure)
    return [
        column
        for column in all_columns("plain")
        if column.key in wanted
        and any(v is not None for e in found.entries for v in found.values(e.candidate, column.key))
    ]


def _mean(found: Found, candidate: Candidate, key: str, *, initial: bool = False) -> Mean | None:
    return mean_of("plain", key, found.values(candidate, key, initial=initial))


def _table(found: Found) -> str:
    columns, count = _columns(found), len(found.cases)
    arrows = {"higher": " ↑", "lower": " ↓", "neither": ""}
    rows = [["", *(f"{c.title}{arrows[c.better]}" for c in columns), "time [s]", ""]]
    before = [_shown(column, _initial(found, column.key), count) for column in columns]
    rows.append(["before registration", *before, "", ""])
    by_name = {entry.candidate.name: entry for entry in found.entries}
    for name in found.choice.order:
        entry = by_name[name]
        one = entry.candidate
        cells = [_shown(c, _mean(found, one, c.key), count) for c in columns]
        seconds = "" if entry.seconds is None else f"{entry.seconds:.3g}"
        failed = f"failed on {counted(entry.failures, 'pair')}" if entry.failures else ""
        best = "<- best" if one == found.choice.best else failed
        rows.append([one.title, *cells, seconds, best])
    legend = (
        f"Mean ± population standard deviation over {counted(count, 'held-out pair')} of fold "
        f"{', '.join(fold.name for fold in found.request.contest.folds)}, on the images' own "
        "grids; from simple to complex. Time: seconds of a pair's registration, without reading "
        "and writing."
    )
    return "\n".join([*markdown(rows), "", textwrap.fill(legend, _WIDTH)])


def _initial(found: Found, key: str) -> Mean | None:
    best = found.choice.best  # succeeded on every pair
    return _mean(found, best, key, initial=True)


def _shown(column: Column, mean: Mean | None, count: int) -> str:
    if mean is None:
        return ""
    text = f"{column.shown(mean.mean)} ± {column.shown(mean.std)}"
    return text if mean.pairs == count else f"{text} (n = {mean.pairs})"


def _duels_text(found: Found) -> str:
    """Every comparison that was decided by."""
    titles = {entry.candidate.name: entry.candidate.title for entry in found.entries}
    rule = f"Chosen by {_measure_column(found).title}. {RULE}"
    lines = [textwrap.fill(rule, _WIDTH, break_long_words=False, break_on_hyphens=False), ""]
    for duel in found.choice.duels:
        difference = difference_text(duel.difference, _measure_column(found))
        lines.append(
            f"* {titles[duel.challenger]} against {titles[duel.champion]}: {difference}: "
            f"{duel.verdict}"
        )
    return "\n".join(lines)


def _measure_column(found: Found) -> Column:
    return next(column for column in all_columns("plain") if column.key == found.measure)


def difference_text(difference: PairedDifference, column: Column) -> str:
    """A mean difference with its interval and p value, in the units of tables."""
    text = f"{column.scale * difference.mean:+.3g}"
    if np.isfinite(difference.low):
        low, high = column.scale * difference.low, column.scale * difference.high
        text += f" [{low:+.3g}, {high:+.3g}]"
    return text + (f", no test ({difference.untested})" if difference.p is None
                   else f", p = {difference.p:.2g}")  # fmt: skip


def _notes(found: Found) -> list[str]:
    contest = found.request.contest
    notes = list(contest.notes)
    if contest.found > len(contest.pairs):
        notes.append(
            f"{len(contest.pairs)} of {contest.found} held-out pairs were taken; --pairs takes more"
        )
    if found.measure == "lncc":
        notes.append(
            "No pair has labels or landmarks: the similarity decides, which more optimisation "
            "always raises and which says little about accuracy."
        )
    duels = found.choice.duels
    if duels and not all(can_test(duel.difference.pairs, len(duels)) for duel in duels):
        notes.append(
            "So few pairs that no test can tell a difference from chance: what is better on every "
            "pair counts as better, which may be chance. Train more folds, or compare fewer ways."
        )
    notes += [*bias_notes(found), *_useless(found)]
    images = {path for pair in contest.pairs for path in (pair.fixed, pair.moving)}
    if len(images) < 2 * len(contest.pairs):
        notes.append(
            f"The pairs are formed of {len(images)} images, so that they are not independent: "
            "intervals are too narrow and p values too small."
        )
    devices = {p.result.device for of_pairs in found.scored.values() for p in of_pairs.values()}
    if len(devices) > 1:
        notes.append(
            f"Computed on {' and '.join(sorted(devices))} (some pairs were kept from an earlier "
            "run): times cannot be compared."
        )
    return notes + _failure_notes(found)


def _useless(found: Found) -> list[str]:
    """What is worse than no registration."""
    before, column = _initial(found, found.measure), _measure_column(found)
    if before is None:
        return []
    sign = 1 if column.better == "higher" else -1
    worse = [e.candidate.title for e in found.entries if sign * (e.mean - before.mean) < 0]
    return [f"Worse than before registration: {'; '.join(worse)}."] if worse else []


def _failure_notes(found: Found) -> list[str]:
    titles = {entry.candidate.name: entry.candidate.title for entry in found.entries}
    return [
        f"failed: {case}, {titles[name]}: {reason}"
        for name, of_pairs in found.failures.items()
        for case, reason in of_pairs.items()
    ]


def _listed(notes: Sequence[str]) -> list[str]:
    return ["\n".join(f"* {note}" for note in notes)] if notes else []


def _conclusion(found: Found) -> str:
    best = found.choice.best
    text = f"Best: {best.title}."
    if not found.request.without_network or not found.scored[WITHOUT_NETWORK.name]:
        return text
    if best == WITHOUT_NETWORK:
        return f"{text} No trained network is worth it on these pairs."
    column = _measure_column(found)
    values = found.values(best, found.measure)
    others = found.values(WITHOUT_NETWORK, found.measure)
    difference = difference_text(paired_difference(values, others), column)
    times = [found.seconds(one) for one in (best, WITHOUT_NETWORK)]
    return (
        f"{text} Against no network at all: {column.title} {difference}; "
        f"{np.mean(times[0]):.3g} s a pair instead of {np.mean(times[1]):.3g} s."
    )


def pairs_csv(found: Found) -> str:
    """One row per candidate and pair, in stored units (ratios as fractions)."""
    columns = all_columns("plain")
    header = ["configuration", "setting", "fold", "case", *(column.key for column in columns)]
    header += ["register_seconds", "device", "failure"]
    rows: list[list[Cell]] = []
    for entry in found.entries:
        one = entry.candidate
        for fold in found.request.contest.folds:
            for pair in fold.pairs:
                row: list[Cell] = [one.configuration, _setting_name(one), fold.name, pair.case]
                rows.append(row + _pair_cells(found, one, pair.case, columns))
    return csv_text(header, rows)


def _setting_name(candidate: Candidate) -> str:
    return candidate.setting.name if candidate.configuration else candidate.name


def _pair_cells(
    found: Found, candidate: Candidate, case: str, columns: Sequence[Column]
) -> list[Cell]:
    scored = found.scored[candidate.name].get(case)
    if scored is None:
        reason = found.failures[candidate.name].get(case, "")
        return [*[None] * len(columns), None, None, reason]
    at = found.cases.index(case)
    values: list[Cell] = [found.values(candidate, column.key)[at] for column in columns]
    return [*values, scored.result.stages.register, scored.result.device, None]


def _record(found: Found, sections: Sequence[tuple[str, Sequence[str]]]) -> BestConfiguration:
    contest, best = found.request.contest, found.choice.best
    return BestConfiguration(
        format=BEST_FORMAT,
        autoreg_version=__version__,
        dataset=contest.dataset,
        folds={fold.name: tuple(pair.case for pair in fold.pairs) for fold in contest.folds},
        held_out_pairs=contest.found,
        measure=found.measure,
        rule=RULE,
        best=best.name,
        configuration=best.configuration,
        setting=best.setting if best.configuration else None,
        reason=_conclusion(found),
        candidates=tuple(_candidate_record(found, name) for name in found.choice.order),
        comparisons=found.choice.duels,
        notes=tuple(_notes(found)),
        commands={purpose: tuple(commands) for purpose, commands in sections},
    )


def _candidate_record(found: Found, name: str) -> CandidateRecord:
    entry = next(entry for entry in found.entries if entry.candidate.name == name)
    one, columns = entry.candidate, all_columns("plain")
    means = {column.key: _mean(found, one, column.key) for column in columns}
    values = {column.key: found.values(one, column.key) for column in columns}
    pairs = {
        case: PairRecord(
            {key: of_pairs[at] for key, of_pairs in values.items() if of_pairs[at] is not None},
            scored.result.stages.register,
            scored.result.device,
        )
        for at, case in enumerate(found.cases)
        if (scored := found.scored[name].get(case)) is not None
    }
    return CandidateRecord(
        name,
        one.configuration,
        one.setting if one.configuration else None,
        {key: mean for key, mean in means.items() if mean is not None},
        entry.seconds,
        pairs,
        found.failures[name],
    )


def best_folder(results: Path, dataset: str) -> Path:
    """`<results>/<data set>/best_configuration`."""
    return results / dataset / "best_configuration"
