"""Cut a border off an image or label map; the voxels that stay keep their place in the world."""

from collections.abc import Sequence
from pathlib import Path

import SimpleITK as sitk

from autoreg.errors import DataError
from autoreg.io.images import read_geometry, save_itk

# Voxels cut off before and after, along the file's first, second and third axis.
CropXyz = Sequence[Sequence[int]]


def crop_image(target: Path, inputs: Sequence[Path], crop_xyz: CropXyz) -> None:
    """Write a published image without its border, in the file's own number type.

    Args:
        target: Ends in .nii.gz.
        inputs: The image alone.
        crop_xyz: See `CropXyz`; none is negative.

    Raises:
        DataError: if the image cannot be read or nothing would be left.
    """
    (path,) = inputs
    d, h, w = read_geometry(path).shape
    left = [n - sum(cut) for n, cut in zip((w, h, d), crop_xyz, strict=True)]
    if min(left) < 1:
        raise DataError(f"{path}: {w} x {h} x {d} voxels are too few for the crop {crop_xyz}")
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise DataError(f"{path}: cannot be read ({error}); download it again") from error
    before, after = ([int(cut[n]) for cut in crop_xyz] for n in (0, 1))
    save_itk(target, sitk.Crop(image, before, after))
