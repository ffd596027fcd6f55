"""Landmarks of torch.save: the origin at a voxel's corner, the axes, and what is refused."""

import os

import nibabel as nib
import numpy as np
import pytest
import torch

from autoreg.dataset_conversion.pth_landmarks import read_landmark_pairs, voxels_to_world
from autoreg.errors import AutoregError, DataError
from autoreg.io.images import read_geometry


def save(path, content):
    torch.save(content, path)
    return path


def test_points_count_from_the_corner_as_the_published_programs_sample(tmp_path):
    """grid_sample as the authors call it reads the voxel that our index names."""
    shape = (5, 6, 7)
    volume = torch.arange(5 * 6 * 7, dtype=torch.float64).reshape(1, 1, *shape)
    table = torch.tensor([[2.5, 3.5, 4.5, 0.5, 5.5, 6.5]], dtype=torch.float64)
    fixed, moving = read_landmark_pairs(save(tmp_path / "lms.pth", {"104": table}))["104"]
    np.testing.assert_allclose(fixed, [[2, 3, 4]])
    np.testing.assert_allclose(moving, [[0, 5, 6]])
    half = torch.tensor(shape, dtype=torch.float64) / 2
    for points, index in ((table[:, :3], fixed), (table[:, 3:], moving)):
        normalised = ((points - half) / half).flip(-1).view(1, 1, 1, 1, 3)
        sampled = torch.nn.functional.grid_sample(volume, normalised, align_corners=False)
        i, j, k = index[0].astype(int)
        assert sampled.item() == pytest.approx(volume[0, 0, i, j, k].item())


def test_indices_are_along_the_axes_of_the_file(tmp_path):
    """nibabel's affine takes an index to RAS; ours must be the same place in LPS."""
    affine = np.array([[-1.0, 0, 0, 10], [0, 0, 1.5, -20], [0, 2.0, 0, 30], [0, 0, 0, 1]])
    path = tmp_path / "case_104_1.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), affine), path)
    points = np.array([[1.0, 2.0, 3.5]])
    ras = nib.affines.apply_affine(affine, points)
    found = voxels_to_world(points, read_geometry(path))
    np.testing.assert_allclose(found, ras * [-1, -1, 1], atol=1e-6)


@pytest.mark.parametrize("legacy", [False, True])
def test_both_forms_of_torch_files_are_read(tmp_path, legacy):
    table = torch.rand(3, 6)
    path = tmp_path / "lms.pth"
    torch.save({"8": table, "104": table}, path, _use_new_zipfile_serialization=not legacy)
    assert list(read_landmark_pairs(path)) == ["8", "104"]


def test_code_is_refused_and_not_run(tmp_path):
    trace = tmp_path / "trace"

    class Malice:
        def __reduce__(self):
            return os.mkdir, (str(trace),)

    path = save(tmp_path / "lms.pth", {"104": torch.zeros(1, 6), "a": Malice()})
    with pytest.raises(AutoregError, match=r"lms\.pth: .*nothing in it was executed"):
        read_landmark_pairs(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(2, 6)], "list, expected a dictionary"),
        ({}, "expected a dictionary"),
        ({"104": torch.zeros(2, 3)}, r'entry "104": \(2, 3\), expected a tensor \(N, 6\)'),
        ({"104": 3.0}, 'entry "104": float'),
        ({"104": torch.full((2, 6), torch.nan)}, "not finite"),
        ({"104": torch.zeros(0, 6)}, "no points"),
    ],
)
def test_other_contents_are_told(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read_landmark_pairs(save(tmp_path / "lms.pth", content))


def test_half_a_file_is_told(tmp_path):
    path = save(tmp_path / "lms.pth", {"104": torch.zeros(100, 6)})
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(AutoregError, match=r"lms\.pth: .*fetch the published file again"):
        read_landmark_pairs(path)
