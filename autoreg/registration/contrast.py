"""How well two images agree under a transform, and whether they show one contrast.

Measured on a coarse copy of both, which costs a tenth of a second and forgives what an affine
alignment leaves: local correlation within windows of five coarse voxels. Of images with several
channels the windows of all channels count alike.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from autoreg.geometry.foreground import foreground_mask
from autoreg.geometry.resampling import resample_volume
from autoreg.geometry.transforms import Transform
from autoreg.geometry.volume import Volume
from autoreg.registration.align_levels import shrink

# Voxels of the coarse copy of the fixed image.
_VOXELS = 150_000
_WINDOW = 5
# Windows of less contrast say nothing: standard deviation as a share of the image's range.
_CONTRAST = 0.03
# Voxels along each axis that are left at least.
_FEWEST = 4
# Share of a coarse voxel that must lie in a mask or foreground.
_MOSTLY = 0.5
# Share of a window that must be known in both images.
_KNOWN = 0.5
# Where the correlations of one sign do not outweigh the others so clearly, the contrasts differ.
_ONE_SIGN = 0.5


@dataclass(frozen=True)
class Agreement:
    """Local correlation of two images.

    Attributes:
        correlation: Its mean, -1 to 1.
        absolute: The mean of its absolute value, 0 to 1, which is high whatever the contrasts.
        windows: How many windows had contrast in both images.
    """

    correlation: float
    absolute: float
    windows: int

    @property
    def one_contrast(self) -> bool:
        """Whether bright is bright in both images; where nothing is known, it is assumed."""
        return self.windows == 0 or self.correlation >= _ONE_SIGN * self.absolute


@dataclass(frozen=True, eq=False)
class CoarsePair:
    """Coarse copies of two images.

    Attributes:
        fixed: Shrunken.
        moving: Likewise; NaN where it does not count.
        counted: (C, D, H, W) of `fixed`, where it counts.
    """

    fixed: Volume
    moving: Volume
    counted: NDArray[np.bool_]

    def agreement(self, transform: Transform) -> Agreement:
        """Measure under a transform from fixed to moving points."""
        grid = self.fixed.geometry
        warped = resample_volume(self.moving, transform, grid, outside=math.nan).array
        channels = zip(self.fixed.array, warped, self.counted, strict=True)
        rho = np.concatenate([_local_correlation(*channel) for channel in channels])
        if not rho.size:
            return Agreement(0.0, 0.0, 0)
        return Agreement(float(rho.mean()), float(np.abs(rho).mean()), rho.size)


def _local_correlation(
    fixed: NDArray[np.float32], warped: NDArray[np.float32], counted: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """(N,) the correlations in the windows of one channel, (D, H, W), that say something."""
    known = np.isfinite(warped) & counted
    f, w = (_scaled(a, known) for a in (fixed, warped))
    moments = [known.astype(np.float32), f, w, f * f, w * w, f * w]
    count, *sums = _window_means(torch.from_numpy(np.stack(moments)))
    mean_f, mean_w, ff, ww, fw = (s / count.clamp(min=1e-6) for s in sums)
    variance_f, variance_w = ff - mean_f.square(), ww - mean_w.square()
    useful = torch.minimum(variance_f, variance_w) > _CONTRAST**2
    useful &= (count > _KNOWN) & torch.from_numpy(known)
    scale = (variance_f * variance_w)[useful].sqrt()
    rho: NDArray[np.float32] = ((fw - mean_f * mean_w)[useful] / scale).clamp(-1, 1).numpy()
    return rho


def coarse_pair(
    fixed: Volume, moving: Volume, fixed_mask: Volume | None, moving_mask: Volume | None = None
) -> CoarsePair:
    """Shrink two images to about equally large voxels.

    Args:
        fixed: The fixed image.
        moving: The moving image, of as many channels.
        fixed_mask: Where the fixed image counts, on its grid; None: each channel's foreground.
        moving_mask: Where the moving image counts, on its grid; None: everywhere.
    """
    geometry = fixed.geometry
    axes = [n * s for n, s in zip(geometry.shape, geometry.spacing_mm, strict=True) if n > 1]
    spacing_mm = (math.prod(axes) / _VOXELS) ** (1 / max(1, len(axes)))
    if fixed_mask is None:
        inside = np.stack([foreground_mask(channel) for channel in fixed.array])
        coarse = _shrunk(fixed, None, spacing_mm)
        counted = _shrunk(Volume.intensity(inside, geometry), None, spacing_mm).array > _MOSTLY
    else:
        coarse = _shrunk(fixed, fixed_mask, spacing_mm)
        counted = np.isfinite(coarse.array)
    return CoarsePair(coarse, _shrunk(moving, moving_mask, spacing_mm), counted)


def _shrunk(volume: Volume, mask: Volume | None, spacing_mm: float) -> Volume:
    """Means over boxes of voxels; with a mask over those inside, NaN where most are not."""
    geometry = volume.geometry
    if mask is None:
        parts = [shrink(channel, geometry, spacing_mm, _FEWEST) for channel in volume.array]
        return Volume.intensity(np.stack([part.array for part in parts]), parts[0].geometry)
    inside = mask.single != 0
    share = shrink(inside, geometry, spacing_mm, _FEWEST).array
    channels = [
        shrink(np.where(inside, channel, 0), geometry, spacing_mm, _FEWEST)
        for channel in volume.array
    ]
    known = np.where(share > _MOSTLY, share, np.nan)
    return Volume.intensity(
        np.stack([part.array / known for part in channels]), channels[0].geometry
    )


def _scaled(array: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """0 to 1 where it is known, outliers clamped; 0 elsewhere."""
    values = array[known]
    if not values.size:
        return np.zeros_like(array)
    low, high = np.quantile(values, (0.001, 0.999))
    scaled = np.clip((np.where(known, array, low) - low) / max(high - low, 1e-12), 0, 1)
    return np.where(known, scaled, 0).astype(np.float32)


def _window_means(fields: Tensor) -> Tensor:
    """Means over a window around each voxel, (C, D, H, W); zeros beyond the border."""
    size = [(min(_WINDOW, n) - 1) // 2 * 2 + 1 for n in fields.shape[1:]]  # odd, and it fits
    return functional.avg_pool3d(fields, size, 1, [n // 2 for n in size])
