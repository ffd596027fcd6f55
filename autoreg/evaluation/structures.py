"""Labels and landmarks of a predicted pair, before and after."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from autoreg.errors import DataError
from autoreg.evaluation.arrays import FloatArray
from autoreg.evaluation.landmarks import tre_mm
from autoreg.evaluation.overlap import dice, present_labels
from autoreg.evaluation.predictions import PredictedPair
from autoreg.evaluation.reading import existing, read_image_of, read_on_fixed
from autoreg.evaluation.referee_scores import RefereeLabel
from autoreg.evaluation.scores import LabelScore, LabelState, LandmarkScore
from autoreg.evaluation.surface import hd95
from autoreg.geometry.grid import Geometry
from autoreg.geometry.resampling import resample_volume
from autoreg.geometry.volume import Volume
from autoreg.io.image_headers import read_grid
from autoreg.io.landmarks import read_landmarks, read_voxel_landmarks
from autoreg.io.result import WARPED_LABELS_FILE, WARPED_LANDMARKS_FILE

_STATES: dict[LabelState, str] = {
    "missing in fixed": "labels missing in the fixed image, not scored",
    "missing in moving": "labels missing in the moving image, not scored",
    "lost": "labels lost by the warp, Dice 0 and HD95 infinite",
}


@dataclass(frozen=True, eq=False)
class LabelMaps:
    """Label maps of a pair.

    Attributes:
        fixed: Of the fixed image.
        moving: Of the moving image, on its own grid.
        initial: The moving one, resampled to the fixed grid through world coordinates.
        warped: The moving one, as predicted on the fixed grid.
    """

    fixed: Volume
    moving: Volume
    initial: Volume
    warped: Volume


@dataclass(frozen=True, eq=False)
class LandmarkErrors:
    """Distances of corresponding landmarks, (N,) millimetres, before and after registration."""

    initial_mm: FloatArray
    registered_mm: FloatArray

    @property
    def scores(self) -> tuple[LandmarkScore, ...]:
        """Landmark by landmark."""
        both = zip(self.initial_mm.tolist(), self.registered_mm.tolist(), strict=True)
        return tuple(LandmarkScore(before, after) for before, after in both)


def load_labels(pair: PredictedPair, geometry: Geometry) -> LabelMaps | None:
    """Read the label maps of a pair; None unless both images have one.

    Args:
        pair: The pair.
        geometry: Of the fixed image.

    Raises:
        DataError: if a file is missing, unreadable or on another grid.
    """
    files = pair.inputs
    if files.fixed_labels is None or files.moving_labels is None:
        return None
    moving = read_image_of([files.moving_labels], "label")
    return LabelMaps(
        fixed=read_on_fixed([files.fixed_labels], "label", geometry),
        moving=moving,
        initial=resample_volume(moving, None, geometry),
        warped=read_on_fixed([pair.folder / WARPED_LABELS_FILE], "label", geometry),
    )


def label_scores(
    maps: LabelMaps, names: dict[str, int], device: torch.device
) -> tuple[LabelScore, ...]:
    """Score every label that either image holds or `names` expects.

    Args:
        maps: The label maps.
        names: Values of structures by name.
        device: Where Dice is computed.
    """
    in_fixed, in_moving, in_warped = (
        set(present_labels(volume.single)) for volume in (maps.fixed, maps.moving, maps.warped)
    )
    labels = sorted((in_fixed | in_moving | set(names.values())) - {0})
    before, after = (
        _overlap_and_distance(maps, candidate, labels, device)
        for candidate in (maps.initial, maps.warped)
    )
    name_of = {value: name for name, value in names.items()}

    def state(label: int) -> LabelState:
        if label not in in_fixed:
            return "missing in fixed"
        if label not in in_moving:
            return "missing in moving"
        return "ok" if label in in_warped else "lost"

    return tuple(
        LabelScore(
            label=label,
            name=name_of.get(label, ""),
            state=state(label),
            initial_dice=float(before[0][i]),
            dice=float(after[0][i]),
            initial_hd95_mm=float(before[1][i]),
            hd95_mm=float(after[1][i]),
        )
        for i, label in enumerate(labels)
    )


def label_notes(scores: Sequence[LabelScore | RefereeLabel]) -> list[str]:
    """Which labels were missing or got lost, in words."""
    notes = []
    for state, text in _STATES.items():
        found = [f"{s.label} {s.name}".strip() for s in scores if s.state == state]
        if found:
            notes.append(f"{text}: {', '.join(found)}")
    return notes


def landmark_errors(pair: PredictedPair, geometry: Geometry) -> LandmarkErrors | None:
    """Landmark distances of a pair; None unless both images have landmarks.

    Args:
        pair: The pair.
        geometry: Of the fixed image.

    Raises:
        DataError: if a file is missing, unreadable, or has another number of points.
    """
    files = pair.inputs
    if files.fixed_landmarks is None or files.moving_landmarks is None:
        return None
    fixed_path, moving_path = existing(files.fixed_landmarks), existing(files.moving_landmarks)
    if files.landmark_frame == "voxels":
        fixed = read_voxel_landmarks(fixed_path, geometry)
        moving = read_voxel_landmarks(moving_path, read_grid(existing(files.moving[0]))[0])
    else:
        fixed, moving = read_landmarks(fixed_path), read_landmarks(moving_path)
    warped_path = existing(pair.folder / WARPED_LANDMARKS_FILE)
    warped = read_landmarks(warped_path)
    if not len(fixed) == len(moving) == len(warped):
        raise DataError(
            f"case {pair.result.case}: landmarks correspond row by row, but {fixed_path} has "
            f"{len(fixed)}, {moving_path} {len(moving)} and {warped_path} {len(warped)} of them"
        )
    return LandmarkErrors(tre_mm(fixed, moving), tre_mm(warped, moving))


def one_sided_notes(pair: PredictedPair) -> list[str]:
    """What only one of the two images has, so that it cannot be scored."""
    files = pair.inputs
    given = {
        "labels": (files.fixed_labels, files.moving_labels),
        "landmarks": (files.fixed_landmarks, files.moving_landmarks),
    }
    return [
        f"{what} not scored: the {'fixed' if fixed is None else 'moving'} image has none"
        for what, (fixed, moving) in given.items()
        if (fixed is None) != (moving is None)
    ]


def _overlap_and_distance(
    maps: LabelMaps, candidate: Volume, labels: list[int], device: torch.device
) -> tuple[FloatArray, FloatArray]:
    fixed_ids, ids = (
        torch.from_numpy(volume.single.astype(np.int64)).to(device)
        for volume in (maps.fixed, candidate)
    )
    distances = hd95(
        maps.fixed.single,
        candidate.single,
        labels,
        moving=maps.moving.single,
        spacing_mm=maps.fixed.geometry.spacing_mm,
    )
    return dice(fixed_ids, ids, labels, moving=maps.moving.single), distances
