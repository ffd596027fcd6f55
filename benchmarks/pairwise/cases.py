"""Make pairs of scans: known deformations of real scans with variants, and real pairs.

    PYTHONPATH=benchmarks python -m pairwise.cases SCANS OUT smooth_2mm_seed0 rough_1mm_seed3
    PYTHONPATH=benchmarks python -m pairwise.cases SCANS OUT real_1mm_subject1_subject2

SCANS holds skull-stripped T1 scans `subject*.nii.gz` of about 1 mm and, where there are any,
`subject*_labels.nii.gz`. A name is RECIPE_SPACING_seedN with an optional variant behind (see
VARIANTS), e.g. smooth_2mm_seed3_noise06, or real_1mm_FIXED_MOVING. Seeds take the subjects in
turn, the last one first. A case is a folder with fixed.nii.gz, moving.nii.gz, mask.nii.gz (the
fixed brain), labels of both where there are any, case.json and, unless it is a real pair,
truth.npy: (D, H, W, 3) float32, the displacement xyz in LPS mm on the fixed grid that takes a
point of the fixed image to that of the moving image.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from autoreg.geometry.grid import Geometry, apply_affine
from autoreg.geometry.volume import Volume
from autoreg.io.images import write_image
from pairwise.deformations import RECIPES, exponential, smoothed_noise, velocity
from pairwise.scans import (
    FloatArray,
    Scan,
    on_grid,
    pool,
    pooled,
    read_scan,
    sampled,
    warped,
    with_image,
)

BIAS = 0.15
BIAS_SIGMA_VOX = 40.0
GAMMA = 0.85
NOISE = 0.015
EXTRA_NOISE = {"noise03": 0.03, "noise06": 0.06}
VARIANTS = ("", "rotated", "slices", "partial", "inverted", *EXTRA_NOISE)
KEPT_SHARE = 0.6
SLICE_MM = 5
LARGEST_ANGLE_DEG = 60.0
SHIFT_MM = 40.0


@dataclass(frozen=True)
class Description:
    """What a case is, as in case.json. `matrix` moves the moving image's world (variants)."""

    name: str
    kind: str
    spacing_mm: int
    seed: int
    variant: str
    fixed: str
    moving: str
    matrix: list[list[float]] | None = None


@dataclass(frozen=True)
class Pair:
    """A case in memory; `truth` (D, H, W, 3) LPS mm on the fixed grid."""

    fixed: Scan
    moving: Scan
    truth: FloatArray | None
    description: Description


def main(argv: Sequence[str] | None = None) -> None:
    """Make the named cases."""
    parser = argparse.ArgumentParser(description="Make pairs of scans with known deformations.")
    parser.add_argument("scans", type=Path, help="folder of subject*.nii.gz")
    parser.add_argument("out", type=Path, help="folder of the cases")
    parser.add_argument("names", nargs="+", help="e.g. smooth_2mm_seed0")
    arguments = parser.parse_args(argv)
    for name in arguments.names:
        save(make(arguments.scans, name), arguments.out / name)
        print(f"{name} made", flush=True)


def make(scans: Path, name: str) -> Pair:
    """The case of a name (see the head of this file)."""
    kind, spacing, *rest = name.split("_")
    factor = int(spacing.removesuffix("mm"))
    if kind == "real":
        fixed, moving = (pooled(read_scan(scans, subject), factor) for subject in rest)
        return Pair(fixed, moving, None, Description(name, kind, factor, 0, "", rest[0], rest[1]))
    seed = int(rest[0].removeprefix("seed"))
    variant = rest[1] if len(rest) > 1 else ""
    if variant not in VARIANTS:
        raise SystemExit(f"{name}: unknown variant {variant!r}; there are {VARIANTS}")
    subjects = sorted(p.name.removesuffix(".nii.gz") for p in scans.glob("subject?.nii.gz"))
    subject = subjects[(seed - 1) % len(subjects)]
    what = Description(name, kind, factor, seed, variant, subject, subject)
    return known_pair(read_scan(scans, subject), what)


def known_pair(scan: Scan, what: Description) -> Pair:
    """A scan and its deformed, degraded copy.

    moving(p) = scan(exp(v)(p)), hence the truth exp(-v): moving(p + truth(p)) = scan(p).
    """
    rng = np.random.default_rng([what.seed, sorted(RECIPES).index(what.kind)])
    flow = velocity(RECIPES[what.kind], scan.brain, rng)
    moving = warped(scan, exponential(flow))
    if what.variant == "inverted":
        moving = with_image(moving, _inverted(moving))
    moving = with_image(moving, degraded(moving.image.single, rng))
    truth = displacement_mm(exponential(-flow), scan.image.geometry)
    factor = what.spacing_mm
    fixed = pooled(scan, factor)
    truth = np.stack([pool(truth[..., c], (factor,) * 3) for c in range(3)], -1)
    moving, matrix = _varied(moving, what, rng)
    if matrix is not None:
        points = fixed.image.geometry.to_world(_indices(fixed.image.geometry.shape))
        truth = (apply_affine(matrix, points + truth) - points).astype(np.float32)
        what = Description(**{**asdict(what), "matrix": matrix.tolist()})
    return Pair(fixed, moving, truth, what)


