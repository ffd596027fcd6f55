"""Composition of displacement fields."""

from torch import Tensor

from autoreg.numerics.warp import warp


def compose(outer_vox: Tensor, inner_vox: Tensor) -> Tensor:
    """The displacement of p -> outer(inner(p)): `u(p) = inner(p) + outer(p + inner(p))`.

    Warping by the result equals warping by `outer`, then by `inner`:
    `volume(p + u(p)) = (volume o outer)(p + inner(p))`.

    Args:
        outer_vox: (B, 3, D, H, W), voxels of the grid; applied to points last. Its edge values
            are held outside the grid.
        inner_vox: (B, 3, D, H, W) on the same grid; applied to points first.

    Returns:
        (B, 3, D, H, W) in voxels.
    """
    return inner_vox + warp(outer_vox, inner_vox, "border")
