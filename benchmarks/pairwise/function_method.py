"""Run a Python function on one case: a method that is not (yet) a command.

    PYTHONPATH=benchmarks python -m pairwise.function_method MODULE:FUNCTION CASE OUT --threads 2

FUNCTION takes the fixed and the moving Volume and returns the displacement (D, H, W, 3), xyz LPS
mm on the fixed grid. Writes what `peer_methods` writes, without a warped image.
"""

import argparse
import importlib
import json
import time
from pathlib import Path

import numpy as np
import torch

from autoreg.io.images import read_image


def main() -> None:
    """Register and write what was found."""
    parser = argparse.ArgumentParser(description="Run a function on one case.")
    parser.add_argument("function", help="MODULE:FUNCTION")
    parser.add_argument("case", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    module, _, name = arguments.function.partition(":")
    function = getattr(importlib.import_module(module), name)
    fixed, moving = (
        read_image([arguments.case / f"{role}.nii.gz"], "intensity") for role in ("fixed", "moving")
    )
    cpu, wall = time.process_time(), time.perf_counter()
    field = function(fixed, moving)
    used = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
    arguments.out.mkdir(parents=True, exist_ok=True)
    np.save(arguments.out / "displacement.npy", np.asarray(field, np.float32))
    (arguments.out / "registration.json").write_text(json.dumps(used))


if __name__ == "__main__":
    main()
