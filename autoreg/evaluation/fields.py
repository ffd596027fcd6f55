"""How well-behaved a displacement field is: folds, volume change, consistency with its inverse.

All functions take pull-back displacements in voxels of their own grid, (3, D, H, W), channel c
along array axis c. In these units the determinant of the Jacobian is that of the physical map,
whatever spacing and direction the grid has (`voxel_displacement` converts). Along an axis of one
voxel, as two-dimensional images have, the displacement is taken to be the same everywhere.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from autoreg.errors import GeometryError
from autoreg.evaluation.arrays import Array, as_tensor
from autoreg.geometry.grid import Geometry
from autoreg.numerics.jacobian import jacobian_determinant
from autoreg.numerics.tetrahedra import tetrahedron_determinants

# Voxels per slab: 10 determinants in float64 then need about 200 MB and stay near the caches.
_SLAB_VOXELS = 400_000
# Voxels per slab of the search for folds in float32: small enough for a processor's cache.
_SEARCH_VOXELS = 2**16
# Rounding of a determinant whose columns are at most (1 + s) long in each component, divided by
# (1 + s)^3: 80 roundings of 2^-24, eight times as much for the stars, and 2.6 to spare.
_ROUNDING = 1e-4
# Above this share of a slab, looking at single voxels takes longer than at all of them.
_MANY = 0.1


@dataclass(frozen=True)
class NonDiffeomorphicVolume:
    """Folds of a displacement, counted over the voxels at least one voxel off the border.

    Attributes:
        fraction: Non-diffeomorphic volume per voxel, V / |M| (times 100: NDV in per cent).
            NaN if no voxel is left in the mask.
        volume_vox: V in voxels.
        voxels: |M|.
        folded_voxels: Voxels whose central-difference determinant is not positive.
        folded_tetrahedra: Tetrahedra whose volume is not positive, each counting 0.1 voxel.
    """

    fraction: float
    volume_vox: float
    voxels: int
    folded_voxels: int
    folded_tetrahedra: float


def voxel_displacement(u_mm: Array, geometry: Geometry) -> Tensor:
    """A displacement in millimetres as one in voxels of its own grid.

    Args:
        u_mm: (D, H, W, 3) xyz, LPS mm, at the voxel centres of `geometry`.
        geometry: The grid.

    Returns:
        (3, D, H, W) float32, channels (d, h, w); with it `index + u_vox` is the world point
        `p + u_mm` seen in fractional indices of the same grid, so that Jacobian determinants of
        the index map and of the physical map are one.

    Raises:
        GeometryError: if the shapes do not fit.
    """
    if tuple(u_mm.shape) != (*geometry.shape, 3):
        raise GeometryError(
            f"a displacement on a grid of {geometry.shape} must be {(*geometry.shape, 3)}, found "
            f"{tuple(u_mm.shape)}"
        )
    field = as_tensor(u_mm, torch.float32)
    matrix = torch.from_numpy(geometry.world_to_index[:3, :3].copy()).to(field)
    return torch.einsum("ax,dhwx->adhw", matrix, field)


def ndv(u_vox: Array, mask: Array | None = None) -> NonDiffeomorphicVolume:
    """Non-diffeomorphic volume: the volume of folded tetrahedra, from ten per voxel.

    With T(p) = p + u(p), eight corner determinants J_s(p) = det[s_a (T(p + s_a e_a) - T(p))]_a
    and two of central tetrahedra J*, V = sum over p in M of 1/12 sum over the ten of
    max(0, -J(p)). Computed in float64.

    Args:
        u_vox: (3, D, H, W) displacement in voxels.
        mask: (D, H, W), M; default all voxels. The border voxels are left out in any case.

    Returns:
        The measures; `fraction` is NaN where a grid below 3 voxels per axis or an empty mask
        leaves no voxel.

    Raises:
        GeometryError: if the mask's shape is not that of the grid.

    References:
        Liu et al., On Finite Difference Jacobian Computation in Deformable Image Registration,
        IJCV 2024.
    """
    volume = tetrahedra = 0.0
    voxels = folded = 0
    for field, inside in _slabs(*_cropped(u_vox, mask), _SEARCH_VOXELS):
        voxels += int(inside.sum())
        for part, counted in _folding_parts(field, inside):
            central = jacobian_determinant(part)[:, 1:-1, 1:-1, 1:-1]
            folded += int(((central <= 0) & counted).sum())
            for _, determinant in tetrahedron_determinants(part):
                volume += float((determinant.clamp(max=0) * counted).sum()) / -12
                tetrahedra += int(((determinant <= 0) & counted).sum()) / 10
    fraction = volume / voxels if voxels else float("nan")
    return NonDiffeomorphicVolume(fraction, volume, voxels, folded, tetrahedra)


def _cropped(u_vox: Array, mask: Array | None) -> tuple[Array, Array | None]:
    """The box that holds the mask, and a voxel around it."""
    _require_mask_fits(u_vox, mask)
    if mask is None or min(mask.shape) < 3:
        return u_vox, mask
    inside = as_tensor(mask, torch.bool)
    for axis in range(3):
        others = [i for i in range(3) if i != axis]
        found = torch.nonzero(inside.amax(others)).flatten()
        if not found.numel():
            return u_vox, mask
        first = max(int(found[0]) - 1, 0)
        length = min(int(found[-1]) + 2, inside.shape[axis]) - first
        if length < 3:  # at a face, where no voxel counts
            return u_vox, mask
        inside = inside.narrow(axis, first, length)
        box = [slice(None)] * 4
        box[axis + 1] = slice(first, first + length)
        u_vox = u_vox[tuple(box)]
    return u_vox, inside


def _folding_parts(field: Tensor, inside: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The voxels of a slab that may fold, with all that their determinants need, in float64.

    Most determinants are far from 0, which float32 tells as well, at half the time. A central
    difference's determinant is the mean of the eight of the corners and needs no look of its own.

    Args:
        field: (3, d + 2, h + 2, w + 2).
        inside: (d, h, w), the voxels that count.

    Yields:
        Displacements (N, 3, d + 2, h + 2, w + 2), and which of their inner voxels count, to be
        broadcast to (N, d, h, w): the whole slab, or single voxels.
    """
    if field.dtype != torch.float32:
        yield field.to(torch.float64)[None], inside[None]
        return
    steepest = max(float(torch.diff(field, dim=axis).abs().max()) for axis in (1, 2, 3))
    least = torch.full(inside.shape, math.inf, device=field.device)
    for _, determinant in tetrahedron_determinants(field):
        torch.minimum(least, determinant, out=least)
    # Not `<=`: a number that is none may be anything.
    at = torch.nonzero(~(least > _ROUNDING * (1 + steepest) ** 3) & inside)
    if len(at) > _MANY * least.numel():
        yield field.to(torch.float64)[None], inside[None]
    elif len(at):
        around = torch.arange(3, device=field.device)
        d, h, w = (at[:, axis, None] + around for axis in range(3))
        parts = field[:, d[:, :, None, None], h[:, None, :, None], w[:, None, None, :]]
        yield parts.movedim(0, 1).to(torch.float64), inside.new_ones(1, 1, 1, 1)


