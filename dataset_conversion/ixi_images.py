"""Images and label maps of IXI from TransMorph's pickles.

TransMorph's programs number the 46 values of FreeSurfer's label maps from 0 to 45 when they load
them; so do these. The pickles do not say where their voxels lie: 1 mm along the arrays' axes is
written, in the arrays' own order. Directions in the body are not to be read off.
"""

import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoreg.dataset_conversion.safe_pickle import read_arrays
from autoreg.errors import DataError
from autoreg.geometry.grid import Geometry
from autoreg.geometry.volume import Kind, Volume
from autoreg.io.images import write_image

logger = logging.getLogger(__name__)

_DIRECTION = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
# Intensities were scaled to [0, 1]; rounding may exceed it.
_INTENSITY_TOLERANCE = 1e-3
_UNKNOWN = -1
_LARGEST_UNKNOWN_SHARE = 0.01

# FreeSurfer's value and name of each structure, in TransMorph's order: the first becomes 1.
_STRUCTURES = (
    (2, "left_cerebral_white_matter"), (3, "left_cerebral_cortex"), (4, "left_lateral_ventricle"),
    (5, "left_inferior_lateral_ventricle"), (7, "left_cerebellum_white_matter"),
    (8, "left_cerebellum_cortex"), (10, "left_thalamus"), (11, "left_caudate"),
    (12, "left_putamen"), (13, "left_pallidum"), (14, "third_ventricle"),
    (15, "fourth_ventricle"), (16, "brain_stem"), (17, "left_hippocampus"), (18, "left_amygdala"),
    (24, "csf"), (26, "left_accumbens"), (28, "left_ventral_dc"), (30, "left_vessel"),
    (31, "left_choroid_plexus"), (41, "right_cerebral_white_matter"),
    (42, "right_cerebral_cortex"), (43, "right_lateral_ventricle"),
    (44, "right_inferior_lateral_ventricle"), (46, "right_cerebellum_white_matter"),
    (47, "right_cerebellum_cortex"), (49, "right_thalamus"), (50, "right_caudate"),
    (51, "right_putamen"), (52, "right_pallidum"), (53, "right_hippocampus"),
    (54, "right_amygdala"), (58, "right_accumbens"), (60, "right_ventral_dc"),
    (62, "right_vessel"), (63, "right_choroid_plexus"), (72, "fifth_ventricle"),
    (77, "white_matter_hypointensities"), (80, "non_white_matter_hypointensities"),
    (85, "optic_chiasm"), (251, "corpus_callosum_posterior"),
    (252, "corpus_callosum_mid_posterior"), (253, "corpus_callosum_central"),
    (254, "corpus_callosum_mid_anterior"), (255, "corpus_callosum_anterior"),
)  # fmt: skip
FREESURFER_VALUES = (0, *(value for value, _ in _STRUCTURES))
LABELS = {name: number for number, (_, name) in enumerate(_STRUCTURES, start=1)}

# The 17 rows of TransMorph's tables; each is the mean of the structures whose names end so.
PAPER_GROUPS = (
    "brain_stem", "thalamus", "cerebellum_cortex", "cerebral_white_matter",
    "cerebellum_white_matter", "putamen", "ventral_dc", "pallidum", "caudate",
    "lateral_ventricle", "hippocampus", "third_ventricle", "fourth_ventricle", "amygdala",
    "cerebral_cortex", "csf", "choroid_plexus",
)  # fmt: skip
PAPER_LABELS = {
    name: number
    for name, number in LABELS.items()
    if name.removeprefix("left_").removeprefix("right_") in PAPER_GROUPS
}


def write_image_of(target: Path, inputs: Sequence[Path], shape_xyz: Sequence[int]) -> None:
    """Write the image of a pickle.

    Args:
        target: Ends in .nii.gz.
        inputs: The pickle.
        shape_xyz: That its arrays must have.

    Raises:
        DataError: if the pickle is refused, damaged or another edition's.
    """
    image, _ = _arrays(inputs[0], shape_xyz)
    low, high = float(image.min()), float(image.max())
    # Comparisons with NaN are false.
    if not (-_INTENSITY_TOLERANCE <= low < high <= 1 + _INTENSITY_TOLERANCE):
        raise DataError(
            f"{inputs[0]}: intensities from {low:.6g} to {high:.6g}, expected an image of 0 to 1; "
            "this looks like another edition: fetch the published file"
        )
    _write(target, image.astype(np.float32), "intensity")


def write_labels(
    target: Path, inputs: Sequence[Path], shape_xyz: Sequence[int], kept: Collection[int]
) -> None:
    """Write the label map of a pickle, numbered as TransMorph does.

    Args:
        target: Ends in .nii.gz.
        inputs: The pickle.
        shape_xyz: That its arrays must have.
        kept: Numbers of the structures to keep; others become background.

    Values that are none of the 46 become background, as in TransMorph's programs, and are told.

    Raises:
        DataError: if the pickle is refused, damaged or another edition's, or if more than a
            hundredth of what is labelled in it has other values.
    """
    path = inputs[0]
    _, labels = _arrays(path, shape_xyz)
    numbers = np.full(labels.shape, _UNKNOWN, np.int16)
    for number, value in enumerate(FREESURFER_VALUES):
        numbers[labels == value] = number
    unknown = numbers == _UNKNOWN
    if unknown.any():
        values = ", ".join(f"{value:g}" for value in np.unique(labels[unknown])[:10].tolist())
        told = f"{path}: {int(unknown.sum())} voxels have other label values than IXI's: {values}"
        if unknown.sum() > _LARGEST_UNKNOWN_SHARE * np.count_nonzero(labels):
            raise DataError(f"{told}; this looks like another edition: fetch the published file")
        logger.warning("%s; they become background, as in TransMorph's programs", told)
    numbers[~np.isin(numbers, list(kept))] = 0
    _write(target, numbers, "label")


def _arrays(path: Path, shape_xyz: Sequence[int]) -> tuple[NDArray[Any], NDArray[Any]]:
    arrays = read_arrays(path)
    shapes = [array.shape for array in arrays]
    if shapes != [tuple(shape_xyz)] * 2:
        raise DataError(
            f"{path}: arrays of {', '.join(map(str, shapes))}, expected image and label map of "
            f"{tuple(shape_xyz)}; this looks like another edition: fetch the published file"
        )
    return arrays[0], arrays[1]


def _write(target: Path, array: NDArray[Any], kind: Kind) -> None:
    """Write (x, y, z) numbers in the array's own order."""
    geometry = Geometry.from_itk(array.shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), _DIRECTION)
    write_image(target, Volume(np.ascontiguousarray(array.T)[None], geometry, kind))
