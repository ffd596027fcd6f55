"""A training killed again and again, and one on two processes, against the uninterrupted one.

    python benchmarks/interruptions.py DATASET --preprocessed FOLDER [--config C] [--epochs 4]

DATASET is planned and prepared. The same short training is run three times: in one go; ended by
SIGKILL at random moments and continued each time; and by two processes under torchrun, which share
each batch. Printed are the differences of the losses of their steps (0 is exact; rounding grows
from step to step), and the validation before and after. On the CPU, with two pairs in a batch.
"""

import argparse
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROGRAM = "import sys; from autoreg.training.cli import main; sys.exit(main())"


def main() -> None:
    """Run the three trainings and print how they differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("dataset")
    add("--preprocessed", required=True)
    add("--config", default="default")
    add("--epochs", type=int, default=4)
    add("--pairs-per-epoch", type=int, default=6)
    add("--kills", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        flags = [
            arguments.dataset, "--preprocessed", arguments.preprocessed,
            "--config", arguments.config, "--epochs", str(arguments.epochs),
            "--pairs-per-epoch", str(arguments.pairs_per_epoch), "--batch-size", "2",
            "--validation-every", str(arguments.epochs), "--workers", "1", "--device", "cpu",
            "--no-progress", "--no-refinement-check",
        ]  # fmt: skip
        whole = Path(folder) / "whole"
        started = time.monotonic()
        wait(start([*flags, "--results", str(whole)]))
        seconds = time.monotonic() - started
        reference = steps(whole)
        print(f"{len(reference)} steps in {seconds:.0f} s; {validations(whole)}")
        killed = Path(folder) / "killed"
        count = kill_and_continue([*flags, "--results", str(killed)], seconds, arguments.kills)
        print(f"killed {count} times: {difference(steps(killed), reference)}")
        two = Path(folder) / "two"
        wait(start([*flags, "--results", str(two)], processes=2))
        print(f"two processes: {difference(steps(two), reference)}")


def start(flags: list[str], processes: int = 1) -> "subprocess.Popen[bytes]":
    """Start autoreg_train."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, *flags]
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone"]
        runner = ["--nproc-per-node", str(processes), "--no-python"]
        command = [sys.executable, *launcher, *runner, *command]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def wait(process: "subprocess.Popen[bytes]") -> None:
    """Wait for the end.

    Raises:
        SystemExit: if it failed.
    """
    if process.wait() != 0:
        raise SystemExit(
            f"autoreg_train ended with {process.returncode}; run it by hand to see why"
        )


def kill_and_continue(flags: list[str], seconds: float, most: int) -> int:
    """Kill a training at random moments until it comes to its end; give the number of kills."""
    draw = random.Random(0)
    folder, kills, go_on = Path(flags[flags.index("--results") + 1]), 0, []
    while True:
        # As often as possible: an older checkpoint repeats more steps and proves no less.
        process = start([*flags, "--checkpoint-minutes", "0.05", *go_on])
        if kills < most:
            try:
                process.wait(timeout=draw.uniform(0.2, 0.6) * seconds)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
        else:
            process.wait()
        if list(folder.glob("*/*/fold_*/checkpoint_final.pt")):
            return kills
        if process.returncode not in (0, -signal.SIGKILL):
            raise SystemExit(f"autoreg_train ended with {process.returncode}")
        go_on = ["--continue"] if list(folder.glob("*/*/fold_*/checkpoint_latest.pt")) else []


def steps(results: Path) -> dict[tuple[int, int], tuple[float, float, float]]:
    """The losses of each step."""
    (path,) = results.glob("*/*/fold_*/steps.csv")
    with path.open(newline="") as file:
        return {
            (int(row["epoch"]), int(row["step"])): (
                float(row["total"]), float(row["similarity"]), float(row["regularity"])
            )
            for row in csv.DictReader(file)
        }  # fmt: skip


def difference(
    found: dict[tuple[int, int], tuple[float, float, float]],
    expected: dict[tuple[int, int], tuple[float, float, float]],
) -> str:
    """The largest difference, in words."""
    if found.keys() != expected.keys():
        return f"{len(found)} steps, {len(expected)} expected"
    gaps = [
        abs(a - b) / max(abs(b), 1e-12)
        for place, values in expected.items()
        for a, b in zip(found[place], values, strict=True)
    ]
    totals = [abs(found[place][0] - values[0]) for place, values in sorted(expected.items())]
    return (
        f"{len(found)} steps, difference of the loss {totals[0]:.2g} in the first one, at most "
        f"{max(totals):.2g}; of any value at most {max(gaps):.2g} of it"
    )


def validations(results: Path) -> str:
    """Dice and the like before and after training."""
    (path,) = results.glob("*/*/fold_*/progress.json")
    progress = json.loads(path.read_text())
    before, after = progress["before_training"], progress["epochs"][-1]["validation"]
    names = [name for name in ("dice", "tre_mm", "lncc", "total") if before[name] is not None]
    return ", ".join(f"{name} {before[name]:.4f} -> {after[name]:.4f}" for name in names)


if __name__ == "__main__":
    main()
