"""Two images at the resolutions of the initial alignment."""

from dataclasses import dataclass

import numpy as np

from autoreg.errors import DataError
from autoreg.geometry.grid import FloatArray, Geometry, apply_affine
from autoreg.geometry.volume import Volume
from autoreg.registration.align_levels import Foreground, Level, find_foreground, make_level
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
        foregrounds: Of the fixed and of the moving image.
        headers: 4x4, the placement that the headers say.
        boxes: 4x4, the same orientation with the middles of the voxel boxes on each other.
        normal: (3,) of the plane in which the fixed image of one layer lies; None in 3-D.
    """

    levels: tuple[PairLevel, ...]
    foregrounds: tuple[Foreground, Foreground]
    headers: FloatArray
    boxes: FloatArray
    normal: FloatArray | None

    def overlap(self, matrix: FloatArray) -> float:
        """Share of the smaller foreground that lies in the other one under a map."""
        fixed, moving = self.foregrounds
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
    parts = (
        find_foreground(fixed, _foreground_spacing(fixed.geometry), fixed_mask),
        find_foreground(moving, _foreground_spacing(moving.geometry), moving_mask),
    )
    size, dimensions = min(part.size for part in parts), parts[0].dimensions
    normal = plane_normal(fixed.geometry) if dimensions == 2 else None
    levels = []
    for wanted in settings.samples:
        spacing_mm = (size / wanted) ** (1 / dimensions)
        most = min(2 * wanted, _MOST_SAMPLES)
        levels.append(
            _pair_level(
                make_level(fixed, parts[0], fixed_mask, spacing_mm, most),
                make_level(moving, parts[1], moving_mask, spacing_mm, most),
                normal,
            )
        )
    headers = header_placement(fixed.geometry, moving.geometry)
    boxes = about_centres(headers[:3, :3], fixed.geometry.centre_mm, moving.geometry.centre_mm)
    return Pyramid(tuple(levels), parts, headers, boxes, normal)


def _pair_level(fixed: Level, moving: Level, normal: FloatArray | None) -> PairLevel:
    centre = fixed.centre_mm
    apart = fixed.points_mm[fixed.foreground] - centre
    radius = float(np.sqrt((apart**2).sum(axis=1).mean()))
    for name, level in (("fixed", fixed), ("moving", moving)):
        if np.ptp(level.values) <= 0:
            raise DataError(
                f"the {name} image is constant where it is compared (its mask, or its foreground "
                "with a rim); check the file and the mask"
            )
    return PairLevel(fixed, moving, centre, max(radius, 1e-6), rigid_generators(normal))


def _foreground_spacing(geometry: Geometry) -> float:
    extents = [e for e, n in zip(geometry.extent_mm, geometry.shape, strict=True) if n > 1]
    return float((np.prod(extents) / _FOREGROUND_VOXELS) ** (1 / max(len(extents), 1)))


def _check(name: str, image: Volume, mask: Volume | None) -> None:
    if not np.isfinite(image.single).all():
        raise DataError(f"the {name} image has NaN or infinite values; repair or exclude it")
    low, high = float(image.single.min()), float(image.single.max())
    if not low < high:
        raise DataError(f"the {name} image is constant ({low:g}) and cannot be aligned")
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
