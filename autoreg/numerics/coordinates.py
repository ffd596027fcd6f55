"""Coordinates of grids: the one place that reverses axes for torch and fixes `align_corners`.

Two kinds of coordinates are in use, both with channels in array order (d, h, w):

- *index*: voxels of a grid; the centre of its first voxel is 0, that of its last one n - 1;
- *unit*: [0, 1] from the first to the last node of each axis, unit = index / (n - 1). They do not
  depend on the resolution, so that a coarse field is sampled at fine points as it stands.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

Size = Sequence[int]

_PARALLEL_POINTS = 2**16


def index_grid(
    shape: Size,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The index coordinates of all voxels of a grid.

    Args:
        shape: Voxels along (d, h, w).
        device: Where the result lives.
        dtype: Of the result.

    Returns:
        (1, 3, D, H, W).
    """
    axes = [torch.arange(n, device=device, dtype=dtype) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


def unit_grid(
    shape: Size,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The unit coordinates of all nodes of a grid; an axis of one node has the coordinate 0.

    The product i * (1 / (n - 1)) is taken in float64 and rounded once, as in the published
    GradICON (icon_registration, `identity_map`).

    Args:
        shape: Nodes along (d, h, w).
        device: Where the result lives.
        dtype: Of the result.

    Returns:
        (1, 3, D, H, W).
    """
    axes = [
        (torch.arange(n, dtype=torch.float64) * (1.0 / max(n - 1, 1))).to(dtype).to(device)
        for n in shape
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


def unit_to_index_displacement(u_unit: Tensor, shape: Size) -> Tensor:
    """A displacement in unit coordinates as one in voxels of a grid.

    Args:
        u_unit: (B, 3, ...).
        shape: Nodes of the grid whose voxels are meant, along (d, h, w).

    Returns:
        (B, 3, ...), each channel times n - 1.
    """
    return u_unit * _per_channel([n - 1 for n in shape], u_unit)


def index_to_unit_displacement(u_vox: Tensor, shape: Size) -> Tensor:
    """A displacement in voxels of a grid as one in unit coordinates.

    Args:
        u_vox: (B, 3, ...).
        shape: Nodes of the grid along (d, h, w).

    Returns:
        (B, 3, ...), each channel over n - 1; 0 along an axis of one node, which has no length.
    """
    return u_vox * _per_channel([1 / (n - 1) if n > 1 else 0.0 for n in shape], u_vox)


def slabs(shape: Size, voxels: int = 2**21) -> Iterator[slice]:
    """Cut a grid along its first axis, so that large grids are worked on piece by piece.

    Args:
        shape: Voxels along (d, h, w).
        voxels: The most that a slab may hold (one layer at least).

    Yields:
        Slices of the first axis, in order.
    """
    layers = max(1, voxels // max(1, shape[1] * shape[2]))
    for start in range(0, shape[0], layers):
        yield slice(start, min(start + layers, shape[0]))


def transformed_index_grid(
    matrix: Tensor, shape: Size, layers: slice, *, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Where an affine map takes the voxels of some layers of a grid.

    Args:
        matrix: 4x4 float64, on homogeneous array indices (d, h, w, 1); the result lives on its
            device. The sum is taken in float64 and rounded once.
        shape: Voxels along (d, h, w).
        layers: Which part of the first axis.
        dtype: Of the result.

    Returns:
        (1, 3, layers, H, W).
    """
    ranges = [layers, slice(0, shape[1]), slice(0, shape[2])]
    d, h, w = (
        torch.arange(r.start, r.stop, dtype=torch.float64, device=matrix.device) for r in ranges
    )
    rows = [
        (m[0] * d + m[3])[:, None, None] + ((m[1] * h)[:, None] + (m[2] * w)[None])[None]
        for m in matrix[:3]
    ]
    return torch.stack([row.to(dtype) for row in rows])[None]


def sample_unit_linear(volume: Tensor, points_unit: Tensor, padding: str) -> Tensor:
    """Trilinear interpolation at unit coordinates.

    Args:
        volume: (B, C, d, h, w), floating point.
        points_unit: (B, 3, D, H, W) of the same batch, type and device.
        padding: "border" or "zeros", torch's meaning.

    Returns:
        (B, C, D, H, W).
    """
    return _grid_sample(volume, _to_sampler(points_unit * 2 - 1), padding, align_corners=True)


def sample_index_linear(volume: Tensor, points_vox: Tensor, padding: str) -> Tensor:
    """Trilinear interpolation at index coordinates.

    Torch's other convention is used here, since only that one can say "outside" along an axis
    of a single voxel.

    Args:
        volume: (B, C, d, h, w), floating point.
        points_vox: (B, 3, D, H, W) of the same batch, type and device.
        padding: "border" or "zeros", torch's meaning.

    Returns:
        (B, C, D, H, W).
    """
    return _grid_sample(volume, _index_to_sampler(volume, points_vox), padding, align_corners=False)


def index_linear_gradients(
    cotangent: Tensor, volume: Tensor, points_vox: Tensor, padding: str, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    """What `sample_index_linear` passes back, without the forward pass that autograd needs.

    Args:
        cotangent: (B, C, D, H, W).
        volume: (B, C, d, h, w).
        points_vox: (B, 3, D, H, W).
        padding: As for `sample_index_linear`.
        wanted: Whether by the volume, and by the points; the other one is not computed.

    Returns:
        (B, C, d, h, w), at each voxel the sum of the cotangents by the voxel's weights; and
        (B, 3, D, H, W).
    """
    mode, outside = 0, ("zeros", "border").index(padding)  # torch's numbers; mode 0: linear
    at_volume, at_grid = torch.ops.aten.grid_sampler_3d_backward(
        cotangent, volume, _index_to_sampler(volume, points_vox), mode, outside, False, wanted
    )
    if not wanted[1]:
        return at_volume, at_grid
    per_index = 2 / _per_channel(volume.shape[2:], points_vox)
    return at_volume, at_grid.movedim(-1, 1).flip(1) * per_index


def index_linear_slopes(volume: Tensor, points_vox: Tensor, padding: str) -> Tensor:
    """The derivatives of `sample_index_linear` by its points.

    Args:
        volume: (B, C, d, h, w).
        points_vox: (B, 3, D, H, W).
        padding: As for `sample_index_linear`.

    Returns:
        (B, C, 3, D, H, W), derivatives along (d, h, w) per voxel of the volume. With "border" 0
        along an axis on and beyond whose ends a point lies.
    """
    ones = torch.ones_like(points_vox[:, :1])
    slopes = [
        index_linear_gradients(ones, channel, points_vox, padding, (False, True))[1]
        for channel in torch.split(volume, 1, dim=1)
    ]
    return torch.stack(slopes, dim=1)


def sampler_terms(size: int) -> tuple[float, float]:
    """How index coordinates along an axis become those of `sample_prepared`: factor and shift.

    Args:
        size: Voxels of the volume along the axis.
    """
    return 2 / size, 1 / size - 1


def sample_prepared(volume: Tensor, grid: Tensor, padding: str) -> Tensor:
    """Trilinear interpolation at coordinates that are laid out for torch already; see its callers.

    Args:
        volume: (1, C, d, h, w), floating point.
        grid: (D, H, W, 3): along w, h and d, index coordinates times the factor plus the shift of
            `sampler_terms`.
        padding: "border" or "zeros", torch's meaning.

    Returns:
        (C, D, H, W).
    """
    return _grid_sample(volume, grid[None], padding, align_corners=False)[0]


def _grid_sample(volume: Tensor, grid: Tensor, padding: str, *, align_corners: bool) -> Tensor:
    def sample(volume: Tensor, grid: Tensor) -> Tensor:
        return functional.grid_sample(
            volume, grid, "bilinear", padding, align_corners=align_corners
        )

    threads, shape = torch.get_num_threads(), grid.shape[1:4]
    differentiated = torch.is_grad_enabled() and (volume.requires_grad or grid.requires_grad)
    small = shape.numel() < _PARALLEL_POINTS
    if threads == 1 or grid.shape[0] > 1 or grid.is_cuda or differentiated or small:
        return sample(volume, grid)
    # On the CPU torch gives each sample of the batch one thread: cut the points into a batch.
    points = grid.reshape(-1, 3)
    each = points.shape[0] // threads
    pieces = points[: each * threads].reshape(threads, 1, 1, each, 3)
    values = sample(volume.expand(threads, *volume.shape[1:]), pieces).movedim(0, 1).flatten(1)
    rest = sample(volume, points[each * threads :].view(1, 1, 1, -1, 3)).flatten(2)[0]
    return torch.cat([values, rest], dim=1).view(1, -1, *shape)


def _index_to_sampler(volume: Tensor, points_vox: Tensor) -> Tensor:
    size = _per_channel(volume.shape[2:], points_vox)
    return _to_sampler((points_vox * 2 + 1) / size - 1)


def _to_sampler(grid: Tensor) -> Tensor:
    return grid.flip(1).permute(0, 2, 3, 4, 1)  # torch wants (w, h, d) in the last axis


def _per_channel(values: Sequence[float], like: Tensor) -> Tensor:
    factors = torch.tensor(list(values), dtype=like.dtype, device=like.device)
    return factors.view(1, -1, *([1] * (like.dim() - 2)))
