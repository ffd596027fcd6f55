"""Two images at all resolutions at which a displacement field is optimised.

The work happens on a box of the fixed image's grid around what both images show. The moving image
stays on its own grid: it is interpolated once, through the initial alignment and the displacement.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from autoreg.errors import DataError
from autoreg.geometry.foreground import foreground_mask
from autoreg.geometry.grid import FloatArray, Geometry
from autoreg.geometry.transforms import Affine
from autoreg.geometry.volume import Volume
from autoreg.numerics.coordinates import Size
from autoreg.numerics.pyramid import doubled, pooled
from autoreg.registration.field_box import (
    Box,
    Extent,
    Triple,
    coarsest,
    factors_at,
    find_box,
    finest_mm,
    flat_axes,
)
from autoreg.registration.field_level import Level
from autoreg.registration.field_similarity import Criterion
from autoreg.registration.placed_volume import PlacedVolume

# Voxels to which the rim of the foreground belongs, and their neighbours.
_RIM = 3
# Intensities beyond these quantiles are clamped.
_QUANTILES = (0.001, 0.999)
_QUANTILE_VOXELS = 2**18


@dataclass(frozen=True, eq=False)
class FieldImages:
    """A pair, and how it looks at each resolution.

    Attributes:
        fixed: (C, *box.shape) scaled intensities.
        moving: (C, D, H, W) scaled intensities on the moving image's own grid.
        box: Of the fixed image.
        moving_geometry: Of the moving image.
        initial: From fixed to moving points.
        weights: (*box.shape) where the fixed image counts, 0 to 1.
        moving_weights: (D, H, W) where the moving image counts; None: everywhere inside.
        object_mm: Size of what the images show, whatever the masks.
    """

    fixed: Tensor
    moving: Tensor
    box: Box
    moving_geometry: Geometry
    initial: Affine
    weights: Tensor
    moving_weights: Tensor | None
    object_mm: float

    @property
    def voxel_mm(self) -> float:
        """Size of the finest voxels."""
        return finest_mm(self.box.geometry)

    @property
    def resolutions(self) -> int:
        """How many there are, each half as fine as the one before."""
        return coarsest(self.box.geometry) + 1

    def level(
        self, index: int, criterion: Criterion, describe: "Describe | None", *, fine: bool
    ) -> Level:
        """The pair at a resolution.

        Args:
            index: 0 is the finest, each further one is half as fine.
            criterion: The similarity.
            describe: Makes of intensities (C, D, H, W) what is compared; None: they are.
            fine: Sample the moving image twice as densely, by cubic splines, before it is
                interpolated linearly: that blurs less between its voxels.
        """
        factors = factors_at(index, self.voxel_mm, self.box.geometry)
        d, h, w = (s * f for s, f in zip(self.box.spacing_mm, factors, strict=True))
        sizes = zip(self.box.spacing_mm, factors, strict=True)
        first_d, first_h, first_w = (s * (f - 1) / 2 for s, f in sizes)
        spacing, first = (d, h, w), (first_d, first_h, first_w)
        flat = self.box.flat
        block_d, block_h, block_w = (
            f if one else 2 * f for f, one in zip(factors, flat, strict=True)
        )
        fixed, moving = pooled(self.fixed, factors), self._moving(index, fine=fine)
        if describe is not None:
            moving = _described(
                moving, describe, fixed.shape[1:], (d, h, w), (first_d, first_h, first_w)
            )
            fixed = describe(fixed)
        return Level(
            fixed=fixed,
            moving=moving,
            spacing_mm=spacing,
            first_mm=first,
            flat=flat,
            weights=pooled(self.weights[None], (block_d, block_h, block_w))[0],
            moving_inside=self._moving_inside(index),
            criterion=criterion,
            pooled=(math.prod(factors), math.prod(self._moving_factors(index))),
        )

    def _moving_factors(self, index: int) -> tuple[int, int, int]:
        return factors_at(index, self.voxel_mm, self.moving_geometry)

    def _moving(self, index: int, *, fine: bool) -> PlacedVolume:
        factors = self._moving_factors(index)
        volume = pooled(self.moving, factors)
        step = np.array(factors, dtype=np.float64)
        if fine:
            volume = torch.stack([doubled(channel) for channel in volume])
            step = np.where(flat_axes(self.moving_geometry), step, step / 2)
        return PlacedVolume(volume[None], self._index_of_mm(factors, step))

    def _moving_inside(self, index: int) -> PlacedVolume | None:
        """The moving image's field of view or mask, about as fine as the blocks."""
        geometry = self.moving_geometry
        if self.moving_weights is None and self._sees_all():
            return None
        factors = factors_at(index + 1, self.voxel_mm, geometry)
        weights = self.moving_weights
        if weights is None:
            weights = torch.ones(geometry.shape).to(self.moving)
        step = np.array(factors, dtype=np.float64)
        return PlacedVolume(pooled(weights[None], factors)[None], self._index_of_mm(factors, step))

    def _sees_all(self) -> bool:
        """Whether the moving image reaches beyond every corner of the box."""
        corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(self.box.shape) - 1)
        points = self.box.geometry.to_world(corners + np.array(self.box.low))
        return bool(self.moving_geometry.contains(self.initial.map_points(points)).all())

    def _index_of_mm(self, factors: tuple[int, int, int], step: FloatArray) -> FloatArray:
        """From positions in the box to samples of the moving image, (3, 4).

        Args:
            factors: The first sample is the mean of so many voxels along each axis.
            step: Voxels from one sample to the next.
        """
        to_voxels = self.moving_geometry.world_to_index @ self.initial.matrix
        full = (to_voxels @ self.box.world_of_mm())[:3]
        full[:, 3] -= (np.array(factors) - 1) / 2
        return np.asarray(full / step[:, None], dtype=np.float64)


