"""The error of a circle of maps that ought to lead back to where it began."""

from collections.abc import Sequence

from torch import Tensor

from autoreg.network_plan import Triple
from autoreg.numerics.coordinates import Size, index_grid
from autoreg.numerics.warp import sample_at_index

# Share of a sampled mask from which a point counts as inside, as in the authors' code.
_INSIDE = 1 - 1e-3


def cycle_error(
    fields_vox: Sequence[Tensor], masks: Sequence[Tensor | None], spacing_mm: Triple
) -> Tensor:
    """The mean squared distance of x and f_n(... f_1(x)).

    error = mean over x of inside(x) |scale (f_n(... f_1(x)) - x)|^2. It is in the length unit of
    which the grid's longest side has two, whatever the resolution is (the "world" units of SITReg).
    A point is inside where each f_i is evaluated within the grid and the mask of its own image; all
    nodes count in the mean, so that points that are left out are taken as 0.

    Args:
        fields_vox: Displacements (1, 3, D, H, W) of f_1, ..., f_n, voxels of one common grid
            shape. Between nodes they are interpolated, outside their edge values are held.
        masks: (1, 1, D, H, W), not 0 inside, of the images on whose grids f_1, ..., f_n live; None:
            inside everywhere.
        spacing_mm: Along (d, h, w).

    Returns:
        Scalar. Gradients flow into the fields and not through the masks.

    References:
        Honkamaa and Marttinen, SITReg, as trained for LUMIR 2024 (group consistency).
    """
    first = fields_vox[0]
    nodes = index_grid(first.shape[2:], device=first.device, dtype=first.dtype)
    points, inside = nodes + first, _inside(masks[0], nodes)
    for field, mask in zip(fields_vox[1:], masks[1:], strict=True):
        inside = inside & _inside(mask, points)
        points = points + sample_at_index(field, points, "border")
    scale = first.new_tensor(_half_sides_per_voxel(first.shape[2:], spacing_mm))
    squares = ((points - nodes) * scale.view(1, 3, 1, 1, 1)).square().sum(1, keepdim=True)
    return (squares * inside).mean()


def _inside(mask: Tensor | None, points_vox: Tensor) -> Tensor:
    points = points_vox.detach()
    if mask is None:
        mask = points.new_ones(1, 1, *points.shape[2:])
    return sample_at_index((mask != 0).to(points.dtype), points, "zeros") >= _INSIDE


def _half_sides_per_voxel(shape: Size, spacing_mm: Triple) -> list[float]:
    longest = max(n * spacing for n, spacing in zip(shape, spacing_mm, strict=True))
    return [2 * spacing / longest for spacing in spacing_mm]
