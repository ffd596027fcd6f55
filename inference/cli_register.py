"""autoreg_register; heavy packages are imported after parsing."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autoreg.command import (
    add_device_flag,
    make_parser,
    resolve_device,
    roomy_heap,
    run_command,
    whole_number,
)
from autoreg.errors import DataError, UsageError
from autoreg.inference.choices import (
    ALIGNMENTS,
    CHECKPOINTS,
    IO_MODES,
    IO_OPTIMISED,
    PRESETS,
    SIMILARITIES,
)

if TYPE_CHECKING:
    import torch

    from autoreg.inference.register import NetworkStart

_A_FOLDER = (
    "a folder; expected a file (a DICOM series is turned into one, for example, by "
    "dcm2niix -z y FOLDER)"
)
_FURTHER = (
    "fixed_labels", "moving_labels", "fixed_mask", "moving_mask", "fixed_landmarks",
    "moving_landmarks",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Register two images."""
    parser = make_parser(
        "autoreg_register",
        "Register two images, of two or three dimensions, without a trained model: an initial "
        "alignment, then the optimisation of a displacement field.",
    )
    add = parser.add_argument
    add("-f", "--fixed", type=Path, required=True, nargs="+", metavar="FIXED",
        help="fixed image; several files are its channels")  # fmt: skip
    add("-m", "--moving", type=Path, required=True, nargs="+", metavar="MOVING",
        help="moving image, which is brought onto the fixed one")  # fmt: skip
    add("-o", "--output", type=Path, required=True, metavar="OUT",
        help="folder for the results; those of an earlier registration there are replaced",
        )  # fmt: skip
    add("--preset", choices=PRESETS, help="how much time it may take (default: balanced)")
    add("--similarity", choices=SIMILARITIES,
        help="lncc: images of one contrast; mind: other contrasts and modalities; squared_lncc: "
        "negative images (default: lncc, or mind where the contrasts differ)")  # fmt: skip
    add("--align", choices=ALIGNMENTS,
        help="initial alignment; none trusts the headers (default: affine)")  # fmt: skip
    add("--plan", type=Path, metavar="FILE.json",
        help="own plan in place of a preset; OUT/plan.json of an earlier run is one")  # fmt: skip
    add("--model", type=Path, metavar="MODEL",
        help="3-D images: start from this trained network (a model folder) in place of an initial "
        "alignment",
        )  # fmt: skip
    add("--fold", metavar="K", help="with --model: its fold (default: the only one)")
    add("--checkpoint", choices=CHECKPOINTS,
        help="with --model: which weights (default: the first of these that exists)")  # fmt: skip
    add("--io", choices=IO_MODES,
        help="with --model: instance optimisation of the network before that of the field "
        "(default: the plan's)")  # fmt: skip
    add("--io-optimised", choices=IO_OPTIMISED,
        help="with --model: what that optimises: the network's weights, or a field on top of its "
        "maps, on the network's grid (default: the plan's)")  # fmt: skip
    _add_further_files(parser)
    add("--threads", type=whole_number(1), metavar="N",
        help="processors to use (default: all)")  # fmt: skip
    add_device_flag(parser)
    return run_command(_register, parser.parse_args(argv), roomy_heap)


def _add_further_files(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    for name in ("fixed", "moving"):
        use = "are warped, and both are" if name == "moving" else "are"
        add(f"--{name}-labels", type=Path, metavar="FILE",
            help=f"label map of the {name} image, on its grid; they {use} noted for "
            "autoreg_evaluate")  # fmt: skip
        add(f"--{name}-mask", type=Path, metavar="FILE",
            help=f"where the {name} image counts (not 0), on its grid")  # fmt: skip
        add(f"--{name}-landmarks", type=Path, metavar="FILE",
            help=f"points in the {name} image: csv with the header x,y,z, LPS mm, or .fcsv or "
            ".mrk.json of 3D Slicer"
            + ("; they are mapped into the moving image" if name == "fixed" else ""))  # fmt: skip


def _register(arguments: argparse.Namespace) -> None:
    if arguments.plan is not None and arguments.preset is not None:
        raise UsageError("--plan replaces the preset; drop one of --plan and --preset")
    if arguments.model is not None and arguments.align is not None:
        raise UsageError("--model replaces the alignment; drop one of --model and --align")
    for flag in ("fold", "checkpoint", "io", "io_optimised"):
        if arguments.model is None and getattr(arguments, flag) is not None:
            name = flag.replace("_", "-")
            raise UsageError(f"--{name} does nothing without --model; drop it")
    files = {name: getattr(arguments, name) for name in ("fixed", "moving", *_FURTHER)}
    _require_files(files)

    import torch

    from autoreg.failures import one_message
    from autoreg.inference.pairs_file import PairFiles
    from autoreg.inference.pairwise import PairOptions
    from autoreg.inference.register import (
        MORE_MEMORY,
        RegisterRequest,
        read_plan,
        register_files,
    )
    from autoreg.inference.register_report import summary_text
    from autoreg.machine import cpu_count

    torch.set_num_threads(arguments.threads or cpu_count())
    plan = None if arguments.plan is None else read_plan(arguments.plan)
    output: Path = arguments.output
    pair = PairFiles(
        case=output.resolve().name,
        fixed=tuple(path.absolute() for path in arguments.fixed),
        moving=tuple(path.absolute() for path in arguments.moving),
        **{name: files[name] and files[name].absolute() for name in _FURTHER},
    )
    options = PairOptions(
        arguments.preset or "balanced", plan, arguments.similarity, arguments.align or "affine"
    )
    device = resolve_device(arguments.device)
    with one_message(f"--model {arguments.model}", MORE_MEMORY):
        start = None if arguments.model is None else _network(arguments, device)
    result = register_files(RegisterRequest(pair, output, options, device, start))
    sys.stdout.write(f"{summary_text(result, output)}\n")


def _network(arguments: argparse.Namespace, device: "torch.device") -> "NetworkStart":
    from dataclasses import replace

    from autoreg.inference.models import ModelRequest, choose_model
    from autoreg.inference.predictor import Predictor
    from autoreg.inference.register import NetworkStart
    from autoreg.inference.request import OptimisationChoice
    from autoreg.training.model_folder import find_checkpoint

    model = choose_model(ModelRequest(arguments.model), arguments.model)
    fold, which = arguments.fold, arguments.checkpoint
    checkpoint = find_checkpoint(model, fold, which)
    predictor = Predictor.from_model(model, fold=fold, checkpoint=which, device=device)
    choice = OptimisationChoice(arguments.io, optimised=arguments.io_optimised)
    io = choice.applied(predictor.plan.instance_optimisation)
    plan = replace(predictor.plan, instance_optimisation=io)
    predictor = Predictor(predictor.network, plan, device)
    return NetworkStart(predictor, model.absolute(), checkpoint.absolute())


def _require_files(files: dict[str, Path | list[Path] | None]) -> None:
    """Refuse missing files before anything slow is imported."""
    for name, given in files.items():
        for path in given if isinstance(given, list) else [given]:
            if path is not None and not path.is_file():
                flag = f"--{name.replace('_', '-')}"
                what = _A_FOLDER if path.is_dir() else "no such file"
                raise DataError(f"{flag} {path}: {what}")
