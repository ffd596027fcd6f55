"""Displacement files: round trip, headers, and SimpleITK applying them on its own."""

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from known_transforms import sampled_mm
from spaces import DIRECTIONS, make_geometry, smooth_image
from torch.nn import functional

from autoreg.errors import DataError, GeometryError, UsageError
from autoreg.geometry.resampling import resample_volume
from autoreg.geometry.transforms import Affine, Composite, DisplacementField
from autoreg.geometry.volume import Volume
from autoreg.io.images import read_image, to_sitk, write_image
from autoreg.io.planar import lifted_geometry
from autoreg.io.transforms import displacement_dimension, read_displacement, write_displacement

SUFFIXES = [".nii.gz", ".nii", ".nrrd", ".mha"]


@pytest.fixture
def geometry():
    return make_geometry("oblique", (4, 5, 6), (1.0, 1.5, 3.0), (7.0, -20.0, 30.0))


@pytest.fixture
def u_mm():
    return np.random.default_rng(0).normal(size=(6, 5, 4, 3)).astype(np.float32)


def _deformation(geometry):
    coarse = torch.randn(1, 3, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    u_vox = functional.interpolate(
        coarse, size=geometry.shape, mode="trilinear", align_corners=True
    )
    matrix = np.eye(4)
    matrix[:3, :3] = DIRECTIONS["oblique"] @ np.diag([-1.05, 0.95, 1.1])  # a turn and a stretch
    matrix[:3, 3] = geometry.centre_mm - matrix[:3, :3] @ geometry.centre_mm + (2, -3, 4)
    return Composite((DisplacementField(u_vox[0].numpy(), geometry), Affine(matrix)))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip(tmp_path, geometry, u_mm, suffix):
    path = tmp_path / f"displacement{suffix}"
    write_displacement(path, u_mm, geometry)
    again, same = read_displacement(path)
    np.testing.assert_array_equal(again, u_mm)
    assert again.dtype == np.float32
    assert geometry.difference(same, tolerance_mm=1e-4) is None
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_two_dimensional_field_is_written_as_one(tmp_path, suffix):
    plane = lifted_geometry((5, 4), (1.5, 2.0), (3.0, -4.0), (0.6, -0.8, 0.8, 0.6))
    u_mm = np.random.default_rng(0).normal(size=(1, 4, 5, 3)).astype(np.float32)
    path = tmp_path / f"plane{suffix}"
    with pytest.raises(GeometryError, match="leaves its plane"):
        write_displacement(path, u_mm, plane, 2)
    u_mm[..., 2] = 0
    write_displacement(path, u_mm, plane, 2)
    image = sitk.ReadImage(str(path))
    assert (image.GetDimension(), image.GetNumberOfComponentsPerPixel()) == (2, 2)
    np.testing.assert_array_equal(image[3, 2], u_mm[0, 2, 3, :2])
    point = image.TransformIndexToPhysicalPoint((3, 2))
    np.testing.assert_allclose(point, plane.to_world((0, 2, 3))[:2], atol=1e-5)
    again, same = read_displacement(path)
    np.testing.assert_array_equal(again, u_mm)
    assert plane.difference(same, tolerance_mm=1e-4) is None
    assert displacement_dimension(path) == 2
    oblique = make_geometry("oblique", (5, 4, 1), (1.5, 2.0, 1.0))
    with pytest.raises(GeometryError, match="not that of a two-dimensional image"):
        write_displacement(path, u_mm, oblique, 2)


def test_slicers_displacement_vectors_are_turned_as_itk_turns_them(tmp_path, geometry, u_mm):
    """Intent 1006: ITK 5.3 and later reads RAS components."""
    path = tmp_path / "slicer.nii.gz"
    write_displacement(path, u_mm, geometry)
    stored = nibabel.load(path)
    stored.header["intent_code"] = 1006
    turned = tmp_path / "turned.nii.gz"
    nibabel.save(nibabel.Nifti1Image(stored.dataobj, stored.affine, stored.header), turned)
    ours, _ = read_displacement(turned)
    np.testing.assert_array_equal(ours, u_mm * np.float32([-1, -1, 1]))
    np.testing.assert_array_equal(ours, sitk.GetArrayFromImage(sitk.ReadImage(str(turned))))


def test_nifti_header_says_vector_and_components_are_lps(tmp_path, geometry, u_mm):
    path = tmp_path / "displacement.nii.gz"
    write_displacement(path, u_mm, geometry)
    stored = nibabel.load(path)
    assert int(stored.header["intent_code"]) == 1007
    assert stored.shape == (4, 5, 6, 1, 3)
    np.testing.assert_array_equal(np.asarray(stored.dataobj)[1, 2, 3, 0], u_mm[3, 2, 1])
    ras = stored.affine @ [1, 2, 3, 1]
    np.testing.assert_allclose(ras[:3] * [-1, -1, 1], geometry.to_world((3, 2, 1)), atol=1e-4)
    image = sitk.ReadImage(str(path))
    assert image.GetNumberOfComponentsPerPixel() == 3
    np.testing.assert_array_equal(image[1, 2, 3], u_mm[3, 2, 1])


@pytest.mark.parametrize("fixed_orientation", DIRECTIONS)
@pytest.mark.parametrize("moving_orientation", ["RAS", "LAS", "oblique"])
def test_simpleitk_alone_gives_our_warped_image(tmp_path, fixed_orientation, moving_orientation):
    """Anisotropic grids of different shape, position and direction; only files in between."""
    fixed = make_geometry(fixed_orientation, (21, 17, 11), (1.0, 1.5, 3.0), (7.0, -20.0, 30.0))
    moving = make_geometry(moving_orientation, (16, 20, 18), (1.7, 1.2, 1.9), (9.0, -21.0, 33.0))
    transform = _deformation(fixed)
    image = Volume.intensity(smooth_image(moving), moving)
    labels = Volume((np.abs(image.array) * 10).astype(np.int32), moving, "label")
    write_image(tmp_path / "moving.nii.gz", image)
    write_image(tmp_path / "labels.nii.gz", labels)
    write_displacement(tmp_path / "displacement.nii.gz", sampled_mm(transform, fixed), fixed)
    field = sitk.ReadImage(str(tmp_path / "displacement.nii.gz"))
    reference = to_sitk(Volume.intensity(np.zeros(fixed.shape), fixed))

    def itk_warp(name, interpolator):
        resampler = sitk.ResampleImageFilter()
        resampler.SetReferenceImage(reference)
        resampler.SetInterpolator(interpolator)
        resampler.SetDefaultPixelValue(-7)
        cast = sitk.Cast(field, sitk.sitkVectorFloat64)
        resampler.SetTransform(sitk.DisplacementFieldTransform(cast))
        return sitk.GetArrayFromImage(resampler.Execute(sitk.ReadImage(str(tmp_path / name))))

    ours = resample_volume(image, transform, fixed, outside=-7)
    theirs = itk_warp("moving.nii.gz", sitk.sitkLinear)
    outside = theirs == -7
    assert 0.02 < outside.mean() < 0.7
    np.testing.assert_array_equal(ours.single == -7, outside)
    np.testing.assert_allclose(ours.single, theirs, atol=1e-5)
    ours = resample_volume(labels, transform, fixed, outside=-7)
    assert (ours.single != itk_warp("labels.nii.gz", sitk.sitkNearestNeighbor)).mean() < 1e-3


def test_what_is_no_displacement_is_refused(tmp_path, geometry, u_mm):
    scalar = tmp_path / "image.nii.gz"
    write_image(scalar, Volume.intensity(u_mm[..., 0], geometry))
    with pytest.raises(DataError, match=r"image\.nii\.gz: 3-D with 1 components"):
        read_displacement(scalar)
    with pytest.raises(DataError, match="no such file"):
        read_displacement(tmp_path / "absent.nii.gz")
    (tmp_path / "text.nii.gz").write_text("no image")
    with pytest.raises(DataError, match=r"text\.nii\.gz: cannot be read"):
        read_displacement(tmp_path / "text.nii.gz")
    with pytest.raises(GeometryError, match=r"found \(5, 6, 4, 3\)"):
        write_displacement(tmp_path / "u.nii.gz", u_mm.reshape(5, 6, 4, 3), geometry)
    with pytest.raises(UsageError, match="NaN"):
        write_displacement(tmp_path / "u.nii.gz", u_mm * np.nan, geometry)
    with pytest.raises(UsageError, match=r"u\.jpg.*\.nii\.gz"):
        write_displacement(tmp_path / "u.jpg", u_mm, geometry)
    assert not (tmp_path / "u.nii.gz").exists()


def test_a_truncated_file_is_refused(tmp_path, u_mm, geometry):
    path = tmp_path / "displacement.nii"
    write_displacement(path, u_mm, geometry)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="intact copy"):
        read_displacement(path)


def test_a_displacement_is_no_image(tmp_path, u_mm, geometry):
    path = tmp_path / "displacement.nii.gz"
    write_displacement(path, u_mm, geometry)
    with pytest.raises(DataError, match="3 components per voxel"):
        read_image([path], "intensity")
