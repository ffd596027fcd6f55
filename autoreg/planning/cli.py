"""The commands autoreg_fingerprint, autoreg_plan, autoreg_preprocess and the one that does all."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autoreg.command import (
    add_device_flag,
    add_path_flags,
    make_parser,
    resolve_device,
    run_command,
    whole_number,
)
from autoreg.network_plan import ARCHITECTURES
from autoreg.paths import resolve_paths
from autoreg.plan import BUDGETS

if TYPE_CHECKING:
    from autoreg.fingerprint import Fingerprint
    from autoreg.io.dataset import RawDataset
    from autoreg.plan import Plan
    from autoreg.planning.budget import Budget
    from autoreg.planning.steps import Work


def main_fingerprint(argv: Sequence[str] | None = None) -> int:
    """Run autoreg_fingerprint: verify data sets and measure what planning needs to know."""
    parser = make_parser("autoreg_fingerprint", "Verify a raw data set and measure its images.")
    _add_flags(parser, verify=True, parallel=True)
    return run_command(_fingerprint, parser.parse_args(argv))


def main_plan(argv: Sequence[str] | None = None) -> int:
    """Run autoreg_plan: from the fingerprint to plans.json."""
    parser = make_parser("autoreg_plan", "Decide grid, network, loss and training; say why.")
    _add_flags(parser, config=True, budget=True)
    return run_command(_plan, parser.parse_args(argv))


def main_preprocess(argv: Sequence[str] | None = None) -> int:
    """Run autoreg_preprocess: bring the cases onto the plan's grid."""
    parser = make_parser(
        "autoreg_preprocess",
        "Prepare the cases of a data set as a configuration of its plans.json says. Cases that "
        "are up to date are kept.",
    )
    _add_flags(parser, config=True, parallel=True)
    return run_command(_preprocess, parser.parse_args(argv))


def main_plan_and_preprocess(argv: Sequence[str] | None = None) -> int:
    """Run autoreg_plan_and_preprocess: verify, fingerprint, plan and preprocess."""
    parser = make_parser(
        "autoreg_plan_and_preprocess",
        "Verify a raw data set, measure it, plan, and prepare its cases. What is up to date is "
        "kept; what people changed in plans.json, too.",
    )
    _add_flags(parser, verify=True, config=True, budget=True, parallel=True)
    return run_command(_plan_and_preprocess, parser.parse_args(argv))


def _add_flags(
    parser: argparse.ArgumentParser,
    *,
    verify: bool = False,
    config: bool = False,
    budget: bool = False,
    parallel: bool = False,
) -> None:
    add = parser.add_argument
    add(
        "-d",
        "--dataset",
        nargs="+",
        metavar="ID",
        help="ids (1) or names (Dataset001_Name) of data sets, or the folder of one; default: the "
        "only one in the raw folder",
    )
    if config:
        named = "; an --architecture names one" if budget else ""
        add("--config", metavar="NAME", help=f"of plans.json (default: default{named})")
        add_device_flag(parser)
    if budget:
        _add_planning_flags(parser)
    if verify:
        add("--skip-verify", action="store_true", help="trust the files' contents")
    if parallel:
        add(
            "--workers",
            type=whole_number(1),
            metavar="N",
            help="processes (default: by processors, free memory and image size)",
        )
        add("--overwrite", action="store_true", help="do again what is up to date")
        add("--no-progress", action="store_true", help="no progress bars")
    add_path_flags(parser, "raw", "preprocessed")


def _add_planning_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--budget",
        choices=BUDGETS,
        help="memory and time to plan for (default: what --device has)",
    )
    parser.add_argument(
        "--architecture",
        choices=ARCHITECTURES,
        help="of the network (default: the one that --config is named after, else chosen); "
        "without --config it is planned beside the default, as a configuration of its name",
    )


def _fingerprint(arguments: argparse.Namespace) -> None:
    from autoreg.planning.steps import FINGERPRINT_NAME, make_fingerprint, open_dataset
    from autoreg.planning.summary import found_text, next_text

    work = _work(arguments)
    for folder in _folders(arguments):
        dataset = open_dataset(folder, work, verify=not arguments.skip_verify)
        fingerprint = make_fingerprint(dataset, work)
        print(found_text(dataset, fingerprint))
        print(f"Written: {work.preprocessed / dataset.name / FINGERPRINT_NAME}")
        print(
            next_text(
                "autoreg_plan", "-d", _known_as(folder, arguments), flags=_path_flags(arguments)
            )
        )


def _plan(arguments: argparse.Namespace) -> None:
    from autoreg.io.dataset import read_dataset
    from autoreg.planning.steps import load_fingerprint
    from autoreg.planning.summary import next_text

    _name_configuration(arguments)
    preprocessed = _work(arguments).preprocessed
    for folder in _folders(arguments):
        dataset = read_dataset(folder)
        fingerprint = load_fingerprint(dataset, preprocessed)
        _make_and_tell_plan(fingerprint, arguments, preprocessed)
        print(
            next_text(
                "autoreg_preprocess",
                "-d",
                _known_as(folder, arguments),
                *_config_flag(arguments),
                flags=_path_flags(arguments),
            )
        )


