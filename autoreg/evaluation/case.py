"""Evaluate one predicted pair: load its images, score it before and after."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from autoreg.evaluation.appearance import local_correlation
from autoreg.evaluation.consistency import InverseConsistency, inverse_consistency
from autoreg.evaluation.fields import central_determinant, ndv, sdlogj, voxel_displacement
from autoreg.evaluation.overlap import mean_over_labels
from autoreg.evaluation.predictions import PredictedPair
from autoreg.evaluation.reading import FIXED, existing, read_image_of, read_on_fixed
from autoreg.evaluation.scores import CaseScores, FieldQuality, LabelScore, PairState
from autoreg.evaluation.structures import (
    LandmarkErrors,
    label_notes,
    label_scores,
    landmark_errors,
    load_labels,
    one_sided_notes,
)
from autoreg.geometry.foreground import foreground_mask
from autoreg.geometry.resampling import resample_volume
from autoreg.geometry.volume import Volume
from autoreg.io.images import require_grid
from autoreg.io.result import DISPLACEMENT_FILE, INVERSE_FILE
from autoreg.io.transforms import read_displacement


@dataclass(frozen=True, eq=False)
class PairImages:
    """The images of a pair on the fixed grid.

    Attributes:
        fixed: The fixed image.
        initial: The moving image resampled to the fixed grid through world coordinates.
        warped: The moving image as predicted.
        displacement_mm: (D, H, W, 3) fixed to moving, xyz LPS mm.
    """

    fixed: Volume
    initial: Volume
    warped: Volume
    displacement_mm: NDArray[np.float32]


def load_images(pair: PredictedPair) -> PairImages:
    """Read the images of a predicted pair.

    Raises:
        DataError: if a file is missing, cannot be read, or lies on another grid than the fixed
            image.
    """
    fixed = read_image_of(pair.inputs.fixed, "intensity")
    moving = read_image_of(pair.inputs.moving, "intensity")
    warped = read_on_fixed(pair.warped_files, "intensity", fixed.geometry)
    path = existing(pair.folder / DISPLACEMENT_FILE)
    displacement_mm, geometry = read_displacement(path)
    require_grid(path, geometry, fixed.geometry, FIXED)
    initial = resample_volume(moving, None, fixed.geometry, outside=pair.result.outside_value)
    return PairImages(fixed, initial, warped, displacement_mm)


def evaluate_case(pair: PredictedPair, images: PairImages, device: torch.device) -> CaseScores:
    """Score one pair before and after registration.

    Args:
        pair: The pair.
        images: From `load_images`.
        device: Where to compute what torch computes.

    Raises:
        DataError: if label, mask, landmark or inverse files are missing, unreadable or misplaced.
    """
    geometry = images.fixed.geometry
    foreground, source = _foreground(pair, images.fixed)
    maps = load_labels(pair, geometry)
    labels = label_scores(maps, pair.result.label_names, device) if maps else None
    landmarks = landmark_errors(pair, geometry)
    fixed = torch.from_numpy(images.fixed.array).to(device)
    lncc = local_correlation(fixed, [images.initial.array, images.warped.array], foreground)
    inverse = _inverse_consistency(pair, images, device)
    notes = [*pair.notes, *one_sided_notes(pair), *label_notes(labels or ())]
    if inverse is None:
        notes.append(f"inverse consistency not scored: {INVERSE_FILE} is missing")
    return CaseScores(
        case=pair.result.case,
        initial=_state(labels, landmarks, lncc[0], before=True),
        registered=_state(labels, landmarks, lncc[1], before=False),
        field=_field_quality(images, foreground, inverse, device),
        foreground=source,
        labels=labels or (),
        landmarks=() if landmarks is None else landmarks.scores,
        prediction_seconds=pair.result.seconds,
        notes=tuple(notes),
    )


def _foreground(
    pair: PredictedPair, fixed: Volume
) -> tuple[NDArray[np.bool_], Literal["mask", "threshold"]]:
    if pair.inputs.fixed_mask is None:
        return foreground_mask(fixed.single), "threshold"
    mask = read_on_fixed([pair.inputs.fixed_mask], "mask", fixed.geometry)
    return mask.single.astype(bool), "mask"


def _state(
    labels: tuple[LabelScore, ...] | None,
    landmarks: LandmarkErrors | None,
    lncc: float,
    *,
    before: bool,
) -> PairState:
    overlap = distance = tre_mean = tre_p95 = None
    infinite = 0
    if labels is not None:
        surfaces = np.array([s.initial_hd95_mm if before else s.hd95_mm for s in labels])
        lost = np.isinf(surfaces)
        infinite = int(lost.sum())
        overlap = mean_over_labels(np.array([s.initial_dice if before else s.dice for s in labels]))
        distance = mean_over_labels(surfaces[~lost])
    if landmarks is not None:
        tre = landmarks.initial_mm if before else landmarks.registered_mm
        tre_mean, tre_p95 = float(tre.mean()), float(np.percentile(tre, 95))
    return PairState(overlap, distance, infinite, tre_mean, tre_p95, lncc)


def _inverse_consistency(
    pair: PredictedPair, images: PairImages, device: torch.device
) -> InverseConsistency | None:
    path = pair.folder / INVERSE_FILE
    if not path.is_file():
        return None
    inverse_mm, moving_geometry = read_displacement(path)
    return inverse_consistency(
        images.displacement_mm, images.fixed.geometry, inverse_mm, moving_geometry, device
    )


def _field_quality(
    images: PairImages,
    foreground: NDArray[np.bool_],
    inverse: InverseConsistency | None,
    device: torch.device,
) -> FieldQuality:
    u_vox = voxel_displacement(images.displacement_mm, images.fixed.geometry).to(device)
    inside = torch.from_numpy(foreground).to(device)
    whole, central = ndv(u_vox), central_determinant(u_vox)
    return FieldQuality(
        ndv_fraction=whole.fraction,
        ndv_foreground_fraction=ndv(u_vox, inside).fraction,
        folded_fraction=whole.folded_voxels / whole.voxels if whole.voxels else float("nan"),
        jacobian_minimum=float(central.min()) if central.numel() else float("nan"),
        sdlogj_plus3=sdlogj(u_vox),
        sdlogj_foreground=sdlogj(u_vox, inside, plus3=False),
        inverse_error_mean_mm=None if inverse is None else inverse.mean_mm,
        inverse_error_p95_mm=None if inverse is None else inverse.p95_mm,
        inverse_overlap_fraction=None if inverse is None else inverse.overlap_fraction,
    )