# From intensities (C, D, H, W) to what is compared (C', D, H, W).
Describe = Callable[[Tensor], Tensor]


def _described(
    moving: PlacedVolume, describe: Describe, shape: Size, spacing_mm: Triple, first_mm: Triple
) -> PlacedVolume:
    """The moving image's descriptors, along the axes and in the voxels of the box.

    Descriptors look at neighbours in certain directions: on the moving image's own grid, which may
    be turned, flipped or of other voxels, they would be others.
    """
    axes = zip(first_mm, spacing_mm, shape, strict=True)
    positions = [np.asarray(first + step * np.arange(n), np.float64) for first, step, n in axes]
    still = torch.zeros(3, 1, 1, 1).to(moving.volume)
    everywhere = [torch.ones(n, 1).to(still) for n in shape]
    aligned = moving.displaced(still, everywhere, positions, "border")
    to_index = np.zeros((3, 4))
    to_index[:, :3] = np.diag(1 / np.array(spacing_mm))
    to_index[:, 3] = -np.array(first_mm) / np.array(spacing_mm)
    return PlacedVolume(describe(aligned)[None], to_index)


def make_images(
    fixed: Volume,
    moving: Volume,
    initial: Affine,
    masks: tuple[Volume | None, Volume | None],
    device: torch.device,
) -> FieldImages:
    """Scale the intensities and find the box.

    Args:
        fixed: The fixed image.
        moving: The moving image, of as many channels.
        initial: From fixed to moving points.
        masks: Of the fixed and of the moving image, each on its image's grid.
        device: Where to compute.

    Raises:
        DataError: if an image is constant, the channels differ, or a mask is empty.
    """
    if len(fixed.array) != len(moving.array):
        raise DataError(
            f"the fixed image has {len(fixed.array)} channels and the moving image "
            f"{len(moving.array)}; expected as many"
        )
    extents = Extent.of(fixed), Extent.of(moving)
    box = find_box(*extents, initial, masks[0])
    counted = _foreground(fixed) if masks[0] is None else mask_of(masks[0])
    moving_counted = None if masks[1] is None else mask_of(masks[1])
    weights = box.inside_image() * box.cut(counted[None])[0]
    if not weights.any():
        raise DataError("the fixed image's mask is empty; draw it, or leave it out")
    if moving_counted is not None and not moving_counted.any():
        raise DataError("the moving image's mask is empty; draw it, or leave it out")
    channels = _usable_channels((fixed, moving), masks)
    fixed_values, moving_values = (
        np.stack([_scaled(volume.array[c], mask) for c in channels])
        for volume, mask in zip((fixed, moving), masks, strict=True)
    )
    return FieldImages(
        fixed=torch.from_numpy(box.cut(fixed_values)).to(device),
        moving=torch.from_numpy(moving_values).to(device),
        box=box,
        moving_geometry=moving.geometry,
        initial=initial,
        weights=torch.from_numpy(weights).to(device),
        moving_weights=(
            None if moving_counted is None else torch.from_numpy(moving_counted).to(device)
        ),
        object_mm=max(extent.longest_mm for extent in extents),
    )


