"""Carrying an image over, against SimpleITK's `Resample` with the same transform.

    python benchmarks/resampling.py IMAGE [--labels LABELS]

The image is pulled back onto its own grid through a smooth displacement (mean 5 mm or so), and
through that and an affine map: CPU seconds, without reading and writing, in turns, the best of
several; their ratio, and the share of voxels that differ by more than 1e-4 of the image's range (or
at all, for labels). Both use the threads of OMP_NUM_THREADS.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from torch.nn import functional

from autoreg.geometry.interpolation import Interpolation
from autoreg.geometry.resampling import resample_known
from autoreg.geometry.transforms import Affine, Composite, DisplacementField
from autoreg.geometry.volume import Volume
from autoreg.io.images import read_image, to_sitk
from autoreg.io.itk_transforms import to_itk_transform

REPEATS = 3
THEIRS = {
    ("intensity", "linear"): sitk.sitkLinear,
    ("intensity", "cubic"): sitk.sitkBSpline,
    ("intensity", "nearest"): sitk.sitkNearestNeighbor,
    ("label", "nearest"): sitk.sitkNearestNeighbor,
    ("label", "linear"): sitk.sitkLabelLinear,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Print one line for each transform and interpolation."""
    parser = argparse.ArgumentParser(description="Resampling against SimpleITK.")
    parser.add_argument("image", type=Path)
    parser.add_argument("--labels", type=Path)
    options = parser.parse_args(argv)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(torch.get_num_threads())
    volumes = [read_image([options.image], "intensity")]
    if options.labels is not None:
        volumes.append(read_image([options.labels], "label"))
    print(f"{torch.get_num_threads()} threads")
    print(f"{'':>28} {'autoreg s':>9} {'ITK s':>7} {'ratio':>6} {'different':>9}")
    for volume in volumes:
        for name, transform in example(volume).items():
            for kind, interpolation in THEIRS:
                if kind == volume.kind:
                    compare(f"{kind} {interpolation}, {name}", volume, transform, interpolation)


def example(volume: Volume) -> dict[str, Composite]:
    """A smooth displacement on the image's grid, alone and before an affine map."""
    coarse = 5 * torch.randn(1, 3, 6, 6, 6, generator=torch.Generator().manual_seed(0))
    u_vox = functional.interpolate(coarse, size=volume.geometry.shape, mode="trilinear")
    field = DisplacementField(u_vox[0].numpy(), volume.geometry)
    matrix = np.eye(4)
    matrix[:3] += np.random.default_rng(0).normal(size=(3, 4)) * (0.02, 0.02, 0.02, 1.0)
    return {"field": Composite((field,)), "field + affine": Composite((field, Affine(matrix)))}


def compare(name: str, volume: Volume, transform: Composite, interpolation: Interpolation) -> None:
    """Measure both in turns and print the line."""
    image = to_sitk(volume)
    itk = to_itk_transform(transform.transforms, 3, name)
    theirs_by = THEIRS[volume.kind, interpolation]

    def ours() -> np.ndarray:
        found = resample_known(volume, transform, volume.geometry, interpolation=interpolation)
        return found.volume.single

    def theirs() -> np.ndarray:
        return sitk.GetArrayFromImage(sitk.Resample(image, image, itk, theirs_by, 0))

    gap = np.abs(ours().astype(np.float64) - theirs())
    different = (gap > (1e-4 * np.ptp(volume.array) if volume.kind == "intensity" else 0)).mean()
    runs = [[cpu_seconds(ours), cpu_seconds(theirs)] for _ in range(REPEATS)]
    mine, other = (min(times) for times in zip(*runs, strict=True))
    print(f"{name:>28} {mine:9.2f} {other:7.2f} {mine / other:6.2f} {different:9.1e}")


def cpu_seconds(function: Callable[[], np.ndarray]) -> float:
    """CPU seconds of all threads."""
    start = time.process_time()
    function()
    return time.process_time() - start


if __name__ == "__main__":
    main()
