"""Averages of a loss map, within a mask or over everything."""

from collections.abc import Callable

from torch import Tensor

from autoreg.errors import GeometryError

Average = Callable[[Tensor], Tensor]


def bind_average(fixed: Tensor, mask: Tensor | None) -> Average:
    """The average within a mask, as in uniGradICON since 1.0.6.

    For each sample of the batch the mean over all channels and the voxels where the mask isn't 0,
    then the mean over the batch. A sample whose mask is empty contributes 0.

    Args:
        fixed: (B, C, D, H, W), the image to which the mask belongs.
        mask: (B, 1, D, H, W) of any type, or None for the plain mean.

    Returns:
        Function from a map (B, any number of channels, D, H, W) to its average.

    Raises:
        GeometryError: if the mask's shape does not fit.
    """
    if mask is None:
        return Tensor.mean
    require_mask_fits(mask, fixed)
    inside = (mask != 0).to(fixed.dtype)
    count = inside.sum((1, 2, 3, 4)).clamp(min=1)

    def average(values: Tensor) -> Tensor:
        return ((values * inside).mean(1).sum((1, 2, 3)) / count).mean()

    return average


def require_mask_fits(mask: Tensor, values: Tensor) -> None:
    """Refuse a mask of another grid, batch or number of channels.

    Args:
        mask: Must be (B, 1, D, H, W).
        values: (B, C, D, H, W), what it masks.

    Raises:
        GeometryError: if the shapes do not fit.
    """
    expected = (values.shape[0], 1, *values.shape[2:])
    if tuple(mask.shape) != expected:
        raise GeometryError(f"a mask of shape {expected} was expected, found {tuple(mask.shape)}")