def central_determinant(u_vox: Array, crop: int = 1) -> Tensor:
    """Jacobian determinant by central differences, in float64.

    Args:
        u_vox: (3, D, H, W) displacement in voxels.
        crop: Voxels left out at every face, at least 1, so that no one-sided difference enters.

    Returns:
        (D - 2 crop, H - 2 crop, W - 2 crop), 1 where the axis has one voxel; empty if the grid is
        smaller than that.
    """
    rows = [
        jacobian_determinant(field[None].to(torch.float64))[0, 1:-1, 1:-1, 1:-1]
        for field, _ in _slabs(u_vox, None, _SLAB_VOXELS)
    ]
    if not rows:
        return torch.zeros(0, 0, 0, dtype=torch.float64)
    inner = slice(crop - 1, 1 - crop or None)
    d, h, w = (slice(None) if n == 1 else inner for n in u_vox.shape[1:])
    return torch.cat(rows)[d, h, w]


def sdlogj(u_vox: Array, mask: Array | None = None, *, plus3: bool = True) -> float:
    """Standard deviation of the logarithm of the Jacobian determinant.

    SDlogJ = std(log(clip(J + 3, 1e-9, 1e9))), population standard deviation over the voxels at
    least two voxels off the border, in the mask if there is one.

    Args:
        u_vox: (3, D, H, W) displacement in voxels.
        mask: (D, H, W); default all voxels.
        plus3: Add 3 to the determinant, as Learn2Reg does in all its tables (values are then
            about a quarter). Without, folds count as J = 1e-9 and dominate the value.

    Returns:
        The value; NaN if no voxel is left.

    Raises:
        GeometryError: if the mask's shape is not that of the grid.
    """
    _require_mask_fits(u_vox, mask)
    determinant = central_determinant(u_vox, crop=2)
    if mask is not None:
        d, h, w = (slice(None) if n == 1 else slice(2, -2) for n in mask.shape)
        inner = as_tensor(mask, torch.bool)[d, h, w]
        determinant = determinant[inner.to(determinant.device)]
    if determinant.numel() == 0:
        return float("nan")
    shifted = determinant + 3 if plus3 else determinant
    return float(shifted.clamp(1e-9, 1e9).log().std(correction=0))


def _slabs(u_vox: Array, mask: Array | None, voxels: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Slabs of the field with one voxel around, and the mask of their inner voxels.

    Fields of float32 stay so; all others are float64.
    """
    _require_mask_fits(u_vox, mask)
    u_vox, mask = _thickened(u_vox, 1), None if mask is None else _thickened(mask, 0)
    shape = tuple(u_vox.shape[1:])
    if min(shape) < 3:
        return
    dtype = torch.float32 if u_vox.dtype in (torch.float32, np.float32) else torch.float64
    step = max(1, voxels // (shape[1] * shape[2]))
    for start in range(1, shape[0] - 1, step):
        stop = min(start + step, shape[0] - 1)
        field = as_tensor(u_vox[:, start - 1 : stop + 1], dtype)
        inner = (slice(start, stop), slice(1, -1), slice(1, -1))
        if mask is None:
            inside = torch.ones(field.shape[1:], dtype=torch.bool)[1:-1, 1:-1, 1:-1]
        else:
            inside = as_tensor(mask[inner], torch.bool)
        yield field, inside.to(field.device)


def _thickened(values: Array, first: int) -> Array:
    """Three equal layers along each axis of one voxel; `first` is the array's first axis."""
    for axis in range(first, first + 3):
        if values.shape[axis] == 1:
            sizes = [3 if i == axis else 1 for i in range(len(values.shape))]
            if isinstance(values, Tensor):
                values = values.repeat(sizes)
            else:
                values = np.tile(values, sizes)
    return values


def _require_mask_fits(u_vox: Array, mask: Array | None) -> None:
    if mask is not None and tuple(mask.shape) != tuple(u_vox.shape[1:]):
        raise GeometryError(
            f"the mask's shape {tuple(mask.shape)} differs from the displacement's grid "
            f"{tuple(u_vox.shape[1:])}"
        )
