"""Image files: every format round-trips, and what cannot be used is named."""

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from spaces import DIRECTIONS, make_geometry

from autoreg.errors import DataError, UsageError
from autoreg.geometry.volume import Volume
from autoreg.io.images import from_sitk, read_geometry, read_image, to_sitk, write_image

SUFFIXES = [".nii.gz", ".nii", ".nrrd", ".mha"]
SIZE, SPACING, CENTRE = (4, 5, 6), (1.0, 1.5, 3.0), (7.0, -20.0, 30.0)
AFFINE = np.array([[0, -1.5, 0, 5], [1, 0, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1.0]])


@pytest.fixture
def geometry():
    return make_geometry("oblique", SIZE, SPACING, CENTRE)


def _numbers(shape=(6, 5, 4), seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _save_nifti(path, array, affine=AFFINE):
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("orientation", DIRECTIONS)
def test_intensities_round_trip(tmp_path, suffix, orientation):
    geometry = make_geometry(orientation, SIZE, SPACING, CENTRE)
    path = tmp_path / f"image{suffix}"
    write_image(path, Volume.intensity(_numbers(), geometry))
    again = read_image([path], "intensity")
    np.testing.assert_array_equal(again.single, _numbers())
    assert again.array.dtype == np.float32
    assert geometry.difference(again.geometry, tolerance_mm=1e-4) is None
    assert geometry.difference(read_geometry(path), tolerance_mm=1e-4) is None
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_labels_and_masks_round_trip(tmp_path, suffix, geometry):
    labels = np.random.default_rng(0).integers(0, 3000, size=(1, 6, 5, 4)).astype(np.int32)
    path = tmp_path / f"labels{suffix}"
    write_image(path, Volume(labels, geometry, "label"), np.int16)
    again = read_image([path], "label")
    np.testing.assert_array_equal(again.array, labels)
    assert again.array.dtype == np.int32
    mask = labels > 1500
    write_image(path, Volume(mask, geometry, "mask"))
    np.testing.assert_array_equal(read_image([path], "mask").array, mask)


def test_array_axes_and_world_are_those_of_nibabel(tmp_path):
    """Voxel (i, j, k) of the file is array[k, j, i]; the world is LPS instead of RAS."""
    array = _numbers((4, 5, 6))
    volume = read_image([_save_nifti(tmp_path / "image.nii.gz", array)], "intensity")
    assert volume.single[3, 2, 1] == array[1, 2, 3]
    ras = AFFINE @ [1, 2, 3, 1]
    np.testing.assert_allclose(volume.geometry.to_world((3, 2, 1)), [-ras[0], -ras[1], ras[2]])


@pytest.mark.parametrize("suffix", [".mgz", ".img"])
def test_a_format_that_only_nibabel_reads(tmp_path, suffix):
    array = _numbers((4, 5, 6))
    path = tmp_path / f"image{suffix}"
    if suffix == ".mgz":
        nibabel.save(nibabel.MGHImage(array, AFFINE), path)
    else:
        nibabel.save(nibabel.Spm99AnalyzeImage(array, AFFINE), path)
    nifti = read_image([_save_nifti(tmp_path / "other.nii.gz", array)], "intensity")
    volume = read_image([path], "intensity")
    np.testing.assert_array_equal(volume.array, nifti.array)
    if suffix == ".mgz":
        assert volume.geometry.difference(nifti.geometry, tolerance_mm=1e-4) is None
        assert read_geometry(path).difference(volume.geometry) is None


def test_scaled_integers_are_read_as_their_values(tmp_path):
    image = nibabel.Nifti1Image(_numbers((4, 5, 6)), AFFINE)
    image.header.set_data_dtype(np.int16)  # nibabel stores a slope
    nibabel.save(image, tmp_path / "image.nii.gz")
    volume = read_image([tmp_path / "image.nii.gz"], "intensity")
    np.testing.assert_allclose(volume.single, _numbers((4, 5, 6)).T, atol=1e-3)


def test_trailing_axes_of_one_are_dropped(tmp_path):
    array = _numbers((4, 5, 6))
    for axes in (1, 2):
        path = _save_nifti(tmp_path / "image.nii.gz", array.reshape(4, 5, 6, *[1] * axes))
        np.testing.assert_array_equal(read_image([path], "intensity").single, array.T)
    four = sitk.JoinSeries([sitk.GetImageFromArray(_numbers())])
    sitk.WriteImage(four, str(tmp_path / "image.nrrd"))
    np.testing.assert_array_equal(
        read_image([tmp_path / "image.nrrd"], "intensity").single, _numbers()
    )


def test_channels_are_joined_and_must_share_a_grid(tmp_path, geometry):
    paths = [tmp_path / f"case_000{i}.nii.gz" for i in range(2)]
    for i, path in enumerate(paths):
        write_image(path, Volume.intensity(_numbers(seed=i), geometry))
    volume = read_image(paths, "intensity")
    np.testing.assert_array_equal(volume.array[1], _numbers(seed=1))
    shifted = make_geometry("oblique", SIZE, SPACING, (8.0, -20.0, 30.0))
    write_image(paths[1], Volume.intensity(_numbers(), shifted))
    with pytest.raises(DataError, match=r"case_0001.*case_0000.*origin"):
        read_image(paths, "intensity")


def test_whole_numbers_stored_as_reals_are_labels(tmp_path):
    array = np.arange(120, dtype=np.float64).reshape(4, 5, 6)
    labels = read_image([_save_nifti(tmp_path / "labels.nii.gz", array)], "label")
    np.testing.assert_array_equal(labels.single, np.arange(120).reshape(4, 5, 6).T)


@pytest.mark.parametrize(
    ("value", "words"), [(2.5, "1 voxels .* 2.5"), (np.nan, "NaN"), (1e12, "32 bit")]
)
def test_what_is_no_label_is_named(tmp_path, value, words):
    array = np.ones((4, 5, 6))
    array[1, 2, 3] = value
    path = _save_nifti(tmp_path / "labels.nii.gz", array)
    with pytest.raises(DataError, match=rf"labels\.nii\.gz.*{words}"):
        read_image([path], "label")


def _write_flat(path):
    sitk.WriteImage(sitk.Image(5, 6, sitk.sitkUInt8), str(path))


def _write_colour(path):
    sitk.WriteImage(sitk.Image([5, 6, 7], sitk.sitkVectorUInt8, 3), str(path))


def _write_sheared(path):
    affine = AFFINE.copy()
    affine[0, 0] = 0.5
    _save_nifti(path, _numbers((4, 5, 6)), affine)


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        ("absent.nii.gz", lambda p: None, "no such file"),
        ("empty.nii.gz", lambda p: p.write_bytes(b""), "cannot be read as an image"),
        ("text.nii.gz", lambda p: p.write_text("hello"), "cannot be read as an image"),
        ("text.csv", lambda p: p.write_text("x,y,z"), "cannot be read as an image"),
        ("flat.png", _write_flat, "a 2-D image"),
        ("colour.nrrd", _write_colour, "3 components per voxel"),
        ("time.nii.gz", lambda p: _save_nifti(p, _numbers((4, 5, 6, 2))), "a 4-D image"),
        (
            "complex.nii.gz",
            lambda p: _save_nifti(p, np.ones((4, 5, 6), np.complex64)),
            "complex",
        ),
        ("sheared.nii.gz", _write_sheared, "not perpendicular"),
    ],
)
def test_what_is_no_volume_is_named(tmp_path, name, write, words):
    path = tmp_path / name
    write(path)
    for read in (lambda: read_image([path], "intensity"), lambda: read_geometry(path)):
        with pytest.raises(DataError, match=words) as caught:
            read()
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_truncated_file_is_refused(tmp_path, suffix, geometry):
    """ITK alone reads truncated NIfTI files without complaint."""
    path = tmp_path / f"image{suffix}"
    write_image(path, Volume.intensity(_numbers(), geometry))
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(DataError, match=rf"image\{suffix}"):
        read_image([path], "intensity")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_capital_endings_are_read_as_carefully(tmp_path, suffix, geometry):
    path, capital = tmp_path / f"image{suffix}", tmp_path / f"IMAGE{suffix.upper()}"
    write_image(path, Volume.intensity(_numbers(), geometry))
    path.rename(capital)
    np.testing.assert_allclose(read_image([capital], "intensity").single, _numbers(), atol=1e-6)
    capital.write_bytes(capital.read_bytes()[:-60])
    with pytest.raises(DataError, match=r"IMAGE\.NII"):
        read_image([capital], "intensity")


