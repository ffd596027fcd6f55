"""Run one peer on cases, each in its own process, and score its field.

    PYTHONPATH=benchmarks python -m pairwise.peers greedy CASE [CASE ...] --python VENV/bin/python

VENV holds the peers (`pip install picsl_greedy antspyx itk-elastix convexAdam SimpleITK`); names
and settings are in peer_methods.py. CPU seconds are user + system of the whole process, from files
to files; those of the registration call alone follow.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoreg.io.images import read_image
from pairwise.scores import Case, Scores, sampled, scores

# A started process inherits the peak memory of the one that starts it, here several scans: a small
# process between them starts the command and counts.
LAUNCHER = """
import json, resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
found = {"cpu_s": used.ru_utime + used.ru_stime, "peak_mb": used.ru_maxrss / 1024}
open(sys.argv[1], "w").write(json.dumps(found))
sys.exit(code)
"""

METHODS = Path(__file__).with_name("peer_methods.py")


@dataclass(frozen=True)
class Measured:
    """One method on one case.

    Attributes:
        method: Its name.
        case: The case's name.
        scores: Of its displacement.
        command_s: CPU seconds of the process, files to files.
        registration_s: CPU seconds of the registration alone, as the method reports it.
        peak_mb: Largest resident memory of the process.
        mismatch: Mean |its warped image - the moving image under its field as read here| inside
            the mask, per mean of the warped image: above 0.05 the field is misread. NaN where
            not checked.
    """

    method: str
    case: str
    scores: Scores
    command_s: float
    registration_s: float
    peak_mb: float
    mismatch: float = float("nan")


@dataclass(frozen=True)
class Usage:
    """Of a finished process: CPU seconds with its children, largest resident MB."""

    cpu_s: float
    peak_mb: float


def run_measured(command: Sequence[str | Path], log: Path, threads: int) -> Usage:
    """Run a command to its end, its output into a file.

    Raises:
        SystemExit: if it fails, with the end of its output.
    """
    limits = ("OMP", "MKL", "OPENBLAS")
    environment = {
        **os.environ,
        **{f"{name}_NUM_THREADS": str(threads) for name in limits},
        "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    used = log.with_suffix(".usage.json")
    words = [sys.executable, "-c", LAUNCHER, str(used), *map(str, command)]
    with log.open("w") as sink:
        code = subprocess.call(words, stdout=sink, stderr=subprocess.STDOUT, env=environment)
    if code:
        raise SystemExit(
            f"{' '.join(map(str, command))}\nended with {code}:\n"
            + log.read_text(errors="replace")[-2000:]
        )
    return Usage(**json.loads(used.read_text()))


def run_peer(peer: str, folder: Path, python: Path, threads: int = 2) -> Measured:
    """Run a peer on a case folder and score its field.

    Its own affine registration goes first where the case moved the moving image in the world.
    """
    moved = json.loads((folder / "case.json").read_text())["matrix"] is not None
    with tempfile.TemporaryDirectory() as work:
        out = Path(work)
        command: list[str | Path] = [python, METHODS, peer, folder, out]
        command += ["--threads", str(threads), *["--affine"] * moved]
        usage = run_measured(command, out / "log.txt", threads)
        field = np.load(out / "displacement.npy")
        case = Case(folder)
        return Measured(
            peer,
            folder.name,
            scores(case, field),
            usage.cpu_s,
            float(json.loads((out / "registration.json").read_text())["cpu_s"]),
            usage.peak_mb,
            mismatch(case, field, out / "warped.nii.gz"),
        )


def mismatch(case: Case, u_mm: NDArray[np.float32], warped_file: Path) -> float:
    """How far a method's warped image is from its field as read here (see `Measured`)."""
    theirs = read_image([warped_file], "intensity").single[case.mask]
    ours = sampled(case.moving, case.points_vox(u_mm))[case.mask]
    return float(np.abs(theirs - ours).mean() / np.abs(theirs).mean())


def row(measured: Measured) -> str:
    """One line of the table (see HEAD)."""
    s = measured.scores
    cells = [
        _number(s.error_mm, 3),
        _number(s.p95_mm, 3),
        _number(s.lncc, 4),
        _number(s.sd_log_j, 3),
        str(s.folds),
        _number(s.ndv_percent, 5),
        _number(s.dice, 3),
        _number(measured.command_s, 1),
        _number(measured.registration_s, 1),
        _number(measured.peak_mb, 0),
        _number(measured.mismatch, 3),
    ]
    return " | ".join([f"{measured.case:<34}", f"{measured.method:<14}", *cells])


HEAD = (
    "case | method | error mm | p95 mm | lncc | SD log J | folds | NDV % | Dice | command CPU s "
    "| registration CPU s | peak MB | mismatch"
)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None or np.isnan(value) else f"{value:.{digits}f}"


def main(argv: Sequence[str] | None = None) -> None:
    """Print one line per case."""
    parser = argparse.ArgumentParser(description="Run one peer on cases and score its field.")
    parser.add_argument("peer")
    parser.add_argument("cases", type=Path, nargs="+")
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="the peers' one")
    parser.add_argument("--threads", type=int, default=2, help="default: 2")
    arguments = parser.parse_args(argv)
    print(HEAD, flush=True)
    for case in arguments.cases:
        found = run_peer(arguments.peer, case, arguments.python, arguments.threads)
        print(row(found), flush=True)


if __name__ == "__main__":
    main()
