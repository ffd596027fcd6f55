"""Learn2Reg's voxel displacements, judged by what its evaluation does with them."""

import nibabel
import numpy as np
import pytest
from known_transforms import points_in, smooth_field, turned
from scipy import ndimage
from spaces import DIRECTIONS, make_geometry

from autoreg.errors import DataError, UsageError
from autoreg.geometry.transforms import Composite
from autoreg.io.learn2reg_transforms import read_learn2reg, write_learn2reg

SIZE = (10, 8, 6)


def _voxels(chain, fixed, moving):
    """(3, D, H, W): index in the moving image of each fixed voxel, minus its own."""
    index = np.moveaxis(np.indices(fixed.shape), 0, -1)
    moved = moving.to_index(chain.map_points(fixed.to_world(index).reshape(-1, 3)))
    return np.moveaxis(moved.reshape(index.shape) - index, -1, 0).astype(np.float32)


@pytest.mark.parametrize("suffix", [".nii.gz", ".npz"])
@pytest.mark.parametrize("orientation", DIRECTIONS)
def test_round_trip_between_different_grids(tmp_path, suffix, orientation):
    fixed = make_geometry(orientation, SIZE, (1.0, 1.5, 3.0), (7, -20, 30))
    moving = make_geometry("RAS", (12, 9, 11), (1.7, 1.2, 1.9), (9, -21, 33))
    chain = Composite((smooth_field(fixed), turned(fixed.centre_mm)))
    path = tmp_path / f"disp_0001_0002{suffix}"
    write_learn2reg(path, _voxels(chain, fixed, moving))
    points = points_in(fixed)
    again = Composite(read_learn2reg(path, fixed, moving))
    # affine map and field are sampled together; between the voxels they are linear
    np.testing.assert_allclose(again.map_points(points), chain.map_points(points), atol=2e-4)


def test_the_file_is_what_the_evaluation_reads(tmp_path):
    """Array (X, Y, Z, 3), component c along array axis c, voxels, identity header."""
    u_vox = np.zeros((3, 6, 8, 10), np.float32)
    u_vox[0], u_vox[1], u_vox[2] = 1, 2, 3  # along d, h, w
    write_learn2reg(tmp_path / "disp.nii.gz", u_vox)
    stored = nibabel.load(tmp_path / "disp.nii.gz")
    assert stored.shape == (10, 8, 6, 3)
    assert stored.get_data_dtype() == np.float32
    np.testing.assert_array_equal(stored.affine, np.eye(4))
    displacement = stored.get_fdata()
    np.testing.assert_array_equal(displacement[4, 4, 4], [3, 2, 1])
    labels = np.arange(480).reshape(10, 8, 6)  # (X, Y, Z), as nibabel reads a label map
    identity = np.meshgrid(*map(np.arange, labels.shape), indexing="ij")
    warped = ndimage.map_coordinates(
        labels, np.array(identity) + displacement.transpose(3, 0, 1, 2), order=0
    )
    assert warped[1, 2, 3] == labels[1 + 3, 2 + 2, 3 + 1]


def test_channel_first_and_half_resolution_are_read(tmp_path):
    geometry = make_geometry("RAS", (16, 12, 8), (1.0, 1.5, 3.0), (7, -20, 30))
    field = smooth_field(geometry)
    u_xyz = field.u_vox.transpose(0, 3, 2, 1)[::-1]
    np.savez(tmp_path / "first.npz", u_xyz)
    read, _ = read_learn2reg(tmp_path / "first.npz", geometry, geometry)
    np.testing.assert_array_equal(read.u_vox, field.u_vox)
    half = np.stack([ndimage.zoom(c, 0.5, order=2) for c in u_xyz]).astype(np.float16)
    assert half.shape == (3, 8, 6, 4)
    np.savez(tmp_path / "half.npz", half)
    read, _ = read_learn2reg(tmp_path / "half.npz", geometry, geometry)
    # the evaluation's own line
    expected = np.stack([ndimage.zoom(c.astype(np.float32), 2, order=2) for c in half])
    np.testing.assert_array_equal(read.u_vox, expected[::-1].transpose(0, 3, 2, 1))
    assert np.abs(read.u_vox - field.u_vox).mean() < 0.1  # values stay voxels of the full grid
    write_learn2reg(tmp_path / "ours.npz", field.u_vox, half_resolution=True)
    with np.load(tmp_path / "ours.npz") as stored:
        np.testing.assert_array_equal(stored["arr_0"], half)
        assert stored["arr_0"].dtype == np.float16


def test_what_does_not_fit_is_refused(tmp_path):
    geometry = make_geometry("LPS", SIZE, (1.0, 1.5, 3.0))
    np.savez(tmp_path / "other.npz", np.zeros((9, 8, 6, 3), np.float32))
    with pytest.raises(DataError, match=r"array of \(9, 8, 6, 3\).*expected \(10, 8, 6, 3\)"):
        read_learn2reg(tmp_path / "other.npz", geometry, geometry)
    np.savez(tmp_path / "two.npz", np.zeros(3), np.zeros(3))
    with pytest.raises(DataError, match="2 arrays"):
        read_learn2reg(tmp_path / "two.npz", geometry, geometry)
    (tmp_path / "bad.npz").write_text("nothing")
    with pytest.raises(DataError, match=r"bad\.npz: cannot be read"):
        read_learn2reg(tmp_path / "bad.npz", geometry, geometry)
    field = np.zeros((3, 5, 8, 10), np.float32)
    with pytest.raises(UsageError, match="even sizes"):
        write_learn2reg(tmp_path / "u.npz", field, half_resolution=True)
    with pytest.raises(UsageError, match=r"\.nii\.gz or \.npz"):
        write_learn2reg(tmp_path / "u.mha", field)
