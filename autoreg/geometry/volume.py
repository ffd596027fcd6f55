"""Volume: an image, label map or mask together with where it lies."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from autoreg.errors import GeometryError
from autoreg.geometry.grid import Geometry

Kind = Literal["intensity", "label", "mask"]


@dataclass(frozen=True, eq=False)
class Volume:
    """An array in space.

    Attributes:
        array: (C, D, H, W). Intensities are float32; label maps (integers) and masks (bool) have
            C = 1.
        geometry: Where the voxels lie; its shape is (D, H, W).
        kind: What the values mean, hence how they are interpolated.

    Raises:
        GeometryError: if array and geometry do not fit.
    """

    array: NDArray[Any]
    geometry: Geometry
    kind: Kind

    def __post_init__(self) -> None:
        if self.array.ndim != 4 or self.array.shape[1:] != self.geometry.shape:
            raise GeometryError(
                f"a volume's array must be (C, *{self.geometry.shape}), found {self.array.shape}"
            )
        if self.kind != "intensity" and self.array.shape[0] != 1:
            raise GeometryError(f"a {self.kind} volume has one channel, found {self.array.shape}")

    @classmethod
    def intensity(cls, array: NDArray[Any], geometry: Geometry) -> "Volume":
        """An intensity volume from (D, H, W) or (C, D, H, W) numbers."""
        array = np.asarray(array, dtype=np.float32)
        return cls(array[None] if array.ndim == 3 else array, geometry, "intensity")

    @property
    def single(self) -> NDArray[Any]:
        """The (D, H, W) array of the first channel."""
        channel: NDArray[Any] = self.array[0]
        return channel
