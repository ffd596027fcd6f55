"""Run autoreg on a case: the command from files to files, or a function in its own process."""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from autoreg.io.result import DISPLACEMENT_FILE, WARPED_FILE
from autoreg.io.transforms import read_displacement
from pairwise.peers import Measured, mismatch, run_measured
from pairwise.scores import Case, scores

COMMAND = Path(sys.executable).with_name("autoreg_register")


def run_preset(preset: str, folder: Path, threads: int = 2) -> Measured:
    """`autoreg_register` with a preset, from files to files.

    The optimisation's own CPU seconds are those that the command records in result.json.
    """
    with tempfile.TemporaryDirectory() as work:
        out = Path(work) / "out"
        command: list[str | Path] = [COMMAND, "-f", folder / "fixed.nii.gz"]
        command += ["-m", folder / "moving.nii.gz", "-o", out, "--preset", preset]
        usage = run_measured(command, Path(work) / "log.txt", threads)
        field, _ = read_displacement(out / DISPLACEMENT_FILE)
        case = Case(folder)
        return Measured(
            preset,
            folder.name,
            scores(case, field),
            usage.cpu_s,
            recorded_cpu_seconds(out / "result.json"),
            usage.peak_mb,
            mismatch(case, field, out / WARPED_FILE),
        )


def recorded_cpu_seconds(result: Path) -> float:
    """CPU seconds of the optimisation in a result.json."""
    found = json.loads(result.read_text())["field_optimisation"]
    return float(found["cpu_seconds"])


def run_function(name: str, function: str, folder: Path, threads: int = 2) -> Measured:
    """MODULE:FUNCTION in a process of its own (see `function_method`)."""
    with tempfile.TemporaryDirectory() as work:
        out = Path(work)
        command: list[str | Path] = [sys.executable, "-m", "pairwise.function_method", function]
        usage = run_measured(
            [*command, folder, out, "--threads", str(threads)], out / "log.txt", threads
        )
        field = np.load(out / "displacement.npy")
        used = json.loads((out / "registration.json").read_text())
        return Measured(
            name,
            folder.name,
            scores(Case(folder), field),
            usage.cpu_s,
            float(used["cpu_s"]),
            usage.peak_mb,
        )
