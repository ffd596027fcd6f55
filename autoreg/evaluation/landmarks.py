"""Target registration error (TRE) of landmarks, in the three flavours that are in use."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage

from autoreg.errors import DataError, GeometryError
from autoreg.evaluation.arrays import Array, FloatArray, as_numpy, as_tensor


def tre_mm(mapped_mm: Array, moving_mm: Array) -> FloatArray:
    """Distance of each mapped fixed landmark to its counterpart in the moving image.

    Args:
        mapped_mm: (N, 3) fixed landmarks carried into the moving image by the transform, in LPS
            mm. The landmarks themselves give the initial error.
        moving_mm: (N, 3) their counterparts, row by row, in the same frame.

    Returns:
        (N,) millimetres; NaN where a coordinate is NaN.

    Raises:
        DataError: if the numbers of landmarks differ.
    """
    mapped, moving = np.asarray(as_numpy(mapped_mm)), np.asarray(as_numpy(moving_mm))
    if mapped.shape != moving.shape or mapped.ndim != 2 or mapped.shape[1] != 3:
        raise DataError(
            f"landmarks come in pairs (N, 3), row by row; found {mapped.shape} mapped and "
            f"{moving.shape} moving ones"
        )
    gap: FloatArray = np.linalg.norm(mapped.astype(np.float64) - moving, axis=1)
    return gap


def tre_learn2reg(
    u_vox: Array, fixed_vox: Array, moving_vox: Array, spacing_mm: Sequence[float]
) -> FloatArray:
    """Learn2Reg's TRE for csv landmarks.

    The displacement is sampled by cubic splines; outside [0, n - 1] it counts as 0.

    Args:
        u_vox: (3, D, H, W) pull-back displacement in voxels, channel c along array axis c.
        fixed_vox: (N, 3) landmarks of the fixed image in voxels, column c along axis c.
        moving_vox: (N, 3) their counterparts in voxels of the moving image.
        spacing_mm: Of the *moving* image along the array axes, as the organisers' code has it.

    Returns:
        (N,) millimetres.
    """
    points = as_numpy(fixed_vox).astype(np.float64)
    field = as_numpy(u_vox).astype(np.float64)
    shift = np.stack([ndimage.map_coordinates(u, points.T, order=3) for u in field], axis=1)
    return tre_mm((points + shift) * spacing_mm, as_numpy(moving_vox) * np.asarray(spacing_mm))


def tre_centroids(
    fixed: Array, warped: Array, spacing_mm: Sequence[float] = (1.0, 1.0, 1.0)
) -> tuple[tuple[int, ...], FloatArray]:
    """LUMIR's TRE for landmarks drawn as blobs in a label map.

    Args:
        fixed: (D, H, W) landmark label map of the fixed image, 0 is background.
        warped: (D, H, W) the moving one, warped (nearest) onto the same grid.
        spacing_mm: Along the array axes; the organisers count in voxels, i.e. (1, 1, 1).

    Returns:
        The landmark ids of the fixed map, ascending, and the distance (n,) of the two centroids
        of each; NaN for a blob that got lost by the warp (the organisers' case value is then
        NaN as well).

    Raises:
        GeometryError: if the shapes differ.
    """
    if tuple(fixed.shape) != tuple(warped.shape):
        raise GeometryError(
            f"landmark maps must share one shape, found {tuple(fixed.shape)} (fixed) and "
            f"{tuple(warped.shape)} (warped)"
        )
    ids, centres = _centroids(fixed)
    there = dict(zip(*_centroids(warped), strict=True))
    lost = np.full(3, np.nan)
    gap = (centres - np.array([there.get(i, lost) for i in ids]).reshape(-1, 3)) * spacing_mm
    return ids, np.asarray(np.linalg.norm(gap, axis=1), dtype=np.float64)


def _centroids(label_map: Array) -> tuple[tuple[int, ...], FloatArray]:
    """The labels above the background, ascending, and their mean voxel indices (n, 3)."""
    grid = as_tensor(label_map, torch.int64)
    voxels = torch.nonzero(grid)  # blobs are few voxels of many
    values, places = grid[tuple(voxels.T)].cpu().numpy(), voxels.cpu().numpy()
    ids, of_voxel = np.unique(values, return_inverse=True)
    count = np.bincount(of_voxel, minlength=len(ids))
    sums = [np.bincount(of_voxel, column, len(ids)) for column in places.T]
    return tuple(ids.tolist()), np.stack(sums, axis=1) / count[:, None]
