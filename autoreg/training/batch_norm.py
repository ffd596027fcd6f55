"""Batch normalisation over all processes of a training, or with statistics that stay as they are.

Normalisations are changed where they stand: parameters, buffers and names stay the same objects,
so that optimisers and checkpoints do not notice.

References:
    Ioffe and Szegedy, Batch Normalization, ICML 2015.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from autoreg.training.processes import Processes

# Replaces a tensor by its sum over all processes, and returns it.
Sum = Callable[[Tensor], Tensor]


def prepare_batch_norm(
    network: nn.Module, kind: Literal["batch", "frozen"], processes: Processes
) -> None:
    """Let a network's batch normalisations work as the plan says, in place.

    It may be called before or after the optimiser is made, and again with another kind. With
    several processes each forward and each backward pass exchanges sums, so that all of them must
    compute equally many of either; what a process is given may have any number of pairs, even none.

    Args:
        network: Of which every `nn.BatchNorm3d` is changed.
        kind: "batch": by the statistics of what all processes are given at a time, in training
            mode; "frozen": by the running statistics, in training mode as well, which stay as they
            are, while weight and bias are trained.
        processes: Over which statistics are taken; of a single one they are torch's.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            if kind == "frozen":
                module.__class__ = _FrozenBatchNorm
            elif processes.count == 1:
                module.__class__ = nn.BatchNorm3d
            else:
                module.__class__ = _JointBatchNorm
                object.__setattr__(module, "processes", processes)


class _FrozenBatchNorm(nn.BatchNorm3d):
    """Running statistics always."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )


class _JointBatchNorm(nn.BatchNorm3d):
    """Statistics over all processes in training mode."""

    processes: Processes

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        result, mean, variance, count = _JointNormalisation.apply(  # type: ignore[no-untyped-call]
            x, self.weight, self.bias, self.eps, self.processes.sum_
        )
        self._keep(mean, variance, count)
        normalised: Tensor = result
        return normalised

    @torch.no_grad()
    def _keep(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        factor = 0.0 if self.momentum is None else self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                factor = 1 / float(self.num_batches_tracked)
        unbiased = variance * (count / (count - 1).clamp(min=1))
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), factor)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), factor)


class _JointNormalisation(torch.autograd.Function):
    """weight * (x - mean) / sqrt(variance + eps) + bias, with the moments of all processes.

    The gradients of weight and bias are this process's share, as those of all other parameters.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's interface
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        sum_: Sum,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, variance, count = _moments(_wide(x), sum_)
        scale = (variance + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, scale, count)
        ctx.sum_ = sum_
        ctx.mark_non_differentiable(mean, variance, count)
        slope = (weight.double() * scale).to(weight.dtype)
        result = (_wide(x) - _along(mean, x)).mul_(_along(slope, x)).add_(_along(bias, x))
        return result.to(x.dtype), mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401
        of_result: Tensor,
        *_: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, weight, mean, scale, count = ctx.saved_tensors
        of_result = _wide(of_result)
        normalised = (_wide(x) - _along(mean, x)).mul_(_along(scale, x))
        of_bias = of_result.sum((0, 2, 3, 4))
        of_weight = (of_result * normalised).sum((0, 2, 3, 4))
        shared = ctx.sum_(torch.stack([of_bias, of_weight]).double()) / count
        of_x = of_result - _along(shared[0], x)
        of_x -= normalised.mul_(_along(shared[1], x))
        of_x *= _along(weight.double() * scale, x)
        return of_x.to(x.dtype), of_weight, of_bias, None, None


def _moments(x: Tensor, sum_: Sum) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance of each channel, and the number of values, over all processes.

    Each process takes its own moments in two passes; only then they are joined by the sums of
    n, n mean and n (variance + mean^2), in float64, where nothing is lost to cancellation.

    Args:
        x: (B, C, D, H, W).
        sum_: Over the processes.

    Returns:
        Float64 (C,), (C,), ().
    """
    own = x.numel() // x.shape[1]
    if own:
        variance, mean = torch.var_mean(x, (0, 2, 3, 4), correction=0)
        variance, mean = variance.double(), mean.double()
    else:
        variance = mean = x.new_zeros(x.shape[1], dtype=torch.float64)
    number = mean.new_full((1,), own)
    sums = sum_(torch.cat([number, own * mean, own * (variance + mean.square())]))
    count = sums[0]
    mean, squares = (sums[1:] / count).chunk(2)
    return mean, (squares - mean.square()).clamp(min=0), count


def _wide(x: Tensor) -> Tensor:
    """In float32 at least."""
    return x.float() if x.dtype.itemsize < 4 else x


def _along(values: Tensor, x: Tensor) -> Tensor:
    """One value for each channel (C,), to be combined with (B, C, D, H, W) in its precision."""
    return values.to(torch.promote_types(x.dtype, torch.float32)).view(1, -1, 1, 1, 1)