def _preprocess(arguments: argparse.Namespace) -> None:
    from autoreg.io.dataset import read_dataset
    from autoreg.planning.plans_file import load_plan, plans_path

    _name_configuration(arguments)
    work = _work(arguments)
    for folder in _folders(arguments):
        dataset = read_dataset(folder)
        plan = load_plan(plans_path(work.preprocessed, dataset.name), arguments.config)
        _preprocess_and_tell(dataset, plan, work, arguments)


def _plan_and_preprocess(arguments: argparse.Namespace) -> None:
    from autoreg.planning.steps import make_fingerprint, open_dataset
    from autoreg.planning.summary import found_text

    _name_configuration(arguments)
    work = _work(arguments)
    for folder in _folders(arguments):
        dataset = open_dataset(folder, work, verify=not arguments.skip_verify)
        fingerprint = make_fingerprint(dataset, work)
        print(found_text(dataset, fingerprint), flush=True)
        plan = _make_and_tell_plan(fingerprint, arguments, work.preprocessed)
        _preprocess_and_tell(dataset, plan, work, arguments)


def _make_and_tell_plan(
    fingerprint: "Fingerprint", arguments: argparse.Namespace, preprocessed: Path
) -> "Plan":
    from autoreg.planning.plans_file import plans_path
    from autoreg.planning.steps import make_plan
    from autoreg.planning.summary import decided_text

    budget = _budget(arguments)
    config = arguments.config
    wanted = arguments.architecture or (config if config in ARCHITECTURES else None)
    plan, messages = make_plan(fingerprint, budget, config, preprocessed, wanted)
    print(decided_text(plan))
    for message in messages:
        print(f"Note: {message}")
    print(f"Written: {plans_path(preprocessed, plan.dataset)} (meant to be edited)", flush=True)
    return plan


def _preprocess_and_tell(
    dataset: "RawDataset", plan: "Plan", work: "Work", arguments: argparse.Namespace
) -> None:
    from autoreg.planning.steps import run_preprocess
    from autoreg.planning.summary import next_text, prepared_text

    print(prepared_text(run_preprocess(dataset, plan, work)))
    train = (dataset.name, *_config_flag(arguments))
    flags = [("--preprocessed", arguments.preprocessed)]
    print(next_text("autoreg_train", *train, flags=flags), flush=True)


def _name_configuration(arguments: argparse.Namespace) -> None:
    """Fill in --config, and refuse an impossible one before hours of work are spent."""
    from autoreg.planning.plans_file import DEFAULT_CONFIGURATION, require_configuration_name

    if arguments.config is None:
        arguments.config = getattr(arguments, "architecture", None) or DEFAULT_CONFIGURATION
    require_configuration_name(arguments.config)


def _budget(arguments: argparse.Namespace) -> "Budget":
    from autoreg.planning.budget import detect_budget, get_budget

    if arguments.budget is not None:
        return get_budget(arguments.budget)
    return detect_budget(resolve_device(arguments.device))


def _work(arguments: argparse.Namespace) -> "Work":
    from autoreg.planning.steps import Work

    paths = resolve_paths(raw=arguments.raw, preprocessed=arguments.preprocessed)
    return Work(
        preprocessed=paths.preprocessed,
        workers=getattr(arguments, "workers", None),
        progress=not getattr(arguments, "no_progress", False),
        overwrite=getattr(arguments, "overwrite", False),
        device=resolve_device(getattr(arguments, "device", "cpu")),
    )


def _folders(arguments: argparse.Namespace) -> Iterator[Path]:
    """The raw data sets that are meant; all are resolved before the first is worked on."""
    from autoreg.io.dataset import resolve_dataset

    raw = resolve_paths(raw=arguments.raw).raw
    names: list[str | None] = arguments.dataset or [None]
    folders = [
        Path(name) if name is not None and _is_folder(name) else resolve_dataset(raw, name)
        for name in names
    ]
    yield from dict.fromkeys(folders)  # "-d 1 Dataset001_Brains" is one data set


def _is_folder(name: str) -> bool:
    """Whether -d gave the path of a data set instead of an id or a name."""
    return ("/" in name or "\\" in name) and Path(name).is_dir()


def _known_as(folder: Path, arguments: argparse.Namespace) -> str:
    """What -d must be to find the folder again: its name in the raw folder, else its path."""
    raw = resolve_paths(raw=arguments.raw).raw
    return folder.name if folder.parent.absolute() == raw.absolute() else str(folder)


def _config_flag(arguments: argparse.Namespace) -> tuple[str, ...]:
    return () if arguments.config == "default" else ("--config", arguments.config)


def _path_flags(arguments: argparse.Namespace) -> list[tuple[str, Path | None]]:
    return [("--raw", arguments.raw), ("--preprocessed", arguments.preprocessed)]
