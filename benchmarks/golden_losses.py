"""Compare losses with golden data of SITReg's code.

    python benchmarks/golden_losses.py GOLDEN_FOLDER

GOLDEN_FOLDER holds misc_golden.npz, computed with the authors' code: windowed NCC, the "gradient
loss" on stretched voxels, and the non-diffeomorphic volume with its ten determinants. Prints one
line per quantity: the deviation, the tolerance, and whether it holds; exits with 1 if one doesn't.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from autoreg.losses.folding import folded_volume
from autoreg.losses.regularity import diffusion
from autoreg.losses.similarity import WindowedNCC
from autoreg.numerics.tetrahedra import tetrahedron_determinants

TOLERANCE = 1e-5
_NAMES = {"star_1": "j1star", "star_2": "j2star"}


def deviations(golden: dict[str, np.ndarray]) -> dict[str, float]:
    """Relative deviation of each loss, largest deviation of each map."""
    u = torch.from_numpy(golden["u"])
    first, second = (torch.from_numpy(golden[key]) for key in ("img_a", "img_b"))
    d, h, w = golden["voxel_size"].tolist()
    losses = {
        "gradient_loss": diffusion(u, spacing_mm=(d, h, w)),
        "ndv_loss": folded_volume(u),
        "ncc7": WindowedNCC(7)(first, second) - 1,
        "ncc11sep": WindowedNCC(11)(first, second) - 1,
    }
    found = {key: abs(value.item() / float(golden[key]) - 1) for key, value in losses.items()}
    for name, own in tetrahedron_determinants(u):
        key = f"det_{_NAMES.get(name, name.translate(str.maketrans('+-', 'pm')))}"
        found[key] = float(np.abs(own.numpy() - golden[key]).max())
    return found


def main(argv: list[str] | None = None) -> int:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("golden", type=Path, metavar="GOLDEN_FOLDER")
    folder = parser.parse_args(argv).golden
    with np.load(folder / "misc_golden.npz") as file:
        found = deviations(dict(file))
    for name, deviation in found.items():
        verdict = "ok" if deviation <= TOLERANCE else "FAILS"
        print(f"{name:16} {deviation:10.2e} {TOLERANCE:8.0e}  {verdict}")
    return int(any(not deviation <= TOLERANCE for deviation in found.values()))


if __name__ == "__main__":
    sys.exit(main())
