"""MIND-SSC, the modality independent neighbourhood descriptor with self-similarity context."""

import torch
from torch import Tensor
from torch.nn import functional

from autoreg.losses.window import Window

# The six face neighbours of a voxel, as offsets in (d, h, w).
_NEIGHBOURS = ((-1, 0, 0), (0, 0, -1), (0, -1, 0), (0, 0, 1), (1, 0, 0), (0, 1, 0))
# The pairs of neighbours sqrt(2) apart, in the channel order of the published descriptor.
_PAIRS = (
    (4, 2), (5, 0), (2, 0), (5, 4), (2, 1), (5, 3), (1, 0), (4, 3), (5, 1), (3, 2), (4, 1), (3, 0),
)  # fmt: skip


def mind_descriptor(image: Tensor, window: Window, dilation: int) -> Tensor:
    """Twelve self-similarities around each voxel.

    D_p is the local mean of the squared difference between two neighbours of the voxel, m_p =
    D_p - min_p D_p, v = mean_p m_p clamped to [0.001, 1000] times its mean over the image (taken
    as a constant), and the descriptor is exp(-m_p / v). Where the image is constant it is 1.
    The published code takes the mean for the clamp over the whole batch, whereby the samples of a
    batch would change each other's loss.

    Args:
        image: (B, 1, D, H, W).
        window: The local mean.
        dilation: Distance of the neighbours from the voxel, voxels.

    Returns:
        (B, 12, D, H, W) in (0, 1].

    References:
        Heinrich et al., Towards realtime multimodal fusion for image-guided interventions using
        self-similarities, MICCAI 2013.
    """
    neighbours = _neighbours(image, dilation)
    difference = torch.cat([(neighbours[i] - neighbours[j]).square() for i, j in _PAIRS], dim=1)
    distance = window(difference)
    distance = distance - distance.amin(1, keepdim=True)
    variance = distance.mean(1, keepdim=True)
    level = variance.detach().mean((1, 2, 3, 4), keepdim=True)
    # The lower bound of 1e-12 keeps a constant image (nothing but zeros warped in) from 0 / 0.
    lower, upper = (0.001 * level).clamp(min=1e-12), (1000 * level).clamp(min=1e-12)
    return torch.exp(-distance / variance.clamp(lower, upper))


def _neighbours(image: Tensor, dilation: int) -> list[Tensor]:
    padded = functional.pad(image, (dilation,) * 6, mode="replicate")
    shifted = []
    for offset in _NEIGHBOURS:
        part = padded
        for axis, step in enumerate(offset, start=2):
            part = part.narrow(axis, dilation * (1 + step), image.shape[axis])
        shifted.append(part)
    return shifted
