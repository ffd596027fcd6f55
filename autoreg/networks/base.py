"""What every registration network is."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from autoreg.numerics.maps import CoordinateMap


@dataclass(frozen=True, eq=False)
class MapPair:
    """The maps between two images, in unit coordinates.

    Attributes:
        fixed_to_moving: Takes points of the fixed grid to the moving one; the moving image
            sampled there is the warped image.
        moving_to_fixed: The other way round, for the swapped pair.
    """

    fixed_to_moving: CoordinateMap
    moving_to_fixed: CoordinateMap


class RegistrationNetwork(nn.Module, ABC):
    """Two batches of images in, the maps of both directions out."""

    @abstractmethod
    def forward(self, moving: Tensor, fixed: Tensor) -> MapPair:
        """The maps of both directions.

        Args:
            moving: (B, C, D, H, W).
            fixed: (B, C, D, H, W).

        Returns:
            The maps.
        """

    @abstractmethod
    def one_direction(self, moving: Tensor, fixed: Tensor) -> CoordinateMap:
        """The map from the fixed to the moving grid alone, where nobody needs the other one.

        Args:
            moving: (B, C, D, H, W).
            fixed: (B, C, D, H, W).

        Returns:
            The map; in eval mode that of `forward` up to rounding.
        """


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; afterwards every module has the mode that it had.

    Args:
        network: Of which all modules are switched.
    """
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
