"""FSL's transforms, judged by its coordinates written down once more from NIfTI's RAS matrix."""

import nibabel
import numpy as np
import pytest
from known_transforms import points_in, smooth_field, turned
from spaces import DIRECTIONS, make_geometry

from autoreg.errors import DataError
from autoreg.geometry.transforms import Composite
from autoreg.io.fsl_transforms import (
    index_to_fsl,
    read_flirt,
    read_fsl_warp,
    write_flirt,
    write_fsl_warp,
)

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


def _fsl_points(geometry, points_mm):
    """FSL's rule: millimetres along the file's axes, the first one mirrored if the RAS matrix has
    a positive determinant (flirt's "neurological" order)."""
    size, spacing, origin, direction = geometry.to_itk()
    ras = LPS_TO_RAS @ np.reshape(direction, (3, 3)) @ np.diag(spacing)
    voxels = (np.asarray(points_mm) @ LPS_TO_RAS - np.array(origin) @ LPS_TO_RAS) @ (
        np.linalg.inv(ras).T
    )
    if np.linalg.det(ras) > 0:
        voxels[:, 0] = size[0] - 1 - voxels[:, 0]
    return voxels * spacing


@pytest.fixture(params=DIRECTIONS)
def grids(request):
    fixed = make_geometry(request.param, (10, 8, 6), (1.0, 1.5, 3.0), (7, -20, 30))
    return fixed, make_geometry("LAS", (12, 9, 11), (1.7, 1.2, 1.9), (9, -21, 33))


def test_both_hands_occur():
    hands = {np.sign(np.linalg.det(LPS_TO_RAS @ direction)) for direction in DIRECTIONS.values()}
    assert hands == {-1, 1}


def test_coordinates(grids):
    for geometry in grids:
        points = points_in(geometry)
        index = np.c_[geometry.to_index(points), np.ones(len(points))]
        ours = (index @ index_to_fsl(geometry).T)[:, :3]
        np.testing.assert_allclose(ours, _fsl_points(geometry, points), atol=1e-9)


def test_a_flirt_matrix_takes_moving_to_fixed(tmp_path, grids):
    fixed, moving = grids
    affine = turned(fixed.centre_mm)
    write_flirt(tmp_path / "flirt.mat", affine, fixed, moving)
    matrix = np.loadtxt(tmp_path / "flirt.mat")
    points = points_in(fixed)
    from_moving = _fsl_points(moving, affine.map_points(points))
    expected = _fsl_points(fixed, points)
    np.testing.assert_allclose(from_moving @ matrix[:3, :3].T + matrix[:3, 3], expected, atol=1e-6)
    again = read_flirt(tmp_path / "flirt.mat", fixed, moving)
    np.testing.assert_allclose(again.matrix, affine.matrix, atol=1e-8)


@pytest.mark.parametrize("absolute", [False, True])
def test_a_warp_says_where_fixed_voxels_are_in_the_moving_image(tmp_path, grids, absolute):
    fixed, moving = grids
    chain = Composite((smooth_field(fixed), turned(fixed.centre_mm)))
    nodes = fixed.to_world(np.moveaxis(np.indices(fixed.shape), 0, -1))
    moved = chain.map_points(nodes.reshape(-1, 3))
    index = moving.to_index(moved).reshape(*fixed.shape, 3)
    path = tmp_path / "warp.nii.gz"
    write_fsl_warp(path, index, fixed, moving, absolute=absolute)
    stored = nibabel.load(path)
    assert int(stored.header["intent_code"]) == 2006
    vectors = stored.get_fdata().transpose(2, 1, 0, 3).reshape(-1, 3)
    expected = _fsl_points(moving, moved)
    if not absolute:
        expected = expected - _fsl_points(fixed, nodes.reshape(-1, 3))
    np.testing.assert_allclose(vectors, expected, atol=1e-4)
    again = Composite(read_fsl_warp(path, fixed, moving, absolute=absolute))
    points = points_in(fixed)
    np.testing.assert_allclose(again.map_points(points), chain.map_points(points), atol=2e-4)


def test_what_is_no_fsl_transform_is_refused(tmp_path, grids):
    fixed, moving = grids
    with pytest.raises(DataError, match="no such file"):
        read_flirt(tmp_path / "absent.mat", fixed, moving)
    np.savetxt(tmp_path / "small.mat", np.eye(3))
    with pytest.raises(DataError, match=r"small\.mat: no matrix of flirt"):
        read_flirt(tmp_path / "small.mat", fixed, moving)
    projective = np.eye(4)
    projective[3, 0] = 0.1
    np.savetxt(tmp_path / "projective.mat", projective)
    with pytest.raises(DataError, match="with the last line 0 0 0 1"):
        read_flirt(tmp_path / "projective.mat", fixed, moving)
    image = nibabel.Nifti1Image(np.zeros((3, 3, 3, 3), np.float32), np.eye(4))
    nibabel.save(image, tmp_path / "other.nii.gz")
    with pytest.raises(DataError, match=r"expected numbers of \(10, 8, 6, 3\)"):
        read_fsl_warp(tmp_path / "other.nii.gz", fixed, moving, absolute=False)
    image.header["intent_code"] = 2007
    nibabel.save(image, tmp_path / "coefficients.nii.gz")
    with pytest.raises(DataError, match="fnirtfileutils"):
        read_fsl_warp(tmp_path / "coefficients.nii.gz", fixed, moving, absolute=False)
