"""AIR files: the struct's layout in both byte orders, its unit, and what is refused."""

import numpy as np
import pytest
from published_lpba40 import air_bytes

from autoreg.dataset_conversion.air_transforms import read_air_transform
from autoreg.errors import DataError

STANDARD = (16, 20, 10, 22), (1.0, 1.5, 0.75)
RESLICE = (8, 30, 31, 32), (1.0, 1.0, 1.0)


def rotation_with_shift():
    angle = 0.1
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix[:3, 3] = 3.0, -2.0, 1.25
    return matrix


@pytest.fixture
def write(tmp_path):
    def write(matrix, standard=STANDARD, **named):
        path = tmp_path / "S01.delineation.to.native.air"
        path.write_bytes(air_bytes(matrix, standard, RESLICE, **named))
        return path

    return write


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("long_hashes", [False, True])
def test_both_byte_orders_and_both_lengths_are_read(write, order, long_hashes):
    matrix = rotation_with_shift()
    path = write(matrix, order=order, long_hashes=long_hashes)
    assert path.stat().st_size == (728 if long_hashes else 720)
    air = read_air_transform(path)
    np.testing.assert_array_equal(air.cubic_to_reslice, matrix)
    assert air.standard.shape == (20, 10, 22)
    assert air.standard.voxel_size_mm == (1.0, 1.5, 0.75)
    assert air.reslice.shape == (30, 31, 32)


def test_the_matrix_speaks_of_cubic_voxels_of_the_smallest_size(write):
    """Identity: the k-th cubic voxel of 0.75 mm lies 0.75 k mm along every axis of the standard."""
    air = read_air_transform(write(np.eye(4)))
    index = air.reslice_to_standard @ [4.0, 4.0, 4.0, 1.0]
    millimetres = index[:3] * [1.0, 1.5, 0.75]
    np.testing.assert_allclose(millimetres, [3.0, 3.0, 3.0])


def test_it_takes_the_reslice_volume_to_the_standard_one(write):
    """In the file the matrix goes the other way: cubic standard index to reslice index."""
    matrix = rotation_with_shift()
    air = read_air_transform(write(matrix, standard=((16, 20, 21, 22), (0.8, 0.8, 0.8))))
    point = np.array([5.0, 6.0, 7.0, 1.0])
    np.testing.assert_allclose(air.reslice_to_standard @ (matrix @ point), point)


def test_other_lengths_are_refused(tmp_path):
    path = tmp_path / "half.air"
    path.write_bytes(air_bytes(np.eye(4), STANDARD, RESLICE)[:400])
    with pytest.raises(DataError, match=r"half\.air: 400 bytes, expected .* 720 or 728"):
        read_air_transform(path)


def test_garbage_of_the_right_length_is_refused(tmp_path):
    path = tmp_path / "garbage.air"
    path.write_bytes(np.random.default_rng(1).bytes(720))
    with pytest.raises(DataError, match="no AIR transform"):
        read_air_transform(path)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [((3, 0), 1e-3, "perspective"), ((0, 0), 0.0, "singular"), ((0, 0), np.nan, "impossible")],
)
def test_matrices_that_are_not_affine_are_refused(write, place, value, message):
    matrix = np.eye(4)
    matrix[place] = value
    with pytest.raises(DataError, match=message):
        read_air_transform(write(matrix))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"absent\.air: no such file"):
        read_air_transform(tmp_path / "absent.air")
