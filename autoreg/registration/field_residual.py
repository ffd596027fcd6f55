"""What a smooth deformation left undone, and how much of that noise explains."""

from dataclasses import dataclass

import torch
from torch import Tensor

from autoreg.registration.field_images import FieldImages
from autoreg.registration.field_level import Level
from autoreg.registration.field_similarity import Moments, windowed
from autoreg.registration.field_spline import SplineField

# Windows of less contrast say nothing: standard deviation as a share of the image's range.
_CONTRAST = 0.03
_MEDIAN_OF_NORMAL = 0.6745
_SAMPLES = 2**18


@dataclass(frozen=True)
class Residual:
    """How well two images correlate after a first stage.

    Attributes:
        correlation: Mean local correlation over the windows with contrast.
        expected: What noise alone would leave of a perfect one.
    """

    correlation: float
    expected: float

    @property
    def unexplained(self) -> float:
        """The part of the correlation that is missing for other reasons than noise."""
        return max(0.0, self.expected - self.correlation)


def residual_of(level: Level, field: SplineField, images: FieldImages, signed: bool) -> Residual:
    """Measure what is left at a resolution.

    Args:
        level: The pair there.
        field: The deformation so far.
        images: The pair at full resolution, where noise is estimated.
        signed: Whether the images show the same contrast; else the correlation's size counts.
    """
    u, grid = field.displacement, field.grid
    warped = level.warp(u, grid.matrices(level.voxels_mm(), u))
    weights = level.weights_at(u, grid.matrices(level.blocks_mm(), u))
    counts = windowed(torch.full_like(weights, float(level.voxels_per_block))[None])
    moments = Moments.of(level.fixed_sums, level.warped_sums(warped), counts)
    variances = moments.variance_f, moments.variance_w
    noises = (noise_of(images.fixed), noise_of(images.moving))
    expected = torch.ones_like(moments.covariance)
    for variance, noise, pooled in zip(variances, noises, level.pooled, strict=True):
        left = noise.square().view(-1, 1, 1, 1) / pooled
        expected *= (1 - left / variance.clamp(min=1e-12)).clamp_(min=0).sqrt_()
    found = moments.covariance / (variances[0] * variances[1]).clamp(min=1e-12).sqrt()
    found = found if signed else found.abs()
    counted = weights * (torch.minimum(*variances) > _CONTRAST**2)
    total = counted.sum().clamp(min=1e-9)
    return Residual(
        float((found * counted).sum() / total), float((expected * counted).sum() / total)
    )


def noise_of(image: Tensor) -> Tensor:
    """Standard deviation of the noise: what varies from voxel to voxel along all axes at once.

    Args:
        image: (C, D, H, W).

    Returns:
        (C,).

    References:
        Immerkaer, Fast noise variance estimation, Computer Vision and Image Understanding 1996.
    """
    gain = 1.0
    x = image
    for axis in (1, 2, 3):
        n = x.shape[axis] - 2
        if n > 0:
            x = x.narrow(axis, 0, n) + x.narrow(axis, 2, n) - 2 * x.narrow(axis, 1, n)
            gain *= 6**0.5
    medians = [_median(channel.abs().flatten()) for channel in x]
    return torch.tensor(medians).to(image) / _MEDIAN_OF_NORMAL / gain


def _median(sizes: Tensor) -> float:
    """Of those that are not 0, as background is that was set so."""
    sizes = sizes[sizes > 0]
    if len(sizes) > _SAMPLES:
        # At random: a stride may look at a few columns of the image alone.
        chosen = torch.randint(len(sizes), (_SAMPLES,), generator=torch.Generator().manual_seed(0))
        sizes = sizes[chosen.to(sizes.device)]
    return float(sizes.median()) if len(sizes) else 0.0
