"""CPU seconds of the metrics beside `surface-distance` and plain numpy and scipy.

    python benchmarks/evaluation_speed.py [--surface-distance FOLDER] [--shape 160 224 192]

FOLDER holds PyPI's package `surface-distance`, e.g. from `pip install --no-deps --target FOLDER
surface-distance`; without it HD95 is not compared. The plain version is `tests/plain_referee.py`.
A made-up head with the 133 labels of LUMIR (two halves of white matter, a parcelled cortex, deep
structures), landmarks as blobs and as points, and a displacement with folds. Each number is the
least of `--repeats` runs, on one thread. Prints both times, their ratio and the largest difference
of values.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage, spatial

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import plain_referee

from autoreg.evaluation.fields import ndv
from autoreg.evaluation.landmarks import tre_centroids, tre_learn2reg
from autoreg.evaluation.overlap import dice
from autoreg.evaluation.protocols import PROTOCOLS
from autoreg.evaluation.referee_field import nearest_sources, pulled
from autoreg.evaluation.surface import hd95

Array = NDArray[Any]
POINTS = 300


@dataclass(frozen=True, eq=False)
class Head:
    """What the metrics are given.

    Attributes:
        u_vox: (3, D, H, W) float32.
        fixed: Label map; likewise `moving`.
        moving: See `fixed`.
        fixed_blobs: Landmarks as blobs.
        moving_blobs: See `fixed_blobs`.
        fixed_points: (N, 3) voxels.
        moving_points: See `fixed_points`.
    """

    u_vox: Array
    fixed: Array
    moving: Array
    fixed_blobs: Array
    moving_blobs: Array
    fixed_points: Array
    moving_points: Array


def smooth(shape: Sequence[int], sigma: float, size: float, seed: int) -> Array:
    """A smooth random field (3, D, H, W) with the standard deviation `size`, float32."""
    coarse = [max(8, round(3 * n / sigma)) for n in shape]
    noise = np.random.default_rng(seed).standard_normal((3, *coarse))
    noise = ndimage.gaussian_filter(noise, (0, 3, 3, 3), mode="wrap")
    zoom = [n / c for n, c in zip(shape, coarse, strict=True)]
    field = np.stack([ndimage.zoom(c, zoom, order=1) for c in noise])
    return (size * field / field.std()).astype(np.float32)


def labelled_head(shape: tuple[int, int, int], labels: Sequence[int]) -> Array:
    """A label map: white matter left and right, a parcelled shell, deep structures, background."""
    random = np.random.default_rng(0)
    centre = (np.array(shape) - 1) / 2
    axes = [(np.arange(n) - c) / (0.42 * n) for n, c in zip(shape, centre, strict=True)]
    d, h, w = np.meshgrid(*axes, indexing="ij", sparse=True)
    radius = np.sqrt(d**2 + h**2 + w**2) + 0.06 * smooth(shape, 6, 1, 1)[0]
    seeds = random.standard_normal((96, 3))
    seeds /= np.linalg.norm(seeds, axis=1, keepdims=True)
    result = np.zeros(shape, np.int16)
    white = radius < 0.85
    result[white] = np.where(np.broadcast_to(d, shape)[white] < 0, labels[1], labels[2])
    shell = (radius >= 0.85) & (radius < 1)
    at = np.argwhere(shell)
    places = (at - centre) / (0.42 * np.array(shape)) + 0.03 * random.standard_normal((len(at), 3))
    result[shell] = np.array(labels)[3 + spatial.cKDTree(seeds).query(places)[1]]
    deep = labels[99:]
    for label in deep:
        middle = centre + random.uniform(-0.2, 0.2, 3) * shape
        low = np.maximum(0, np.round(middle - 12)).astype(int)
        box = tuple(slice(a, a + 25) for a in low)
        grid = (
            np.indices(result[box].shape) + low[:, None, None, None] - middle[:, None, None, None]
        )
        result[box][np.sqrt((grid**2).sum(0)) < random.uniform(4, 10)] = label
    return result


def make_head(shape: tuple[int, int, int]) -> Head:
    """The example."""
    labels = PROTOCOLS["lumir"].labels
    assert labels is not None  # noqa: S101
    fixed = labelled_head(shape, labels)
    truth = smooth(shape, 20, 4, 2)
    moving = plain_referee.warp(fixed, truth)
    random = np.random.default_rng(3)
    u_vox = (-0.8 * truth + smooth(shape, 4, 1.8, 4)).astype(np.float32)
    points = random.uniform(0.2, 0.8, (POINTS, 3)) * shape
    blobs = np.zeros(shape, np.int16)
    for number, point in enumerate(points[:30].round().astype(int), 1):
        blobs[tuple(slice(p - 4, p + 5) for p in point)] = number
    moved = points - truth[(slice(None), *points.round().astype(int).T)].T
    return Head(u_vox, fixed, moving, blobs, plain_referee.warp(blobs, truth), points, moved)


def seconds(work: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """The least CPU time of a call, and what it gave."""
    least, result = float("inf"), None
    for _ in range(repeats):
        start = time.process_time()
        result = work()
        least = min(least, time.process_time() - start)
    return least, result


def gap(ours: Any, theirs: Any) -> float:  # noqa: ANN401
    """The largest difference; NaN equals NaN and inf equals inf."""
    first, second = (np.asarray(x, np.float64).ravel() for x in (ours, theirs))
    same = (first == second) | (np.isnan(first) & np.isnan(second))
    return float(np.where(same, 0, np.abs(np.where(same, 0, first - second))).max())


class Table:
    """Times side by side."""

    def __init__(self, repeats: int) -> None:
        self.repeats = repeats
        print(f"{'':32}{'autoreg':>10}{'other':>10}{'ratio':>9}{'difference':>13}")

    def compare(
        self, what: str, ours: Callable[[], Any], other: Callable[[], Any]
    ) -> tuple[float, float]:
        """Time both, print a line, and give the two times."""
        own_time, own = seconds(ours, self.repeats)
        other_time, others = seconds(other, self.repeats)
        self.line(what, own_time, other_time, gap(own, others))
        return own_time, other_time

    @staticmethod
    def line(what: str, own: float, other: float, difference: float | None = None) -> None:
        """Print a line."""
        tail = "" if difference is None else f"{difference:13.1e}"
        print(f"{what:32}{own:9.2f}s{other:9.2f}s{other / own:8.1f}x{tail}", flush=True)


def plain_warped(head: Head, labels: Sequence[int]) -> Array:
    """Both warps, Dice and distances of centroids."""
    warped, blobs = (plain_referee.warp(m, head.u_vox) for m in (head.moving, head.moving_blobs))
    overlaps = plain_referee.dice(head.fixed, warped, head.moving, labels)
    return np.concatenate([overlaps, plain_referee.tre_blobs(head.fixed_blobs, blobs)])


def own_warped(head: Head, labels: Sequence[int]) -> Array:
    """Both warps, Dice and distances of centroids."""
    sources = nearest_sources(head.u_vox, head.moving.shape)
    overlaps = dice(head.fixed, pulled(head.moving, sources), labels, moving=head.moving)
    distances = tre_centroids(head.fixed_blobs, pulled(head.moving_blobs, sources))[1]
    return np.concatenate([overlaps, distances])


def compare_surfaces(table: Table, head: Head, labels: Sequence[int], package: Any) -> None:  # noqa: ANN401
    """HD95 of all labels, before and after the warp."""

    def other(warped: Array) -> Array:
        found = []
        for label in labels:
            masks = head.fixed == label, warped == label
            if not masks[0].any() or not (head.moving == label).any():
                found.append(np.nan)
                continue
            distances = package.compute_surface_distances(*masks, (1, 1, 1))
            found.append(package.compute_robust_hausdorff(distances, 95))
        return np.array(found)

    for what, warped in (
        ("HD95, after the warp", plain_referee.warp(head.moving, head.u_vox)),
        ("HD95, before", head.moving),
    ):

        def own(warped: Array = warped) -> Array:
            return hd95(head.fixed, warped, labels, moving=head.moving)

        table.compare(what, own, lambda warped=warped: other(warped))  # type: ignore[misc]


def main() -> int:
    """Run the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--surface-distance", type=Path, metavar="FOLDER")
    parser.add_argument("--shape", type=int, nargs=3, default=(160, 224, 192))
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    head, labels = make_head(tuple(arguments.shape)), PROTOCOLS["lumir"].labels or ()
    table = Table(arguments.repeats)
    moving_mask = head.moving > 0
    folds = ndv(head.u_vox, moving_mask)
    print(
        f"NDV {100 * folds.fraction:.4f} % in {folds.folded_tetrahedra / folds.voxels:.2%} voxels"
    )
    times = [
        table.compare(
            "NDV, moving mask",
            lambda: ndv(head.u_vox, moving_mask).fraction,
            lambda: plain_referee.ndv_fraction(head.u_vox, moving_mask),
        ),
        table.compare(
            "warps, Dice, TRE of 30 blobs",
            lambda: own_warped(head, labels),
            lambda: plain_warped(head, labels),
        ),
        table.compare(
            f"TRE of {POINTS} points",
            lambda: tre_learn2reg(head.u_vox, head.fixed_points, head.moving_points, (1, 1, 1)),
            lambda: plain_referee.tre_points(
                head.u_vox, head.fixed_points, head.moving_points, (1, 1, 1)
            ),
        ),
    ]
    for what, rows in (("NDV + Dice + TRE of blobs", times[:2]), ("and TRE of points", times)):
        table.line(what, sum(own for own, _ in rows), sum(other for _, other in rows))
    if arguments.surface_distance is not None:
        sys.path.insert(0, str(arguments.surface_distance))
        import surface_distance

        compare_surfaces(table, head, labels, surface_distance)
    return 0


if __name__ == "__main__":
    sys.exit(main())
