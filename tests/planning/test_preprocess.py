import dataclasses
import os

import numpy as np
import pytest
import torch
from fingerprints import small_plan
from raw_datasets import blob, native, write_array, write_json

from autoreg.errors import DataError, PlanError
from autoreg.io.dataset import read_dataset
from autoreg.plan import AlignmentPlan, GridPlan, IntensityPlan
from autoreg.planning import preprocess as preprocessing
from autoreg.planning.prepared import (
    corresponding_landmarks,
    list_prepared,
    load_prepared,
)
from autoreg.planning.preprocess import preprocess

CASES = ("a", "b", "c")
NAME = "Dataset001_X"


@pytest.fixture
def raw(tmp_path):
    """Three blobs of 12 x 10 x 8 voxels; a has labels, a mask and landmarks."""
    folder = native(tmp_path / "raw" / NAME, CASES, {"modality": {"0": "MR"}})
    labels = (2 * (blob() > 0)).astype(np.uint8)
    write_array(folder / "labelsTr" / "a.nii.gz", labels)
    write_array(folder / "masksTr" / "a.nii.gz", (labels > 0).astype(np.uint8))
    (folder / "landmarksTr").mkdir()
    (folder / "landmarksTr" / "a.csv").write_text("x,y,z\n1,2,3\n4.5,5,6\n")
    return folder


def plan_of(**changes):
    """The images' own grid in the world: preparing changes intensities alone."""
    values = {
        "dataset": NAME,
        "grid": GridPlan((12, 10, 8), (1.0, 1.0, 1.0), False),
        "alignment": AlignmentPlan("world", (3.5, 4.5, 5.5)),
    }
    return small_plan(**{**values, **changes})


def run(raw, plan=None, workers=1, **options):
    dataset = read_dataset(raw)
    out = raw.parents[1] / "preprocessed"
    return preprocess(dataset, plan or plan_of(), out, workers=workers, progress=False, **options)


def test_a_prepared_case_holds_what_the_raw_one_does(raw):
    report = run(raw)
    case = load_prepared(report.folder, "a")
    image = blob()
    high = np.sort(image, axis=None)[int(0.99 * image.size) - 1]
    np.testing.assert_allclose(case.image[0], np.minimum(image, high) / high, atol=1e-5)
    assert case.image.dtype == np.float32
    np.testing.assert_array_equal(case.labels, 2 * (image > 0))
    assert case.labels.dtype == np.uint8
    np.testing.assert_array_equal(case.mask, image > 0)
    np.testing.assert_allclose(case.landmarks_vox["landmarks"], [[3, 2, 1], [6, 5, 4.5]])
    assert case.geometry.difference(case.source_geometry) is None
    assert case.modalities == ("MR",)


def test_a_case_without_extras_has_none(raw):
    case = load_prepared(run(raw).folder, "b")
    assert case.labels is None
    assert case.mask is None
    assert case.landmarks_vox == {}


def test_everything_lies_on_the_plans_grid(raw):
    grid = GridPlan((7, 8, 9), (1.5, 1.25, 1.0), True)
    case = load_prepared(run(raw, plan_of(grid=grid)).folder, "a")
    assert case.image.shape == (1, 7, 8, 9)
    assert case.labels.shape == case.mask.shape == (7, 8, 9)
    assert case.geometry.spacing_mm == (1.5, 1.25, 1.0)
    assert set(np.unique(case.labels)) == {0, 2}
    world = case.geometry.to_world(case.landmarks_vox["landmarks"])
    np.testing.assert_allclose(world, [[1, 2, 3], [4.5, 5, 6]], atol=1e-9)


def test_arrays_are_mapped_not_loaded(raw):
    folder = run(raw).folder
    assert isinstance(load_prepared(folder, "a").image, np.memmap)
    assert not isinstance(load_prepared(folder, "a", in_memory=True).image, np.memmap)


def test_workers_give_the_same_result(raw):
    alone = [np.array(load_prepared(run(raw).folder, name).image) for name in CASES]
    report = run(raw, workers=2, overwrite=True)
    assert report.prepared == CASES
    for name, expected in zip(CASES, alone, strict=True):
        np.testing.assert_array_equal(load_prepared(report.folder, name).image, expected)


