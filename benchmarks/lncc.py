"""LNCC against the same formula by plain convolutions, side by side on the CPU.

    python benchmarks/lncc.py 64 96 128

Each size is the edge of a cube. One line per size: CPU seconds of value and gradient together (as
in a step of instance optimisation, the fixed image's part done before), for separable depthwise
conv3d with seven smoothings as published, and for autoreg; their ratio and the relative difference
of the gradients. Both use the number of threads that torch chooses (OMP_NUM_THREADS).
"""

import argparse
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from autoreg.losses.similarity import LNCC

SIGMA = 5.0
REPEATS = 3


def main(argv: Sequence[str] | None = None) -> None:
    """Print one line per size."""
    parser = argparse.ArgumentParser(description="LNCC against plain convolutions.")
    parser.add_argument("sizes", type=int, nargs="+", help="edges of the cubes, voxels")
    print(f"{torch.get_num_threads()} threads")
    print(f"{'size':>6} {'conv3d s':>10} {'autoreg s':>10} {'ratio':>7} {'difference':>11}")
    for size in parser.parse_args(argv).sizes:
        compare(size)


def compare(size: int) -> None:
    """Measure one size, the two implementations in turns, and print the line."""
    generator = torch.Generator().manual_seed(0)
    fixed, warped = (torch.rand(1, 1, size, size, size, generator=generator) for _ in range(2))
    warped.requires_grad_()
    bound = LNCC(SIGMA).bind(fixed)
    losses: list[Callable[[], Tensor]] = [
        lambda: plain_lncc(warped, fixed),
        lambda: bound(warped),
    ]
    gradients = [torch.autograd.grad(loss(), warped)[0] for loss in losses]  # warms up, too
    runs = [[cpu_seconds(loss, warped) for loss in losses] for _ in range(REPEATS)]
    plain, ours = (min(times) for times in zip(*runs, strict=True))
    difference = (gradients[0] - gradients[1]).norm() / gradients[0].norm()
    print(f"{size:6d} {plain:10.4f} {ours:10.4f} {plain / ours:7.1f} {difference.item():11.1e}")


def cpu_seconds(loss: Callable[[], Tensor], warped: Tensor) -> float:
    """CPU seconds, of all threads, of value and gradient."""
    start = time.process_time()
    torch.autograd.grad(loss(), warped)
    return time.process_time() - start


def plain_lncc(warped: Tensor, fixed: Tensor) -> Tensor:
    """1 - mean(c), every mean smoothed where it is needed."""

    def variance(image: Tensor) -> Tensor:
        return functional.relu(smooth(image * image) - smooth(image) ** 2) + 1e-5

    covariance = smooth(warped * fixed) - smooth(warped) * smooth(fixed)
    return 1 - (covariance / torch.sqrt(variance(warped) * variance(fixed))).mean()


def smooth(image: Tensor) -> Tensor:
    """Gaussian smoothing by three conv3d."""
    half = int(2 * SIGMA)
    taps = torch.exp(-0.5 * (torch.arange(-half, half + 1) / SIGMA) ** 2)
    taps = taps / taps.sum()
    for axis in range(2, 5):
        kernel = taps.view([-1 if i == axis else 1 for i in range(5)])
        image = functional.conv3d(image, kernel, padding="same")
    return image


if __name__ == "__main__":
    main()
