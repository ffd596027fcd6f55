"""autoreg_compare_io; heavy packages are imported after parsing."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from autoreg.command import (
    EXIT_BAD_INPUT,
    add_device_flag,
    add_path_flags,
    make_parser,
    resolve_device,
    run_command,
    whole_number,
)
from autoreg.errors import UsageError
from autoreg.evaluation.cli import PROTOCOLS
from autoreg.inference.choices import IO_OPTIMISED, PRESETS
from autoreg.inference.cli import add_model_flags, add_split_flag
from autoreg.io.atomic import locked_folder
from autoreg.paths import Paths, resolve_paths


def main(argv: Sequence[str] | None = None) -> int:
    """Compare instance optimisation: none, vanilla, and with gradient projection.

    Returns:
        0; 2 if a pair failed in a setting (the others are compared), or nothing could be compared.
    """
    parser = make_parser(
        "autoreg_compare_io",
        "Register and score the same pairs without instance optimisation, with the plain sum of "
        "the gradients and with gradient projection, for several numbers of steps, and compare: a "
        "table of means, paired tests, csv files and figures. Run again with --continue after an "
        "interruption.",
    )
    add = parser.add_argument
    add_model_flags(
        parser, "number or name of the data set: its test pairs, and its model unless -m names one"
    )
    add("-i", "--input", type=Path, metavar="IN",
        help="pairs as autoreg_predict takes them (default: those of -d)")  # fmt: skip
    add("-o", "--output", type=Path, default=Path("compare_io"), metavar="OUT",
        help="folder for the reports, and for the predictions of each setting (default: "
        "./compare_io)")  # fmt: skip
    _add_setting_flags(parser)
    add_split_flag(parser)
    add("--protocol", choices=PROTOCOLS, default="plain",
        help="by whose rules, as in autoreg_evaluate (default: plain)")  # fmt: skip
    add("--labels", metavar="LIST",
        help="with lumir, learn2reg: the labels of Dice and HD95, e.g. 1-35 (default: the "
        "protocol's)")  # fmt: skip
    add("--continue", dest="continue_", action="store_true",
        help="keep pairs that are predicted and scored for the same files, weights and options "
        "(default: do all anew)")  # fmt: skip
    add("--discard-fields", action="store_true",
        help="remove a pair's images and displacements as soon as it is scored (default: keep "
        "them, 160 MB for each pair of 160x224x192 voxels in each setting)")  # fmt: skip
    add_device_flag(parser)
    add_path_flags(parser, "raw", "results")
    return run_command(_compare, parser.parse_args(argv))


def _add_setting_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--steps", type=whole_number(1), nargs="+", default=[50, 100], metavar="N",
        help="numbers of steps (default: 50 100)")  # fmt: skip
    add("--optimised", choices=IO_OPTIMISED, nargs="+", default=["network", "displacements"],
        help="what is optimised, each by itself (default: network displacements)")  # fmt: skip
    add("--refine", choices=PRESETS, nargs="+", default=[],
        help="also compare the network's answer refined with these presets (default: none)",
        )  # fmt: skip
    add("--seed", type=whole_number(0), metavar="N",
        help="of instance optimisation, for every pair and setting (default: the plan's)",
        )  # fmt: skip


def _compare(arguments: argparse.Namespace) -> int:
    from autoreg.inference.compare_io import compare_io, prepare
    from autoreg.inference.compare_io_report import PAGE_FILE, write_comparison
    from autoreg.inference.compare_io_settings import CompareRequest, settings_of
    from autoreg.inference.models import ModelRequest, choose_model

    settings = settings_of(arguments.steps, arguments.optimised, arguments.refine)
    paths = resolve_paths(raw=arguments.raw, results=arguments.results)
    source = _source(arguments, paths)
    # With -m, -d names the pairs alone.
    of_model = None if arguments.model and not arguments.input else arguments.dataset
    model = choose_model(ModelRequest(arguments.model, of_model, arguments.config), paths.results)
    request = CompareRequest(
        source=source,
        output=arguments.output,
        model=model,
        settings=settings,
        fold=arguments.fold,
        checkpoint=arguments.checkpoint,
        split=arguments.split,
        seed=arguments.seed,
        protocol=arguments.protocol,
        labels=arguments.labels,
        skip_complete=arguments.continue_,
        discard_fields=arguments.discard_fields,
    )
    begun = (request.output / PAGE_FILE).exists() or any(request.output.glob("*/*/scores_*.json"))
    if begun and not request.skip_complete:
        raise UsageError(
            f"{request.output}: holds a comparison; --continue keeps what is done and adds to it; "
            "to do all anew, name another folder or remove this one"
        )
    prepared = prepare(request, resolve_device(arguments.device))
    with locked_folder(request.output, wait=False):
        comparison = compare_io(prepared)
        text, drawn = write_comparison(comparison)
    sys.stdout.write(f"{text}\nreports: {request.output}\n")
    return 0 if drawn and not comparison.failures else EXIT_BAD_INPUT


def _source(arguments: argparse.Namespace, paths: Paths) -> Path:
    from autoreg.io.dataset import resolve_dataset

    if arguments.input is not None:
        source: Path = arguments.input
        return source
    if arguments.dataset is None:
        raise UsageError("no pairs: name a data set with -d, or a folder or file of pairs with -i")
    return resolve_dataset(paths.raw, arguments.dataset)