# doing again what is needed, and nothing else


def test_a_second_run_does_nothing(raw):
    run(raw)
    report = run(raw)
    assert report.prepared == ()
    assert report.kept == CASES


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        ({"grid": GridPlan((10, 10, 8), (1.0, 1.0, 1.0), False)}, True),
        ({"grid": GridPlan((12, 10, 8), (1.0, 1.0, 1.0), True)}, True),
        ({"alignment": AlignmentPlan("centres")}, True),
        ({"alignment": AlignmentPlan("world", (3.0, 4.5, 5.5))}, True),
        ({"labels": {"other": 3}}, False),
        ({"budget": "80gb"}, False),
    ],
)
def test_a_changed_plan_redoes_what_it_concerns(raw, changes, again):
    run(raw)
    report = run(raw, plan_of(**changes))
    assert report.prepared == (CASES if again else ())


def test_a_changed_intensity_scheme_redoes_its_modality(raw):
    usual, other = IntensityPlan("quantiles", 0.0, 0.99), IntensityPlan("quantiles", 0.0, 0.9)
    run(raw, plan_of(intensity={"MR": usual, "CT": usual}))
    assert run(raw, plan_of(intensity={"MR": usual, "CT": other})).prepared == ()
    assert run(raw, plan_of(intensity={"MR": other, "CT": usual})).prepared == CASES


def test_a_modality_that_the_plan_does_not_know_says_plan_again(raw):
    write_json(raw / "dataset.json", {"modality": {"0": "PET"}})
    with pytest.raises(PlanError, match=r"for MR, but not for PET.*plan_and_preprocess"):
        run(raw)


def test_a_longer_training_redoes_nothing(raw):
    run(raw)
    longer = dataclasses.replace(plan_of().training, epochs=500)
    assert run(raw, plan_of(training=longer)).prepared == ()


@pytest.mark.parametrize("file", ["imagesTr/b_0000.nii.gz", "labelsTr/b.nii.gz"])
def test_a_changed_or_new_file_redoes_its_case_alone(raw, file):
    run(raw)
    write_array(raw / file, 3 * (blob(seed=99) > 0).astype(np.float32) + blob(seed=98))
    if file.startswith("labels"):
        write_array(raw / file, (blob(seed=99) > 0).astype(np.uint8))
    report = run(raw)
    assert report.prepared == ("b",)
    assert (load_prepared(report.folder, "b").labels is not None) == file.startswith("labels")


def test_a_removed_label_map_is_forgotten(raw):
    run(raw)
    (raw / "labelsTr" / "a.nii.gz").unlink()
    report = run(raw)
    assert report.prepared == ("a",)
    assert load_prepared(report.folder, "a").labels is None
    assert not (report.folder / "a.labels.npy").exists()


def test_a_touched_file_redoes_nothing(raw):
    run(raw)
    os.utime(raw / "imagesTr" / "b_0000.nii.gz", (1, 1))
    assert run(raw).prepared == ()


def test_a_data_set_may_move(raw):
    run(raw)
    elsewhere = raw.parents[1] / "elsewhere" / NAME
    elsewhere.parent.mkdir()
    assert run(raw.rename(elsewhere)).prepared == ()


def test_a_vanished_case_is_removed(raw):
    run(raw)
    (raw / "imagesTr" / "c_0000.nii.gz").unlink()
    report = run(raw)
    assert report.removed == ("c",)
    assert list_prepared(report.folder) == ("a", "b")
    assert not list(report.folder.glob("c*"))


@pytest.mark.parametrize("damage", ["missing", "short", "no record", "broken record"])
def test_a_damaged_case_is_made_again(raw, damage):
    folder = run(raw).folder
    if damage == "missing":
        (folder / "b.image.npy").unlink()
    elif damage == "short":
        (folder / "b.image.npy").write_bytes(b"short")
    elif damage == "no record":
        (folder / "b.json").unlink()
    else:
        (folder / "b.json").write_text("{")
    assert run(raw).prepared == ("b",)
    assert load_prepared(folder, "b").image.shape == (1, 12, 10, 8)


