"""Similarities for the optimisation of a displacement field, with derivatives in closed form.

They work on sums over blocks of voxels. What they answer are four fields on the blocks, from which
the derivative by the intensity w of a warped voxel follows as f P - w Q - R, and its Gauss-Newton
curvature H.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

# Weights of a block and its two neighbours along an axis: for blocks of two voxels a bell of
# standard deviation 1.5 voxels.
_NEIGHBOURS = (0.25, 0.5, 0.25)


@dataclass(frozen=True, eq=False)
class Response:
    """What a criterion says of a pair of images.

    Attributes:
        value: The objective, to be made large: the weighted mean over the blocks.
        fields: (4, C, d, h, w): P, Q, R and H per voxel, see the module.
    """

    value: float
    fields: Tensor


class Criterion(ABC):
    """A similarity."""

    @abstractmethod
    def respond(
        self, fixed_sums: Tensor, warped_sums: Tensor, weights: Tensor, block_voxels: int
    ) -> Response:
        """Compare.

        Args:
            fixed_sums: (2, C, d, h, w) block sums of f and f^2.
            warped_sums: (3, C, d, h, w) block sums of w, w^2 and w f.
            weights: (d, h, w) of the blocks, 0 to 1.
            block_voxels: Voxels of a block.

        Returns:
            Value and derivatives.
        """


@dataclass(frozen=True, eq=False)
class Moments:
    """Means, variances and covariance in windows, (C, d, h, w) each."""

    mean_f: Tensor
    mean_w: Tensor
    variance_f: Tensor
    variance_w: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, fixed_sums: Tensor, warped_sums: Tensor, counts: Tensor) -> "Moments":
        """From the sums that `Criterion.respond` takes and the voxels of each window."""
        mean_f, square_f = windowed(fixed_sums) / counts
        mean_w, square_w, product = windowed(warped_sums) / counts
        return cls(
            mean_f,
            mean_w,
            (square_f - mean_f.square()).clamp_(min=0),
            (square_w - mean_w.square()).clamp_(min=0),
            product - mean_f * mean_w,
        )


@dataclass(frozen=True)
class LocalCorrelation(Criterion):
    """The local correlation r = cov / sqrt(var_f var_w) in windows of three blocks per axis.

    Attributes:
        kind: "signed": r itself, where both images show the same contrast; "squared": r^2, which
            forgives another contrast and weighs windows by how well they correlate already.
        noise: Standard deviation (intensities of [0, 1]) below which a window says nothing.

    References:
        Avants et al., Symmetric diffeomorphic image registration with cross-correlation, Med.
        Image Anal. 2008; Lorenzi et al., LCC-Demons, NeuroImage 2013.
    """

    kind: Literal["signed", "squared"]
    noise: float

    def respond(
        self, fixed_sums: Tensor, warped_sums: Tensor, weights: Tensor, block_voxels: int
    ) -> Response:
        """See the base class."""
        counts = windowed(torch.full_like(weights, float(block_voxels))[None])
        moments = Moments.of(fixed_sums, warped_sums, counts)
        mean_f, mean_w = moments.mean_f, moments.mean_w
        variance_f, variance_w = moments.variance_f, moments.variance_w
        covariance = moments.covariance
        if self.kind == "squared":
            power = variance_f * variance_w + self.noise**4
            local = covariance.square() / power
            p = 2 * covariance / power
            q = 2 * local * variance_f / power
            curvature = q
        else:
            variance_f = variance_f + self.noise**2
            variance_w = variance_w + self.noise**2
            p = (variance_f * variance_w).rsqrt_()
            local = covariance * p
            q = local / variance_w
            curvature = q.abs()
        share = weights / counts
        fields = torch.stack([p, q, p * mean_f - q * mean_w, curvature]) * share
        local = local.mean(0)
        return Response(_mean(local, weights), windowed(fields) / len(mean_f))


@dataclass(frozen=True)
class SquaredDifference(Criterion):
    """Minus the mean over the channels of (f - w)^2 / 2; for descriptors such as MIND.

    Attributes:
        scale: Factor of everything, which brings the curvature near that of the correlations.
    """

    scale: float

    def respond(
        self, fixed_sums: Tensor, warped_sums: Tensor, weights: Tensor, block_voxels: int
    ) -> Response:
        """See the base class."""
        (_, square_f), (_, square_w, product) = fixed_sums, warped_sums
        local = (product - (square_f + square_w) / 2).mean(0) / block_voxels * self.scale
        one = (weights * (self.scale / len(square_f) / block_voxels)).expand_as(square_f)
        fields = torch.stack([one, one, torch.zeros_like(one), one])
        return Response(_mean(local, weights), fields)


def _mean(local: Tensor, weights: Tensor) -> float:
    return float((local * weights).sum() / weights.sum().clamp(min=1e-9))


def windowed(x: Tensor) -> Tensor:
    """Sums over each block and its neighbours, weighted; 0 beyond the ends.

    Args:
        x: (..., d, h, w).

    Returns:
        The same shape.
    """
    before, here, after = _NEIGHBOURS
    for axis in (-3, -2, -1):
        size = x.shape[axis]
        if size == 1:
            continue
        y = x * here
        y.narrow(axis, 0, size - 1).add_(x.narrow(axis, 1, size - 1), alpha=after)
        y.narrow(axis, 1, size - 1).add_(x.narrow(axis, 0, size - 1), alpha=before)
        x = y
    return x
