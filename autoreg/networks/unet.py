"""The U-Net of GradICON (tallUNet2 of icon_registration) for any grid shape.

Attribute names and the order of construction are those of the published code, so that its weights
load and a seed gives the same initial values.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoreg.networks.precision import HeavyPart, full_precision, strided_convolution, widened

LEVELS = 5
DOWN_CHANNELS = (16, 32, 64, 256, 512)
UP_CHANNELS = (16, 32, 64, 128, 256)
LEAKY_SLOPE = 0.01
OUTPUT_DIVISOR = 10.0


class TallUNet(HeavyPart):
    """Two images in, one displacement field in unit coordinates out.

    Residual all along: every convolution is added to its pooled, or upsampled, input. The last
    layer starts at zero, so that a fresh network gives no displacement.

    Args:
        channels: Of one image.
        width: Multiplies the published channel counts.

    References:
        Tian et al., GradICON, CVPR 2023; icon_registration 1.1.7, `networks.tallUNet2`.
    """

    def __init__(self, channels: int, width: float) -> None:
        super().__init__()
        down = [2 * channels, *(scaled(c, width) for c in DOWN_CHANNELS)]
        up = [scaled(c, width) for c in UP_CHANNELS]
        self.downConvs = nn.ModuleList()
        self.upConvs = nn.ModuleList()
        self.batchNorms = nn.ModuleList()
        for i in range(LEVELS):
            skipped = up[i + 1] if i + 1 < LEVELS else 0
            self.downConvs.append(nn.Conv3d(down[i], down[i + 1], 3, stride=2, padding=1))
            self.upConvs.append(
                nn.ConvTranspose3d(down[i + 1] + skipped, up[i], 4, stride=2, padding=1)
            )
            self.batchNorms.append(nn.BatchNorm3d(up[i]))
        self.lastConv = nn.Conv3d(up[0] + down[0], 3, 3, padding=1)
        nn.init.zeros_(self.lastConv.weight)
        nn.init.zeros_(_bias(self.lastConv))

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """The displacement that takes the nodes of `fixed` into `moving`.

        Args:
            moving: (B, C, D, H, W).
            fixed: (B, C, D, H, W).

        Returns:
            (B, 3, D, H, W), unit coordinates, channels (d, h, w).
        """
        with self.reduced(fixed):
            joined = self._features(torch.cat([moving, fixed], 1))
        displacement: Tensor = self.lastConv(widened(joined)) / OUTPUT_DIVISOR
        return displacement

    def _features(self, x: Tensor) -> Tensor:
        """What the last convolution sees of both images (B, 2C, D, H, W), the images included."""
        skips = []
        for convolution in self.downConvs:
            skips.append(x)
            y = strided_convolution(convolution, functional.leaky_relu(x, LEAKY_SLOPE), 2)
            with full_precision(x):
                x = y + _with_leading_zeros(pool(widened(x)), y.shape[1]).to(y.dtype)
        features, joined = x, x
        for up, norm in zip(reversed(self.upConvs), reversed(self.batchNorms), strict=True):
            # In place wherever autograd needs no more than the result: that is memory at 175^3.
            y = up(functional.leaky_relu(joined, LEAKY_SLOPE, inplace=joined is not features))
            with full_precision(y):
                y += _doubled(features[:, : y.shape[1]])
            skip = skips.pop()
            d, h, w = skip.shape[2:]
            # The crop comes after the norm: what is cropped takes part in the statistics.
            features = norm(y)[:, :, :d, :h, :w]
            joined = torch.cat([features, skip], 1)
        return joined


class UntrackedStatistics:
    """Inside, batch normalisations leave their running statistics alone, in training mode, too.

    For activations that are computed again: what they were computed of has been counted before.

    Args:
        network: Of the normalisations.
    """

    def __init__(self, network: nn.Module) -> None:
        self._norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm3d)]
        self._kept: list[dict[str, Tensor]] = []

    def __enter__(self) -> None:
        self._kept = [dict(norm.named_buffers(recurse=False)) for norm in self._norms]
        for norm, buffers in zip(self._norms, self._kept, strict=True):
            for name, buffer in buffers.items():
                setattr(norm, name, buffer.clone())

    def __exit__(self, *_: object) -> None:
        # The same tensors again, not their values: autograd may hold them.
        for norm, buffers in zip(self._norms, self._kept, strict=True):
            for name, buffer in buffers.items():
                setattr(norm, name, buffer)
        self._kept = []


def scaled(count: int, width: float) -> int:
    """A published channel count times the width multiplier."""
    return max(1, round(count * width))


def pool(x: Tensor) -> Tensor:
    """Halve each axis by averaging pairs; an odd last voxel stays alone, an axis of 1 as it is.

    The published code stops at an axis of size 1; elsewhere this is the same.

    Args:
        x: (B, C, D, H, W).

    Returns:
        (B, C, ceil(D/2), ceil(H/2), ceil(W/2)).
    """
    kernel = [min(2, n) for n in x.shape[2:]]
    return functional.avg_pool3d(x, kernel, stride=2, ceil_mode=True)


def _doubled(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="trilinear", align_corners=False)


def _with_leading_zeros(x: Tensor, channels: int) -> Tensor:
    """Zero channels in front of `x` until it has `channels`; the first ones if it has more."""
    if x.shape[1] >= channels:
        return x[:, :channels]
    return functional.pad(x, (0, 0, 0, 0, 0, 0, channels - x.shape[1], 0))


def _bias(layer: nn.Conv3d) -> Tensor:
    if layer.bias is None:
        raise TypeError("a convolution of this network has a bias")
    return layer.bias
