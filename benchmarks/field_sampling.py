"""Sampling displacements on the CPU by tables, against torch's own sampler.

    python benchmarks/field_sampling.py 64 --factor 1

Values and slopes of a smooth displacement at the moved voxel centres of a cube: CPU seconds with
torch's `grid_sample` and with a table (its making included), in turns, the best of several; their
ratio and the largest difference. Both use the threads that torch chooses (OMP_NUM_THREADS).
"""

import argparse
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from autoreg.numerics.cell_table import CellTable
from autoreg.numerics.coordinates import index_grid, index_linear_slopes, sample_index_linear

REPEATS = 15


def main(argv: Sequence[str] | None = None) -> None:
    """Print one line per operation."""
    parser = argparse.ArgumentParser(description="Tables against grid_sample.")
    parser.add_argument("size", type=int, help="edge of the cube of points, voxels")
    parser.add_argument(
        "--factor", type=int, default=1, help="voxels per node of the displacement (default: 1)"
    )
    options = parser.parse_args(argv)
    u_vox, nodes = example(options.size, options.factor)
    print(f"{torch.get_num_threads()} threads")
    print(f"{'':>7} {'torch s':>9} {'table s':>9} {'ratio':>6} {'difference':>11}")
    compare(
        "values",
        lambda: sample_index_linear(u_vox, nodes, "border"),
        lambda: CellTable.of(u_vox).values(nodes),
    )
    compare(
        "slopes",
        lambda: index_linear_slopes(u_vox, nodes, "border"),
        lambda: CellTable.of(u_vox).slopes(nodes),
    )


def example(size: int, factor: int) -> tuple[Tensor, Tensor]:
    """A smooth displacement and points moved by another one, in index coordinates of its grid."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(2, 3, 6, 6, 6, generator=generator)
    shape = (size // factor,) * 3
    u_vox = functional.interpolate(coarse[:1], size=shape, mode="trilinear")
    moved = functional.interpolate(coarse[1:], size=(size,) * 3, mode="trilinear")
    return u_vox, (index_grid((size,) * 3) + moved + 0.5) / factor - 0.5


def compare(name: str, plain: Callable[[], Tensor], table: Callable[[], Tensor]) -> None:
    """Measure both in turns and print the line."""
    difference = (plain() - table()).abs().max().item()
    runs = [[cpu_seconds(plain), cpu_seconds(table)] for _ in range(REPEATS)]
    theirs, ours = (min(times) for times in zip(*runs, strict=True))
    print(f"{name:>7} {theirs:9.4f} {ours:9.4f} {theirs / ours:6.2f} {difference:11.1e}")


def cpu_seconds(function: Callable[[], Tensor]) -> float:
    """CPU seconds of all threads."""
    start = time.process_time()
    function()
    return time.process_time() - start


if __name__ == "__main__":
    main()
