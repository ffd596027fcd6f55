"""Training with 16-bit numbers where they do no harm: in convolutions and matrix products.

A coordinate in bfloat16 has 8 bits: on a grid of 175 nodes that is most of a voxel. Hence maps,
sampling, compositions, matrices, the moments of all normalisations, and the last convolution
before a displacement stay in float32 whatever is asked for.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn

Precision = Literal["float32", "bfloat16", "float16"]

_TYPES: dict[Precision, torch.dtype | None] = {
    "float32": None,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class HeavyPart(nn.Module):
    """A part of a network that has most of its multiplications."""

    _reduced: torch.dtype | None = None

    def reduced(self, like: Tensor) -> AbstractContextManager[object]:
        """Inside, convolutions and matrix products are computed as `set_precision` asked for.

        Only in training mode; otherwise everything stays in the tensors' own precision.

        Args:
            like: Gives the device.
        """
        if self._reduced is None or not self.training:
            return nullcontext()
        return torch.autocast(like.device.type, self._reduced)


def set_precision(network: nn.Module, precision: Precision) -> None:
    """Compute the heavy parts of a network in this precision while it is in training mode.

    Weights, gradients of weights, and what the network gives stay float32; in eval mode everything
    is float32. With float16 small gradients vanish unless the loss is scaled
    (`torch.amp.GradScaler`).

    Args:
        network: Changed in place; its state dict stays as it is.
        precision: As in the plan.
    """
    for module in network.modules():
        if isinstance(module, HeavyPart):
            module._reduced = _TYPES[precision]


def full_precision(like: Tensor) -> AbstractContextManager[object]:
    """Inside, nothing is computed in 16 bits, whatever surrounds it.

    Args:
        like: Gives the device.
    """
    device = like.device.type
    return torch.autocast(device, enabled=False) if _is_reduced(device) else nullcontext()


def widened(x: Tensor) -> Tensor:
    """The same values in float32, or more where they have more."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def normalised(norm: nn.Module, x: Tensor) -> Tensor:
    """A normalisation computed in float32, its result as precise as what it is given.

    Args:
        norm: From (B, C, *s) to the same.
        x: (B, C, *s).
    """
    with full_precision(x):
        result: Tensor = norm(widened(x))
        return result.to(x.dtype)


def strided_convolution(convolve: Callable[[Tensor], Tensor], x: Tensor, stride: int) -> Tensor:
    """A convolution with a stride, in float32 where its result would be a single voxel wide.

    There oneDNN's kernel for bfloat16 reads memory that nobody wrote: now and then the result, or
    the gradient of the weights, is anything up to NaN.

    Args:
        convolve: The convolution.
        x: (B, C, D, H, W).
        stride: Of the convolution.

    References:
        https://github.com/pytorch/pytorch/issues/169688
    """
    if x.shape[-1] >= 2 * stride:
        return convolve(x)
    with full_precision(x):
        return convolve(widened(x))


def reduced_dtype(x: Tensor) -> torch.dtype:
    """In which convolutions of `x` are computed here: its own, or what surrounds it asks for."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if _is_reduced(device) else x.dtype


def _is_reduced(device: str) -> bool:
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