def test_reals_are_rounded_and_clamped_for_an_integer_type(tmp_path, geometry):
    array = np.zeros((6, 5, 4))
    array[0, 0] = [-0.6, 1.5, 254.7, 300]
    write_image(tmp_path / "image.mha", Volume.intensity(array, geometry), np.uint8)
    again = read_image([tmp_path / "image.mha"], "intensity")
    assert again.single[0, 0].tolist() == [0, 2, 255, 255]


def test_what_cannot_be_written_is_named(tmp_path, geometry):
    volume = Volume.intensity(_numbers(), geometry)
    with pytest.raises(UsageError, match=r"image\.hdr: images are written as \.nii\.gz"):
        write_image(tmp_path / "image.hdr", volume)
    with pytest.raises(UsageError, match="2 channels"):
        write_image(tmp_path / "a.nii.gz", Volume.intensity(_numbers((2, 6, 5, 4)), geometry))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("orientation", DIRECTIONS)
def test_simpleitk_images_round_trip(orientation):
    geometry = make_geometry(orientation, SIZE, SPACING, CENTRE)
    volume = Volume.intensity(_numbers((2, 6, 5, 4)), geometry)
    again = from_sitk(to_sitk(volume), "intensity")
    np.testing.assert_array_equal(again.array, volume.array)
    assert geometry.difference(again.geometry, tolerance_mm=1e-6) is None
    with pytest.raises(DataError, match="2 dimensions"):
        from_sitk(sitk.Image(3, 3, sitk.sitkUInt8), "intensity")
