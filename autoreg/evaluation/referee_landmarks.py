"""The displacement of a pair and the error of its landmarks as a challenge's referee takes it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from autoreg.errors import DataError
from autoreg.evaluation.arrays import FloatArray
from autoreg.evaluation.landmarks import tre_centroids, tre_learn2reg
from autoreg.evaluation.protocols import Protocol
from autoreg.evaluation.reading import existing, read_on_fixed
from autoreg.evaluation.referee_field import (
    INDEX_DECIMALS,
    index_displacement,
    nearest_sources,
    pulled,
)
from autoreg.evaluation.referee_files import LandmarkFiles, RefereeFiles
from autoreg.geometry.grid import Geometry
from autoreg.geometry.volume import Kind, Volume
from autoreg.io.image_headers import read_grid
from autoreg.io.images import read_image, require_grid
from autoreg.io.landmarks import read_landmarks, read_voxel_landmarks
from autoreg.io.names import LANDMARK_SUFFIXES
from autoreg.io.transforms import read_displacement

_POINTS_KEY = {"landmarks": "tre_lm_mm", "keypoints": "tre_kp_mm"}
_WORD = {"landmarks": "landmarks", "keypoints": "key points"}


@dataclass(frozen=True, eq=False)
class RefereeField:
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


def load_field(files: RefereeFiles, device: torch.device) -> RefereeField:
    """Read the displacement of a pair.

    Raises:
        DataError: if a file is missing, unreadable, misplaced or two-dimensional.
    """
    fixed, moving = (_grid(path) for path in (files.fixed, files.moving))
    path = existing(files.displacement)
    u_mm, geometry = read_displacement(path)
    require_grid(path, geometry, fixed, "the fixed image")
    u_vox = torch.from_numpy(index_displacement(u_mm, fixed, moving)).to(device)
    return RefereeField(u_vox, nearest_sources(u_vox, moving.shape), fixed, moving)


def read_on_moving(path: Path, kind: Kind, field: RefereeField) -> Volume:
    """Read an image that must lie on the grid of the moving image."""
    volume = read_image([existing(path)], kind)
    require_grid(path, volume.geometry, field.moving, "the moving image")
    return volume


def note_one_sided(what: str, fixed: Path | None, moving: Path | None, notes: list[str]) -> None:
    """Note what only one image has, so that it cannot be scored."""
    if (fixed is None) != (moving is None):
        notes.append(
            f"{what} not scored: the {'fixed' if fixed is None else 'moving'} image has none"
        )


def landmark_errors(
    files: RefereeFiles, field: RefereeField, protocol: Protocol, notes: list[str]
) -> dict[str, FloatArray]:
    """The error of each landmark, by the key of the metric; only of the protocol's kinds.

    Args:
        files: Of the pair.
        field: Its displacement.
        protocol: The rules.
        notes: Is added to.

    Raises:
        DataError: if a file is missing, unreadable or misplaced, or rows do not correspond.
    """
    errors: dict[str, FloatArray] = {}
    others: list[str] = []
    for found in files.landmarks:
        note_one_sided(_WORD[found.kind], found.fixed, found.moving, notes)
        if found.fixed is None or found.moving is None:
            continue
        fixed, moving = existing(found.fixed), existing(found.moving)
        points = fixed.name.lower().endswith(LANDMARK_SUFFIXES)
        if points != (protocol.landmarks == "points"):
            others.append(_other_kind(found, fixed, points, protocol))
        elif points:
            errors[_POINTS_KEY[found.kind]] = _points(files.case, found, field, notes)
        else:
            errors["tre_vox"] = _blobs(fixed, moving, field, notes)
    if protocol.landmarks == "points" or not errors:
        notes += others  # beside LUMIR's blobs, points are no loss
    return errors


def _other_kind(found: LandmarkFiles, fixed: Path, points: bool, protocol: Protocol) -> str:
    kinds = ("points in a csv file", "blobs in a label map")
    has, expected = kinds if points else kinds[::-1]
    return (
        f"{_WORD[found.kind]} not scored: {fixed.name} has {has}, the protocol {protocol.name} "
        f"wants {expected}"
    )


def _grid(path: Path) -> Geometry:
    geometry, dimension = read_grid(existing(path))
    if dimension != 3:
        raise DataError(f"{path}: a 2-D image; the challenges' protocols are for 3-D images alone")
    return geometry


def _blobs(fixed: Path, moving: Path, field: RefereeField, notes: list[str]) -> FloatArray:
    there = read_on_fixed([fixed], "label", field.fixed).single
    warped = pulled(read_on_moving(moving, "label", field).single, field.sources)
    ids, errors = tre_centroids(there, warped)
    if not ids:
        raise DataError(f"{fixed}: holds no landmarks, only the background 0")
    lost = [str(i) for i, error in zip(ids, errors, strict=True) if np.isnan(error)]
    if lost:
        notes.append(f"landmarks lost by the warp, so that TRE is NaN: {', '.join(lost)}")
    return errors


def _points(case: str, found: LandmarkFiles, field: RefereeField, notes: list[str]) -> FloatArray:
    fixed_vox = _indices(found.fixed, found, field.fixed)
    moving_vox = _indices(found.moving, found, field.moving)
    if len(fixed_vox) != len(moving_vox):
        raise DataError(
            f"case {case}: {_WORD[found.kind]} correspond row by row, but {found.fixed} has "
            f"{len(fixed_vox)} and {found.moving} {len(moving_vox)} of them"
        )
    outside = (fixed_vox < 0) | (fixed_vox > np.array(field.fixed.shape) - 1)
    beyond = np.flatnonzero(np.any(outside, axis=1))
    if beyond.size:
        rows = ", ".join(str(row + 1) for row in beyond)
        notes.append(
            f"{_WORD[found.kind]} outside the fixed image, where u counts as 0: rows {rows}"
        )
    return tre_learn2reg(field.u_vox, fixed_vox, moving_vox, field.moving.spacing_mm)


def _indices(path: Path | None, found: LandmarkFiles, grid: Geometry) -> FloatArray:
    """Points as indices of an image, (N, 3)."""
    file = existing(path or "")
    voxels = found.frame == "voxels"
    points_mm = read_voxel_landmarks(file, grid) if voxels else read_landmarks(file)
    index = np.asarray(grid.to_index(points_mm), dtype=np.float64)
    # A point on the border comes back from the world some 1e-15 beyond it, where u would be 0.
    whole = index.round()
    return np.where(np.abs(index - whole) < 10.0**-INDEX_DECIMALS, whole, index)
