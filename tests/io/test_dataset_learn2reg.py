import json

import numpy as np
import pytest
from raw_datasets import blob, touch, write_array, write_json

from autoreg.errors import DataError
from autoreg.io.dataset import (
    Pair,
    landmarks_mm,
    pair_landmarks,
    read_dataset,
    scan_dataset,
)


def path(task, case, scan, folder="imagesTr"):
    return f"./{folder}/{task}_{case:04d}_{scan:04d}.nii.gz"


def pair(task, fixed, moving, folder="imagesTr"):
    return {"fixed": path(task, *fixed, folder), "moving": path(task, *moving, folder)}


def lung(folder, cases=(1, 2, 101)):
    """The layout of a paired CT task: 0000 is fixed, 0001 moving, the last case validates."""
    names = [path("LUNG", case, scan) for case in cases for scan in (0, 1)]
    touch(folder, *names, *(name.replace("images", "masks") for name in names))
    pairs = [pair("LUNG", (case, 0), (case, 1)) for case in cases]
    description = {
        "name": "LUNG",
        "pairing": "paired",
        "provided_data": {"0": ["image", "mask"]},
        "modality": {"0": "CT", "1": "CT"},
        "labels": {"0": {"0": "background", "1": "lung"}},
        "tensorImageShape": {"0": [8, 10, 12]},
        "numTraining": 2 * len(cases),
        "training": [{"image": name} for name in names],
        "training_paired_images": pairs,  # published lists repeat the validation pairs
        "registration_val": pairs[-1:],
        "someFutureKey": 1,
    }
    write_json(folder / "LUNG_dataset.json", description)
    return description


def test_scans_are_cases_and_pairs_are_read(tmp_path):
    lung(tmp_path)
    dataset = read_dataset(tmp_path)
    assert dataset.layout == "learn2reg"
    assert dataset.pairing == "intra_subject"
    assert [case.name for case in dataset.training][:2] == ["LUNG_0001_0000", "LUNG_0001_0001"]
    assert all(len(case.images) == 1 for case in dataset.training)
    assert dataset.case("LUNG_0002_0001").mask == tmp_path / "masksTr/LUNG_0002_0001.nii.gz"
    assert dataset.training_pairs == (
        Pair("LUNG_0001_0000", "LUNG_0001_0001"),
        Pair("LUNG_0002_0000", "LUNG_0002_0001"),
    )
    assert dataset.validation_pairs == (Pair("LUNG_0101_0000", "LUNG_0101_0001"),)
    assert dataset.labels == {"lung": 1}
    assert dataset.fixed_modalities == dataset.moving_modalities == ("CT",)


@pytest.mark.parametrize("mark", ["tensorImageShape", "registration_val"])
def test_a_plain_dataset_json_is_read_so_when_its_keys_say_so(tmp_path, mark):
    description = lung(tmp_path)
    (tmp_path / "LUNG_dataset.json").unlink()
    for key in ("tensorImageShape", "training_paired_images", "registration_val"):
        if key != mark:
            description.pop(key)
    write_json(tmp_path / "dataset.json", description)
    assert read_dataset(tmp_path).layout == "learn2reg"


def test_unpaired_brains_train_with_any_pair_but_those_held_out(tmp_path):
    training = [path("BRAIN", case, 0) for case in range(4)]
    validation = pair("BRAIN", (8, 0), (7, 0), "imagesVal")
    touch(tmp_path, *training, *validation.values())
    touch(tmp_path, *(p.replace("images", "labels") for p in validation.values()))
    write_json(
        tmp_path / "BRAIN_dataset.json",
        {"training": [{"image": name} for name in training], "validation": [validation]},
    )
    dataset = read_dataset(tmp_path)
    assert dataset.pairing == "inter_subject"
    assert dataset.training_pairs is None
    assert dataset.validation_pairs == (Pair("BRAIN_0008_0000", "BRAIN_0007_0000"),)
    assert dataset.pool == tuple(f"BRAIN_{case:04d}_0000" for case in range(4))
    assert dataset.case("BRAIN_0007_0000").labels.parent.name == "labelsVal"


def test_scans_of_different_modality(tmp_path):
    touch(tmp_path, *(path("AB", 1, scan) for scan in (0, 1)))
    description = {
        "modality": {"0": "MR", "1": "CT"},
        "training_paired_images": [pair("AB", (1, 0), (1, 1))],
    }
    write_json(tmp_path / "AB_dataset.json", description)
    dataset = read_dataset(tmp_path)
    assert (dataset.fixed_modalities, dataset.moving_modalities) == (("MR",), ("CT",))


def test_a_scan_without_modality_is_told(tmp_path):
    touch(tmp_path, *(path("AB", 1, scan) for scan in (0, 2)))
    description = {
        "modality": {"0": "MR", "1": "CT"},
        "training_paired_images": [pair("AB", (1, 0), (1, 2))],
    }
    write_json(tmp_path / "AB_dataset.json", description)
    _, (problem,) = scan_dataset(tmp_path)
    assert 'scan "2"' in problem.expected


def test_an_empty_registration_val_does_not_hide_validation(tmp_path):
    description = lung(tmp_path)
    description["validation"] = description["registration_val"]
    expected = read_dataset(tmp_path).validation_pairs
    assert expected
    for empty in ("registration_val", "validation"):
        write_json(tmp_path / "LUNG_dataset.json", description | {empty: []})
        assert read_dataset(tmp_path).validation_pairs == expected


