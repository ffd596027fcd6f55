"""The command autoreg_train."""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from autoreg.command import (
    add_device_flag,
    add_path_flags,
    make_parser,
    resolve_device,
    run_command,
    whole_number,
)
from autoreg.paths import resolve_paths

PRECISIONS = ("float32", "bfloat16", "float16")

DESCRIPTION = """Train the network of a planned and prepared data set. Every value comes from the
plan; flags replace single values, and the plan with the replaced values is written beside the
model: <results>/<data set>/<configuration>/."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run autoreg_train.

    Args:
        argv: Arguments; by default those of the process.

    Returns:
        Exit status.
    """
    return run_command(_train, _parser().parse_args(argv))


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("autoreg_train", DESCRIPTION)
    add = parser.add_argument
    add("dataset", metavar="DATASET", help="id (1) or name (Dataset001_Name) of a data set")
    add("--config", default="default", metavar="NAME", help="of plans.json (default: default)")
    add("--fold", metavar="F", help="0, 1, ... or all (default: 0; all for fewer than 3 cases)")
    add(
        "--pretrained",
        type=Path,
        metavar="MODEL",
        help="model folder whose weights to start from; MODEL/fold_F if it has several folds",
    )
    trained = parser.add_mutually_exclusive_group().add_argument
    trained(
        "--continue", dest="resume", action="store_true", help="go on with an interrupted training"
    )
    trained("--overwrite", action="store_true", help="replace a trained fold")
    _add_overrides(parser)
    add(
        "--workers",
        type=whole_number(0),
        metavar="N",
        help="processes that load and augment; 0: none (default: processors - 1, at most 8)",
    )
    add(
        "--no-refinement-check",
        action="store_true",
        help="do not measure in the end whether refinement helps; --continue makes up for it",
    )
    add(
        "--checkpoint-minutes",
        type=_positive,
        default=10.0,
        metavar="N",
        help="wall time between checkpoints, besides those at validations (default: 10)",
    )
    add(
        "--augment-on",
        choices=("auto", "workers", "device"),
        default="auto",
        help="where images are augmented; auto: on the device if it is CUDA (default: auto)",
    )
    add("--no-progress", action="store_true", help="no progress bar")
    add_device_flag(parser)
    add_path_flags(parser, "raw", "preprocessed", "results")
    return parser


def _add_overrides(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("values in place of the plan's")
    whole, natural = whole_number(1), whole_number(0)
    for flag, kind, text in (
        ("--epochs", whole, "number of epochs; moves the next two and group consistency along"),
        ("--shallow-epochs", natural, "epochs of a cascade without its last level, from scratch"),
        ("--augmentation-from", natural, "first augmented epoch, counted from 0"),
        ("--pairs-per-epoch", whole, "pairs drawn in an epoch"),
        ("--batch-size", whole, "pairs in a step; cycles of group consistency have three"),
        ("--learning-rate", _positive, "of the optimiser; a schedule starts from it"),
        ("--validation-every", whole, "epochs between validations and checkpoints"),
        ("--seed", natural, "of every random draw"),
        ("--accumulation-steps", whole, "parts of a batch, computed one after the other"),
        ("--early-stopping", natural, "end after so many validations without a better; 0: never"),
    ):
        group.add_argument(flag, type=kind, metavar="N", help=f"{text} (default: the plan's)")
    for flag, choices, text in (
        ("--precision", PRECISIONS, "of the network's convolutions while training"),
        ("--gradients", ("vanilla", "gradient_projection"), "how they are joined"),
    ):
        group.add_argument(flag, choices=choices, help=f"{text} (default: the plan's)")


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text}")
    return value


def _train(arguments: argparse.Namespace) -> int:
    import logging
    from dataclasses import fields

    from tqdm.contrib.logging import logging_redirect_tqdm

    from autoreg.training.overrides import Overrides
    from autoreg.training.processes import device_of, started_processes
    from autoreg.training.request import TrainingRequest
    from autoreg.training.run import run_training
    from autoreg.training.stopping import TrainingStopped

    processes = started_processes()
    if not processes.is_first:
        logging.getLogger().setLevel(logging.ERROR)
        # Each process has its own.
        logging.getLogger("autoreg.training.workers").setLevel(logging.WARNING)
    paths = resolve_paths(arguments.raw, arguments.preprocessed, arguments.results)
    request = TrainingRequest(
        dataset=arguments.dataset,
        preprocessed=paths.preprocessed,
        results=paths.results,
        configuration=arguments.config,
        fold=arguments.fold,
        overrides=Overrides(**{f.name: getattr(arguments, f.name) for f in fields(Overrides)}),
        pretrained=arguments.pretrained,
        resume=arguments.resume,
        overwrite=arguments.overwrite,
        workers=arguments.workers,
        device=device_of(resolve_device(arguments.device), processes),
        show_progress=not arguments.no_progress,
        raw=paths.raw,
        refinement_check=not arguments.no_refinement_check,
        checkpoint_minutes=arguments.checkpoint_minutes,
        augment_on=arguments.augment_on,
        processes=processes,
    )
    with logging_redirect_tqdm():
        try:
            folder = run_training(request)
        except TrainingStopped as stopped:
            if processes.is_first:
                sys.stderr.write(f"stopped by {stopped}; go on with --continue\n")
            return 128 + stopped.number  # as shells say it
    if processes.is_first:
        print(f"trained: {folder}")
    return 0
