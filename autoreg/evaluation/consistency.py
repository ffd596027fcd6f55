"""Inverse consistency: does the exported inverse undo the exported displacement?"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from autoreg.evaluation.arrays import Array, as_tensor
from autoreg.geometry.grid import Geometry
from autoreg.numerics.coordinates import slabs, transformed_index_grid
from autoreg.numerics.warp import sample_at_index


@dataclass(frozen=True)
class InverseConsistency:
    """Distance |p - T_inverse(T(p))| over the fixed voxels that land inside the moving grid.

    Attributes:
        mean_mm: Its mean; NaN if no voxel lands inside.
        p95_mm: Its 95th percentile.
        overlap_fraction: Share of the fixed grid's voxels that land inside.
    """

    mean_mm: float
    p95_mm: float
    overlap_fraction: float


def inverse_consistency(
    u_mm: Array,
    fixed_geometry: Geometry,
    inverse_mm: Array,
    moving_geometry: Geometry,
    device: torch.device | str = "cpu",
) -> InverseConsistency:
    """Compose a displacement with its inverse, each given on its own grid.

    The error at a fixed voxel p is |u(p) + v(p + u(p))|, with the inverse v interpolated
    trilinearly. Points beyond the centres of the moving grid's outer voxels are left out, so that
    nothing is extrapolated.

    Args:
        u_mm: (D, H, W, 3) fixed to moving, xyz LPS mm, on `fixed_geometry`.
        fixed_geometry: Grid of the fixed image.
        inverse_mm: (d, h, w, 3) moving to fixed, on `moving_geometry`.
        moving_geometry: Grid of the moving image.
        device: Where to compute.
    """
    field = as_tensor(u_mm, torch.float32).to(device).movedim(-1, 0)
    inverse = as_tensor(inverse_mm, torch.float32).to(device).movedim(-1, 0)[None]
    to_moving = torch.from_numpy(moving_geometry.world_to_index @ fixed_geometry.index_to_world)
    world_to_index = torch.from_numpy(moving_geometry.world_to_index[:3, :3].copy()).to(field)
    last = torch.tensor(moving_geometry.shape, device=field.device).view(3, 1, 1, 1) - 1
    slack = torch.where(last == 0, 0.5, 0.0)  # the whole of a single layer
    errors: list[Tensor] = []
    for layers in slabs(fixed_geometry.shape):
        u = field[:, layers]
        start = transformed_index_grid(to_moving.to(field.device), fixed_geometry.shape, layers)[0]
        landing = start + torch.einsum("ax,xdhw->adhw", world_to_index, u)
        inside = ((landing >= -slack) & (landing <= last + slack)).all(0)
        back = sample_at_index(inverse, landing[None])[0]
        errors.append((u + back).norm(dim=0)[inside])
    return _summarise(torch.cat(errors).cpu().numpy(), int(np.prod(fixed_geometry.shape)))


def _summarise(errors_mm: np.ndarray, voxels: int) -> InverseConsistency:
    if errors_mm.size == 0:
        return InverseConsistency(float("nan"), float("nan"), 0.0)
    return InverseConsistency(
        mean_mm=float(errors_mm.mean(dtype=np.float64)),
        p95_mm=float(np.percentile(errors_mm, 95)),
        overlap_fraction=errors_mm.size / voxels,
    )
