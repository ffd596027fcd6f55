"""Foreground: which voxels of an image show the body and not the air or padding around it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from autoreg.geometry.grid import FloatArray
from autoreg.geometry.volume import Volume

# Below this minimum an image is read as Hounsfield units: no scaled MR, PET or US goes there.
_HOUNSFIELD_MINIMUM = -500.0
# Between air (-1000) and fat (-100); skin, with its partial volume, still belongs to the body.
_HOUNSFIELD_BODY = -300.0
# So large a share of voxels that equal the minimum is a stripped or padded background.
_PLATEAU_SHARE = 0.1
# Of the way from a plateau to the brightest tissue; interpolation leaves faint rims behind.
_ABOVE_PLATEAU = 0.02
# Parts smaller than this share of the largest one are dirt (tubes, ghosts, a piece of table).
_SMALL_PART = 0.1
_LONGEST_AXIS = 96
_BINS = 256
# A background is bright if so many voxels of the faces lie so close to their median, as a share of
# the range, and this above the threshold; the others may show a body that is cut off.
_FACES_ALIKE = 0.6
_RANGE = (0.005, 0.995)
_ALIKE = 0.05


def foreground_threshold(array: NDArray[Any]) -> float:
    """The intensity above which a voxel may belong to the foreground.

    In this order: -300 for images with values below -500, which are Hounsfield units; just above
    the minimum where at least a tenth of all voxels equal it (skull-stripped or padded images);
    otherwise Otsu's threshold between dark and bright. It needs the intensities alone, so it holds
    for images of unknown modality.

    Args:
        array: Intensities of any shape, finite.

    References:
        Otsu, A threshold selection method from gray-level histograms, IEEE SMC 1979.
    """
    values = np.asarray(array).ravel()
    minimum = float(values.min())
    if minimum < _HOUNSFIELD_MINIMUM:
        return _HOUNSFIELD_BODY
    brightest = float(np.quantile(values, 0.995))
    if np.count_nonzero(values == minimum) >= _PLATEAU_SHARE * values.size:
        # A small bright object can leave the quantile on the plateau.
        top = brightest if brightest > minimum else float(values.max())
        return minimum + _ABOVE_PLATEAU * (top - minimum)
    return _otsu(np.clip(values, np.quantile(values, 0.005), brightest))


def bright_background(array: NDArray[Any]) -> float | None:
    """The value of a bright background, as a photographic negative has it; None if it is dark.

    It is bright where the image's faces show one value, which lies above the threshold between dark
    and bright. Hounsfield units never count: air is dark.

    Args:
        array: (D, H, W) intensities; of a single layer the rim counts.
    """
    faces = np.concatenate(
        [
            np.take(array, end, axis=axis).ravel()
            for axis in range(3)
            for end in (0, -1)
            if array.shape[axis] > 1
        ]
        or [array.ravel()]
    )
    middle = float(np.median(faces))
    low, high = np.quantile(array, _RANGE)  # a single bright voxel must not decide
    near = np.abs(faces - middle) <= _ALIKE * (high - low)
    alike = np.count_nonzero(near) >= _FACES_ALIKE * faces.size
    threshold = foreground_threshold(array)
    is_bright = alike and middle > threshold and array.min() >= _HOUNSFIELD_MINIMUM
    return middle if is_bright else None


def coarse_foreground(array: NDArray[Any]) -> tuple[NDArray[np.bool_], tuple[int, int, int]]:
    """The foreground on every n-th voxel: thresholded, freed from small parts, holes filled.

    Before a bright background (see `bright_background`) it is what is dark.

    Args:
        array: (D, H, W) intensities.

    Returns:
        The mask of `array[::a, ::b, ::c]`, never empty, and the steps (a, b, c), which leave at
        most 96 voxels along each axis.
    """
    steps = tuple(-(-n // _LONGEST_AXIS) for n in array.shape)
    coarse = array[:: steps[0], :: steps[1], :: steps[2]]
    if bright_background(coarse) is not None:
        coarse = coarse.max() - coarse
    mask = np.asarray(coarse > foreground_threshold(coarse))
    parts, count = ndimage.label(mask)
    if count > 1:
        sizes = np.bincount(parts.ravel())[1:]
        kept = np.concatenate([[False], sizes >= _SMALL_PART * sizes.max()])
        mask = kept[parts]
    mask = ndimage.binary_fill_holes(mask)
    if not mask.any():  # a constant image has no foreground of its own
        mask = np.ones_like(mask)
    return mask, (steps[0], steps[1], steps[2])


def foreground_mask(array: NDArray[Any]) -> NDArray[np.bool_]:
    """The foreground on the image's own grid, (D, H, W)."""
    mask, steps = coarse_foreground(array)
    for axis, step in enumerate(steps):
        index = np.minimum((np.arange(array.shape[axis]) + step // 2) // step, mask.shape[axis] - 1)
        mask = np.take(mask, index, axis=axis)
    return mask


def foreground_centre_mm(volume: Volume) -> FloatArray:
    """World point of the centre of foreground mass: the mean place of the foreground's voxels.

    Args:
        volume: Intensities; the first channel counts.

    Returns:
        (3,) xyz, LPS millimetres; exact to a fraction of a voxel.
    """
    mask, steps = coarse_foreground(volume.single)
    mean = [
        np.average(np.arange(n), weights=np.count_nonzero(mask, axis=others))
        for n, others in zip(mask.shape, ((1, 2), (0, 2), (0, 1)), strict=True)
    ]
    return volume.geometry.to_world(np.array(mean) * steps)


def _otsu(values: NDArray[Any]) -> float:
    counts, edges = np.histogram(values, bins=_BINS)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = counts.sum() - below
    sums = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = (sums[-1] - sums[:-1]) / above - sums[:-1] / below
        variance = np.nan_to_num(below * above * gap**2)
    return float(edges[1:][int(np.argmax(variance))])
