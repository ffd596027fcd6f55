"""Similarities of a warped and a fixed image, as losses: 0 is perfect agreement.

Each is a small record of parameters with two doors: `bind` computes everything that depends on
the fixed image alone once and returns the loss as a function of the warped image (for instance
optimisation), and calling the object does both steps at once (for training). Several channels are
averaged. Lengths are in voxels of the grid.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from autoreg.errors import GeometryError, PlanError
from autoreg.losses.average import bind_average
from autoreg.losses.mind import mind_descriptor
from autoreg.losses.window import Window, at_least_float32, box_window, gaussian_window

Loss = Callable[[Tensor], Tensor]
_EPSILON = 1e-5  # of the published LNCC (added to each variance) and windowed NCC alike


class Similarity(ABC):
    """A measure of how well a warped image agrees with a fixed one."""

    @abstractmethod
    def bind(self, fixed: Tensor, mask: Tensor | None = None) -> Loss:
        """Prepare the loss against one fixed image.

        Args:
            fixed: (B, C, D, H, W).
            mask: (B, 1, D, H, W), not 0 where the loss counts; the windows of the voxels inside
                may reach outside. See `bind_average` for the mean and for empty masks.

        Returns:
            Function from the warped image, shaped like `fixed`, to a scalar.

        Raises:
            GeometryError: if the mask, or later the warped image, does not fit the fixed image.
        """

    def __call__(self, warped: Tensor, fixed: Tensor, mask: Tensor | None = None) -> Tensor:
        """The loss.

        Args:
            warped: (B, C, D, H, W).
            fixed: (B, C, D, H, W).
            mask: See `bind`.

        Returns:
            Scalar.
        """
        return self.bind(fixed, mask)(warped)


@dataclass(frozen=True)
class LNCC(Similarity):
    """Local normalised cross-correlation with a Gaussian window: 1 - mean(c), in [0, 2].

    c = (G(wf) - G(w) G(f)) / sqrt((max(G(ww) - G(w)^2, 0) + 1e-5) (same of f)); 0 where either
    image is flat. Five smoothings in all, two of them in `bind`.

    Attributes:
        sigma: Of the Gaussian G, voxels; at least 0.5.

    References:
        Tian et al., uniGradICON: a foundation model for medical image registration, 2024.
    """

    sigma: float = 5.0

    def __post_init__(self) -> None:
        _require_at_least("sigma", self.sigma, 0.5)

    def bind(self, fixed: Tensor, mask: Tensor | None = None) -> Loss:
        """See `Similarity.bind`."""
        fixed = at_least_float32(fixed)
        correlation, average = _bind_correlation(fixed, self.sigma), bind_average(fixed, mask)
        return lambda warped: 1 - average(correlation(warped))


@dataclass(frozen=True)
class SquaredLNCC(Similarity):
    """1 - mean(c^2) with the c of `LNCC`, in [0, 1]: the sign of the relation doesn't matter.

    Attributes:
        sigma: Of the Gaussian, voxels; at least 0.5.
    """

    sigma: float = 5.0

    def __post_init__(self) -> None:
        _require_at_least("sigma", self.sigma, 0.5)

    def bind(self, fixed: Tensor, mask: Tensor | None = None) -> Loss:
        """See `Similarity.bind`."""
        fixed = at_least_float32(fixed)
        correlation, average = _bind_correlation(fixed, self.sigma), bind_average(fixed, mask)
        return lambda warped: 1 - average(correlation(warped).square())


@dataclass(frozen=True)
class WindowedNCC(Similarity):
    """Squared correlation in a cube, as in VoxelMorph and SITReg: 1 - mean(cc), in [0, 1].

    cc = cross^2 / (var_w var_f + 1e-5), with the sums over the window^3 voxels of the cube: cross =
    sum(wf) - sum(w) sum(f) / window^3, var_w = max(sum(ww) - sum(w)^2 / window^3, 0). Beyond the
    border there are zeros, and they count. The published losses are -mean(cc), that is ours - 1.

    Attributes:
        window: Edge of the cube, voxels; odd.

    References:
        Balakrishnan et al., VoxelMorph: a learning framework for deformable medical image
        registration, IEEE TMI 2019.
    """

    window: int = 9

    def __post_init__(self) -> None:
        if self.window < 3 or self.window % 2 == 0:
            raise PlanError(f"windowed NCC: window must be odd and at least 3, found {self.window}")

    def bind(self, fixed: Tensor, mask: Tensor | None = None) -> Loss:
        """See `Similarity.bind`."""
        fixed = at_least_float32(fixed)
        moments = _bind_moments(fixed, box_window(fixed, self.window, "zeros"))
        average = bind_average(fixed, mask)
        epsilon = _EPSILON / self.window**6  # we have means where the formula has sums

        def loss(warped: Tensor) -> Tensor:
            covariance, variance, fixed_variance = moments(warped)
            return 1 - average(covariance.square() / (variance * fixed_variance + epsilon))

        return loss


@dataclass(frozen=True)
class MIND(Similarity):
    """Mean squared difference of the MIND-SSC descriptors, for images of different modality.

    Attributes:
        radius: The patches are cubes of 2 radius + 1 voxels.
        dilation: Distance of the compared patches from the voxel, voxels.

    References:
        Heinrich et al., MICCAI 2013; the descriptor is documented in `autoreg.losses.mind`.
    """

    radius: int = 2
    dilation: int = 2

    def __post_init__(self) -> None:
        _require_at_least("radius", self.radius, 1)
        _require_at_least("dilation", self.dilation, 1)

    def bind(self, fixed: Tensor, mask: Tensor | None = None) -> Loss:
        """See `Similarity.bind`."""
        fixed = at_least_float32(fixed)
        window = box_window(fixed, 2 * self.radius + 1, "replicate")
        average = bind_average(fixed, mask)
        of_fixed = self._descriptors(fixed, window)

        def loss(warped: Tensor) -> Tensor:
            _require_same_shape(warped, fixed)
            return average(
                (self._descriptors(at_least_float32(warped), window) - of_fixed).square()
            )

        return loss

    def _descriptors(self, image: Tensor, window: Window) -> Tensor:
        channels = [
            mind_descriptor(c, window, self.dilation) for c in image.chunk(image.shape[1], 1)
        ]
        return torch.cat(channels, dim=1)


@dataclass(frozen=True)
class MSE(Similarity):
    """Mean squared difference of the intensities."""

    def bind(self, fixed: Tensor, mask: Tensor | None = None) -> Loss:
        """See `Similarity.bind`."""
        fixed = at_least_float32(fixed)
        average = bind_average(fixed, mask)

        def loss(warped: Tensor) -> Tensor:
            _require_same_shape(warped, fixed)
            return average((at_least_float32(warped) - fixed).square())

        return loss


def _bind_moments(fixed: Tensor, window: Window) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Function from the warped image to local covariance, variance and fixed image's variance."""
    mean_fixed = window(fixed)
    variance_fixed = (window(fixed.square()) - mean_fixed.square()).relu()

    def moments(warped: Tensor) -> tuple[Tensor, ...]:
        _require_same_shape(warped, fixed)
        warped = at_least_float32(warped)
        mean = window(warped)
        covariance = window(warped * fixed) - mean * mean_fixed
        variance = (window(warped.square()) - mean.square()).relu()
        return covariance, variance, variance_fixed

    return moments


def _bind_correlation(fixed: Tensor, sigma: float) -> Callable[[Tensor], Tensor]:
    """Function from the warped image to the map c of `LNCC`."""
    moments = _bind_moments(fixed, gaussian_window(fixed, sigma))

    def correlation(warped: Tensor) -> Tensor:
        covariance, variance, fixed_variance = moments(warped)
        scale = ((variance + _EPSILON) * (fixed_variance + _EPSILON)).rsqrt()
        return covariance * scale

    return correlation


def _require_same_shape(warped: Tensor, fixed: Tensor) -> None:
    # Broadcasting would otherwise compare images that do not belong together.
    if warped.shape != fixed.shape:
        raise GeometryError(
            f"the warped image's shape {tuple(warped.shape)} is not the fixed image's "
            f"{tuple(fixed.shape)}"
        )


def _require_at_least(name: str, value: float, least: float) -> None:
    if not least <= value < math.inf:
        raise PlanError(f"similarity: {name} must be a number of at least {least}, found {value}")
