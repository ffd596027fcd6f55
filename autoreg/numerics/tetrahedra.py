"""Determinants of the tetrahedra around each voxel, by which folds are found and measured."""

import itertools
from collections.abc import Iterator

from torch import Tensor

_Vectors = tuple[Tensor, Tensor, Tensor]  # three components, each (..., D - 2, H - 2, W - 2)
_Offset = tuple[int, int, int]
_STAR_1: tuple[_Offset, ...] = ((-1, -1, 0), (-1, 0, -1), (0, -1, -1))
_STAR_2: tuple[_Offset, ...] = ((1, 1, 0), (0, 1, 1), (1, 0, 1))


def tetrahedron_determinants(u_vox: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The ten determinants at every inner voxel, one after the other.

    With T(p) = p + u(p): eight corners det[s_a (T(p + s_a e_a) - T(p))]_a, which are 1 for the
    identity, and the central tetrahedra of the two ways to cut a cube into five, which are 2. Each
    is six times the signed volume of a tetrahedron. Differentiable.

    Args:
        u_vox: (..., 3, D, H, W), voxels, channels (d, h, w).

    Yields:
        Names and (..., D - 2, H - 2, W - 2) maps: the corners "+++" ... "---" (signs along d, h,
        w), "star_1" and "star_2".

    References:
        Liu et al., On Finite Difference Jacobian Computation in Deformable Image Registration,
        IJCV 2024.
    """
    steps: tuple[_Offset, ...] = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    forward = [_edge(u_vox, step, 1) for step in steps]
    backward = [_edge(u_vox, step, -1) for step in steps]
    for sign_d, sign_h in itertools.product("+-", repeat=2):
        first = forward[0] if sign_d == "+" else backward[0]
        second = forward[1] if sign_h == "+" else backward[1]
        normal = _cross(first, second)  # shared by two corners
        yield f"{sign_d}{sign_h}+", _dot(normal, forward[2])
        yield f"{sign_d}{sign_h}-", _dot(normal, backward[2])
    for name, offsets in (("star_1", _STAR_1), ("star_2", _STAR_2)):
        a, b, c = (_edge(u_vox, offset, 1) for offset in offsets)
        yield name, _dot(_cross(a, b), c)


def determinant(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """The determinants of the matrices with the columns a, b and c, each (3, ...)."""
    return _dot(_cross((a[0], a[1], a[2]), (b[0], b[1], b[2])), (c[0], c[1], c[2]))


def _edge(u_vox: Tensor, offset: _Offset, sign: int) -> _Vectors:
    """The vectors sign * (T(p + sign * offset) - T(p)) at the inner voxels."""
    inner = slice(1, -1)
    shifted = [
        slice(1 + sign * step, size - 1 + sign * step)
        for step, size in zip(offset, u_vox.shape[-3:], strict=True)
    ]

    def component(axis: int) -> Tensor:
        u = u_vox[..., axis, :, :, :]
        d, h, w = shifted
        there, here = u[..., d, h, w], u[..., inner, inner, inner]
        change = there - here if sign > 0 else here - there
        return change + offset[axis] if offset[axis] else change

    return component(0), component(1), component(2)


def _cross(a: _Vectors, b: _Vectors) -> _Vectors:
    return (
        a[1] * b[2] - a[2] * b[1],
        a[2] * b[0] - a[0] * b[2],
        a[0] * b[1] - a[1] * b[0],
    )


def _dot(a: _Vectors, b: _Vectors) -> Tensor:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
