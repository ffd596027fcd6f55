"""Analyze images: header and packed voxels in two files, either byte order, and bad files."""

import gzip

import nibabel as nib
import numpy as np
import pytest
from analyze_files import nibabel_saves, write_analyze

from autoreg.dataset_conversion.analyze_images import open_analyze
from autoreg.errors import DataError


def numbers(dtype=np.int16):
    return np.arange(3 * 4 * 5).reshape(3, 4, 5).astype(dtype)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_voxels_come_in_the_order_of_the_file(tmp_path, order, packed, dtype):
    header = tmp_path / "S01.native.brain.bfc.hdr"
    write_analyze(header, numbers(dtype), (0.86, 1.5, 0.87), packed, order)
    file = open_analyze(header)
    assert file.shape == (3, 4, 5)
    assert file.voxel_size_mm == pytest.approx((0.86, 1.5, 0.87))
    np.testing.assert_array_equal(file.read(), numbers(dtype))


def test_files_of_nibabel_are_read(tmp_path):
    nibabel_saves(tmp_path / "a.hdr", numbers())
    np.testing.assert_array_equal(open_analyze(tmp_path / "a.hdr").read(), numbers())


def test_a_missing_part_is_named(tmp_path):
    write_analyze(tmp_path / "a.hdr", numbers())
    (tmp_path / "a.img.gz").unlink()
    with pytest.raises(DataError, match=r"a\.img\.gz: no such file"):
        open_analyze(tmp_path / "a.hdr")
    with pytest.raises(DataError, match=r"b\.hdr: no such file"):
        open_analyze(tmp_path / "b.hdr")


@pytest.mark.parametrize("packed", [False, True])
def test_cut_off_voxels_are_told_before_they_are_read(tmp_path, packed):
    write_analyze(tmp_path / "a.hdr", numbers(), packed=packed)
    path = tmp_path / ("a.img.gz" if packed else "a.img")
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"a\.img.*download or unpack it again"):
        open_analyze(tmp_path / "a.hdr")


def test_a_packed_file_that_is_none_is_told(tmp_path):
    write_analyze(tmp_path / "a.hdr", numbers())
    for content in (b"", b"\x1f", b"<html>not found</html>"):
        (tmp_path / "a.img.gz").write_bytes(content)
        with pytest.raises(DataError, match=r"a\.img\.gz: (an empty|no gzip) file"):
            open_analyze(tmp_path / "a.hdr")


def test_voxels_of_another_image_are_told(tmp_path):
    write_analyze(tmp_path / "a.hdr", numbers())
    (tmp_path / "a.img.gz").write_bytes(gzip.compress(bytes(7)))
    with pytest.raises(DataError, match="7 bytes after unpacking, not 120"):
        open_analyze(tmp_path / "a.hdr")


def test_other_headers_are_refused(tmp_path):
    write_analyze(tmp_path / "a.hdr", numbers())
    content = (tmp_path / "a.hdr").read_bytes()
    for other in (content[:100], b"no header " * 40):
        (tmp_path / "a.hdr").write_bytes(other)
        with pytest.raises(DataError, match=r"a\.hdr: no Analyze header"):
            open_analyze(tmp_path / "a.hdr")
    nib.save(nib.Nifti1Pair(numbers(), np.eye(4)), tmp_path / "n.hdr")
    with pytest.raises(DataError, match=r"n\.hdr: a NIfTI header"):
        open_analyze(tmp_path / "n.hdr")


def test_a_series_of_volumes_is_refused(tmp_path):
    image = nib.analyze.AnalyzeImage(np.zeros((3, 4, 5, 2), np.int16), None)
    image.to_filename(str(tmp_path / "a.hdr"))
    with pytest.raises(DataError, match="4-D image"):
        open_analyze(tmp_path / "a.hdr")
