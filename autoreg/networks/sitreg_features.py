"""The feature extractor of SITReg.

Attribute names are those of the authors' code, so that weights trained with it load.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from autoreg.networks.precision import HeavyPart, normalised, strided_convolution

# Up to so many values in the axes but the last one, torch leaves a batch of one to its own code.
_TORCHS_SMALLEST = 20480

_T = TypeVar("_T")


class ConvolutionBlock(nn.Module):
    """Convolutions of 3^3, each followed by an optional group normalisation and ReLU.

    Args:
        channels: Of the input.
        features: Of every output.
        convolutions: How many.
        groups: Of the normalisation; None: there is none.
    """

    def __init__(self, channels: int, features: int, convolutions: int, groups: int | None) -> None:
        super().__init__()
        inputs = [channels] + [features] * (convolutions - 1)
        self.convolutions = nn.ModuleList(Convolution(c, features, 3, padding=1) for c in inputs)
        if groups is not None:
            self.normalizers = nn.ModuleList(nn.GroupNorm(groups, features) for _ in inputs)
        self._normalised = groups is not None

    def forward(self, x: Tensor) -> Tensor:
        """Apply all layers.

        Args:
            x: (B, channels, D, H, W).

        Returns:
            (B, features, D, H, W).
        """
        return self.after_first(self.convolutions[0](x))

    @property
    def first(self) -> nn.Conv3d:
        """The first convolution."""
        return cast(Convolution, self.convolutions[0]).conv

    def after_first(self, x: Tensor) -> Tensor:
        """Apply all layers but the first convolution.

        Args:
            x: (B, features, D, H, W), that one's output; overwritten where nothing normalises.

        Returns:
            (B, features, D, H, W).
        """
        for i, convolution in enumerate(self.convolutions):
            if i > 0:
                x = convolution(x)
            if self._normalised:
                # Not with channels last: that kernel of torch loses three digits on the CPU.
                x = normalised(self.normalizers[i], x.contiguous())
            # In place on what the next convolution keeps anyway.
            x = functional.relu(laid_out(x), inplace=True)
        return x


class Convolution(nn.Module):
    """A convolution one name deeper, as in the authors' state dicts."""

    def __init__(
        self, channels: int, features: int, kernel: int, stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, features, kernel, stride, padding)
        self._stride, self._padding = stride, padding

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, channels, D, H, W)."""
        return convolved(x, self.conv.weight, self.conv.bias, self._stride, self._padding)


def convolved(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1, padding: int = 0
) -> Tensor:
    """Convolve, each item of the batch to the same bits whatever its place in it.

    A kernel of one voxel is a product of matrices; over the voxels of the whole batch it would
    round differently where items meet.

    Args:
        x: (B, C, D, H, W).
        weight: (features, C, k, k, k).
        bias: (features,).
        stride: 1 for kernels of one voxel.
        padding: 0 for kernels of one voxel.

    Returns:
        (B, features, d, h, w).
    """
    x = laid_out(x)
    if weight.shape[2:].numel() == 1 and bias is not None:
        channels_last = x.movedim(1, 4)
        matrices = weight.flatten(1).T.expand(x.shape[0], -1, -1)
        result = torch.baddbmm(bias, channels_last.flatten(1, 3), matrices)
        return result.view(*channels_last.shape[:4], -1).movedim(4, 1)
    if x.shape[:4].numel() <= _TORCHS_SMALLEST and x.shape[0] == 1 and not x.is_cuda:
        # A second item costs less than what torch takes for a single small one instead of oneDNN.
        twice = laid_out(x.expand(2, -1, -1, -1, -1))
        return functional.conv3d(twice, weight, bias, stride, padding)[:1]
    return functional.conv3d(x, weight, bias, stride, padding)


class _DownsamplingBlock(nn.Module):
    """Half the resolution; a residual path beside the convolutions carries what they are given."""

    def __init__(self, channels: int, features: int, convolutions: int, groups: int) -> None:
        super().__init__()
        self.downsampling = Convolution(channels, features, 2, stride=2)
        self.projection = Convolution(channels, features, 1)
        self.conv = ConvolutionBlock(features, features, convolutions, groups)

    def forward(self, features: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        odd = [n % 2 for n in reversed(features.shape[2:])]
        if any(odd):
            # Zeros at the high ends, which take part in the mean, as in the authors' code.
            padding = [p for n in odd for p in (0, n)]
            features, skip = functional.pad(features, padding), functional.pad(skip, padding)
        skip = strided_convolution(self.downsampling, features, 2) + self.projection(
            functional.avg_pool3d(skip, 2)
        )
        return self.conv(skip), skip


class FeatureExtractor(HeavyPart):
    """Features of single images at full, half, quarter, ... resolution.

    Args:
        channels: Of the image.
        features: Per resolution, finest first.
        convolutions: Per resolution.
        groups: Of the group normalisations.
        checkpointing: Compute the activations of the two finest resolutions again in the backward
            pass; they are most of all.

    References:
        Honkamaa and Marttinen, SITReg, MELBA 2024:026.
    """

    def __init__(
        self,
        channels: int,
        features: Sequence[int],
        convolutions: Sequence[int],
        groups: int,
        *,
        checkpointing: bool,
    ) -> None:
        super().__init__()
        self.initial_projection = nn.Conv3d(channels, features[0], 1)
        self.initial_convs = ConvolutionBlock(features[0], features[0], convolutions[0], groups)
        self.downsampling_blocks = nn.ModuleList(
            _DownsamplingBlock(before, after, count, groups)
            for before, after, count in zip(
                features[:-1], features[1:], convolutions[1:], strict=True
            )
        )
        self._checkpointing = checkpointing

    def forward(self, image: Tensor) -> list[Tensor]:
        """The features.

        Args:
            image: (B, channels, D, H, W).

        Returns:
            Per resolution k, finest first, (B, features_k, ceil(D / 2^k), ...).
        """
        with self.reduced(image):
            return self._features(image)

    def _features(self, image: Tensor) -> list[Tensor]:
        again = self._checkpointing and torch.is_grad_enabled()
        x, skip = checkpointed(again, self._finest, image)
        features = [x]
        for number, block in enumerate(self.downsampling_blocks):
            x, skip = checkpointed(again and number == 0, block, x, skip)
            features.append(x)
        return features

    def _finest(self, image: Tensor) -> tuple[Tensor, Tensor]:
        skip = convolved(image, self.initial_projection.weight, self.initial_projection.bias)
        return self.initial_convs(skip), skip


def checkpointed(again: bool, function: Callable[..., _T], *tensors: Tensor) -> _T:
    """The value of a function.

    Args:
        again: Whether its activations are computed again in the backward pass, or kept.
        function: Without randomness.
        tensors: Its arguments.
    """
    if not again:
        return function(*tensors)
    result: _T = checkpoint(function, *tensors, use_reentrant=False, preserve_rng_state=False)
    return result


def laid_out(x: Tensor) -> Tensor:
    """The same values in the memory layout in which convolutions are fastest.

    Measured on a CPU: with channels last, forward and backward of the convolutions take 1.3 to 2.5
    times less.

    Args:
        x: (B, C, D, H, W).
    """
    return x if x.is_cuda else x.contiguous(memory_format=torch.channels_last_3d)
