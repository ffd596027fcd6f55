"""Write an image of two files, header and numbers, as one."""

from collections.abc import Sequence
from pathlib import Path

import SimpleITK as sitk

from autoreg.errors import DataError
from autoreg.io.images import read_geometry, save_itk
from autoreg.io.nibabel_images import last_line


def rewrite_image(target: Path, inputs: Sequence[Path]) -> None:
    """Write an image as one NIfTI file, in its own number type.

    Args:
        target: Ends in .nii.gz.
        inputs: The file to read, and those that it is read with.

    Raises:
        DataError: if the image cannot be read or is not three-dimensional.
    """
    path = inputs[0]
    read_geometry(path)  # says what is wrong with images of other dimensions
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise DataError(f"{path}: cannot be read ({last_line(error)}); repair the file") from error
    save_itk(target, image)
