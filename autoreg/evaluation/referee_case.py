"""Score one pair as the referees of LUMIR and Learn2Reg do, from its displacement file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoreg.errors import DataError
from autoreg.evaluation.arrays import FloatArray
from autoreg.evaluation.fields import ndv, sdlogj
from autoreg.evaluation.landmarks import tre_centroids, tre_learn2reg
from autoreg.evaluation.overlap import dice, mean_over_labels, present_labels
from autoreg.evaluation.protocols import Protocol
from autoreg.evaluation.reading import existing, read_on_fixed
from autoreg.evaluation.referee_field import index_displacement, nearest_sources, pulled
from autoreg.evaluation.referee_files import RefereeFiles
from autoreg.evaluation.referee_scores import RefereeCase, RefereeLabel
from autoreg.evaluation.scores import LabelState
from autoreg.evaluation.structures import label_notes
from autoreg.evaluation.surface import hd95
from autoreg.geometry.grid import Geometry
from autoreg.geometry.volume import Kind, Volume
from autoreg.io.image_headers import read_grid
from autoreg.io.images import read_image, require_grid
from autoreg.io.landmarks import read_landmarks, read_voxel_landmarks
from autoreg.io.names import LANDMARK_SUFFIXES
from autoreg.io.transforms import read_displacement

Scores = dict[str, float | None]


@dataclass(frozen=True, eq=False)
class _Field:
    """The displacement of a pair and the grids that it joins.

    Attributes:
        u_vox: (3, D, H, W) float32, from indices of the fixed to indices of the moving image.
        sources: (D, H, W), see `nearest_sources`.
        fixed: Grid of the fixed image.
        moving: Grid of the moving image.
    """

    u_vox: Tensor
    sources: Tensor
    fixed: Geometry
    moving: Geometry


def score_case(
    files: RefereeFiles, protocol: Protocol, labels: Sequence[int] | None, device: torch.device
) -> RefereeCase:
    """Score one pair by a protocol.

    Args:
        files: Of the pair.
        protocol: The rules.
        labels: In place of the protocol's own list.
        device: Where to compute what torch computes.

    Raises:
        DataError: if a file is missing, unreadable, misplaced or two-dimensional.
    """
    field = _load_field(files, device)
    notes = list(files.notes)
    scores: Scores = dict.fromkeys(protocol.metrics)
    table = _labels(files, field, labels if labels is not None else protocol.labels, notes)
    if table is not None:
        scores["dice"] = mean_over_labels(np.array([s.dice for s in table]))
        scores["hd95_vox"] = mean_over_labels(np.array([s.hd95_vox for s in table]))
        notes += label_notes(table)
    landmarks = _landmarks(files, field, protocol, notes)
    if landmarks is not None:
        # As the referees do: one lost landmark leaves no mean.
        scores["tre_vox" if protocol.landmarks == "blobs" else "tre_mm"] = float(landmarks.mean())
    scores |= _folds(files, field, notes)
    mask = _mask(files, field) if protocol.masked else None
    scores["sdlogj_plus3"] = sdlogj(field.u_vox, mask)
    scores["sdlogj_plain"] = sdlogj(field.u_vox, mask, plus3=False)
    return RefereeCase(
        case=files.case,
        scores=scores,
        sdlogj_region="whole" if mask is None else "mask",
        labels=table or (),
        landmarks=0 if landmarks is None else len(landmarks),
        notes=tuple(notes),
    )


def _load_field(files: RefereeFiles, device: torch.device) -> _Field:
    fixed, moving = (_grid(path) for path in (files.fixed, files.moving))
    path = existing(files.displacement)
    u_mm, geometry = read_displacement(path)
    require_grid(path, geometry, fixed, "the fixed image")
    u_vox = torch.from_numpy(index_displacement(u_mm, fixed, moving)).to(device)
    return _Field(u_vox, nearest_sources(u_vox, moving.shape), fixed, moving)


def _grid(path: Path) -> Geometry:
    geometry, dimension = read_grid(existing(path))
    if dimension != 3:
        raise DataError(f"{path}: a 2-D image; the challenges' protocols are for 3-D images alone")
    return geometry


def _on_moving(path: Path, kind: Kind, field: _Field) -> Volume:
    volume = read_image([existing(path)], kind)
    require_grid(path, volume.geometry, field.moving, "the moving image")
    return volume


def _one_sided(what: str, fixed: Path | None, moving: Path | None, notes: list[str]) -> None:
    """Note what only one image has, so that it cannot be scored."""
    if (fixed is None) != (moving is None):
        notes.append(
            f"{what} not scored: the {'fixed' if fixed is None else 'moving'} image has none"
        )


def _labels(
    files: RefereeFiles, field: _Field, wanted: Sequence[int] | None, notes: list[str]
) -> tuple[RefereeLabel, ...] | None:
    if files.fixed_labels is None or files.moving_labels is None:
        _one_sided("labels", files.fixed_labels, files.moving_labels, notes)
        return None
    fixed = read_on_fixed([files.fixed_labels], "label", field.fixed).single
    moving = _on_moving(files.moving_labels, "label", field).single
    warped = pulled(moving, field.sources)
    if wanted is None:
        named = set(files.label_names.values()) - {0}
        wanted = sorted(named or {*present_labels(fixed), *present_labels(moving)})
    device = field.u_vox.device
    on_device = torch.from_numpy(fixed.astype(np.int64)).to(device)
    overlaps = dice(on_device, warped, wanted, moving=moving)
    distances = hd95(fixed, warped, wanted, moving=moving)
    occur = [set(present_labels(m, background=True)) for m in (fixed, moving, warped)]
    names = {value: name for name, value in files.label_names.items()}
    return tuple(
        RefereeLabel(
            label, names.get(label, ""), _state(label, occur), float(overlap), float(distance)
        )
        for label, overlap, distance in zip(wanted, overlaps, distances, strict=True)
    )


def _state(label: int, occur: Sequence[set[int]]) -> LabelState:
    in_fixed, in_moving, in_warped = (label in found for found in occur)
    if not in_fixed:
        return "missing in fixed"
    if not in_moving:
        return "missing in moving"
    return "ok" if in_warped else "lost"


def _landmarks(
    files: RefereeFiles, field: _Field, protocol: Protocol, notes: list[str]
) -> FloatArray | None:
    """The error of each landmark; None where there are none of the protocol's kind."""
    fixed, moving = files.fixed_landmarks, files.moving_landmarks
    if fixed is None or moving is None:
        _one_sided("landmarks", fixed, moving, notes)
        return None
    points = fixed.name.lower().endswith(LANDMARK_SUFFIXES)
    if points != (protocol.landmarks == "points"):
        kinds = ("points in a csv file", "blobs in a label map")
        found, expected = kinds if points else kinds[::-1]
        notes.append(
            f"landmarks not scored: {fixed.name} has {found}, the protocol {protocol.name} wants "
            f"{expected}"
        )
        return None
    compared = _points if points else _blobs
    return compared(files, existing(fixed), existing(moving), field, notes)


