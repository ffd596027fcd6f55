"""autoreg_find_best_configuration; heavy packages are imported after parsing."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from autoreg.command import (
    EXIT_BAD_INPUT,
    add_device_flag,
    add_path_flags,
    make_parser,
    resolve_device,
    run_command,
    whole_number,
)
from autoreg.inference.choices import CHECKPOINTS, IO_OPTIMISED, PRESETS
from autoreg.io.atomic import locked_folder
from autoreg.paths import resolve_paths


def main(argv: Sequence[str] | None = None) -> int:
    """Compare trained configurations and settings on held-out pairs, and say what to type.

    Returns:
        0; 2 if a pair failed (what succeeded is compared), or nothing could be compared.
    """
    parser = make_parser(
        "autoreg_find_best_configuration",
        "Register the held-out pairs of every trained fold with every configuration, with and "
        "without instance optimisation and refinement, and without a network; score them, choose, "
        "and print the commands to use. Run again after an interruption: what is done is kept.",
    )
    add = parser.add_argument
    add("dataset", metavar="DATASET", help="id (1) or name (Dataset001_Name) of a data set")
    add("--configs", nargs="+", metavar="NAME",
        help="configurations to compare (default: all that are trained)")  # fmt: skip
    add("--folds", nargs="+", metavar="K",
        help="folds to compare on (default: those that every configuration has)")  # fmt: skip
    add("--io-steps", type=whole_number(0), nargs="+", metavar="N",
        help="numbers of steps of instance optimisation, 0: without (default: 0 and, if it "
        "optimises, what the plan says)")  # fmt: skip
    add("--optimised", choices=IO_OPTIMISED, nargs="+",
        help="what it optimises, each by itself (default: the plan's)")  # fmt: skip
    add("--refine", choices=("off", *PRESETS), nargs="+",
        help="refinements after the network, each by itself (default: off and balanced; with "
        "--io-steps or --optimised: off)")  # fmt: skip
    add("--checkpoint", choices=CHECKPOINTS,
        help="which weights (default: the first of these that exists)")  # fmt: skip
    add("--pairs", type=whole_number(1), default=100, metavar="N",
        help="at most about N pairs over all folds, drawn by the plan's seed (default: 100)",
        )  # fmt: skip
    add("--no-baseline", action="store_true",
        help="do not compare with registration without a network")  # fmt: skip
    add("--keep-predictions", action="store_true",
        help="keep images and displacements (default: remove a pair's as soon as it is scored)",
        )  # fmt: skip
    add_device_flag(parser)
    add_path_flags(parser, "raw", "preprocessed", "results")
    return run_command(_find_best, parser.parse_args(argv))


def _find_best(arguments: argparse.Namespace) -> int:
    from dataclasses import replace

    from autoreg.inference.find_best import FindBestRequest, find_best, prepare_all
    from autoreg.inference.find_best_candidates import SettingChoice
    from autoreg.inference.find_best_commands import CommandContext
    from autoreg.inference.find_best_contest import ContestRequest, make_contest
    from autoreg.inference.find_best_recommendation import recommended
    from autoreg.inference.find_best_report import best_folder, write_best

    flags = vars(arguments)
    given = tuple(name for name in ("raw", "preprocessed", "results") if flags[name] is not None)
    paths = resolve_paths(arguments.raw, arguments.preprocessed, arguments.results)
    context = CommandContext(arguments.dataset, paths, given, arguments.device)
    choice = SettingChoice(
        _given(arguments.io_steps), _given(arguments.optimised), _given(arguments.refine)
    )
    choice.check()
    contest = make_contest(
        ContestRequest(
            dataset=arguments.dataset,
            paths=paths,
            configurations=_given(arguments.configs),
            folds=_given(arguments.folds),
            checkpoint=arguments.checkpoint,
            most_pairs=arguments.pairs,
            context=context,
        )
    )
    request = FindBestRequest(
        contest=contest,
        output=best_folder(paths.results, contest.dataset),
        choice=choice,
        checkpoint=arguments.checkpoint,
        without_network=not arguments.no_baseline,
        keep=arguments.keep_predictions,
        device=resolve_device(arguments.device),
    )
    prepare_all(request)
    with locked_folder(request.output, wait=False):
        found = find_best(request)
        sections = recommended(found, replace(context, dataset=contest.dataset))
        text = write_best(found, sections)
    sys.stdout.write(f"{text}\nreports: {request.output}\n")
    return EXIT_BAD_INPUT if any(found.failures.values()) else 0


def _given(values: list[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)
