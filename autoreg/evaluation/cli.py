"""The command autoreg_evaluate."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autoreg.command import (
    EXIT_BAD_INPUT,
    add_device_flag,
    make_parser,
    run_command,
    whole_number,
)
from autoreg.errors import UsageError

if TYPE_CHECKING:
    import torch

_DESCRIPTION = (
    "Score registered pairs, before and after: Dice and HD95 of labels, "
    "TRE of landmarks, LNCC of intensities, and folds (NDV), volume change (SDlogJ) and inverse "
    "consistency of the displacement. Prints a table and writes summary.json, evaluation.csv, "
    "labels.csv and a picture of each pair. With --protocol, the numbers of a challenge's referee."
)
PROTOCOLS = ("plain", "lumir", "learn2reg")
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
    parser.add_argument(
        "--protocol", choices=PROTOCOLS, default="plain",
        help="lumir, learn2reg: the displacement files as the referees of these challenges score "
        "them; writes <protocol>.json, .csv and _labels.csv (default: plain, before and after)",
    )  # fmt: skip
    parser.add_argument(
        "--ground-truth", type=Path, metavar="FOLDER",
        help="with lumir, learn2reg: labelsVal/, masksTr/, landmarksVal/ and so on, with files "
        "named like the images (default: the files that the predictions name)",
    )  # fmt: skip
    parser.add_argument(
        "--labels", metavar="LIST",
        help="with lumir, learn2reg: the labels of Dice and HD95, e.g. 1-35 (default: lumir's 133; "
        "learn2reg: those that the data set names)",
    )  # fmt: skip
    parser.add_argument(
        "--masked", action=argparse.BooleanOptionalAction,
        help="with learn2reg: SDlogJ inside the fixed image's mask, or in the whole grid (default: "
        "as the task's referee, by the images' names; tasks that are not known: whole grid)",
    )  # fmt: skip
    add_device_flag(parser)
    return run_command(_evaluate, parser.parse_args(argv))


def _evaluate(arguments: argparse.Namespace) -> int:
    from autoreg.command import resolve_device
    from autoreg.evaluation.predictions import find_cases
    from autoreg.io.atomic import require_writable
    from autoreg.parallel import choose_workers

    _refuse_idle_flags(arguments)
    device = resolve_device(arguments.device)
    if arguments.workers is None:
        most = 1 if device.type == "cuda" else _MOST_WORKERS
        arguments.workers = choose_workers(most, _BYTES_PER_PAIR)
    output = arguments.output or arguments.predictions
    find_cases(arguments.predictions)  # before a folder is made for their reports
    require_writable(output)
    score = _plain if arguments.protocol == "plain" else _by_protocol
    return EXIT_BAD_INPUT if score(arguments, device, output) else 0


def _refuse_idle_flags(arguments: argparse.Namespace) -> None:
    """Refuse flags that would do nothing."""
    plain = arguments.protocol == "plain"
    for flag, value in (
        ("--ground-truth", plain and arguments.ground_truth is not None),
        ("--labels", plain and arguments.labels is not None),
        (
            "--masked" if arguments.masked else "--no-masked",
            arguments.protocol != "learn2reg" and arguments.masked is not None,
        ),
        ("--no-figures", not plain and arguments.no_figures),
    ):
        if value:
            raise UsageError(f"{flag} does nothing with --protocol {arguments.protocol}; drop it")


def _plain(arguments: argparse.Namespace, device: "torch.device", output: Path) -> bool:
    """Score before and after; whether something went wrong."""
    from autoreg.evaluation.evaluate import evaluate_predictions
    from autoreg.evaluation.report import terminal_table, write_reports
    from autoreg.io.atomic import require_writable

    figures = None if arguments.no_figures else output / "figures"
    if figures is not None:
        require_writable(figures)
    summary = evaluate_predictions(arguments.predictions, device, figures, arguments.workers)
    write_reports(summary, output)
    print(terminal_table(summary))
    print(f"\nreports: {output}")
    return bool(summary.failures) or any(case.picture_failed for case in summary.cases)


def _by_protocol(arguments: argparse.Namespace, device: "torch.device", output: Path) -> bool:
    """Score as a referee does; whether something went wrong."""
    from autoreg.evaluation.evaluate import RefereeJob, evaluate_by_protocol
    from autoreg.evaluation.protocols import parse_labels
    from autoreg.evaluation.referee_files import require_ground_truth
    from autoreg.evaluation.referee_report import referee_table, write_referee_reports

    if arguments.ground_truth is not None:
        require_ground_truth(arguments.ground_truth)
    labels = None if arguments.labels is None else parse_labels(arguments.labels)
    job = RefereeJob(arguments.protocol, device, arguments.ground_truth, labels, arguments.masked)
    summary = evaluate_by_protocol(arguments.predictions, job, arguments.workers)
    files = write_referee_reports(summary, output)
    print(referee_table(summary))
    print(f"\nreports: {output}: {', '.join(files)}")
    return bool(summary.failures)


if __name__ == "__main__":
    raise SystemExit(main())
