"""LPBA40 from its published files: frames, intensities, split, and what may be wrong."""

import json

import numpy as np
import pytest
from published_lpba40 import (
    CROP,
    NATIVE_SHAPE,
    NATIVE_SIZE,
    SHAPE,
    native_to_delineation,
    write_subject,
)

from autoreg.dataset_conversion import lpba40
from autoreg.dataset_conversion.conversion import Options
from autoreg.dataset_conversion.lpba40_images import LABELS
from autoreg.dataset_conversion.writer import Target, write_conversion
from autoreg.errors import DataError
from autoreg.io.dataset import read_dataset
from autoreg.io.images import read_image


@pytest.fixture
def small(monkeypatch):
    """The published sizes, scaled down."""
    monkeypatch.setattr(lpba40, "SHAPE_XYZ", SHAPE)
    monkeypatch.setattr(lpba40, "CROP_XYZ", CROP)


@pytest.fixture
def published(tmp_path, small):
    source = tmp_path / "source"
    for seed, subject in enumerate(lpba40.SUBJECTS):
        write_subject(source, subject, seed, order="<>"[seed % 2], packed=seed % 3 > 0)
    return source


@pytest.fixture
def one(tmp_path, monkeypatch, small):
    """A published data set of two subjects."""
    monkeypatch.setattr(lpba40, "SUBJECTS", ("S01", "S02"))
    source = tmp_path / "source"
    write_subject(source, "S02", 7)
    return source, write_subject(source, "S01", 5)


def plan(source, variant=""):
    return lpba40.plan_conversion(source, Options(variant=variant))


def convert(source, raw, variant="", **target):
    return write_conversion(plan(source, variant), Target(raw, workers=1, **target)).folder


def expected_brain(brain, tissue):
    """Brain in delineation space, written out voxel by voxel from AIR's definition."""
    cubic = min(NATIVE_SIZE)
    to_cubic = np.linalg.inv(native_to_delineation())
    sampled = np.zeros((2, *SHAPE))
    for index in np.ndindex(SHAPE):
        millimetres = (to_cubic @ [*index, 1])[:3] * cubic
        place = np.clip(millimetres / NATIVE_SIZE, 0, np.array(NATIVE_SHAPE) - 1)
        low = np.minimum(place.astype(int), np.array(NATIVE_SHAPE) - 2)
        part = place - low
        for corner in np.ndindex(2, 2, 2):
            weight = np.prod(np.where(corner, part, 1 - part))
            for n, array in enumerate((brain, tissue)):
                sampled[n][index] += weight * array[tuple(low + corner)]
    white = np.abs(sampled[1] - 3) < 1e-5
    assert white.sum() > 50
    return np.where(sampled[1] > 1e-9, sampled[0] / sampled[0][white].mean(), 0)


def test_the_brain_is_brought_into_delineation_space(one, tmp_path):
    """Linear resampling by AIR's matrix, white matter of mean 1, nothing without tissue."""
    source, (brain, tissue, _) = one
    folder = convert(source, tmp_path / "raw", "whole")
    volume = read_image([folder / "imagesTr" / "S01_0000.nii.gz"], "intensity")
    found = volume.single.T
    assert found.shape == SHAPE
    expected = expected_brain(brain, tissue)
    assert (expected == 0).any()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_labels_stay_whole_and_lie_on_the_image(one, tmp_path):
    source, (_, _, labels) = one
    folder = convert(source, tmp_path / "raw", "whole")
    written = read_image([folder / "labelsTr" / "S01.nii.gz"], "label")
    np.testing.assert_array_equal(written.single.T, labels)
    image = read_image([folder / "imagesTr" / "S01_0000.nii.gz"], "intensity")
    assert image.geometry.difference(written.geometry) is None


def test_x_grows_to_the_left_y_to_the_back_z_up(one, tmp_path):
    """Analyze 7.5 has no affine; SITReg writes diag(-1, -1, 1) in RAS, which is this in LPS."""
    folder = convert(one[0], tmp_path / "raw", "whole")
    geometry = read_image([folder / "labelsTr" / "S01.nii.gz"], "label").geometry
    np.testing.assert_allclose(geometry.to_world([3, 2, 1]), [1, 2, 3])


def test_the_crop_keeps_every_voxel_at_its_place(one, tmp_path):
    source = one[0]
    whole = convert(source, tmp_path / "whole", "whole")
    cropped = convert(source, tmp_path / "cropped")
    for name, kind in (("imagesTr/S01_0000.nii.gz", "intensity"), ("labelsTr/S01.nii.gz", "label")):
        large, small = (read_image([folder / name], kind) for folder in (whole, cropped))
        slices = tuple(slice(a, n - b) for (a, b), n in zip(CROP, SHAPE, strict=True))
        np.testing.assert_array_equal(small.single.T, large.single.T[slices])
        first = [cut[0] for cut in CROP][::-1]
        np.testing.assert_allclose(
            small.geometry.to_world([0, 0, 0]), large.geometry.to_world(first)
        )


def test_the_published_crop_gives_the_published_shape():
    left = [n - a - b for n, (a, b) in zip(lpba40.SHAPE_XYZ, lpba40.CROP_XYZ, strict=True)]
    assert left == [160, 192, 160]


def test_split_and_pairs_are_sitregs(published, tmp_path):
    folder = convert(published, tmp_path / "raw")
    dataset = read_dataset(folder)
    assert len(dataset.training) == 30
    assert len(dataset.pool) == 25
    assert len(dataset.validation_pairs) == 10
    # as SITReg's programs list them
    validation = {"S14", "S16", "S19", "S26", "S39"}
    test = {"S11", "S12", "S13", "S15", "S24", "S28", "S29", "S32", "S34", "S38"}
    assert {n for p in dataset.validation_pairs for n in (p.fixed, p.moving)} == validation
    assert len(dataset.test_pairs) == 45
    assert {n for p in dataset.test_pairs for n in (p.fixed, p.moving)} == test
    assert {case.name for case in dataset.test} == test
    assert len(json.loads((folder / "dataset.json").read_text())["labels"]) == 56


