"""The command autoreg_evaluate."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from autoreg.command import (
    EXIT_BAD_INPUT,
    add_device_flag,
    make_parser,
    run_command,
    whole_number,
)

_DESCRIPTION = (
    "Score registered pairs, before and after: Dice and HD95 of labels, "
    "TRE of landmarks, LNCC of intensities, and folds (NDV), volume change (SDlogJ) and inverse "
    "consistency of the displacement. Prints a table and writes summary.json, evaluation.csv, "
    "labels.csv and a picture of each pair."
)
_MOST_WORKERS = 4
_BYTES_PER_PAIR = 1_500_000_000  # of 160x192x224 voxels


def main(argv: Sequence[str] | None = None) -> int:
    """Run autoreg_evaluate; see `documentation/evaluation.md`.

    Returns:
        0; 2 if some pairs could not be evaluated (the others are), not drawn, or none at all.
    """
    parser = make_parser("autoreg_evaluate", _DESCRIPTION)
    parser.add_argument(
        "-i", "--input", type=Path, required=True, metavar="PREDICTIONS", dest="predictions",
        help="output folder of autoreg_predict, or of autoreg_register",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", type=Path, metavar="OUT",
        help="folder for the reports (default: PREDICTIONS)",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=whole_number(1), metavar="N",
        help="pairs at a time, each in its own process with 1.5 GB for images of 160x192x224 "
        f"voxels (default: by processors and free memory, at most {_MOST_WORKERS}; 1 on a GPU)",
    )  # fmt: skip
    parser.add_argument("--no-figures", action="store_true", help="write no figures/<case>.png")
    add_device_flag(parser)
    return run_command(_evaluate, parser.parse_args(argv))


def _evaluate(arguments: argparse.Namespace) -> int:
    from autoreg.command import resolve_device
    from autoreg.evaluation.evaluate import evaluate_predictions
    from autoreg.evaluation.predictions import find_cases
    from autoreg.evaluation.report import terminal_table, write_reports
    from autoreg.io.atomic import require_writable
    from autoreg.parallel import choose_workers

    device = resolve_device(arguments.device)
    workers = arguments.workers
    if workers is None:
        most = 1 if device.type == "cuda" else _MOST_WORKERS
        workers = choose_workers(most, _BYTES_PER_PAIR)
    output = arguments.output or arguments.predictions
    figures = None if arguments.no_figures else output / "figures"
    find_cases(arguments.predictions)  # before a folder is made for their reports
    for folder in (output, figures):
        if folder is not None:
            require_writable(folder)
    summary = evaluate_predictions(arguments.predictions, device, figures, workers)
    write_reports(summary, output)
    print(terminal_table(summary))
    print(f"\nreports: {output}")
    pictures_failed = any(case.picture_failed for case in summary.cases)
    return EXIT_BAD_INPUT if summary.failures or pictures_failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
