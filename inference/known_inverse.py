"""The inverse of a transform where a good guess of it is known: a step or two make it exact."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoreg.geometry.grid import FloatArray, Geometry
from autoreg.geometry.transforms import (
    Affine,
    Composite,
    DisplacementField,
    InverseDisplacementField,
)
from autoreg.numerics.coordinates import (
    sample_index_linear,
    slabs,
    transformed_index_grid,
)
from autoreg.numerics.fold_scan import surely_unfolded
from autoreg.numerics.folding import folded_cells

# A guess is improved until nothing is further off, in voxels of the field.
_TOLERANCE_VOX = 0.01
# Of all points, where more than this share is off; and of those that are off by themselves.
_MANY = 0.3
_STEPS_TOGETHER = 2
_STEPS_ALONE = 30
_SLAB_VOXELS = 2**19


def inverse_on_grid(
    field: DisplacementField, rest: Affine, backward: DisplacementField, geometry: Geometry
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The inverse of T(p) = rest(p + u(p)) at the voxels of a grid, from a guess v of u's inverse.

    With y the point before `rest`, p = y - u(p) is iterated from p = y + v(y), which contracts
    wherever u changes by less than a voxel from voxel to voxel; the few points that are left are
    solved for one by one. A point that is found may still be one of several, where u folds.

    Args:
        field: u.
        rest: What follows it.
        backward: v, on the grid of `field`.
        geometry: Where the inverse is wanted: the moving image's grid.

    Returns:
        As `autoreg.geometry.transforms.invert_on_grid`.
    """
    to_field = field.geometry.world_to_index @ rest.inverse().matrix @ geometry.index_to_world
    to_mm = torch.from_numpy(field.geometry.index_to_world.copy())
    world = torch.from_numpy(geometry.index_to_world.copy())
    residual_to_mm = rest.matrix[:3, :3] @ field.geometry.index_to_world[:3, :3]
    u, v = (torch.from_numpy(f.u_vox)[None] for f in (field, backward))
    u_mm = np.empty((*geometry.shape, 3), dtype=np.float32)
    residual_mm = np.empty(geometry.shape, dtype=np.float32)
    solver = InverseDisplacementField(field)
    folds = None if surely_unfolded(u) else folded_cells(u)
    for layers in slabs(geometry.shape, _SLAB_VOXELS):
        y = transformed_index_grid(torch.from_numpy(to_field), geometry.shape, layers)
        p, left = _improved(u, y, y + sample_index_linear(v, y, "border"))
        length = _lengths(left, residual_to_mm)
        points = _world(to_mm, p)
        lost = (left.abs().amax(1)[0] > _TOLERANCE_VOX).numpy()
        if lost.any():
            goals = _world(to_mm, y)[lost]
            points[lost], known = solver.solve(goals)
            length[lost] = _left_mm(field, rest, points[lost], goals)
            length[lost] = np.where(known, length[lost], np.inf)
        if folds is not None:
            length.reshape(-1)[folds.covers(y[0].reshape(3, -1)).numpy()] = np.inf
        nodes = transformed_index_grid(world, geometry.shape, layers, dtype=torch.float64)
        u_mm[layers] = points - np.moveaxis(nodes[0].numpy(), 0, -1)
        residual_mm[layers] = length
    return u_mm, residual_mm


def known_parts(
    transform: Composite, inverse: Composite | None
) -> tuple[DisplacementField, Affine, DisplacementField] | None:
    """A displacement, the affine map after it, and the displacement's inverse; None if not so."""
    match (transform.transforms, None if inverse is None else inverse.transforms):
        case (
            (DisplacementField() as field, Affine() as rest),
            (Affine(), DisplacementField() as backward),
        ):
            return field, rest, backward
    return None


def _improved(u: Tensor, y: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """Better points, and what is left of p + u(p) - y; (1, 3, D, H, W), voxels."""
    p, left = _steps(u, y, p, 0)
    far = _far(left)
    if float(far.float().mean()) > _MANY:
        p, left = _steps(u, y, p, _STEPS_TOGETHER)
        far = _far(left)
    if bool(far.any()):  # a few points, where the displacement is steep
        rows = [x[0][:, far][None, :, None, None] for x in (y, p)]
        better, still = _steps(u, rows[0], rows[1], _STEPS_ALONE)
        p[0][:, far], left[0][:, far] = better[0, :, 0, 0], still[0, :, 0, 0]
    return p, left


def _far(left: Tensor) -> Tensor:
    return left[0].abs().amax(0) > _TOLERANCE_VOX / 2


def _steps(u: Tensor, y: Tensor, p: Tensor, most: int) -> tuple[Tensor, Tensor]:
    left = p + sample_index_linear(u, p, "border") - y
    for _ in range(most):
        if float(left.abs().max()) <= _TOLERANCE_VOX / 2:
            break
        p = p - left
        left = p + sample_index_linear(u, p, "border") - y
    return p, left


def _world(to_mm: Tensor, index: Tensor) -> FloatArray:
    """Index coordinates (1, 3, D, H, W) as world points (D, H, W, 3), float64."""
    points = torch.einsum("xa,adhw->dhwx", to_mm[:3, :3], index[0].double()) + to_mm[:3, 3]
    return np.asarray(points.numpy(), dtype=np.float64)


def _lengths(left_vox: Tensor, to_mm: FloatArray) -> NDArray[np.float32]:
    """(D, H, W) millimetres of vectors (1, 3, D, H, W) in voxels."""
    matrix = torch.from_numpy(to_mm.copy()).to(left_vox)
    length: NDArray[np.float32] = (
        torch.einsum("xa,adhw->xdhw", matrix, left_vox[0]).norm(dim=0).numpy()
    )
    return length


def _left_mm(
    field: DisplacementField, rest: Affine, points_mm: FloatArray, goals_mm: FloatArray
) -> NDArray[np.float32]:
    """How far points (N, 3) land from their goals, which lie before `rest`."""
    gap = (field.map_points(points_mm) - goals_mm) @ rest.matrix[:3, :3].T
    return np.asarray(np.linalg.norm(gap, axis=1), dtype=np.float32)
