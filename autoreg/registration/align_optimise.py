"""Gauss-Newton on rigid and affine maps."""

import numpy as np

from autoreg.geometry.grid import FloatArray
from autoreg.registration.align_similarity import PairLevel, Similarity, Slope, slope

# Of the singular values of an affine map: what is beyond is no anatomy.
SCALES = (0.5, 2.0)
# Weight of squared strain against nats: keeps what the images don't determine near rigid.
_STRAIN = 0.02
# Levenberg-Marquardt: first damping, its factors after success and failure, and its upper end.
_DAMPING, _EASE, _TIGHTEN, _STUCK = 1e-2, 0.3, 8.0, 1e3
# Of either direction's share at the start that must be kept.
_KEPT_SHARE = 0.7
# Steps end when the foreground's surface moves by less than this many radii.
_SMALL_MOVE = 1e-3


def rigid_generators(normal: FloatArray | None) -> FloatArray:
    """Rotations and shifts, (6, 12); with the normal of a plane those within it, (3, 12)."""
    rows = []
    for axis in np.eye(3) if normal is None else normal[None]:
        x, y, z = axis
        turn = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        rows.append(np.concatenate([turn, np.zeros((3, 1))], axis=1).ravel())
    return np.array([*rows, *_shifts(normal)])


def affine_generators(normal: FloatArray | None) -> FloatArray:
    """All directions, (12, 12); with the normal of a plane those within it, (6, 12)."""
    rows = []
    plane = in_plane(normal)
    for a in plane:
        for b in plane:
            rows.append(np.concatenate([np.outer(a, b), np.zeros((3, 1))], axis=1).ravel())
    return np.array([*rows, *_shifts(normal)])


def in_plane(normal: FloatArray | None) -> FloatArray:
    """Orthonormal directions (2, 3) of a plane, or all three, (3, 3)."""
    if normal is None:
        return np.eye(3)
    return np.asarray(np.linalg.svd(normal[None])[2][1:], dtype=np.float64)


def _shifts(normal: FloatArray | None) -> list[FloatArray]:
    return [
        np.concatenate([np.zeros((3, 3)), a[:, None]], axis=1).ravel() for a in in_plane(normal)
    ]


def moved(pair: PairLevel, matrix: FloatArray, change: FloatArray) -> FloatArray:
    """The map after a change (P,) of the fixed image's points: matrix @ exp(change)."""
    small = np.zeros((4, 4))
    small[:3] = (change @ pair.generators).reshape(3, 4)
    step = _exponential(small)
    about = np.eye(4)
    about[:3, :3] *= pair.radius_mm
    about[:3, 3] = pair.centre_mm
    result = matrix @ about @ step @ np.linalg.inv(about)
    result[3] = (0, 0, 0, 1)
    return np.asarray(result, dtype=np.float64)


def _exponential(small: FloatArray) -> FloatArray:
    """Exp of a 4x4 matrix of norm 2 at most, to 1e-12: by its series."""
    result, term = np.eye(4), np.eye(4)
    for number in range(1, 25):
        term = term @ small / number
        result += term
    return result


def scales_of(matrix: FloatArray) -> FloatArray:
    """Singular values of the linear part, largest first."""
    return np.asarray(np.linalg.svd(matrix[:3, :3], compute_uv=False), dtype=np.float64)


def is_anatomical(matrix: FloatArray) -> bool:
    """Neither mirrored nor scaled beyond `SCALES`."""
    scales = scales_of(matrix)
    return bool(
        np.linalg.det(matrix[:3, :3]) > 0 and scales[0] <= SCALES[1] and scales[-1] >= SCALES[0]
    )


def optimise(pair: PairLevel, matrix: FloatArray, steps: int) -> tuple[FloatArray, Similarity, int]:
    """Maximise the similarity from a start.

    Args:
        pair: The images, with the directions that are free.
        matrix: 4x4 start.
        steps: At most so many accepted or refused steps.

    Returns:
        The map, its similarity, and the number of steps taken.
    """
    now, damping = slope(pair, matrix), _DAMPING
    least_shares = _KEPT_SHARE * now.shares
    taken = 0
    while taken < steps and damping < _STUCK:
        taken += 1
        gradient, hessian = _with_strain(pair, matrix, now.gradient, now.hessian)
        diagonal = np.diag(hessian) + 1e-9
        change = -np.asarray(np.linalg.solve(hessian + damping * np.diag(diagonal), gradient))
        change *= min(1.0, 0.4 / max(float(np.abs(change).max()), 1e-12))
        candidate = moved(pair, matrix, change)
        # Most steps succeed, so that the slope is taken at once.
        found = slope(pair, candidate)
        # With the shares held: a larger field of view in common must not outweigh a worse match.
        cost, before = (_cost(s, m, now.shares) for s, m in ((found, candidate), (now, matrix)))
        overlapping = bool((found.shares >= least_shares).all())
        if cost < before and overlapping and is_anatomical(candidate):
            matrix, now, damping = candidate, found, damping * _EASE
        else:
            damping *= _TIGHTEN
        if np.abs(change).max() < _SMALL_MOVE:
            break
    return matrix, now.similarity, taken


def _cost(found: Slope, matrix: FloatArray, shares: FloatArray) -> float:
    strain = scales_of(matrix) - 1
    return -float(shares @ found.logs) / len(shares) + 0.5 * _STRAIN * float(strain @ strain)


def _with_strain(
    pair: PairLevel, matrix: FloatArray, gradient: FloatArray, hessian: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Add what the strain costs: 1/2 weight |S - 1|^2 with the map's stretch S.

    A change D turns S into S + sym(S D), close to S + sym(D).
    """
    _, values, rows = np.linalg.svd(matrix[:3, :3])
    stretch = rows.T @ np.diag(values) @ rows - np.eye(3)
    changes = pair.generators.reshape(-1, 3, 4)[:, :, :3]
    symmetric = ((changes + changes.transpose(0, 2, 1)) / 2).reshape(-1, 9)
    return (
        gradient + _STRAIN * symmetric @ stretch.ravel(),
        hessian + _STRAIN * symmetric @ symmetric.T,
    )
