"""The whole way, from a folder of images to scored registrations, in one command.

Every step is a command that users type themselves; the demo prints it before it runs it.
"""

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoreg.errors import UsageError
from autoreg.inference.demo_data import DATASET, TEST_PAIRS, TRAINING_SUBJECTS, build_demo_dataset

Say = Callable[[str], None]
Command = Callable[[Sequence[str] | None], int]

TRAINING_TEXT = """\
3. Train the planned network on the training brains. It needs no labels: it learns to make images
   similar while the deformation stays smooth and invertible. A real training takes hours to days;
   this one is brief."""
PREDICTION_TEXT = """\
4. Register the test pairs. The network's weights are fine-tuned on each pair; where the gradients
   of similarity and regularity conflict, one of them is projected. (--refine balanced would go on
   from there with a displacement field at full resolution; here you see the network.)"""


@dataclass(frozen=True)
class DemoOptions:
    """What the demo may be told.

    Attributes:
        folder: Everything is written below it.
        device: Value of `--device`.
        epochs: Epochs of training.
        pairs_per_epoch: Pairs in each of them.
        io_steps: Steps of instance optimisation for each pair.
        seed: Of the data set and the training.
    """

    folder: Path
    device: str
    epochs: int
    pairs_per_epoch: int
    io_steps: int
    seed: int


def run_demo(options: DemoOptions, say: Say) -> None:
    """Build the data set, plan, preprocess, train, predict, evaluate, and say what happened.

    Args:
        options: See `DemoOptions`.
        say: Prints one paragraph.

    Raises:
        UsageError: if the folder holds an earlier demo, or a step failed.
    """
    if options.folder.is_dir() and any(options.folder.iterdir()):
        raise UsageError(
            f"{options.folder}: holds files already; remove it, or choose another with -o FOLDER"
        )
    start = time.monotonic()
    data = {name: str(options.folder / name) for name in ("raw", "preprocessed", "results")}
    _introduce(options, say)
    raw = build_demo_dataset(options.folder / "raw", options.seed)
    say(f"    wrote {raw}\n    ({_minutes(start)} since the start)")
    for title, name, command, arguments in _steps(options, data, raw):
        say(f"\n{title}\n\n    $ {name} {shlex.join(arguments)}\n")
        if command(arguments) != 0:
            raise UsageError(f"the demo stopped at {name}; its message stands above")
        say(f"    ({_minutes(start)} since the start)")
    _conclude(options, say)


def _introduce(options: DemoOptions, say: Say) -> None:
    say(
        "autoreg registers pairs of images: it finds, for every point of a FIXED image, the point\n"
        "of a MOVING image that shows the same anatomy. This demo goes the whole way on a small\n"
        f"data set and takes a few minutes. Everything is written below {options.folder}.\n\n"
        f"1. A data set. {TRAINING_SUBJECTS} brains to train on, {len(TEST_PAIRS)} pairs to test:"
        " the MNI152 template,\n"
        "   deformed differently for each of them, with other spacings, orientations, bias fields\n"
        "   and noise. Because we deformed it, we know the truth: labels and landmarks follow."
    )


def _steps(
    options: DemoOptions, data: dict[str, str], raw: Path
) -> list[tuple[str, str, Command, list[str]]]:
    from autoreg.evaluation.cli import main as evaluate
    from autoreg.inference.cli import main_predict
    from autoreg.planning.cli import main_plan_and_preprocess
    from autoreg.training.cli import main as train

    roots = ["--preprocessed", data["preprocessed"]]
    predictions = str(options.folder / "predictions")
    device = ["--device", options.device]
    return [
        (
            "2. Inspect, plan, preprocess. The plan says what will be done and why.",
            "autoreg_plan_and_preprocess",
            main_plan_and_preprocess,
            # The quickest network to train, so that the demo stays short.
            ["-d", "1", "--raw", data["raw"], *roots, *device,
             "--architecture", "gradicon", "--config", "default"],
        ),
        (
            TRAINING_TEXT,
            "autoreg_train",
            train,
            ["1", *roots, "--results", data["results"], "--fold", "all",
             "--epochs", str(options.epochs), "--pairs-per-epoch", str(options.pairs_per_epoch),
             "--seed", str(options.seed), "--no-refinement-check", *device],
        ),
        (
            PREDICTION_TEXT,
            "autoreg_predict",
            main_predict,
            ["-i", str(raw), "-o", predictions, "--results", data["results"],
             "--io", "gradient_projection", "--io-steps", str(options.io_steps),
             "--refine", "off", *device],
        ),
        (
            "5. Score the results against the known labels and landmarks, and draw pictures.",
            "autoreg_evaluate",
            evaluate,
            ["-i", predictions, "-o", str(options.folder / "evaluation"), *device],
        ),
    ]  # fmt: skip


def _conclude(options: DemoOptions, say: Say) -> None:
    fixed, moving = (f"subject{number:02d}" for number in TEST_PAIRS[0])
    case = f"{fixed}__{moving}"
    say(
        "\nWhere to look\n"
        f"  {options.folder / 'evaluation' / 'figures' / f'{case}.png'}\n"
        "      fixed, moving and warped image, the differences before and after, the deformation\n"
        f"  {options.folder / 'evaluation' / 'summary.json'}   all the scores of the table above\n"
        f"  {options.folder / 'preprocessed' / DATASET / 'plans.json'}   the plan; edit it as you"
        " like\n"
        f"  {options.folder / 'predictions' / case}   displacement.nii.gz opens in ITK, ANTs and"
        " 3D Slicer\n"
        "\nYour own data: put images into autoreg_data/raw/Dataset001_Name/imagesTr and run the\n"
        "commands above without the folder flags. README.md walks you through it."
    )


def _minutes(start: float) -> str:
    seconds = round(time.monotonic() - start)
    return f"{seconds // 60}:{seconds % 60:02d} minutes"
