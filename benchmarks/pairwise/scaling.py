r"""How cost grows with the number of voxels: one case on cubes of 1 mm voxels.

    PYTHONPATH=benchmarks python -m pairwise.scaling CASE 64 96 128 192 256 --presets balanced \
        --peers greedy --python VENV/bin/python

The images of CASE are sampled on each cube; their box becomes as many millimetres as the cube has
voxels, so that every size has the same content and the same voxel. Prints CPU seconds of the whole
command and of the registration, both per million voxels too, and peak memory.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from autoreg.geometry.grid import Geometry
from autoreg.geometry.volume import Volume
from autoreg.io.images import read_image, write_image
from pairwise.peers import Measured
from pairwise.run import runners


def main(argv: Sequence[str] | None = None) -> None:
    """Print one line per size and method."""
    parser = argparse.ArgumentParser(description="Cost against the number of voxels.")
    parser.add_argument("case", type=Path, help="fixed and moving image on one grid")
    parser.add_argument("sizes", type=int, nargs="+", help="edges of the cubes, voxels")
    parser.add_argument("--presets", nargs="*", default=[], help="of autoreg_register")
    parser.add_argument("--peers", nargs="*", default=[], help="names in peer_methods.py")
    parser.add_argument("--function", action="append", default=[])
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="of the peers")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args(argv)
    print("edge | method | command CPU s | per Mvoxel | registration CPU s | per Mvoxel | peak MB")
    for edge in arguments.sizes:
        with tempfile.TemporaryDirectory() as work:
            folder = Path(work) / f"cube_{edge}"
            write_cube(arguments.case, folder, edge)
            for run in runners(arguments):
                print(line(edge, run(folder)), flush=True)


def write_cube(case: Path, folder: Path, edge: int) -> None:
    """The case's images and mask on a cube of 1 mm voxels, as a case without truth."""
    folder.mkdir()
    grid = Geometry((edge, edge, edge), np.eye(4))
    for name in ("fixed", "moving", "mask"):
        array = read_image([case / f"{name}.nii.gz"], "intensity").single
        zoom = np.array(array.shape) / edge
        cube = ndimage.affine_transform(
            array, zoom, (zoom - 1) / 2, (edge, edge, edge), order=1, mode="nearest"
        )
        if name == "mask":
            mask = Volume(cube[None] >= 0.5, grid, "mask")
            write_image(folder / "mask.nii.gz", mask, np.uint8)
        else:
            write_image(folder / f"{name}.nii.gz", Volume.intensity(cube, grid))
    (folder / "case.json").write_text(json.dumps({"matrix": None}))


def line(edge: int, measured: Measured) -> str:
    """One line of the table."""
    million = edge**3 / 1e6
    command, alone = measured.command_s, measured.registration_s
    return (
        f"{edge} | {measured.method:<14} | {command:.1f} | {command / million:.2f} | {alone:.1f} | "
        f"{alone / million:.2f} | {measured.peak_mb:.0f}"
    )


if __name__ == "__main__":
    main()
