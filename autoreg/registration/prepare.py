"""From an image on its own grid to network input on the plan's grid."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoreg.errors import DataError
from autoreg.geometry.foreground import foreground_centre_mm
from autoreg.geometry.grid import Geometry
from autoreg.geometry.volume import Volume
from autoreg.numerics.resample import resample
from autoreg.numerics.warp import Padding
from autoreg.plan import IntensityPlan, Plan


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image as the network sees it.

    Attributes:
        image: (1, C, D, H, W) float32, scaled to [0, 1].
        mask: (1, 1, D, H, W) bool, where the similarity counts; None: everywhere.
        geometry: Of the grid in this image's world.
        native_spacing_mm: Smallest distance of the image's own voxels; None: unknown.
    """

    image: Tensor
    mask: Tensor | None
    geometry: Geometry
    native_spacing_mm: float | None = None


def prepare(
    volume: Volume,
    plan: Plan,
    modalities: Sequence[str],
    mask: Volume | None = None,
    device: torch.device | str = "cpu",
) -> Prepared:
    """Scale the intensities, then lay the plan's grid into the image and sample it there.

    In this order, as published: quantiles are those of the image itself.

    Args:
        volume: The image.
        plan: Its intensity schemes, grid and alignment are obeyed.
        modalities: Of each channel; names in `plan.intensity`.
        mask: Non-zero where the similarity counts, on the same geometry.
        device: Where the result lives and is computed.

    Returns:
        The network's input.

    Raises:
        DataError: if the channels don't fit the modalities, the mask doesn't fit the image or is
            empty, or an image is constant, not finite or beside the grid.
    """
    _check(volume, modalities, mask)
    channels = [
        normalise(channel, plan.intensity[modality])
        for channel, modality in zip(volume.array, modalities, strict=True)
    ]
    centre = foreground_centre_mm(volume) if plan.alignment.kind == "centres" else None
    geometry = prepared_geometry(volume.geometry, plan, centre)
    matrix = volume.geometry.world_to_index @ geometry.index_to_world
    # With "boxes" the outermost nodes lie within the image's rim; elsewhere the grid may leave
    # the image, and 0, the scheme's low end (air in CT, background in MR), stands for outside.
    padding: Padding = "border" if plan.alignment.kind == "boxes" else "zeros"
    native = torch.from_numpy(np.stack(channels))[None].to(device)
    image = resample(native, geometry.shape, matrix, padding, antialias=plan.grid.antialias)
    if not bool(image.max() > image.min()):
        raise DataError(_beside(geometry, volume.geometry, plan))
    inside = None if mask is None else _sampled_mask(mask, geometry, padding, device)
    return Prepared(image, inside, geometry, min(volume.geometry.spacing_mm))


def _beside(grid: Geometry, image: Geometry, plan: Plan) -> str:
    places = [np.round(geometry.centre_mm, 1).tolist() for geometry in (grid, image)]
    return (
        f'the plan\'s grid (alignment "{plan.alignment.kind}", middle at {places[0]} mm) misses '
        f"the image, whose middle lies at {places[1]} mm; correct the image's header, or use a "
        'model that was planned with alignment "centres"'
    )


def _sampled_mask(
    mask: Volume, grid: Geometry, padding: Padding, device: torch.device | str
) -> Tensor:
    inside = torch.from_numpy(np.ascontiguousarray(mask.array != 0))[None].to(device)
    matrix = mask.geometry.world_to_index @ grid.index_to_world
    sampled = resample(inside.to(torch.uint8), grid.shape, matrix, padding, "nearest") > 0
    if not bool(sampled.any()):
        raise DataError(
            "the mask has no voxel inside on the plan's grid, so that nothing would be compared; "
            "draw the mask, or leave it out"
        )
    return sampled


def prepared_geometry(
    geometry: Geometry, plan: Plan, centre_mm: NDArray[np.float64] | None
) -> Geometry:
    """Where the plan's grid lies in an image.

    Args:
        geometry: Of the image.
        plan: Its grid and alignment are obeyed.
        centre_mm: The image's foreground centre, (3,) xyz; needed with alignment "centres" only.

    Returns:
        With "boxes" the image's voxel box cut into the grid's nodes. Otherwise a grid of the
        plan's spacing whose axes (d, h, w) point to S, P, L, with its middle at the foreground
        centre ("centres") or at the plan's world point ("world").

    Raises:
        DataError: if the foreground centre is needed and missing.
    """
    shape, kind = plan.grid.shape, plan.alignment.kind
    if kind == "boxes":
        return geometry.resized(shape)
    middle = plan.alignment.centre_mm if kind == "world" else centre_mm
    if middle is None:
        raise DataError('alignment "centres" needs the foreground centre of the image')
    matrix = np.eye(4)
    d, h, w = plan.grid.spacing_mm
    matrix[:3, :3] = [[0, 0, w], [0, h, 0], [d, 0, 0]]  # rows x, y, z; columns d, h, w
    matrix[:3, 3] = np.asarray(middle) - matrix[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Geometry(shape, matrix)


def normalise(array: NDArray[Any], scheme: IntensityPlan) -> NDArray[np.float32]:
    """Scale intensities to [0, 1] by a scheme: clamp to [low, high], then (x - low)/(high - low).

    Args:
        array: (D, H, W), on its native grid.
        scheme: The window, or the quantiles of all voxels: q means the max(1, int(q n))-th
            smallest of n values, as published for uniGradICON.

    Returns:
        (D, H, W) float32; computed in float64 and rounded once, like ITK's filters.

    Raises:
        DataError: if the image has values that are not finite or is constant after clamping.
    """
    if not np.isfinite(array).all():
        raise DataError("the image has NaN or infinite values; repair or exclude it")
    low, high = scheme.lower, scheme.upper
    if scheme.kind == "quantiles":
        low, high = _order_statistics(array, (scheme.lower, scheme.upper))
    minimum, maximum = max(low, float(array.min())), min(high, float(array.max()))
    if not minimum < maximum:
        raise DataError(
            f"the image is constant between {low:g} and {high:g} ({scheme.kind} {scheme.lower:g} "
            f"to {scheme.upper:g}); its values go from {array.min():g} to {array.max():g}; check "
            "the file and its modality"
        )
    scale = 1.0 / (high - low)
    result = np.empty(array.shape, dtype=np.float32)
    for index, layer in enumerate(array):  # by layers: a float64 copy of a CT takes gigabytes
        result[index] = (np.clip(layer.astype(np.float64), low, high) - low) * scale
    return result


def _order_statistics(array: NDArray[Any], quantiles: tuple[float, float]) -> tuple[float, float]:
    ranks = [max(1, int(q * array.size)) - 1 for q in quantiles]
    ordered = np.partition(array, ranks, axis=None)
    return float(ordered[ranks[0]]), float(ordered[ranks[1]])


def _check(volume: Volume, modalities: Sequence[str], mask: Volume | None) -> None:
    if len(modalities) != volume.array.shape[0]:
        raise DataError(
            f"the image has {volume.array.shape[0]} channels, the plan expects "
            f"{len(modalities)} ({', '.join(modalities)})"
        )
    difference = None if mask is None else volume.geometry.difference(mask.geometry)
    if difference is not None:
        raise DataError(f"the mask lies elsewhere than its image: {difference}")
