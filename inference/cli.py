"""autoreg_predict and autoreg_import_weights; heavy packages are imported after parsing."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from autoreg.command import (
    add_device_flag,
    add_path_flags,
    make_parser,
    resolve_device,
    roomy_heap,
    run_command,
    whole_number,
)
from autoreg.errors import UsageError
from autoreg.inference.choices import (
    CHECKPOINTS,
    IO_MODES,
    IO_OPTIMISED,
    IO_PROJECTIONS,
    REFINEMENTS,
)
from autoreg.paths import resolve_paths

SPLITS = ("test", "validation", "training")
ORIGINS = ("unigradicon", "sitreg", "transmorph")


def main_predict(argv: Sequence[str] | None = None) -> int:
    """Register every pair of a folder."""
    parser = make_parser(
        "autoreg_predict",
        "Register image pairs with a trained model; where none is trained, by optimising a "
        "displacement field for each pair, as autoreg_register does.",
    )
    add = parser.add_argument
    add("-i", "--input", type=Path, required=True, metavar="IN",
        help="folder with pairs.csv, pairs.json or <case>_fixed.*/<case>_moving.* files, or a raw "
        "data set (its test pairs); or such a csv or json file")  # fmt: skip
    add("-o", "--output", type=Path, required=True, metavar="OUT",
        help="folder for the results, one sub-folder for each pair")  # fmt: skip
    add_model_flags(parser, "number or name of the model's data set (default: the only model)")
    add("--without-model", action="store_true",
        help="optimise a displacement field for each pair although models are trained",
        )  # fmt: skip
    _add_io_flags(parser)
    add_split_flag(parser)
    add("--fixed-modality", nargs="+", metavar="NAME",
        help="modality of each fixed channel (default: the data set's or plan's)")  # fmt: skip
    add("--moving-modality", nargs="+", metavar="NAME", help="the same of moving channels")
    add("--continue", dest="continue_", action="store_true",
        help="skip pairs whose results are complete and belong to the same files, weights and "
        "options (default: predict all anew)")  # fmt: skip
    add("--num-parts", type=whole_number(1), default=1, metavar="N",
        help="split the pairs into N parts and do one of them (default: 1)")  # fmt: skip
    add("--part-id", type=whole_number(0), default=0, metavar="K",
        help="which part, counted from 0 (default: 0)")  # fmt: skip
    add("--gpus", metavar="0,1", help="one process for each of these GPUs, each with its part")
    add_device_flag(parser)
    add_path_flags(parser, "results")
    argv = list(sys.argv[1:] if argv is None else argv)
    arguments = parser.parse_args(argv)
    arguments.argv = argv
    return run_command(_predict, arguments)


def add_split_flag(parser: argparse.ArgumentParser) -> None:
    """Add `--split`."""
    parser.add_argument("--split", choices=SPLITS,
        help="which pairs of a raw data set (default: test)")  # fmt: skip


def add_model_flags(parser: argparse.ArgumentParser, dataset: str) -> None:
    """Add the flags that say which trained model; `dataset` is the help of `-d`."""
    add = parser.add_argument
    add("-m", "--model", type=Path, metavar="MODEL",
        help="model folder: plan.json with fold_*/checkpoint_*.pt")  # fmt: skip
    add("-d", "--dataset", metavar="ID", help=dataset)
    add("--config", metavar="NAME", help="configuration of that model (default: the only one)")
    add("--fold", metavar="K", help="fold of that model (default: the only one)")
    add("--checkpoint", choices=CHECKPOINTS,
        help="which weights (default: the first of these that exists)")  # fmt: skip


def _add_io_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--io", choices=IO_MODES,
        help="instance optimisation of each pair (default: the plan's)")  # fmt: skip
    add("--io-optimised", choices=IO_OPTIMISED,
        help="the network's weights, or a field on top of its maps: a velocity, or a displacement "
        "for each direction (default: the plan's)")  # fmt: skip
    add("--io-steps", type=whole_number(1), metavar="N",
        help="at most N steps (default: the plan's)")  # fmt: skip
    add("--io-projection", choices=IO_PROJECTIONS,
        help="which gradient is projected on a conflict (default: the plan's)")  # fmt: skip
    add("--seed", type=whole_number(0), metavar="N",
        help="of instance optimisation (default: the plan's)")  # fmt: skip
    add("--refine", choices=REFINEMENTS,
        help="optimise a displacement field after the network, at the fixed image's own "
        "resolution: off, or with a preset of autoreg_register (default: auto, which is the "
        "plan's, and where this leaves it to training, what that found)")  # fmt: skip


def _predict(arguments: argparse.Namespace) -> int:
    from autoreg.inference.models import ModelRequest, choose_model, trained_models

    results = resolve_paths(results=arguments.results).results
    named = (arguments.model, arguments.dataset, arguments.config)
    if arguments.without_model:
        flags = ("-m", "-d", "--config")
        if given := [flag for flag, v in zip(flags, named, strict=True) if v is not None]:
            raise UsageError(f"--without-model: takes no model; drop {', '.join(given)}")
        return _predict_without_model(arguments, "--without-model")
    if named == (None, None, None) and not trained_models(results):
        return _predict_without_model(arguments, f"{results}: no trained model")
    model = choose_model(
        ModelRequest(arguments.model, arguments.dataset, arguments.config),
        results,
    )
    if arguments.gpus is not None:
        return _predict_on_gpus(arguments)
    from autoreg.inference.batch import predict_all
    from autoreg.inference.request import OptimisationChoice, PredictRequest

    report = predict_all(
        PredictRequest(
            source=arguments.input,
            output=arguments.output,
            model=model,
            fold=arguments.fold,
            checkpoint=arguments.checkpoint,
            split=arguments.split,
            optimisation=OptimisationChoice(
                arguments.io,
                arguments.io_projection,
                arguments.io_steps,
                arguments.seed,
                arguments.io_optimised,
            ),
            refine=arguments.refine or "auto",
            fixed_modalities=_names(arguments.fixed_modality),
            moving_modalities=_names(arguments.moving_modality),
            skip_complete=arguments.continue_,
            parts=arguments.num_parts,
            part=arguments.part_id,
        ),
        resolve_device(arguments.device),
    )
    print(report.text(arguments.output))
    return report.exit_status


def _predict_without_model(arguments: argparse.Namespace, reason: str) -> int:
    from autoreg.inference.batch_without_model import BatchRequest, ModelFlags, register_all

    roomy_heap()
    flags = vars(arguments)
    ModelFlags(**{name: flags[name] for name in ModelFlags.__dataclass_fields__}).refuse(reason)
    if arguments.gpus is not None:
        return _predict_on_gpus(arguments)
    sys.stderr.write(
        f"{reason}; every pair is registered by optimising a displacement field, as "
        "autoreg_register does (preset balanced)\n"
    )
    report = register_all(
        BatchRequest(
            arguments.input,
            arguments.output,
            arguments.split,
            arguments.continue_,
            arguments.num_parts,
            arguments.part_id,
        ),
        resolve_device(arguments.device),
    )
    print(report.text(arguments.output))
    return report.exit_status


def _names(given: list[str] | None) -> tuple[str, ...] | None:
    return None if given is None else tuple(given)


def _predict_on_gpus(arguments: argparse.Namespace) -> int:
    from autoreg.inference.pairs import find_pairs
    from autoreg.inference.parts import parse_gpus, part_commands, run_parts

    if (arguments.num_parts, arguments.part_id, arguments.device) != (1, 0, "auto"):
        raise UsageError("--gpus sets --num-parts, --part-id and --device itself; drop them")
    gpus = parse_gpus(arguments.gpus)
    find_pairs(arguments.input, arguments.split)  # one message here, not one from every part
    statuses = run_parts(part_commands(arguments.argv, gpus))
    failed = [
        f"part {part} on cuda:{gpu} (exit status {status})"
        for part, (gpu, status) in enumerate(zip(gpus, statuses, strict=True))
        if status != 0
    ]
    if failed:
        raise UsageError(
            f"{len(failed)} of {len(gpus)} parts failed: {', '.join(failed)}; their messages stand "
            "above. Mend the cause and run the same command with --continue"
        )
    return 0


def main_import_weights(argv: Sequence[str] | None = None) -> int:
    """Make a model folder from published weights."""
    parser = make_parser(
        "autoreg_import_weights", "Make a model folder from weights published by others."
    )
    add = parser.add_argument
    add("file", type=Path, metavar="FILE",
        help="e.g. Step_2_final.trch of uniGradICON, model_epoch_024.pt of SITReg, a *.pth.tar of "
        "TransMorph")  # fmt: skip
    add("--from", dest="origin", required=True, choices=ORIGINS, help="who published it")
    add("-o", "--output", type=Path, required=True, metavar="MODEL", help="model folder to make")
    add("--grid", type=whole_number(0), nargs=3, metavar=("D", "H", "W"),
        help="grid of the network (default: the one that the weights were trained at)")  # fmt: skip
    add("--settings", type=Path, metavar="FILE.json",
        help="sitreg: the JSON configuration that the weights were trained with (default: "
        "training_config.json beside FILE)")  # fmt: skip
    add("--window", type=float, nargs=2, metavar=("LOW", "HIGH"),
        help="sitreg, transmorph: intensities that become 0 and 1 (default: as published)",
        )  # fmt: skip
    add("--modality", choices=("mr", "ct"),
        help="unigradicon: modality of both images unless prediction says otherwise (default: mr)",
        )  # fmt: skip
    add("--overwrite", action="store_true", help="replace a model that is there already")
    return run_command(_import_weights, parser.parse_args(argv))


def _import_weights(arguments: argparse.Namespace) -> None:
    from autoreg.inference.import_weights import import_text, import_weights
    from autoreg.inference.imported import ImportOptions

    options = ImportOptions(
        grid=None if arguments.grid is None else tuple(arguments.grid),
        modality=None if arguments.modality is None else arguments.modality.upper(),
        window=None if arguments.window is None else tuple(arguments.window),
        settings=arguments.settings,
        overwrite=arguments.overwrite,
    )
    imported = import_weights(arguments.origin, arguments.file, arguments.output, options)
    print(import_text(imported, arguments.file, arguments.output))


def main_demo(argv: Sequence[str] | None = None) -> int:
    """Go the whole way on a small data set with known deformations."""
    parser = make_parser(
        "autoreg_demo",
        "From a folder of images to scored registrations on a small data set with known "
        "deformations, in a few minutes and without a download.",
    )
    add = parser.add_argument
    add("-o", "--output", type=Path, default=Path("autoreg_demo"), metavar="FOLDER",
        help="everything is written below it (default: ./autoreg_demo)")  # fmt: skip
    add("--epochs", type=whole_number(1), default=20, metavar="N",
        help="of training (default: 20)")  # fmt: skip
    add("--pairs-per-epoch", type=whole_number(1), default=16, metavar="N",
        help="in each of them (default: 16)")  # fmt: skip
    add("--io-steps", type=whole_number(1), default=20, metavar="N",
        help="of instance optimisation for each pair (default: 20)")  # fmt: skip
    add("--seed", type=whole_number(0), default=0, metavar="N",
        help="of every random draw (default: 0)")  # fmt: skip
    add_device_flag(parser)
    return run_command(_demo, parser.parse_args(argv))


def _demo(arguments: argparse.Namespace) -> None:
    from autoreg.inference.demo import DemoOptions, run_demo

    resolve_device(arguments.device)  # before the work begins
    options = DemoOptions(
        arguments.output,
        arguments.device,
        arguments.epochs,
        arguments.pairs_per_epoch,
        arguments.io_steps,
        arguments.seed,
    )
    run_demo(options, print)