def test_test_pairs_come_from_registration_test(tmp_path):
    description = lung(tmp_path)
    description["registration_test"] = [pair("LUNG", (5, 0), (5, 1), "imagesTs")]
    touch(tmp_path, *description["registration_test"][0].values())
    write_json(tmp_path / "LUNG_dataset.json", description)
    dataset = read_dataset(tmp_path)
    assert dataset.test_pairs == (Pair("LUNG_0005_0000", "LUNG_0005_0001"),)
    assert [case.name for case in dataset.test] == ["LUNG_0005_0000", "LUNG_0005_0001"]


def test_a_test_set_that_was_never_handed_out_is_passed_over(tmp_path):
    description = lung(tmp_path)
    description["test"] = [path("LUNG", 5, 0, "imagesTs")]
    description["registration_test"] = [pair("LUNG", (5, 0), (5, 1), "imagesTs")]
    write_json(tmp_path / "LUNG_dataset.json", description)
    dataset = read_dataset(tmp_path)
    assert (dataset.test, dataset.test_pairs) == ((), ())


def test_points_are_voxels_of_their_own_image(tmp_path):
    lung(tmp_path)
    for scan, spacing in ((0, (1.0, 2.0, 3.0)), (1, (1.5, 2.0, 3.0))):
        name = f"LUNG_0001_{scan:04d}"
        image = tmp_path / "imagesTr" / f"{name}.nii.gz"
        write_array(image, blob(), spacing=spacing, origin=(10.0, 20.0, 30.0))
        file = tmp_path / "keypointsTr" / f"{name}.csv"
        file.parent.mkdir(exist_ok=True)
        file.write_text("1,2,3\n0,0,0\n")
    fixed, moving = (read_dataset(tmp_path).case(f"LUNG_0001_000{n}") for n in (0, 1))
    # Voxels count along ITK's x, y, z.
    np.testing.assert_allclose(landmarks_mm(fixed, fixed.landmarks), [[11, 24, 39], [10, 20, 30]])
    np.testing.assert_allclose(
        landmarks_mm(moving, moving.landmarks), [[11.5, 24, 39], [10, 20, 30]]
    )


def test_manual_landmarks_win_over_key_points(tmp_path):
    lung(tmp_path)
    touch(tmp_path, "keypointsTr/LUNG_0001_0000.csv", "landmarksTr/LUNG_0001_0000.csv")
    case = read_dataset(tmp_path).case("LUNG_0001_0000")
    assert case.landmarks.parent.name == "landmarksTr"
    assert [file.parent.name for file in case.other_landmarks] == ["keypointsTr"]


def test_images_of_the_points_beside_them_are_passed_over(tmp_path):
    lung(tmp_path)
    for name in ("LUNG_0001_0000", "LUNG_0001_0001"):
        touch(tmp_path, f"landmarksTr/{name}.csv", f"landmarksTr/{name}.nii.gz")
    assert read_dataset(tmp_path).case("LUNG_0001_0000").landmarks.name == "LUNG_0001_0000.csv"


def test_numbered_key_points_belong_to_the_pair_that_shares_them(tmp_path):
    """One planning scan (0000) takes part in two pairs, each with key points of its own."""
    touch(tmp_path, *(path("TH", 0, scan) for scan in range(3)))
    for number in (1, 2):
        for scan in (0, number):
            touch(tmp_path, f"keypoints0{number}Tr/TH_0000_{scan:04d}.csv")
    pairs = [pair("TH", (0, 1), (0, 0)), pair("TH", (0, 2), (0, 0))]
    description = {
        "pairings": "paired",
        "modality": {"0": "FBCT", "1": "CBCT", "2": "CBCT"},
        "labels": {},
        "training_paired_images": pairs,
    }
    write_json(tmp_path / "TH_dataset.json", description)
    dataset = read_dataset(tmp_path)
    for number in (1, 2):
        fixed, moving = dataset.case(f"TH_0000_000{number}"), dataset.case("TH_0000_0000")
        files = pair_landmarks(fixed, moving)
        assert [file.parent.name for file in files] == [f"keypoints0{number}Tr"] * 2
    assert dataset.fixed_modalities == ("CBCT",)


def test_voxel_points_need_their_image(tmp_path):
    lung(tmp_path)
    touch(tmp_path, "keypointsTr/LUNG_0001_0000.csv")
    case = read_dataset(tmp_path).case("LUNG_0001_0000")
    with pytest.raises(DataError, match="LUNG_0001_0000"):
        landmarks_mm(case, case.landmarks)


def test_missing_images_are_told_once_each(tmp_path):
    lung(tmp_path)
    (tmp_path / "imagesTr" / "LUNG_0002_0001.nii.gz").unlink()
    dataset, (problem,) = scan_dataset(tmp_path)
    assert problem.found == "no such file"
    assert problem.file.endswith("LUNG_0002_0001.nii.gz")
    assert dataset.training_pairs == (Pair("LUNG_0001_0000", "LUNG_0001_0001"),)


def test_misspelt_keys_are_told_and_unknown_ones_pass(tmp_path):
    description = lung(tmp_path)
    description["registration_vall"] = description.pop("registration_val")
    write_json(tmp_path / "LUNG_dataset.json", description)
    _, (problem,) = scan_dataset(tmp_path)
    assert problem.remedy == 'did you mean "registration_val"?'


def test_two_descriptions_are_told(tmp_path):
    lung(tmp_path)
    (tmp_path / "COPY_dataset.json").write_text(json.dumps({}))
    _, problems = scan_dataset(tmp_path)
    assert "COPY_dataset.json, LUNG_dataset.json" in problems[0].found
