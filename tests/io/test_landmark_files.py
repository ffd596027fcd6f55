"""Landmark files."""

import numpy as np
import pytest
from spaces import DIRECTIONS, make_geometry

from autoreg.errors import DataError
from autoreg.io.landmarks import read_landmarks, read_voxel_landmarks, write_landmarks


def test_round_trip(tmp_path):
    points = np.random.default_rng(0).normal(size=(7, 3)) * 100
    write_landmarks(tmp_path / "points.csv", points)
    np.testing.assert_allclose(read_landmarks(tmp_path / "points.csv"), points, atol=1e-6)
    assert (tmp_path / "points.csv").read_text().startswith("x,y,z\n")


def test_spaces_blank_lines_and_a_byte_order_mark_do_not_matter(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text("\ufeffX, Y ,z\r\n 1, 2,3\r\n\r\n-4,5.5,6e1\r\n\r\n", encoding="utf-8")
    np.testing.assert_array_equal(read_landmarks(path), [[1, 2, 3], [-4, 5.5, 60]])


@pytest.mark.parametrize("orientation", DIRECTIONS)
def test_voxel_indices_count_the_files_axes(tmp_path, orientation):
    geometry = make_geometry(orientation, (4, 5, 6), (1.0, 1.5, 3.0), (7.0, -20.0, 30.0))
    path = tmp_path / "points.csv"
    path.write_text("1,2,3\n0.5,0,5\n")
    expected = geometry.to_world([(3, 2, 1), (5, 0, 0.5)])
    np.testing.assert_allclose(read_voxel_landmarks(path, geometry), expected)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "'missing', expected 'x,y,z'"),
        ("1,2,3\n4,5,6\n", "'1,2,3', expected 'x,y,z'"),
        ("x,y,z\n", "holds no landmarks"),
        ("x,y,z\n1,2,3\n\n1,2\n", r"line 4: found '1,2'"),
        ("x,y,z\n1,2,three\n", "line 2"),
        ("x,y,z\n1,2,nan\n", "line 2"),
        ("x,y,z\n1,2,3,4\n", "line 2"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, text, words):
    path = tmp_path / "points.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=words) as caught:
        read_landmarks(path)
    assert str(path) in str(caught.value)


def test_missing_and_binary_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"absent\.csv: no such file"):
        read_landmarks(tmp_path / "absent.csv")
    (tmp_path / "points.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(DataError, match=r"points\.csv: cannot be read"):
        read_landmarks(tmp_path / "points.csv")
