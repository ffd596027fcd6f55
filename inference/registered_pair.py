"""Two registered images: the transform, and whatever follows from it."""

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import SimpleITK as sitk

from autoreg.geometry.resampling import resample_volume
from autoreg.geometry.transforms import Composite
from autoreg.geometry.volume import Kind, Volume
from autoreg.io.images import from_sitk

Image: TypeAlias = Volume | sitk.Image


@dataclass(frozen=True, eq=False)
class RegisteredPair:
    """A pair of images and the transform between them.

    Attributes:
        transform: From points of the fixed image to points of the moving one, LPS mm.
        fixed: The fixed image.
        moving: The moving image.
        outside: What each channel of the warped image holds where the moving image ends.
        inverse: From points of the moving image to points of the fixed one, to a fraction of a
            voxel, where it is known already.
    """

    transform: Composite
    fixed: Volume
    moving: Volume
    outside: tuple[float, ...]
    inverse: Composite | None = None

    @cached_property
    def warped(self) -> Volume:
        """The moving image on the fixed image's grid, interpolated once."""
        return self.warp(self.moving)

    def warp(self, volume: Image, kind: Kind = "intensity") -> Volume:
        """Bring anything that lies in the moving image's space onto the fixed image's grid.

        Args:
            volume: An image, label map or mask; on any grid.
            kind: What a SimpleITK image holds; a `Volume` knows it by itself.

        Returns:
            Intensities interpolated linearly, labels and masks from the nearest voxel; beyond the
            volume `outside` and 0.

        Raises:
            GeometryError: if an image has another number of channels than several moving ones.
        """
        volume = as_volume(volume, kind)
        outside = self.outside if volume.kind == "intensity" else (0.0,)
        return resample_volume(volume, self.transform, self.fixed.geometry, outside=outside)


def as_volume(image: Image, kind: Kind) -> Volume:
    """An image as a volume; a `Volume` passes through.

    Args:
        image: What the caller has; a two-dimensional SimpleITK image becomes one layer, z = 0.
        kind: What a SimpleITK image holds.

    Raises:
        DataError: if a SimpleITK image is neither two- nor three-dimensional.
    """
    if not isinstance(image, sitk.Image):
        return image
    return from_sitk(sitk.JoinSeries([image]) if image.GetDimension() == 2 else image, kind)
