"""Two images at the resolutions of the initial alignment."""

from dataclasses import dataclass

import numpy as np

from autoreg.errors import DataError
from autoreg.geometry.grid import FloatArray, Geometry, apply_affine
from autoreg.geometry.volume import Volume
from autoreg.registration.align_levels import (
    Foreground,
    Level,
    find_foreground,
    make_level,
    mean_centre,
)
from autoreg.registration.align_optimise import rigid_generators
from autoreg.registration.align_settings import AlignmentSettings
from autoreg.registration.align_similarity import PairLevel
from autoreg.registration.align_starts import about_centres, header_placement, plane_normal

# Voxels of the whole image on which its foreground is found.
_FOREGROUND_VOXELS = 20_000
# Visited in each image at each step, at most: more cost time and improve nothing (measured).
_MOST_SAMPLES = 12_000


@dataclass(frozen=True, eq=False)
class Pyramid:
    """A pair at several resolutions.

    Attributes:
        levels: Coarsest first, with rigid generators.
        foregrounds: Of the fixed and of the moving image, for each channel.
        headers: 4x4, the placement that the headers say.
        boxes: 4x4, the same orientation with the middles of the voxel boxes on each other.
        normal: (3,) of the plane in which the fixed image of one layer lies; None in 3-D.
    """

    levels: tuple[PairLevel, ...]
    foregrounds: tuple[tuple[Foreground, Foreground], ...]
    headers: FloatArray
    boxes: FloatArray
    normal: FloatArray | None

    def overlap(self, matrix: FloatArray) -> float:
        """Share of the smaller foreground that lies in the other one; mean over the channels."""
        return float(np.mean([_overlap(*parts, matrix) for parts in self.foregrounds]))


def _overlap(fixed: Foreground, moving: Foreground, matrix: FloatArray) -> float:
    points = fixed.geometry.to_world(np.argwhere(fixed.inside))
    index = np.rint(moving.geometry.to_index(apply_affine(matrix, points))).astype(int)
    if moving.dimensions == 2:
        index[:, 0] = 0
    known = np.all((index >= 0) & (index < moving.inside.shape), axis=1)
    hits = np.count_nonzero(moving.inside[tuple(index[known].T)])
    area = fixed.size / len(points) * hits
    return float(min(1.0, area / min(fixed.size, moving.size)))


def make_pyramid(
    fixed: Volume,
    moving: Volume,
    settings: AlignmentSettings,
    fixed_mask: Volume | None,
    moving_mask: Volume | None,
) -> Pyramid:
    """Check the images, find their foregrounds and shrink them.

    Raises:
        DataError: see `align`.
    """
    for name, image, mask in (("fixed", fixed, fixed_mask), ("moving", moving, moving_mask)):
        _check(name, image, mask)
    _same_dimensions(fixed.geometry, moving.geometry)
    channels = _channels(fixed, moving, (fixed_mask, moving_mask))
    spacings = [_foreground_spacing(image.geometry) for image in (fixed, moving)]
    parts = tuple(
        (
            find_foreground(one, spacings[0], fixed_mask),
            find_foreground(other, spacings[1], moving_mask),
        )
        for one, other in channels
    )
    size = float(np.mean([min(part.size for part in both) for both in parts]))
    dimensions = parts[0][0].dimensions
    normal = plane_normal(fixed.geometry) if dimensions == 2 else None
    levels = []
    for wanted in settings.samples:
        spacing_mm = (size / wanted) ** (1 / dimensions)
        most = min(2 * wanted, _MOST_SAMPLES)
        pairs = tuple(
            (
                make_level(one, part, fixed_mask, spacing_mm, most),
                make_level(other, its_part, moving_mask, spacing_mm, most),
            )
            for (one, other), (part, its_part) in zip(channels, parts, strict=True)
        )
        levels.append(_pair_level(pairs, normal))
    headers = header_placement(fixed.geometry, moving.geometry)
    boxes = about_centres(headers[:3, :3], fixed.geometry.centre_mm, moving.geometry.centre_mm)
    return Pyramid(tuple(levels), parts, headers, boxes, normal)


def _channels(
    fixed: Volume, moving: Volume, masks: tuple[Volume | None, Volume | None]
) -> list[tuple[Volume, Volume]]:
    """The channels as images of their own, without those that are constant where they count."""
    if len(fixed.array) != len(moving.array):
        raise DataError(
            f"the fixed image has {len(fixed.array)} channels and the moving image "
            f"{len(moving.array)}; expected as many"
        )
    channels = [
        (
            Volume(one[None], fixed.geometry, "intensity"),
            Volume(other[None], moving.geometry, "intensity"),
        )
        for one, other in zip(fixed.array, moving.array, strict=True)
    ]
    varying = [
        all(
            np.ptp(image.single if mask is None else image.single[mask.single != 0]) > 0
            for image, mask in zip(both, masks, strict=True)
        )
        for both in channels
    ]
    # Where nothing is left, the first channel says what is wrong.
    return [c for c, useful in zip(channels, varying, strict=True) if useful] or channels[:1]


def _pair_level(channels: tuple[tuple[Level, Level], ...], normal: FloatArray | None) -> PairLevel:
    fixed_levels = [fixed for fixed, _ in channels]
    centre = mean_centre(fixed_levels)
    apart = np.concatenate([level.points_mm[level.foreground] - centre for level in fixed_levels])
    radius = float(np.sqrt((apart**2).sum(axis=1).mean()))
    for both in channels:
        for name, level in zip(("fixed", "moving"), both, strict=True):
            if np.ptp(level.values) <= 0:
                raise DataError(
                    f"the {name} image is constant where it is compared (its mask, or its "
                    "foreground with a rim); check the file and the mask"
                )
    return PairLevel(channels, centre, max(radius, 1e-6), rigid_generators(normal))


def _foreground_spacing(geometry: Geometry) -> float:
    extents = [e for e, n in zip(geometry.extent_mm, geometry.shape, strict=True) if n > 1]
    return float((np.prod(extents) / _FOREGROUND_VOXELS) ** (1 / max(len(extents), 1)))


def _check(name: str, image: Volume, mask: Volume | None) -> None:
    if not np.isfinite(image.array).all():
        raise DataError(f"the {name} image has NaN or infinite values; repair or exclude it")
    if all(np.ptp(channel) <= 0 for channel in image.array):
        value = float(image.single.flat[0])
        raise DataError(f"the {name} image is constant ({value:g}) and cannot be aligned")
    if mask is None:
        return
    difference = image.geometry.difference(mask.geometry)
    if difference is not None:
        raise DataError(f"the {name} image's mask lies elsewhere than the image: {difference}")
    if not (mask.single != 0).any():
        raise DataError(
            f"the {name} image's mask has no voxel inside; draw the mask, or leave it out"
        )


def _same_dimensions(fixed: Geometry, moving: Geometry) -> None:
    if (fixed.shape[0] == 1) != (moving.shape[0] == 1):
        raise DataError(
            "one image has a single layer and the other has several: fixed "
            f"{fixed.shape}, moving {moving.shape} (d, h, w); align 2-D with 2-D or 3-D with 3-D"
        )
