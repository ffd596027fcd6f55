"""Volume: arrays that fit their geometry."""

import numpy as np
import pytest

from autoreg.errors import GeometryError
from autoreg.geometry.grid import Geometry
from autoreg.geometry.volume import Volume

GRID = Geometry((2, 3, 4), np.eye(4))


def test_intensity_takes_one_or_more_channels_as_float32():
    one = Volume.intensity(np.ones((2, 3, 4), np.int16), GRID)
    assert one.array.shape == (1, 2, 3, 4)
    assert one.array.dtype == np.float32
    assert Volume.intensity(np.ones((5, 2, 3, 4)), GRID).array.shape == (5, 2, 3, 4)
    assert one.single.shape == (2, 3, 4)


def test_shapes_must_fit():
    with pytest.raises(GeometryError, match=r"\(1, 2, 3, 5\)"):
        Volume.intensity(np.ones((2, 3, 5)), GRID)


def test_labels_have_one_channel():
    with pytest.raises(GeometryError, match="one channel"):
        Volume(np.zeros((2, 2, 3, 4), np.int32), GRID, "label")
