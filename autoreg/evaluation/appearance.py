"""Agreement of intensities."""

import numpy as np
import torch
from torch import Tensor

from autoreg.evaluation.arrays import Array, as_tensor
from autoreg.losses.similarity import LNCC

_RANGE = (0.01, 0.99)  # quantiles that become 0 and 1


def local_correlation(
    fixed: Array, candidates: list[Array], mask: Array | None = None, sigma_vox: float = 5.0
) -> list[float]:
    """LNCC of images with one fixed image: the mean local correlation, in [-1, 1].

    The correlation within a Gaussian window (cut off at two sigma) around each voxel, averaged
    over the mask and the channels; 0 where an image is flat. Before, each channel is scaled to
    [0, 1] over its range from the 1st to the 99th percentile (clamped), so that the guard
    1e-5 on the variances means the same for all images.

    Args:
        fixed: (C, D, H, W) intensities.
        candidates: Images (C, D, H, W) on the same grid. All of them are scaled by the range of
            the first one, since they show one image before and after its registration.
        mask: (D, H, W), where to average; default everywhere.
        sigma_vox: Of the Gaussian.

    Returns:
        One value per candidate; 1 is perfect agreement. NaN for an empty mask.
    """
    if mask is not None and not bool((as_tensor(mask, torch.bool)).any()):
        return [float("nan")] * len(candidates)
    reference = as_tensor(fixed, torch.float32)
    region = None if mask is None else as_tensor(mask, torch.bool).to(reference.device)[None, None]
    loss = LNCC(sigma=sigma_vox).bind(_scaled(reference, _ranges(reference))[None], region)
    tensors = [as_tensor(image, torch.float32).to(reference.device) for image in candidates]
    return [1 - float(loss(_scaled(image, _ranges(tensors[0]))[None])) for image in tensors]


def _ranges(image: Tensor) -> list[tuple[float, float]]:
    """1st and 99th percentile of each channel."""
    pairs = [np.quantile(channel.cpu().numpy(), _RANGE) for channel in image]
    return [(float(low), float(high)) for low, high in pairs]


def _scaled(image: Tensor, ranges: list[tuple[float, float]]) -> Tensor:
    channels = [
        ((channel - low) / max(high - low, 1e-12)).clamp(0, 1)
        for channel, (low, high) in zip(image, ranges, strict=True)
    ]
    return torch.stack(channels)
