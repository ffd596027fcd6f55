"""Images and label maps of LPBA40 from Analyze files and AIR transforms.

As SITReg prepares them: brain and tissues are resampled linearly from native into delineation
space, the brain is divided by the mean of its pure white matter (tissue 3) and set to 0 where there
is no tissue. Label maps stay as they were drawn. Everything is done on the whole grid and cropped
last.

References:
    github.com/honkamj/SITReg, src/data/lpba40.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from autoreg.dataset_conversion.air_transforms import read_air_transform
from autoreg.dataset_conversion.analyze_images import AnalyzeFile, open_analyze
from autoreg.dataset_conversion.cropping import CropXyz
from autoreg.errors import DataError
from autoreg.geometry.grid import FloatArray, Geometry
from autoreg.geometry.volume import Kind, Volume
from autoreg.io.images import write_image

WHITE_MATTER = 3
# Interpolated tissue values that differ less are equal: rounding is no tissue.
_TISSUE_TOLERANCE = 1e-5
_DIRECTION = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

_PAIRED = {
    21: "superior_frontal_gyrus", 23: "middle_frontal_gyrus", 25: "inferior_frontal_gyrus",
    27: "precentral_gyrus", 29: "middle_orbitofrontal_gyrus", 31: "lateral_orbitofrontal_gyrus",
    33: "gyrus_rectus", 41: "postcentral_gyrus", 43: "superior_parietal_gyrus",
    45: "supramarginal_gyrus", 47: "angular_gyrus", 49: "precuneus",
    61: "superior_occipital_gyrus", 63: "middle_occipital_gyrus", 65: "inferior_occipital_gyrus",
    67: "cuneus", 81: "superior_temporal_gyrus", 83: "middle_temporal_gyrus",
    85: "inferior_temporal_gyrus", 87: "parahippocampal_gyrus", 89: "lingual_gyrus",
    91: "fusiform_gyrus", 101: "insular_cortex", 121: "cingulate_gyrus", 161: "caudate",
    163: "putamen", 165: "hippocampus",
}  # fmt: skip
# Odd values are on the left.
LABELS = {
    f"{side}_{name}": value + offset
    for value, name in _PAIRED.items()
    for offset, side in enumerate(("left", "right"))
} | {"cerebellum": 181, "brainstem": 182}


def write_brain(target: Path, inputs: Sequence[Path], crop_xyz: CropXyz) -> None:
    """Write a subject's brain in delineation space.

    Args:
        target: Ends in .nii.gz.
        inputs: Header and voxels of brain, of tissues and of labels, and the AIR transform.
        crop_xyz: Voxels cut off before and after, along x, y, z.

    Raises:
        DataError: if a file is damaged or there is no white matter.
    """
    brain, tissue, labels = (open_analyze(inputs[n]) for n in (0, 2, 4))
    to_native = read_air_transform(inputs[6]).reslice_to_standard
    image, tissues = (_resampled(file, to_native, labels.shape) for file in (brain, tissue))
    white = np.abs(tissues - WHITE_MATTER) < _TISSUE_TOLERANCE
    mean = image[white].mean() if white.any() else 0.0
    if not mean > 0:
        raise DataError(
            f"{tissue.header}: {int(white.sum())} voxels of white matter (tissue {WHITE_MATTER}), "
            f"whose mean in the brain image is {mean:.6g}, expected a positive one; fetch the "
            "images again"
        )
    image = np.where(tissues > _TISSUE_TOLERANCE, image / mean, 0.0).astype(np.float32)
    _write(target, image, labels, crop_xyz, "intensity")


def write_labels(target: Path, inputs: Sequence[Path], crop_xyz: CropXyz) -> None:
    """Write a subject's label map.

    Args:
        target: Ends in .nii.gz.
        inputs: Header and voxels of labels.
        crop_xyz: Voxels cut off before and after, along x, y, z.

    Raises:
        DataError: if a file is damaged or has values of another edition.
    """
    labels = open_analyze(inputs[0])
    array = labels.read()
    unknown = sorted(set(np.unique(array).tolist()) - {0, *LABELS.values()})
    if unknown:
        raise DataError(
            f"{labels.header}: label values {', '.join(map(str, unknown[:10]))}, expected LPBA40's "
            "56 structures from 21 to 182; fetch the published label maps"
        )
    _write(target, array.astype(np.int16), labels, crop_xyz, "label")


def _resampled(file: AnalyzeFile, to_file: FloatArray, shape: tuple[int, int, int]) -> FloatArray:
    """An image at the voxels of another grid, linearly; beyond its border the border goes on."""
    voxels = file.read().astype(np.float64)
    matrix, offset = to_file[:3, :3], to_file[:3, 3]
    sampled: FloatArray = ndimage.affine_transform(
        voxels, matrix, offset, output_shape=shape, order=1, mode="nearest"
    )
    return sampled


def _write(
    target: Path, array: NDArray[Any], frame: AnalyzeFile, crop_xyz: CropXyz, kind: Kind
) -> None:
    """Write (x, y, z) numbers of delineation space; x grows to the left, y to the back, z up."""
    first = [cut[0] for cut in crop_xyz]
    last = [n - cut[1] for n, cut in zip(array.shape, crop_xyz, strict=True)]
    array = array[tuple(slice(a, b) for a, b in zip(first, last, strict=True))]
    origin = [n * size for n, size in zip(first, frame.voxel_size_mm, strict=True)]
    geometry = Geometry.from_itk(array.shape, frame.voxel_size_mm, origin, _DIRECTION)
    write_image(target, Volume(np.ascontiguousarray(array.T)[None], geometry, kind))
