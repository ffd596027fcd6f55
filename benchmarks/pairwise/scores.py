"""Score a displacement of a case: end-point error, local correlation, volume change, folds, Dice.

    PYTHONPATH=benchmarks python -m pairwise.scores CASE [displacement.npy]

The displacement is (D, H, W, 3) xyz, LPS mm, on the fixed grid, from fixed to moving points;
without one the zero displacement is scored.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from autoreg.evaluation.fields import ndv, voxel_displacement
from autoreg.evaluation.overlap import dice, mean_over_labels, present_labels
from autoreg.geometry.volume import Volume
from autoreg.io.images import read_image
from autoreg.numerics.jacobian import jacobian_determinant
from autoreg.numerics.warp import Mode, sample_at_index

Array = NDArray[np.float32]

WINDOW = 9
# Windows of (nearly) constant intensity have no correlation and count as 0.
LEAST_VARIANCE = 1e-10


@dataclass(frozen=True)
class Scores:
    """What one displacement reaches; None where the case has nothing to compare with.

    Attributes:
        error_mm: Mean end-point error inside the mask, where the truth lies in the moving image.
        p95_mm: Its 95th percentile.
        lncc: Mean signed correlation in windows of 9 voxels inside the mask.
        sd_log_j: Standard deviation of log Jacobian inside the mask (folds left out).
        folds: Voxels of the mask whose central-difference Jacobian is not positive.
        ndv_percent: Non-diffeomorphic volume inside the mask, per cent.
        dice: Mean over the labels that both images have.
    """

    error_mm: float | None
    p95_mm: float | None
    lncc: float
    sd_log_j: float
    folds: int
    ndv_percent: float
    dice: float | None


@dataclass(frozen=True)
class Case:
    """A case folder as `cases` writes it; files are read at first use."""

    folder: Path

    @cached_property
    def fixed(self) -> Volume:
        """The fixed image."""
        return read_image([self.folder / "fixed.nii.gz"], "intensity")

    @cached_property
    def moving(self) -> Volume:
        """The moving image."""
        return read_image([self.folder / "moving.nii.gz"], "intensity")

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """(D, H, W), the fixed brain."""
        return read_image([self.folder / "mask.nii.gz"], "mask").single

    @cached_property
    def truth(self) -> Array | None:
        """(D, H, W, 3) xyz LPS mm on the fixed grid; None for a real pair."""
        file = self.folder / "truth.npy"
        return np.load(file) if file.exists() else None

    def labels(self, role: str) -> Volume | None:
        """Label map of "fixed" or "moving"."""
        file = self.folder / f"{role}_labels.nii.gz"
        return read_image([file], "label") if file.exists() else None

    def points_vox(self, u_mm: Array) -> torch.Tensor:
        """Where the moving image is sampled: (1, 3, D, H, W) in its voxels."""
        grid = self.fixed.geometry
        index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1)
        points = self.moving.geometry.to_index(grid.to_world(index) + u_mm)
        return torch.from_numpy(np.moveaxis(points, -1, 0).astype(np.float32).copy())[None]


def scores(case: Case, u_mm: Array) -> Scores:
    """All scores of a displacement (D, H, W, 3), xyz LPS mm on the fixed grid."""
    points = case.points_vox(u_mm)
    error, p95 = endpoint_error(case, u_mm)
    warped = sampled(case.moving, points).astype(np.float32)
    sd_log_j, folds, share = regularity(case, u_mm)
    return Scores(
        error,
        p95,
        local_correlation(case.fixed.single, warped, case.mask),
        sd_log_j,
        folds,
        share,
        label_overlap(case, points),
    )


def sampled(volume: Volume, points_vox: torch.Tensor, mode: Mode = "linear") -> NDArray[Any]:
    """A volume at (1, 3, D, H, W) of its voxels, 0 outside; (D, H, W)."""
    array = torch.from_numpy(np.ascontiguousarray(volume.single))[None, None]
    return sample_at_index(array, points_vox, "zeros", mode)[0, 0].numpy()


def endpoint_error(case: Case, u_mm: Array) -> tuple[float | None, float | None]:
    """Mean and 95th percentile in mm over the mask, where the truth lies in the moving image."""
    if case.truth is None:
        return None, None
    mask = case.mask
    index = np.argwhere(mask)
    target = case.fixed.geometry.to_world(index) + case.truth[mask]
    seen = case.moving.geometry.contains(target)
    error = np.linalg.norm(u_mm[mask] - case.truth[mask], axis=-1)[seen]
    return float(error.mean()), float(np.quantile(error, 0.95))


def local_correlation(fixed: Array, warped: Array, mask: NDArray[np.bool_]) -> float:
    """Mean over the mask of cov / sqrt(var var) in cubes of WINDOW voxels."""
    box = _bounding_box(mask, WINDOW // 2)
    f, w = fixed[box].astype(np.float64), warped[box].astype(np.float64)
    mean_f, mean_w = _mean(f), _mean(w)
    cov = _mean(f * w) - mean_f * mean_w
    var_f, var_w = _mean(f * f) - mean_f**2, _mean(w * w) - mean_w**2
    known = (var_f > LEAST_VARIANCE) & (var_w > LEAST_VARIANCE)
    value = np.where(known, cov / np.sqrt(np.where(known, var_f * var_w, 1)), 0)
    return float(value[mask[box]].mean())


def _mean(array: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(ndimage.uniform_filter(array, WINDOW, mode="constant"))


def _bounding_box(mask: NDArray[np.bool_], margin: int) -> tuple[slice, ...]:
    found = ndimage.find_objects(mask.astype(np.uint8))[0]
    return tuple(slice(max(s.start - margin, 0), s.stop + margin) for s in found)


def regularity(case: Case, u_mm: Array) -> tuple[float, int, float]:
    """SD of log Jacobian, folded voxels and NDV in per cent, all inside the mask."""
    field = voxel_displacement(u_mm, case.fixed.geometry)
    inside = jacobian_determinant(field[None])[0].numpy()[case.mask]
    positive = inside[inside > 0]
    folds = ndv(field, case.mask)
    return float(np.log(positive).std()), int((inside <= 0).sum()), 100 * folds.fraction


def label_overlap(case: Case, points_vox: torch.Tensor) -> float | None:
    """Mean Dice of the moving labels (nearest) and the fixed ones; None without labels."""
    fixed, moving = case.labels("fixed"), case.labels("moving")
    if fixed is None or moving is None:
        return None
    warped = sampled(moving, points_vox, "nearest")
    ids = [i for i in present_labels(fixed.single) if i != 0]
    return mean_over_labels(dice(fixed.single, warped, ids, moving=moving.single))


def main(argv: Sequence[str] | None = None) -> None:
    """Print the scores of a file, of zero and (where known) of the truth."""
    parser = argparse.ArgumentParser(description="Score a displacement of a case.")
    parser.add_argument("case", type=Path)
    parser.add_argument("displacement", type=Path, nargs="?", help="npy, (D, H, W, 3) LPS mm")
    arguments = parser.parse_args(argv)
    case = Case(arguments.case)
    fields = {"zero": np.zeros((*case.fixed.geometry.shape, 3), np.float32)}
    if case.truth is not None:
        fields["truth"] = case.truth
    if arguments.displacement:
        fields = {"given": np.load(arguments.displacement)}
    for name, field in fields.items():
        print(json.dumps({"field": name, **asdict(scores(case, field))}))


if __name__ == "__main__":
    main()