def _blobs(
    files: RefereeFiles, fixed: Path, moving: Path, field: _Field, notes: list[str]
) -> FloatArray:
    there = read_on_fixed([fixed], "label", field.fixed).single
    warped = pulled(_on_moving(moving, "label", field).single, field.sources)
    ids, errors = tre_centroids(there, warped)
    if not ids:
        raise DataError(f"{fixed}: holds no landmarks, only the background 0")
    lost = [str(i) for i, error in zip(ids, errors, strict=True) if np.isnan(error)]
    if lost:
        notes.append(f"landmarks lost by the warp, so that TRE is NaN: {', '.join(lost)}")
    return errors


def _points(
    files: RefereeFiles, fixed: Path, moving: Path, field: _Field, notes: list[str]
) -> FloatArray:
    if files.landmark_frame == "voxels":
        places = (
            read_voxel_landmarks(fixed, field.fixed),
            read_voxel_landmarks(moving, field.moving),
        )
    else:
        places = read_landmarks(fixed), read_landmarks(moving)
    if len(places[0]) != len(places[1]):
        raise DataError(
            f"case {files.case}: landmarks correspond row by row, but {fixed} has "
            f"{len(places[0])} and {moving} {len(places[1])} of them"
        )
    fixed_vox, moving_vox = field.fixed.to_index(places[0]), field.moving.to_index(places[1])
    outside = (fixed_vox < 0) | (fixed_vox > np.array(field.fixed.shape) - 1)
    beyond = np.flatnonzero(np.any(outside, axis=1))
    if beyond.size:
        rows = ", ".join(str(row + 1) for row in beyond)
        notes.append(f"landmarks outside the fixed image, where u counts as 0: rows {rows}")
    return tre_learn2reg(field.u_vox, fixed_vox, moving_vox, field.moving.spacing_mm)


def _folds(files: RefereeFiles, field: _Field, notes: list[str]) -> Scores:
    found: Scores = {"ndv_fraction": ndv(field.u_vox).fraction}
    fixed = read_on_fixed([files.fixed], "intensity", field.fixed).single > 0
    found["ndv_fixed_fraction"] = ndv(field.u_vox, _to(fixed, field)).fraction
    found["ndv_moving_fraction"] = None
    if field.moving.shape != field.fixed.shape:
        notes.append(
            f"NDV in the moving foreground not scored: the images' shapes differ, "
            f"{field.fixed.shape} (fixed) and {field.moving.shape} (moving)"
        )
        return found
    moving = _on_moving(files.moving, "intensity", field).single > 0
    found["ndv_moving_fraction"] = ndv(field.u_vox, _to(moving, field)).fraction
    return found


def _mask(files: RefereeFiles, field: _Field) -> Tensor | None:
    if files.fixed_mask is None:
        return None
    return _to(
        read_on_fixed([files.fixed_mask], "mask", field.fixed).single.astype(np.bool_), field
    )


def _to(mask: NDArray[np.bool_], field: _Field) -> Tensor:
    return torch.from_numpy(mask).to(field.u_vox.device)