def degraded(image: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Bias field of +-15 %, gamma 0.85 and Gaussian noise; negative values become 0."""
    bias = smoothed_noise(image.shape, BIAS_SIGMA_VOX, rng)
    bias *= BIAS / np.abs(bias).max()
    seen = np.clip(image * (1 + bias), 0, None) ** GAMMA
    return _noisy(seen, NOISE, rng)


def _noisy(image: FloatArray, level: float, rng: np.random.Generator) -> FloatArray:
    noise = np.float32(level) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.asarray(np.clip(image + noise, 0, None), np.float32)


def _inverted(scan: Scan) -> FloatArray:
    """T2-like: inside the brain falling with the T1 intensity, not linearly; outside 0."""
    image = scan.image.single
    bright = np.quantile(image[scan.brain], 0.995)
    fall = 0.08 + 0.7 * np.clip(1 - image / bright, 0, 1) ** 1.6
    soft = ndimage.gaussian_filter(scan.brain.astype(np.float32), 0.6)
    return np.asarray(fall * soft, np.float32)


def _varied(
    moving: Scan, what: Description, rng: np.random.Generator
) -> tuple[Scan, NDArray[np.float64] | None]:
    """The moving scan at its spacing, with the variant of its geometry and what moved it."""
    axis = int(np.argmax(np.abs(moving.image.geometry.index_to_world[2, :3])))
    if what.variant == "slices":
        return pooled(moving, tuple(SLICE_MM if a == axis else 1 for a in range(3))), None
    moving = pooled(moving, what.spacing_mm)
    if what.variant == "partial":
        return _cut(moving, axis, upper=bool(rng.integers(2))), None
    if what.variant == "rotated":
        return _rotated(moving, rng)
    if what.variant in EXTRA_NOISE:  # on the voxels that are registered
        noisy = _noisy(moving.image.single, EXTRA_NOISE[what.variant], rng)
        return with_image(moving, noisy), None
    return moving, None


def _cut(scan: Scan, axis: int, *, upper: bool) -> Scan:
    """The lower or upper KEPT_SHARE of the slices that contain brain."""
    others = tuple(a for a in range(3) if a != axis)
    used = np.flatnonzero(scan.brain.any(others))
    first, last = int(used[0]), int(used[-1]) + 1
    keep = round((last - first) * KEPT_SHARE)
    start, stop = (last - keep, scan.brain.shape[axis]) if upper else (0, first + keep)
    size, offset = list(scan.brain.shape), np.zeros(3)
    size[axis], offset[axis] = stop - start, start
    matrix = scan.image.geometry.index_to_world.copy()
    matrix[:3, 3] = scan.image.geometry.to_world(offset)
    grid = Geometry((size[0], size[1], size[2]), matrix)
    window = tuple(slice(start, stop) if a == axis else slice(None) for a in range(3))
    return on_grid(scan, grid, lambda array, _: array[window])


def _rotated(scan: Scan, rng: np.random.Generator) -> tuple[Scan, NDArray[np.float64]]:
    """The scan moved in the world and sampled on a grid oblique to the moved one."""
    grid = scan.image.geometry
    brain = grid.to_world(np.argwhere(scan.brain))
    centre = (brain.min(0) + brain.max(0)) / 2
    direction = rng.standard_normal(3)
    matrix = np.eye(4)
    matrix[:3, :3] = _rotation(rng, rng.uniform(0.7, 1) * LARGEST_ANGLE_DEG)
    matrix[:3, 3] = (
        centre - matrix[:3, :3] @ centre + SHIFT_MM * direction / np.linalg.norm(direction)
    )
    new = _box(apply_affine(matrix, brain), _rotation(rng, 20.0), min(grid.spacing_mm))
    back = grid.world_to_index @ np.linalg.inv(matrix) @ new.index_to_world
    points = np.moveaxis(apply_affine(back, _indices(new.shape)), -1, 0)
    return on_grid(scan, new, lambda array, order: sampled(array, points, order)), matrix


def _rotation(rng: np.random.Generator, angle_deg: float) -> NDArray[np.float64]:
    """A rotation by an angle about a random axis (Rodrigues)."""
    x, y, z = (axis := rng.standard_normal(3)) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(angle_deg)
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)


def _box(points_mm: NDArray[Any], cosines: NDArray[Any], spacing_mm: float) -> Geometry:
    """A grid of columns `cosines` around points, with a margin of 15 mm."""
    along = points_mm @ cosines
    low, high = along.min(0) - 15, along.max(0) + 15
    size = np.ceil((high - low) / spacing_mm).astype(int) + 1
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = cosines * spacing_mm, cosines @ low
    return Geometry((int(size[0]), int(size[1]), int(size[2])), matrix)


def _indices(shape: Sequence[int]) -> NDArray[np.float64]:
    """(D, H, W, 3) array indices."""
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).astype(np.float64)


def displacement_mm(u_vox: FloatArray, grid: Geometry) -> FloatArray:
    """(3, D, H, W) voxels of a grid -> (D, H, W, 3) xyz LPS mm."""
    matrix = grid.index_to_world[:3, :3].astype(np.float32)
    return np.ascontiguousarray(np.einsum("xa,adhw->dhwx", matrix, u_vox))


def save(pair: Pair, folder: Path) -> None:
    """Write a case (see the head of this file)."""
    folder.mkdir(parents=True, exist_ok=True)
    write_image(folder / "fixed.nii.gz", pair.fixed.image)
    write_image(folder / "moving.nii.gz", pair.moving.image)
    mask = Volume(pair.fixed.brain[None], pair.fixed.image.geometry, "mask")
    write_image(folder / "mask.nii.gz", mask, np.uint8)
    for role, scan in (("fixed", pair.fixed), ("moving", pair.moving)):
        if scan.labels is not None:
            write_image(folder / f"{role}_labels.nii.gz", scan.labels, np.int16)
    if pair.truth is not None:
        np.save(folder / "truth.npy", pair.truth)
    (folder / "case.json").write_text(json.dumps(asdict(pair.description), indent=2) + "\n")


if __name__ == "__main__":
    main()
