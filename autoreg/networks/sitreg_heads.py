"""What predicts a deformation of SITReg: from features of both images to B-spline control points.

Everything is batched over the two directions: the first half of a batch of 2B is forward, the
second half reverse, which is what forward would be for the swapped pair.

Attribute names are those of the authors' code, so that weights trained with it load.
"""

import torch
from torch import Tensor

from autoreg.networks.precision import HeavyPart, full_precision, widened
from autoreg.networks.sitreg_features import (
    Convolution,
    ConvolutionBlock,
    convolved,
    laid_out,
)


class DeformationHead(HeavyPart):
    """Control points of the two directions from the features of the two images.

    The features enter as difference and sum. Between the directions only the difference changes
    its sign, hence swapping the images swaps the results bit by bit.

    Args:
        channels: Of the features of one image.
        features: Of the convolutions.
        convolutions: How many.
        groups: Of the group normalisations; None: there are none.
    """

    def __init__(self, channels: int, features: int, convolutions: int, groups: int | None) -> None:
        super().__init__()
        self.convolutions = ConvolutionBlock(2 * channels, features, convolutions, groups)
        self.final_convolution = Convolution(features, 3, 1)
        # A control point depends on the features of so many neighbours; None: of all.
        self.reach = convolutions if groups is None else None

    def forward(self, features: Tensor, limit: float) -> Tensor:
        """The control points.

        Args:
            features: (2B, channels, d, h, w), those of the moving images first.
            limit: Largest absolute value of a control point.

        Returns:
            (2B, 3, d, h, w), forward first.
        """
        with self.reduced(features):
            return limit * self._shares(features)

    def _shares(self, features: Tensor) -> Tensor:
        """The control points as shares of their limit, (2B, 3, d, h, w)."""
        first, second = laid_out(features).chunk(2)
        layer = self.convolutions.first
        of_difference, of_sum = layer.weight.chunk(2, dim=1)
        # The first layer is linear: its response to difference and sum serves both directions.
        difference = convolved(first - second, of_difference, None, padding=1)
        total = convolved(first + second, of_sum, layer.bias, padding=1)
        responses = [difference + total, total.sub_(difference)]
        del difference, total
        # Each response is gone before the next one is worked on.
        return torch.cat([self._after_first_convolution(responses.pop(0)) for _ in "fr"])

    def _after_first_convolution(self, x: Tensor) -> Tensor:
        x = self.convolutions.after_first(x)
        with full_precision(x):
            return torch.tanh(self.final_convolution(widened(x)))
