"""How well two images agree under a transform, and whether they show one contrast.

Measured on a coarse copy of both, which costs a tenth of a second and forgives what an affine
alignment leaves: local correlation within windows of five coarse voxels.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from autoreg.geometry.foreground import foreground_mask
from autoreg.geometry.grid import Geometry
from autoreg.geometry.resampling import resample_volume
from autoreg.geometry.transforms import Transform
from autoreg.geometry.volume import Volume

# Voxels of the coarse copy of the fixed image.
_VOXELS = 150_000
_WINDOW = 5
# Windows of less contrast say nothing: standard deviation as a share of the image's range.
_CONTRAST = 0.03
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
        fixed: The first channel, shrunken.
        moving: Likewise.
        counted: (D, H, W) of `fixed`, where it counts.
    """

    fixed: Volume
    moving: Volume
    counted: NDArray[np.bool_]

    def agreement(self, transform: Transform) -> Agreement:
        """Measure under a transform from fixed to moving points."""
        grid = self.fixed.geometry
        warped = resample_volume(self.moving, transform, grid, outside=math.nan).single
        known = np.isfinite(warped) & self.counted
        f, w = (_scaled(a, known) for a in (self.fixed.single, warped))
        moments = [known.astype(np.float32), f, w, f * f, w * w, f * w]
        count, *sums = _window_means(torch.from_numpy(np.stack(moments)))
        mean_f, mean_w, ff, ww, fw = (s / count.clamp(min=1e-6) for s in sums)
        variance_f, variance_w = ff - mean_f.square(), ww - mean_w.square()
        useful = torch.minimum(variance_f, variance_w) > _CONTRAST**2
        useful &= (count > _KNOWN) & torch.from_numpy(known)
        number = int(useful.sum())
        if number == 0:
            return Agreement(0.0, 0.0, 0)
        scale = (variance_f * variance_w)[useful].sqrt()
        rho = ((fw - mean_f * mean_w)[useful] / scale).clamp(-1, 1)
        return Agreement(float(rho.mean()), float(rho.abs().mean()), number)


def coarse_pair(fixed: Volume, moving: Volume, fixed_mask: Volume | None) -> CoarsePair:
    """Shrink two images to about equally large voxels.

    Args:
        fixed: The fixed image.
        moving: The moving image.
        fixed_mask: Where the fixed image counts, on its grid; None: its foreground.
    """
    geometry = fixed.geometry
    axes = [n * s for n, s in zip(geometry.shape, geometry.spacing_mm, strict=True) if n > 1]
    spacing_mm = (math.prod(axes) / _VOXELS) ** (1 / max(1, len(axes)))
    mask = foreground_mask(fixed.single) if fixed_mask is None else fixed_mask.single != 0
    inside = Volume.intensity(mask.astype(np.float32), geometry)
    counted = _shrunk(inside, spacing_mm).single > 0.5
    return CoarsePair(_shrunk(fixed, spacing_mm), _shrunk(moving, spacing_mm), counted)


def _shrunk(volume: Volume, spacing_mm: float) -> Volume:
    """The first channel, averaged over boxes of voxels."""
    geometry = volume.geometry
    factors = [
        max(1, min(n // 4, round(spacing_mm / s)))
        for n, s in zip(geometry.shape, geometry.spacing_mm, strict=True)
    ]
    image = torch.from_numpy(np.ascontiguousarray(volume.single, dtype=np.float32))[None]
    array = functional.avg_pool3d(image, factors)[0].numpy()
    matrix = geometry.index_to_world.copy()
    matrix[:3, 3] = geometry.to_world((np.array(factors) - 1) / 2)
    matrix[:3, :3] *= factors
    d, h, w = array.shape
    return Volume.intensity(array, Geometry((d, h, w), matrix))


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
    size = [min(_WINDOW, n // 2 * 2 + 1) if n > 1 else 1 for n in fields.shape[1:]]
    size = [n - 1 if n % 2 == 0 else n for n in size]
    return functional.avg_pool3d(fields, size, 1, [n // 2 for n in size])
