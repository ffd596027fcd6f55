"""The decoder of TransMorph: convolutions from the coarsest features up to the displacement."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from autoreg.networks.precision import HeavyPart, full_precision, reduced_dtype, widened

# Small, so that a fresh network displaces next to nothing.
_HEAD_DEVIATION = 1e-5
_SLOPE = 0.01
_EPSILON = 1e-5


class NormalisedActivation(nn.Module):
    """Instance normalisation, without weights or running statistics, and leaky ReLU.

    For the backward pass only the result is kept, which the next convolution keeps anyway: the
    activation can be inverted.

    References:
        Rota Bulo et al., In-place activated BatchNorm, CVPR 2018.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Apply to (B, C, D, H, W)."""
        result: Tensor = _NormalisedActivation.apply(x)  # type: ignore[no-untyped-call]
        return result


class ConvolutionUnit(nn.Sequential, HeavyPart):
    """3x3x3 convolution, normalisation, leaky ReLU; the indices give the published names.

    Args:
        channels: In.
        features: Out.
        batch_norm: Batch normalisation, which has weights and running statistics, instead of
            instance normalisation, which has neither.
    """

    def __init__(self, channels: int, features: int, *, batch_norm: bool = False) -> None:
        after = (
            [nn.BatchNorm3d(features), nn.LeakyReLU(_SLOPE, inplace=True)]
            if batch_norm
            else [NormalisedActivation()]
        )
        super().__init__(nn.Conv3d(channels, features, 3, padding=1, bias=False), *after)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to (B, channels, D, H, W)."""
        with self.reduced(x):
            convolved = self[0](x)
        return self.finished(convolved)

    def finished(self, convolved: Tensor) -> Tensor:
        """Normalisation and activation of what the convolution gave."""
        for layer in list(self)[1:]:
            convolved = layer(convolved)
        return convolved


class DecoderBlock(HeavyPart):
    """Twice the resolution, joined with the features of that resolution.

    Args:
        channels: Of the coarser features.
        skipped: Channels of the features to be joined.
        features: Out.
    """

    def __init__(self, channels: int, skipped: int, features: int) -> None:
        super().__init__()
        self._parts = [channels, skipped]
        self.conv1 = ConvolutionUnit(channels + skipped, features)
        self.conv2 = ConvolutionUnit(features, features)

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """Decode.

        Args:
            coarse: (B, channels, d, h, w).
            skip: (B, skipped, 2d, 2h, 2w).

        Returns:
            (B, features, 2d, 2h, 2w).
        """
        # One convolution of the concatenation, which is never made.
        of_coarse, of_skip = torch.split(self.conv1.get_parameter("0.weight"), self._parts, 1)
        with self.reduced(skip):
            convolved = convolve_doubled(coarse, of_coarse)
            convolved += functional.conv3d(skip, of_skip, padding=1)
        decoded: Tensor = self.conv2(self.conv1.finished(convolved))
        return decoded


class DisplacementHead(nn.Sequential):
    """The convolution that gives the three components; its index gives the published name.

    Args:
        features: Channels in.
    """

    def __init__(self, features: int) -> None:
        convolution = nn.Conv3d(features, 3, 3, padding=1)
        nn.init.normal_(convolution.weight, std=_HEAD_DEVIATION)
        if convolution.bias is not None:
            nn.init.zeros_(convolution.bias)
        super().__init__(convolution)

    def forward(self, x: Tensor) -> Tensor:
        """The components (B, 3, D, H, W) of features (B, features, D, H, W), always in float32."""
        displacement: Tensor = self[0](widened(x))
        return displacement


def fast_layout(x: Tensor) -> torch.memory_format:
    """The layout in which convolutions are fast: on the CPU channels last, by a factor of 1.5 to 2.

    Args:
        x: Gives the device.
    """
    return torch.contiguous_format if x.is_cuda else torch.channels_last_3d


def doubled(x: Tensor) -> Tensor:
    """Twice the nodes along each axis, trilinear, voxels aligned at the edge of the field of view.

    Args:
        x: (B, C, d, h, w).

    Returns:
        (B, C, 2d, 2h, 2w).
    """
    return functional.interpolate(x, scale_factor=2.0, mode="trilinear", align_corners=False)


def convolve_doubled(x: Tensor, weight: Tensor) -> Tensor:
    """`conv3d(doubled(x), weight, padding=1)` with less memory.

    The doubled features are the largest tensor of a decoder block, and cheap: they are computed
    again in the backward pass, and exist for one sample at a time.

    Args:
        x: (B, C, d, h, w).
        weight: (F, C, 3, 3, 3).

    Returns:
        (B, F, 2d, 2h, 2w).
    """
    dtype = reduced_dtype(x)
    with full_precision(x):  # what follows is of that type already
        result: Tensor = _ConvolveDoubled.apply(  # type: ignore[no-untyped-call]
            x.to(dtype), weight.to(dtype)
        )
    return result


class _NormalisedActivation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401 - torch's interface
        batch, channels = x.shape[:2]
        # One channel per group: unlike torch's instance normalisation it keeps the layout.
        y, _, scale = torch.native_group_norm(
            widened(x), None, None, batch, channels, x[0, 0].numel(), channels, _EPSILON
        )
        y = functional.leaky_relu_(y, _SLOPE).to(x.dtype)
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401
        kept, scale = ctx.saved_tensors
        y, gradient = widened(kept), widened(gradient)
        batch, channels = y.shape[:2]
        of_normalised = torch.ops.aten.leaky_relu_backward(gradient, y, _SLOPE, True)
        normalised = functional.leaky_relu(y, 1 / _SLOPE)
        # What is normalised already has mean 0 and scale 1; the scale of x comes afterwards.
        of_x, _, _ = torch.ops.aten.native_group_norm_backward(
            of_normalised, normalised, torch.zeros_like(scale), torch.ones_like(scale), None,
            batch, channels, y[0, 0].numel(), channels, [True, False, False],
        )  # fmt: skip
        result: Tensor = of_x.mul_(scale.view(batch, channels, 1, 1, 1)).to(kept.dtype)
        return result


class _ConvolveDoubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:  # noqa: ANN401 - torch's interface
        ctx.save_for_backward(x, weight)
        samples = [_convolved(doubled(sample), weight) for sample in torch.split(x, 1)]
        return torch.cat(samples) if len(samples) > 1 else samples[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        x, weight = ctx.saved_tensors
        of_x, of_weight = [], torch.zeros_like(weight, dtype=widened(weight[:0]).dtype)
        for sample, of_sample in zip(torch.split(x, 1), torch.split(gradient, 1), strict=True):
            with torch.enable_grad():
                sample = sample.detach().requires_grad_()
                fine = doubled(sample)
            of_fine, of_taps, _ = torch.ops.aten.convolution_backward(
                of_sample, fine.detach(), weight, None,
                [1] * 3, [1] * 3, [1] * 3, False, [0] * 3, 1, [True, True, False],
            )  # fmt: skip
            of_weight += of_taps
            of_x.append(torch.autograd.grad(fine, sample, of_fine)[0])
        return torch.cat(of_x), of_weight.to(weight.dtype)


def _convolved(x: Tensor, weight: Tensor) -> Tensor:
    return functional.conv3d(x, weight, padding=1)
