"""Regularity of maps and displacement fields, as losses: 0 is perfectly regular."""

from collections.abc import Callable

import torch
from torch import Tensor

from autoreg.losses.average import bind_average, require_mask_fits
from autoreg.network_plan import Triple
from autoreg.numerics.coordinates import Size, unit_grid

UnitMap = Callable[[Tensor], Tensor]


def gradicon(
    map_outer: UnitMap, map_inner: UnitMap, points_unit: Tensor, delta: float = 1e-3
) -> Tensor:
    """The GradICON penalty on the gradient of the inverse-consistency error.

    With e(x) = x - outer(inner(x)): sum over the axes a of mean(((e(x) - e(x + delta_a)) /
    delta)^2), where delta_a is a shift along a and the mean is over batch, components and points.

    Args:
        map_outer: Function from points (B or 1, 3, d, h, w) in unit coordinates to points.
        map_inner: The same.
        points_unit: (B or 1, 3, d, h, w), where the gradient is taken.
        delta: Step of the finite difference, unit coordinates.

    Returns:
        Scalar.

    References:
        Tian et al., GradICON: approximate diffeomorphisms via gradient inverse consistency,
        CVPR 2023.
    """
    shifts = delta * torch.eye(3, dtype=points_unit.dtype, device=points_unit.device)
    # The four sets of points go through the chain side by side along the first spatial axis. In
    # double precision: in single precision the difference over 1e-3 carries 1e-4 of rounding, and
    # one point that changes its grid cell by rounding has moved the gradient by 3e-3 (66^3).
    points = torch.cat(
        [points_unit, *(points_unit + shift.view(1, 3, 1, 1, 1) for shift in shifts)], dim=2
    ).double()
    error = points - map_outer(map_inner(points))
    here, *shifted = error.chunk(4, dim=2)
    terms = [((here - there) / delta).square().mean() for there in shifted]
    return torch.stack(terms).sum().to(points_unit.dtype)


def gradicon_points(shape: Size, noise: Tensor) -> Tensor:
    """The points at which GradICON is taken: every second node, moved at random by two voxels.

    As published, the last axis alone fixes the size of the move for all components.

    Args:
        shape: Nodes of the grid along (d, h, w).
        noise: Standard normal, (1, 3, ceil(D / 2), ceil(H / 2), ceil(W / 2)).

    Returns:
        Unit coordinates, shaped like `noise`.
    """
    nodes = unit_grid(shape, device=noise.device, dtype=noise.dtype)[:, :, ::2, ::2, ::2]
    return nodes + 2 * noise / shape[-1]


def draw_gradicon_points(
    shape: Size, generator: torch.Generator, device: torch.device | str | None = None
) -> Tensor:
    """Draw the points of `gradicon_points`.

    Args:
        shape: Nodes of the grid along (d, h, w).
        generator: Draws on its own device, so that a CPU generator gives the same points to
            every device.
        device: Where the result lives.

    Returns:
        (1, 3, ceil(D / 2), ceil(H / 2), ceil(W / 2)), unit coordinates, float32.
    """
    size = (1, 3, *((n + 1) // 2 for n in shape))
    noise = torch.randn(size, generator=generator, device=generator.device)
    return gradicon_points(shape, noise.to(device))


def diffusion(
    u_vox: Tensor, mask: Tensor | None = None, spacing_mm: Triple = (1.0, 1.0, 1.0)
) -> Tensor:
    """Mean squared first derivative of a displacement: (1/3) sum_a mean_c (h_c/h_a D_a u_c)^2.

    D_a is the difference of neighbouring voxels along axis a, h the spacing: the derivative is
    that of the displacement in millimetres by millimetres. The mean is over batch, components and
    positions (those with both voxels in the mask). This is SITReg's "gradient loss", with a mean
    over both directions in the objective as there. As our similarity is the sum over both
    directions, and theirs the mean, a weight of 2 is their (and VoxelMorph's and TransMorph's) 1.

    Args:
        u_vox: (B, 3, D, H, W), voxels.
        mask: (B, 1, D, H, W), not 0 where the penalty counts.
        spacing_mm: Along (d, h, w); its unit does not matter.

    Returns:
        Scalar without unit.

    Raises:
        GeometryError: if the mask does not fit.

    References:
        Honkamaa and Marttinen, New multi-resolution deformation architecture (SITReg), MELBA 2024.
    """
    if mask is not None:
        require_mask_fits(mask, u_vox)
    terms = []
    for axis in range(3):
        slope, inside = _difference(u_vox, mask, axis)
        ratios = [spacing / spacing_mm[axis] for spacing in spacing_mm]
        if ratios != [1.0, 1.0, 1.0]:
            slope = slope * slope.new_tensor(ratios).view(1, 3, 1, 1, 1)
        terms.append(_mean_square(slope, inside))
    return torch.stack(terms).mean()


def bending(u_vox: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared second derivative of a displacement: (1/9) sum_ab mean((D_a D_b u)^2).

    D_a is the difference of neighbouring voxels along axis a; the mean is over batch, components
    and positions (those with all their voxels in the mask). 0 for an affine displacement.

    Args:
        u_vox: (B, 3, D, H, W), voxels.
        mask: (B, 1, D, H, W), not 0 where the penalty counts.

    Returns:
        Scalar, 1 / voxel^2.

    Raises:
        GeometryError: if the mask does not fit.

    References:
        Rueckert et al., Nonrigid registration using free-form deformations, IEEE TMI 1999.
    """
    if mask is not None:
        require_mask_fits(mask, u_vox)
    first = [_difference(u_vox, mask, axis) for axis in range(3)]
    terms = [
        (1 if a == b else 2) * _mean_square(*_difference(*first[a], b))
        for a in range(3)
        for b in range(a, 3)
    ]
    return torch.stack(terms).sum() / 9


def _difference(u: Tensor, mask: Tensor | None, axis: int) -> tuple[Tensor, Tensor | None]:
    dim, size = axis + 2, u.shape[axis + 2]
    if mask is not None:
        steps = max(size - 1, 0)
        mask = (mask.narrow(dim, 0, steps) != 0) & (mask.narrow(dim, size - steps, steps) != 0)
    return u.diff(dim=dim), mask


def _mean_square(values: Tensor, mask: Tensor | None) -> Tensor:
    if values.numel() == 0:  # an axis too short to have this derivative
        return values.sum()
    return bind_average(values, mask)(values.square())