def _foreground(volume: Volume) -> npt.NDArray[np.float32]:
    """(D, H, W) 1 in the foreground and just around it, else 0: noise around it moves nothing.

    What any channel shows is foreground.
    """
    shown = np.any([foreground_mask(channel) for channel in volume.array], axis=0)
    mask = torch.from_numpy(shown).float()[None]
    size = tuple(min(_RIM, n // 2 * 2 + 1) for n in mask.shape[1:])
    half = tuple(n // 2 for n in size)
    widened: npt.NDArray[np.float32] = functional.max_pool3d(mask, size, 1, half)[0].numpy()
    return widened


def mask_of(mask: Volume) -> npt.NDArray[np.float32]:
    """(D, H, W) 1 in the mask, else 0."""
    return np.asarray(mask.single != 0, dtype=np.float32)


def _usable_channels(
    volumes: tuple[Volume, Volume], masks: tuple[Volume | None, Volume | None]
) -> list[int]:
    """Numbers of the channels that vary in both images, each inside its mask.

    Raises:
        DataError: if there is none, or a value is not finite.
    """
    usable, refusal = [], ""
    for channel in range(len(volumes[0].array)):
        varies = True
        for name, volume, mask in zip(("fixed", "moving"), volumes, masks, strict=True):
            values = volume.array[channel]
            if not np.isfinite(values).all():
                raise DataError(f"the {name} image has NaN or infinite values; repair it")
            counted = values if mask is None else values[mask.single != 0]
            if counted.min() == counted.max():
                varies = False
                where = "" if mask is None else " inside its mask"
                refusal = refusal or (
                    f"the {name} image is constant ({counted.min():g}){where}; nothing can be "
                    "compared"
                )
        if varies:
            usable.append(channel)
    if not usable:
        raise DataError(refusal)
    return usable


def _scaled(
    channel: npt.NDArray[np.generic], mask: Volume | None = None
) -> npt.NDArray[np.float32]:
    """Intensities (D, H, W) from the darkest to the brightest, outliers clamped, as 0 to 1.

    With a mask from the darkest to the brightest inside: what is hidden, such as metal, would
    squeeze all that counts into a small part of the range.
    """
    values = channel.ravel() if mask is None else channel[mask.single != 0]
    if values.size > _QUANTILE_VOXELS:
        # At random: a stride may look at a few columns of the image alone.
        values = values[np.random.default_rng(0).integers(0, values.size, _QUANTILE_VOXELS)]
    low, high = np.quantile(values, _QUANTILES)
    if not low < high:
        inside = channel if mask is None else channel[mask.single != 0]
        low, high = inside.min(), inside.max()
    result = np.empty(channel.shape, dtype=np.float32)
    np.subtract(channel, low, out=result, casting="unsafe")
    result /= high - low
    return np.clip(result, 0, 1, out=result)
