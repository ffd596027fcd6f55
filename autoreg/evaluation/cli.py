"""The command autoreg_evaluate."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from autoreg.command import EXIT_BAD_INPUT, add_device_flag, make_parser, run_command

_DESCRIPTION = (
    "Score the pairs that autoreg_predict registered, before and after: Dice and HD95 of labels, "
    "TRE of landmarks, LNCC of intensities, and folds (NDV), volume change (SDlogJ) and inverse "
    "consistency of the displacement. Prints a table and writes summary.json, evaluation.csv, "
    "labels.csv and a picture of each pair."
)
_MOST_WORKERS = 4


def main(argv: Sequence[str] | None = None) -> int:
    """Run autoreg_evaluate; see `documentation/evaluation.md`.

    Returns:
        0; 2 if some pairs could not be evaluated (the others are) or none at all.
    """
    parser = make_parser("autoreg_evaluate", _DESCRIPTION)
    parser.add_argument(
        "-i", "--input", type=Path, required=True, metavar="PREDICTIONS", dest="predictions",
        help="output folder of autoreg_predict",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", type=Path, metavar="OUT",
        help="folder for the reports (default: PREDICTIONS)",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=_positive, metavar="N",
        help="pairs at a time, each in its own process with 1.5 GB for images of 160x192x224 "
        f"voxels (default: one per CPU core, at most {_MOST_WORKERS}; 1 on a GPU)",
    )  # fmt: skip
    parser.add_argument("--no-figures", action="store_true", help="write no figures/<case>.png")
    add_device_flag(parser)
    return run_command(_evaluate, parser.parse_args(argv))


def _evaluate(arguments: argparse.Namespace) -> int:
    from autoreg.command import resolve_device
    from autoreg.evaluation.evaluate import evaluate_predictions
    from autoreg.evaluation.report import terminal_table, write_reports

    device = resolve_device(arguments.device)
    workers = arguments.workers
    if workers is None:
        workers = 1 if device.type == "cuda" else min(os.cpu_count() or 1, _MOST_WORKERS)
    output = arguments.output or arguments.predictions
    figures = None if arguments.no_figures else output / "figures"
    summary = evaluate_predictions(arguments.predictions, device, figures, workers)
    write_reports(summary, output)
    print(terminal_table(summary))
    print(f"\nreports: {output}")
    return EXIT_BAD_INPUT if summary.failures else 0


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, found {text}")
    return int(text)


if __name__ == "__main__":
    raise SystemExit(main())
