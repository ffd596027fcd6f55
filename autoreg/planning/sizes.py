"""How large the images of a data set are, by their headers: decides how many workers fit."""

from collections.abc import Iterable

import numpy as np

from autoreg.errors import AutoregError
from autoreg.io.cases import Case
from autoreg.io.images import read_geometry


def largest_image_voxels(cases: Iterable[Case]) -> int:
    """Voxels of the largest image, one channel; unreadable files are passed over."""
    largest = 0
    for case in cases:
        try:
            shape = read_geometry(case.images[0]).shape
        except AutoregError:  # told by verification, or by whoever opens the image
            continue
        largest = max(largest, int(np.prod(shape, dtype=np.int64)))
    return largest