def test_it_continues_where_an_error_stopped_it(raw):
    good = (raw / "imagesTr" / "b_0000.nii.gz").read_bytes()
    (raw / "imagesTr" / "b_0000.nii.gz").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r'case "b": .*b_0000\.nii\.gz') as caught:
        run(raw)
    assert isinstance(caught.value.__cause__, DataError)
    folder = raw.parents[1] / "preprocessed" / NAME / "default"
    assert list_prepared(folder) == ("a",)
    (raw / "imagesTr" / "b_0000.nii.gz").write_bytes(good)
    report = run(raw)
    assert report.prepared == ("b", "c")
    assert report.kept == ("a",)


def test_leftovers_of_a_killed_run_disappear(raw):
    folder = run(raw).folder
    old, young = folder / ".partial_old_a.npy", folder / ".partial_young_a.npy"
    old.touch()
    young.touch()
    os.utime(old, (1, 1))
    run(raw)
    assert not old.exists()
    assert young.exists()


def test_overwrite_prepares_everything_again(raw):
    run(raw)
    assert run(raw, overwrite=True).prepared == CASES


@pytest.mark.parametrize("name", [".", "..", "a/b"])
def test_a_configuration_that_is_no_folder_of_its_own_removes_nothing(raw, name):
    other = run(raw).folder.parent / "plans.json"
    other.write_text("{}")
    with pytest.raises(PlanError, match="configuration name"):
        run(raw, plan_of(configuration=name))
    assert other.exists()


def test_names_of_cases_may_look_like_files_of_other_cases(raw):
    images = raw / "imagesTr"
    for name in ("a_labels", "a.labels", "a.mask", "a.image"):
        write_array(images / f"{name}_0000.nii.gz", blob(seed=len(name)))
        write_array(raw / "labelsTr" / f"{name}.nii.gz", np.full((12, 10, 8), 7, np.uint8))
    folder = run(raw).folder
    assert run(raw).prepared == ()
    case = load_prepared(folder, "a")
    assert case.image.shape == (1, 12, 10, 8)
    assert set(np.unique(case.labels)) == {0, 2}
    for name in ("a_labels", "a.labels", "a.mask", "a.image"):
        assert load_prepared(folder, name).image.shape == (1, 12, 10, 8)
        assert set(np.unique(load_prepared(folder, name).labels)) == {7}


def test_the_device_samples_the_images(raw, monkeypatch):
    """Torch's "meta" device computes nothing, so that arriving there is an error."""
    with pytest.raises(DataError, match=r'case "a": .*meta'):
        run(raw, device="meta")
    monkeypatch.setattr(preprocessing, "prepare", raise_out_of_memory)
    with pytest.raises(DataError, match='case "a": out of memory on cpu; use fewer --workers'):
        run(raw)


def raise_out_of_memory(*args, **kwargs):
    raise torch.OutOfMemoryError


# which cases, and reading them


def test_test_cases_stay_raw(raw):
    write_array(raw / "imagesTs" / "t_0000.nii.gz", blob(seed=5))
    assert run(raw).prepared == CASES


def test_an_unprepared_case_says_what_to_run(tmp_path):
    with pytest.raises(DataError, match='case "x" is not prepared; run autoreg_preprocess'):
        load_prepared(tmp_path, "x")


def test_a_truncated_array_is_not_read(raw):
    folder = run(raw).folder
    (folder / "b.image.npy").write_bytes(b"short")
    with pytest.raises(DataError, match=r"b\.image\.npy: 5 bytes found, \d+ expected"):
        load_prepared(folder, "b")


def test_landmarks_correspond_within_their_kind(raw):
    (raw / "landmarksTr" / "b.csv").write_text("x,y,z\n2,2,3\n5.5,5,6\n")
    folder = run(raw).folder
    a, b, c = (load_prepared(folder, name) for name in CASES)
    start, target = corresponding_landmarks(a, b)
    np.testing.assert_allclose(target - start, [[0, 0, 1], [0, 0, 1]], atol=1e-9)
    assert corresponding_landmarks(a, c) is None
    other = dataclasses.replace(b, landmarks_vox={"keypoints02": target})
    assert corresponding_landmarks(a, other) is None
