"""autoreg_export_model and autoreg_install_model; heavy packages are imported after parsing."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from autoreg.command import add_path_flags, make_parser, run_command
from autoreg.paths import resolve_paths

CHECKPOINTS = ("final", "best")


def main_export(argv: Sequence[str] | None = None) -> int:
    """Write a trained model to a zip file."""
    parser = make_parser(
        "autoreg_export_model",
        "Write a trained model to one zip file for others: plan, weights, progress and what its "
        "refinement check decided. Left out are training.log, what --continue needs, folders of "
        "this machine and, without --with-cases, names of cases.",
    )
    add = parser.add_argument
    add("-m", "--model", type=Path, metavar="MODEL",
        help="model folder: plan.json with fold_*/checkpoint_*.pt")  # fmt: skip
    add("-d", "--dataset", metavar="ID",
        help="number or name of the model's data set (default: the only model)")  # fmt: skip
    add("--config", metavar="NAME", help="configuration of that model (default: the only one)")
    add("--folds", nargs="+", default=[], metavar="F",
        help="folds, such as 0 1 (default: every trained one)")  # fmt: skip
    add("--checkpoint", choices=CHECKPOINTS,
        help="which weights (default: of each fold the first of these that exists)")  # fmt: skip
    add("-o", "--output", type=Path, required=True, metavar="ZIP", help="the zip file to write")
    add("--with-cases", action="store_true",
        help="add the results of each validation pair, which name its cases")  # fmt: skip
    add("--overwrite", action="store_true", help="replace an existing file")
    add_path_flags(parser, "results")
    return run_command(_export, parser.parse_args(argv))


def main_install(argv: Sequence[str] | None = None) -> int:
    """Install a model from a zip file."""
    parser = make_parser(
        "autoreg_install_model",
        "Install a model from a zip file of autoreg_export_model, after checking all of it: "
        "nothing appears among the results unless everything is sound. Nothing in it is executed.",
    )
    add = parser.add_argument
    add("archive", type=Path, metavar="ZIP", help="written by autoreg_export_model")
    add("--dataset", metavar="NAME", help="data set to install it under (default: its own)")
    add("--config", metavar="NAME", help="configuration to install it as (default: its own)")
    add("--overwrite", action="store_true",
        help="replace an existing model; that is kept in the new one, as replaced_N")  # fmt: skip
    add_path_flags(parser, "results")
    return run_command(_install, parser.parse_args(argv))


def _export(arguments: argparse.Namespace) -> None:
    from autoreg.inference.model_archive_export import ExportRequest, export_model, exported_text
    from autoreg.inference.models import ModelRequest, choose_model

    wanted = ModelRequest(arguments.model, arguments.dataset, arguments.config)
    request = ExportRequest(
        model=choose_model(wanted, resolve_paths(results=arguments.results).results),
        output=arguments.output,
        folds=tuple(arguments.folds),
        checkpoint=arguments.checkpoint,
        with_cases=arguments.with_cases,
        overwrite=arguments.overwrite,
    )
    sys.stdout.write(f"{exported_text(export_model(request), request)}\n")


def _install(arguments: argparse.Namespace) -> None:
    from autoreg.inference.model_archive_install import (
        InstallRequest,
        install_model,
        installed_text,
    )

    request = InstallRequest(
        archive=arguments.archive,
        results=resolve_paths(results=arguments.results).results,
        dataset=arguments.dataset,
        configuration=arguments.config,
        overwrite=arguments.overwrite,
    )
    sys.stdout.write(f"{installed_text(install_model(request), arguments.results)}\n")
