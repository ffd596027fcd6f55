"""Soft Dice overlap of label maps as a loss."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from autoreg.errors import GeometryError
from autoreg.numerics.coordinates import slabs

# Points per piece: its graph takes some 60 MB and is built anew in the backward pass.
_SLAB_VOXELS = 2**18


def soft_dice_loss(
    moving: Tensor, fixed: Tensor, points_unit: Tensor, labels: Sequence[int] = ()
) -> Tensor:
    """1 - the mean soft Dice of a linearly warped label map and a fixed one.

        loss = 1 - mean_k 2 sum_p w_k(p) f_k(p) / (sum_p w_k(p) + sum_p f_k(p))

    over the structures k that either map holds; f_k is 1 where the fixed map is k, else 0, and
    w_k the same of the moving map, sampled trilinearly at the points with zeros outside.

    Neither f_k nor w_k is ever stored: a point adds its eight weights to the sums of the labels
    that it finds, so that time and memory do not depend on the number of structures.

    Args:
        moving: (d, h, w) integers.
        fixed: (D, H, W) integers.
        points_unit: (3, D, H, W), where the map takes the nodes of the fixed grid: unit
            coordinates of the moving one.
        labels: Structures that count; empty: all values but 0.

    Returns:
        Scalar in [0, 1]; 0 without any structure.

    Raises:
        GeometryError: if the points are not those of the fixed map's nodes.

    References:
        Milletari et al., V-Net, 3DV 2016; the denominator without squares as in Balakrishnan et
        al., VoxelMorph, IEEE TMI 2019 (for one-hot maps both are the same).
    """
    if tuple(points_unit.shape) != (3, *fixed.shape):
        raise GeometryError(
            f"points of shape {(3, *fixed.shape)} were expected for a fixed label map of shape "
            f"{tuple(fixed.shape)}, found {tuple(points_unit.shape)}"
        )
    moving, fixed, count = _numbered(moving, fixed, labels)
    if count == 0:
        return points_unit.sum() * 0
    pieces = [
        checkpoint(
            _sums,
            moving,
            fixed[layers],
            points_unit[:, layers],
            count,
            use_reentrant=False,
            preserve_rng_state=False,
        )
        for layers in slabs(fixed.shape, _SLAB_VOXELS)
    ]
    shared, warped = torch.stack(pieces).sum(0)
    in_fixed, in_moving = (
        torch.bincount(one.flatten(), minlength=count + 1) for one in (fixed, moving)
    )
    # A structure that the fixed map lacks has no overlap: 0, whatever the denominator is.
    dice = 2 * shared / (warped + in_fixed).clamp(min=1)
    present = (in_fixed + in_moving)[1:] > 0
    loss: Tensor = 1 - dice[1:][present].mean()
    return loss


def _numbered(moving: Tensor, fixed: Tensor, labels: Sequence[int]) -> tuple[Tensor, Tensor, int]:
    """Both maps with the structures numbered from 1; 0: does not count."""
    moving, fixed = moving.to(torch.int32), fixed.to(torch.int32)
    wanted = torch.tensor(sorted(set(labels)), dtype=torch.int32, device=fixed.device)
    if not labels:
        wanted = _values(torch.cat([_values(moving), _values(fixed)]))
        wanted = wanted[wanted != 0]
    if wanted.numel() == 0:
        return moving, fixed, 0

    def numbered(values: Tensor) -> Tensor:
        number = torch.searchsorted(wanted, values, out_int32=True).clamp(max=len(wanted) - 1)
        found: Tensor = torch.where(wanted[number] == values, number + 1, 0)
        return found

    moving, fixed = numbered(moving), numbered(fixed)
    is_any = bool((moving > 0).any() or (fixed > 0).any())
    return moving, fixed, len(wanted) if is_any else 0


def _values(label_map: Tensor) -> Tensor:
    found: Tensor = torch.unique(label_map)
    return found


def _sums(moving: Tensor, fixed: Tensor, points_unit: Tensor, count: int) -> Tensor:
    """Of each structure sum_p w_k f_k and sum_p w_k over some points, (2, count + 1)."""
    sizes, found = moving.shape, fixed.flatten()
    index = [unit.flatten() * (size - 1) for unit, size in zip(points_unit, sizes, strict=True)]
    lower = [one.detach().floor() for one in index]
    shared, warped = points_unit.new_zeros(2, count + 1)
    for corner in torch.cartesian_prod(*[torch.arange(2)] * 3).tolist():
        weight, place = torch.ones_like(index[0]), torch.zeros_like(found, dtype=torch.int64)
        for coordinate, low, upper, size in zip(index, lower, corner, sizes, strict=True):
            share = coordinate - low if upper else 1 + low - coordinate
            node = low + upper
            weight = torch.where((node >= 0) & (node < size), weight * share, 0)
            place = place * size + node.nan_to_num(0).clamp(0, size - 1).to(torch.int64)
        label = moving.flatten()[place]
        warped = warped.index_add(0, label, weight)
        shared = shared.index_add(0, found, torch.where(label == found, weight, 0))
    return torch.stack([shared, warped])