def test_a_second_run_keeps_what_is_right(one, tmp_path):
    source = one[0]
    conversion = plan(source)
    assert write_conversion(conversion, Target(tmp_path / "raw", workers=1)).written == 4
    again = write_conversion(plan(source), Target(tmp_path / "raw", workers=1))
    assert (again.kept, again.written) == (4, 0)


def test_there_are_56_structures():
    values = [*range(21, 35), *range(41, 51), *range(61, 69), *range(81, 93), 101, 102, 121, 122]
    values += [*range(161, 167), 181, 182]
    assert sorted(LABELS.values()) == values
    assert len(values) == 56
    assert all(
        (LABELS[name] % 2 == 1) == name.startswith("left_") for name in LABELS if "_" in name
    )


def test_a_missing_space_is_told_with_its_archive(one):
    source, _ = one
    (source / "LPBA40" / "native_space").rename(source / "elsewhere")
    (missing,) = plan(source).missing
    assert missing.file.endswith("native_space")
    assert "LPBA40_Subjects_Native_Space_MRI_data_and_masks.zip" in missing.remedy


def test_an_archive_that_is_still_packed_is_told(one):
    source, _ = one
    (source / "LPBA40" / "native_space").rename(source / "elsewhere")
    (source / "LPBA40subjects.native_space.zip").write_bytes(b"PK half of an archive")
    texts = [f"{p.file}: {p.found}" for p in plan(source).missing]
    assert any("LPBA40subjects.native_space.zip: an archive that is cut off" in t for t in texts)


def test_nothing_of_the_data_set_is_told(tmp_path):
    (tmp_path / "LPBA40_Subjects_Native_Space_MRI_data_and_masks.zip").write_bytes(b"PK")
    found = [problem.found for problem in plan(tmp_path).problems]
    assert found[0] == "no images of LPBA40"
    assert "cut off" in found[1]


def test_missing_files_stop_unless_a_part_is_wanted(one, tmp_path):
    source, _ = one
    folder = source / "LPBA40" / "native_space" / "S01"
    (folder / "S01.native.brain.bfc.img.gz").unlink()
    (folder / "tissue" / "S01.native.tissue.hdr").unlink()
    with pytest.raises(DataError) as caught:
        convert(source, tmp_path / "raw")
    assert "S01.native.brain.bfc.img.gz" in str(caught.value)
    assert "S01.native.tissue.hdr" in str(caught.value)
    assert not any((tmp_path / "raw").glob("*"))
    dataset = read_dataset(convert(source, tmp_path / "raw", partial=True))
    assert [case.name for case in dataset.training] == ["S02"]


def test_all_damaged_files_are_told_at_once(one, tmp_path):
    source, _ = one
    native = source / "LPBA40" / "native_space" / "S01"
    labels = source / "LPBA40" / "delineation_space" / "S02"
    brain = native / "S01.native.brain.bfc.img.gz"
    brain.write_bytes(brain.read_bytes()[:100])
    air = native / "transforms" / "S01.delineation.to.native.air"
    air.write_bytes(air.read_bytes()[:-20])
    header = labels / "S02.delineation.structure.label.hdr"
    header.write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError) as caught:
        convert(source, tmp_path / "raw")
    text = str(caught.value)
    assert "3 problems" in text
    for name in ("S01.native.brain.bfc", "to.native.air", "S02.delineation.structure.label.hdr"):
        assert name in text
    assert not any((tmp_path / "raw").glob("*"))


def test_a_transform_of_another_subject_is_told(one):
    """Native voxels of other sizes: without this the brain would be scaled, and nobody told."""
    source, _ = one
    path = source / "LPBA40" / "native_space" / "S01"
    for header in (path / "S01.native.brain.bfc.hdr", path / "tissue" / "S01.native.tissue.hdr"):
        content = bytearray(header.read_bytes())
        content[80:84] = np.array(0.78, ">f4").tobytes()  # pixdim[1]
        header.write_bytes(content)
    problems = plan(source).problems
    assert len(problems) == 2
    assert "of 0.78 x 1.6 x 0.9 mm" in problems[0].found
    assert "of 0.8 x 1.6 x 0.9 mm, as S01.delineation.to.native.air says" in problems[0].expected


def test_another_edition_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(lpba40, "SUBJECTS", ("S01",))
    write_subject(tmp_path, "S01")
    (problem,) = plan(tmp_path).problems
    assert problem.found == "12 x 14 x 13 voxels"
    assert problem.expected == "181 x 217 x 181"


def test_label_values_of_another_edition_are_told(one, tmp_path):
    source, (_, _, labels) = one
    path = source / "LPBA40/delineation_space/S01/S01.delineation.structure.label.img"
    path.with_suffix(".img.gz").unlink()
    path.write_bytes(np.where(labels == 21, 20, labels).tobytes(order="F"))
    with pytest.raises(DataError, match=r"label values 20, expected LPBA40's 56 structures"):
        convert(source, tmp_path / "raw")


def test_a_subject_without_white_matter_is_told(one, tmp_path):
    source, (_, tissue, _) = one
    path = source / "LPBA40/native_space/S01/tissue/S01.native.tissue.img"
    path.with_suffix(".img.gz").unlink()
    path.write_bytes(np.minimum(tissue, 2).tobytes(order="F"))
    with pytest.raises(DataError, match="0 voxels of white matter"):
        convert(source, tmp_path / "raw")
