"""The metrics of LUMIR's and Learn2Reg's evaluators in plain numpy and scipy, as they define them.

Slow and short on purpose: what autoreg computes is held against it, in value and in time.
Displacements are (3, D, H, W) in voxels, channel c along axis c; label maps (D, H, W).
"""

import itertools

import numpy as np
from scipy import ndimage

INNER = (slice(1, -1),) * 3


def warp(label_map, u):
    """Nearest neighbour; 0 outside."""
    return ndimage.map_coordinates(label_map, np.indices(u.shape[1:]) + u, order=0)


def dice(fixed, warped, moving, labels):
    """One value for each label; NaN where it is missing in the fixed or unwarped moving map."""
    scores = []
    for label in labels:
        in_fixed, in_warped = fixed == label, warped == label
        if not in_fixed.any() or not (moving == label).any():
            scores.append(np.nan)
            continue
        both = (in_fixed & in_warped).sum()
        scores.append(2 * both / (in_fixed.sum() + in_warped.sum()))
    return np.array(scores)


def tre_blobs(fixed, warped):
    """Distance of the centroids of each blob of the fixed map, voxels; NaN for a lost one."""
    errors = []
    for label in np.unique(fixed[fixed > 0]):
        places = [np.argwhere(volume == label) for volume in (fixed, warped)]
        if not len(places[1]):
            errors.append(np.nan)
            continue
        errors.append(np.linalg.norm(places[0].mean(0) - places[1].mean(0)))
    return np.array(errors)


def tre_points(u, fixed_vox, moving_vox, spacing_mm):
    """Cubic splines, no displacement outside; the spacing is the moving image's."""
    shift = np.stack([ndimage.map_coordinates(c, fixed_vox.T) for c in u.astype(np.float64)], 1)
    return np.linalg.norm((fixed_vox + shift - moving_vox) * spacing_mm, axis=1)


def ndv_fraction(u, mask):
    """Non-diffeomorphic volume per voxel of the mask, one voxel off the border."""
    place = np.indices(u.shape[1:]) + u.astype(np.float64)
    inside = mask[INNER]

    def step(*offset):
        there = tuple(
            slice(1 + o, n - 1 + o) for o, n in zip(offset, inside_shape(place), strict=True)
        )
        return place[(slice(None), *there)] - place[(slice(None), *INNER)]

    unit = np.eye(3, dtype=int)
    volume = 0.0
    for signs in itertools.product((1, -1), repeat=3):
        rows = [s * step(*(s * e)) for s, e in zip(signs, unit, strict=True)]
        volume += np.maximum(0, -determinant(*rows))[inside].sum() / 12
    for offsets in (
        ((-1, -1, 0), (-1, 0, -1), (0, -1, -1)),
        ((1, 1, 0), (0, 1, 1), (1, 0, 1)),
    ):
        rows = [step(*offset) for offset in offsets]
        volume += np.maximum(0, -determinant(*rows))[inside].sum() / 12
    return volume / inside.sum()


def inside_shape(place):
    """(D, H, W) of an array (3, D, H, W)."""
    return place.shape[1:]


def determinant(a, b, c):
    """Of the matrices with the rows a, b and c, each (3, ...)."""
    return (
        a[0] * (b[1] * c[2] - b[2] * c[1])
        - a[1] * (b[0] * c[2] - b[2] * c[0])
        + a[2] * (b[0] * c[1] - b[1] * c[0])
    )


def sdlogj(u, mask=None, plus=3.0):
    """Standard deviation of log(clip(J + plus)), two voxels off the border."""
    rows = [
        np.stack(np.gradient(c)) + np.eye(3)[i][:, None, None, None]
        for i, c in enumerate(u.astype(np.float64))
    ]
    crop = (slice(2, -2),) * 3
    jacobian = determinant(*rows)[crop] + plus
    if mask is not None:
        jacobian = jacobian[mask[crop]]
    return np.log(np.clip(jacobian, 1e-9, 1e9)).std()
