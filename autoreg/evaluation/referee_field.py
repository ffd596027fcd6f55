"""A displacement as referees of challenges see it: voxels to voxels, without a world.

The voxel with the index i of the fixed image corresponds to the index i + u(i) of the moving one.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoreg.errors import GeometryError
from autoreg.evaluation.arrays import Array, as_tensor
from autoreg.geometry.grid import Geometry
from autoreg.numerics.coordinates import slabs

# Rounding of the two headers' matrices, not a shift: a coordinate of -1e-14 would lie outside.
INDEX_DECIMALS = 10
# Nodes of a slab; its float64 coordinates then stay near the processor's caches.
_SLAB_NODES = 2**16


def index_displacement(
    u_mm: NDArray[np.float32], fixed: Geometry, moving: Geometry
) -> NDArray[np.float32]:
    """A displacement in millimetres as one from indices of the fixed to those of the moving image.

    Args:
        u_mm: (D, H, W, 3) fixed to moving, xyz LPS mm, on `fixed`.
        fixed: Grid of the fixed image.
        moving: Grid of the moving image.

    Returns:
        (3, D, H, W) voxels, channels (d, h, w). The difference of the two headers is part of it.

    Raises:
        GeometryError: if the displacement is not on the grid of the fixed image.
    """
    if tuple(u_mm.shape) != (*fixed.shape, 3):
        raise GeometryError(
            f"a displacement on a grid of {fixed.shape} must be {(*fixed.shape, 3)}, found "
            f"{tuple(u_mm.shape)}"
        )
    linear = moving.world_to_index[:3, :3].round(INDEX_DECIMALS)
    between = (moving.world_to_index @ fixed.index_to_world - np.eye(4)).round(INDEX_DECIMALS)
    axes = [np.arange(n, dtype=np.float64) for n in fixed.shape]
    u_vox = np.empty((3, *fixed.shape), np.float32)
    for a in range(3):
        d, h, w = (between[a, i] * axes[i] for i in range(3))
        plane = h[:, None] + w + between[a, 3]
        for layer in range(fixed.shape[0]):
            u_vox[a, layer] = u_mm[layer] @ linear[a] + (plane + d[layer])
    return u_vox


def nearest_sources(u_vox: Array, shape: tuple[int, int, int]) -> Tensor:
    """Which voxel of the moving image a nearest-neighbour warp takes for each fixed voxel.

    As `scipy.ndimage.map_coordinates(..., order=0)` decides: halves are rounded up, and whatever
    lies beyond the centres of the outermost voxels, by however little, is outside.

    Args:
        u_vox: (3, D, H, W) voxels.
        shape: Of the moving image.

    Returns:
        (D, H, W) int64, flat indices into the moving image; -1 outside.
    """
    grid = (u_vox.shape[1], u_vox.shape[2], u_vox.shape[3])
    device = u_vox.device if isinstance(u_vox, Tensor) else torch.device("cpu")
    sources = torch.empty(grid, dtype=torch.int64, device=device)
    for layers in slabs(grid, _SLAB_NODES):
        index = torch.zeros((), dtype=torch.int64, device=device)
        inside = torch.ones((), dtype=torch.bool, device=device)
        for axis, size in enumerate(shape):
            start, stop = (layers.start, layers.stop) if axis == 0 else (0, grid[axis])
            own = torch.arange(start, stop, dtype=torch.float64, device=device)
            # float32 would round the sum, and with it ties and what lies just outside
            place = as_tensor(u_vox[axis, layers], torch.float64)
            place = place + own.view([-1 if i == axis else 1 for i in range(3)])
            inside = inside & (place >= 0) & (place <= size - 1)
            index = index * size + place.add_(0.5).floor_().to(torch.int64)
        sources[layers] = torch.where(inside, index, -1)
    return sources


def pulled(label_map: Array, sources: Tensor) -> Tensor:
    """A label map warped onto the fixed grid; 0 where there is no source.

    Args:
        label_map: (d, h, w) of the moving image.
        sources: (D, H, W) from `nearest_sources`, for the shape of `label_map`.

    Returns:
        (D, H, W) int64.
    """
    values = as_tensor(label_map, torch.int64).to(sources.device).flatten()
    beyond = torch.zeros(1, dtype=values.dtype, device=values.device)
    return torch.cat((values, beyond))[sources]
