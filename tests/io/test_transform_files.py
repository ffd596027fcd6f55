"""Transforms as users name them: files, folders of results, inverses, chains."""

import numpy as np
import pytest
import SimpleITK as sitk
from known_transforms import itk_field, itk_points, points_in, sampled_mm, smooth_field, turned
from spaces import make_geometry

from autoreg.errors import DataError
from autoreg.io.itk_transforms import write_itk_transform
from autoreg.io.planar import lifted_geometry
from autoreg.io.records import save_record
from autoreg.io.result import (
    RESULT_FORMAT,
    FieldRecord,
    InputsRecord,
    Result,
    SecondsRecord,
)
from autoreg.io.transform_files import read_chain
from autoreg.io.transforms import write_displacement


@pytest.fixture
def geometry():
    return make_geometry("oblique", (12, 10, 9), (1.0, 1.5, 3.0), (7, -20, 30))


@pytest.fixture
def files(tmp_path, geometry):
    """warp.nii.gz and affine.mat, as ANTs leaves them."""
    field = smooth_field(geometry)
    write_displacement(tmp_path / "warp.nii.gz", sampled_mm(field, geometry), geometry)
    write_itk_transform(tmp_path / "affine.mat", [turned(geometry.centre_mm)], 3)
    return tmp_path


def test_order_is_that_of_ants(files, geometry):
    """antsApplyTransforms -t warp -t affine: the point goes through the warp first."""
    warp, affine = itk_field(files / "warp.nii.gz"), sitk.ReadTransform(str(files / "affine.mat"))
    points = points_in(geometry)
    chain = read_chain([str(files / "warp.nii.gz"), str(files / "affine.mat")])
    expected = itk_points(affine, itk_points(warp, points))
    np.testing.assert_allclose(chain.transform.map_points(points), expected, atol=1e-4)
    assert chain.grid.difference(geometry) is None
    # ITK's composite applies what was added last first.
    composite = sitk.CompositeTransform([affine, warp])
    np.testing.assert_allclose(itk_points(composite, points), expected, atol=1e-9)


def test_inverses(files, geometry):
    points = points_in(geometry)
    warp, affine = str(files / "warp.nii.gz"), str(files / "affine.mat")
    there = read_chain([warp, affine]).transform
    back = read_chain([f"inverse:{affine}", f"inverse:{warp}"])
    assert back.grid is None
    np.testing.assert_allclose(
        back.transform.map_points(there.map_points(points)), points, atol=3e-3
    )
    wrong = read_chain([f"inverse:{warp}", f"inverse:{affine}"]).transform
    assert np.abs(wrong.map_points(there.map_points(points)) - points).max() > 1


def test_a_result_folder_gives_its_displacement_or_its_stored_inverse(tmp_path, geometry):
    moving = make_geometry("LPS", (8, 8, 8), (2, 2, 2), (7, -20, 30))
    folder = tmp_path / "case"
    for name, grid, shift in (("displacement", geometry, 3), ("inverse_displacement", moving, 5)):
        u_mm = np.full((*grid.shape, 3), shift, np.float32)
        write_displacement(folder / f"{name}.nii.gz", u_mm, grid)
    point = np.array([[7.0, -20, 30]])
    forward, inverse = read_chain([str(folder)]), read_chain([f"inverse:{folder}"])
    np.testing.assert_allclose(forward.transform.map_points(point), point + 3, atol=1e-5)
    np.testing.assert_allclose(inverse.transform.map_points(point), point + 5, atol=1e-5)
    assert inverse.grid.difference(moving) is None
    (folder / "unfinished.txt").write_text("it still runs")
    with pytest.raises(DataError, match="not finished"):
        read_chain([str(folder)])
    (folder / "unfinished.txt").unlink()
    (folder / "inverse_displacement.nii.gz").unlink()
    with pytest.raises(DataError, match=r"holds no inverse_displacement\.nii\.gz"):
        read_chain([f"inverse:{folder}"])


def test_a_failed_later_registration_leaves_the_earlier_result_usable(tmp_path, geometry, caplog):
    folder = tmp_path / "case"
    write_displacement(
        folder / "displacement.nii.gz", np.full((*geometry.shape, 3), 3, np.float32), geometry
    )
    size = (folder / "displacement.nii.gz").stat().st_size
    (folder / "unfinished.txt").write_text("the images do not overlap\n")
    with pytest.raises(DataError, match="not finished"):
        read_chain([str(folder)])  # nothing says that it was complete
    save_record(whole_result({"displacement.nii.gz": size}), folder / "result.json")
    point = np.array([[7.0, -20, 30]])
    found = read_chain([str(folder)]).transform.map_points(point)
    np.testing.assert_allclose(found, point + 3, atol=1e-5)
    (warning,) = [record.getMessage() for record in caplog.records]
    assert f"{folder}: the result of an earlier registration is used" in warning
    for files in ({"displacement.nii.gz": size + 1}, {"warped.nii.gz": 5}):
        save_record(whole_result(files), folder / "result.json")
        with pytest.raises(DataError, match="not finished"):
            read_chain([str(folder)])


def whole_result(files):
    inputs = InputsRecord(("f.nii",), ("m.nii",), *[None] * 6, "lps_mm")
    field = FieldRecord(1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0, 0.0, 0.0, 0.0, 0.0)
    return Result(
        RESULT_FORMAT, "case", "0" * 64, inputs, None, "cpu", {}, 1.0,
        SecondsRecord(0.1, 0.8, 0.1), None, None, None, field, (0.0,), {}, files, (),
    )  # fmt: skip


def test_what_is_no_transform_is_named(files, geometry):
    plane = lifted_geometry((5, 4), (1.5, 2.0), (0.0, 0.0), (1, 0, 0, 1))
    write_displacement(files / "plane.nii.gz", np.zeros((1, 4, 5, 3), np.float32), plane, 2)
    with pytest.raises(DataError, match=r"plane\.nii\.gz: a transform of 2-D images in a chain"):
        read_chain([str(files / "affine.mat"), str(files / "plane.nii.gz")])
    with pytest.raises(DataError, match=r"no such file; .*inverse:FILE"):
        read_chain([f"[{files / 'affine.mat'},1]"])
    (files / "x.xfm").write_text("")
    with pytest.raises(DataError, match=r"x\.xfm: unknown ending of a transform"):
        read_chain([str(files / "x.xfm")])
    scalar = sitk.Image(5, 5, 5, sitk.sitkFloat32)
    sitk.WriteImage(scalar, str(files / "image.nii.gz"))
    with pytest.raises(DataError, match=r"image\.nii\.gz: 3-D with 1 components"):
        read_chain([str(files / "image.nii.gz")])
    sitk.WriteImage(sitk.Image([5, 5, 5, 3], sitk.sitkFloat32), str(files / "disp.nii.gz"))
    with pytest.raises(DataError, match=r"disp\.nii\.gz: 4-D.*--from learn2reg"):
        read_chain([str(files / "disp.nii.gz")])
