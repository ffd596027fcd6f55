r"""Methods side by side on the same cases in one run, and their ratios to Greedy.

    PYTHONPATH=benchmarks python -m pairwise.run CASE [CASE ...] --presets fast balanced accurate \
        --peers greedy greedy_more --python VENV/bin/python --out results.jsonl

Case by case, one method after the other, each in its own process. Prints one line per case and
method, then for every kind of case the means and the ratios to the reference peer (mean of the
cases' ratios). --function NAME=MODULE:FUNCTION adds a function (see function_method.py). A peer
gets its own affine registration first where the moving image was moved in the world.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from pairwise.own import run_function, run_preset
from pairwise.peers import HEAD, Measured, row, run_peer

Runner = Callable[[Path], Measured]


def main(argv: Sequence[str] | None = None) -> None:
    """Run everything and print the tables."""
    arguments = _parser().parse_args(argv)
    found: list[Measured] = []
    print(HEAD, flush=True)
    for case in arguments.cases:
        for run in runners(arguments):
            found.append(run(case))
            print(row(found[-1]), flush=True)
            if arguments.out:
                with arguments.out.open("a") as sink:
                    sink.write(json.dumps(asdict(found[-1])) + "\n")
    print()
    print("\n".join(summary(found, arguments.reference)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Methods side by side on the same cases.")
    add = parser.add_argument
    add("cases", type=Path, nargs="+")
    add("--presets", nargs="*", default=[], help="of autoreg_register")
    add("--peers", nargs="*", default=[], help="names in peer_methods.py")
    add("--function", action="append", default=[], metavar="NAME=MODULE:FUNCTION")
    add("--python", type=Path, default=Path(sys.executable), help="the peers' interpreter")
    add("--threads", type=int, default=2, help="for every method (default: 2)")
    add("--reference", default="greedy", help="ratios are to this method (default: greedy)")
    add("--out", type=Path, help="append every measurement to this file, one JSON object a line")
    return parser


def runners(arguments: argparse.Namespace) -> Iterable[Runner]:
    """One call per method, in the order of the table."""
    threads = arguments.threads
    for peer in arguments.peers:
        yield partial(run_peer, peer, python=arguments.python, threads=threads)
    for preset in arguments.presets:
        yield partial(run_preset, preset, threads=threads)
    for pair in arguments.function:
        name, _, function = pair.partition("=")
        yield partial(run_function, name, function, threads=threads)


def summary(found: Sequence[Measured], reference: str) -> list[str]:
    """Means and ratios to the reference, for every kind of case and method."""
    head = (
        "kind | method | cases | error mm | p95 mm | lncc | SD log J | folds | Dice | command s | "
        "registration s | error ratio | command ratio | registration ratio | peak MB"
    )
    lines = [head]
    for kind in dict.fromkeys(_kind(m.case) for m in found):
        group = [m for m in found if _kind(m.case) == kind]
        base = {m.case: m for m in group if m.method == reference}
        for method in dict.fromkeys(m.method for m in group):
            lines.append(_mean_row(kind, [m for m in group if m.method == method], base))
    return lines


def _kind(case: str) -> str:
    """smooth_2mm_seed3_noise06 -> smooth_2mm noise06; real_1mm_a_b -> real_1mm."""
    kind, spacing, *rest = case.split("_")
    return f"{kind}_{spacing}" + (f" {rest[1]}" if kind != "real" and len(rest) > 1 else "")


def _mean_row(kind: str, measured: Sequence[Measured], base: dict[str, Measured]) -> str:
    s = [m.scores for m in measured]
    pairs = [(m, base[m.case]) for m in measured if m.case in base]
    cells = [
        kind,
        f"{measured[0].method:<14}",
        str(len(measured)),
        _mean((x.error_mm for x in s), 3),
        _mean((x.p95_mm for x in s), 3),
        _mean((x.lncc for x in s), 4),
        _mean((x.sd_log_j for x in s), 3),
        str(sum(x.folds for x in s)),
        _mean((x.dice for x in s), 3),
        _mean((m.command_s for m in measured), 1),
        _mean((m.registration_s for m in measured), 1),
        _mean((_ratio(m.scores.error_mm, b.scores.error_mm) for m, b in pairs), 2),
        _mean((_ratio(m.command_s, b.command_s) for m, b in pairs), 2),
        _mean((_ratio(m.registration_s, b.registration_s) for m, b in pairs), 2),
        f"{max(m.peak_mb for m in measured):.0f}",
    ]
    return " | ".join(cells)


def _ratio(value: float | None, reference: float | None) -> float | None:
    return None if value is None or not reference else value / reference


def _mean(values: Iterable[float | None], digits: int) -> str:
    known = [v for v in values if v is not None and not np.isnan(v)]
    return f"{np.mean(known):.{digits}f}" if known else "-"


if __name__ == "__main__":
    main()
