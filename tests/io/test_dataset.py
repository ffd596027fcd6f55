import os

import numpy as np
import pytest
from raw_datasets import native, touch, write_array, write_json

from autoreg.errors import DataError, UsageError
from autoreg.io.dataset import (
    Pair,
    find_datasets,
    is_dataset,
    landmarks_mm,
    pair_landmarks,
    read_dataset,
    resolve_dataset,
    scan_dataset,
)


def images(folder, *cases, split="Tr", channels=1):
    touch(folder, *(f"images{split}/{c}_{n:04d}.nii.gz" for c in cases for n in range(channels)))


def problems_of(folder):
    return scan_dataset(folder)[1]


def only_problem(folder):
    (problem,) = problems_of(folder)
    return problem


def test_a_folder_of_images_is_a_data_set_without_any_json(tmp_path):
    folder = tmp_path / "Dataset007_Plain"
    images(folder, "b", "a")
    dataset = read_dataset(folder)
    assert dataset.name == "Dataset007_Plain"
    assert [case.name for case in dataset.training] == ["a", "b"]
    assert dataset.pairing == "inter_subject"
    assert dataset.fixed_modalities == dataset.moving_modalities == ("image",)
    assert dataset.labels == {}
    assert dataset.training_pairs is None
    assert dataset.pool == ("a", "b")
    assert dataset.training_pair_count == 2
    assert dataset.test_pairs == ()


@pytest.mark.parametrize("ending", [".csv", ".fcsv", ".mrk.json"])
def test_files_of_a_case_come_together(tmp_path, ending):
    images(tmp_path, "p.1", channels=2)
    images(tmp_path, "q", split="Ts", channels=2)
    touch(tmp_path, "labelsTr/p.1.mha", "masksTr/p.1.nii.gz", f"landmarksTr/p.1{ending}")
    write_json(tmp_path / "dataset.json", {"modality": {"0": "T1", "1": "T2"}})
    dataset = read_dataset(tmp_path)
    case = dataset.case("p.1")
    assert [path.name for path in case.images] == ["p.1_0000.nii.gz", "p.1_0001.nii.gz"]
    assert case.modalities == ("T1", "T2")
    assert case.labels == tmp_path / "labelsTr" / "p.1.mha"
    assert case.mask == tmp_path / "masksTr" / "p.1.nii.gz"
    assert case.landmarks == tmp_path / "landmarksTr" / f"p.1{ending}"
    assert dataset.test == (dataset.case("q"),)
    assert len(case.files) == 5


def test_headers_beside_their_numbers_are_one_image(tmp_path):
    touch(tmp_path, "imagesTr/a_0000.hdr", "imagesTr/a_0000.img", "imagesTr/.DS_Store")
    touch(tmp_path, "imagesTr/b_0000.mhd", "imagesTr/b_0000.zraw")
    assert [c.images[0].suffix for c in read_dataset(tmp_path).training] == [".hdr", ".mhd"]


def test_labels_lose_the_background_and_read_either_way_round(tmp_path):
    images(tmp_path, "a")
    write_json(tmp_path / "dataset.json", {"labels": {"background": 0, "liver": 2}})
    assert read_dataset(tmp_path).labels == {"liver": 2}
    write_json(tmp_path / "dataset.json", {"labels": {"0": "background", "2": "liver"}})
    assert read_dataset(tmp_path).labels == {"liver": 2}


def test_listed_pairs_and_cases_are_obeyed(tmp_path):
    images(tmp_path, "a", "b", "c", "d")
    description = {
        "training": ["a", "imagesTr/b_0000.nii.gz", {"image": "./imagesTr/c_0000.nii.gz"}],
        "validation_pairs": [{"fixed": "a", "moving": "imagesTr/b_0000.nii.gz"}],
        "test_pairs": [{"fixed": "c", "moving": "a"}],
    }
    write_json(tmp_path / "dataset.json", description)
    dataset = read_dataset(tmp_path)
    assert [case.name for case in dataset.training] == ["a", "b", "c"]
    assert dataset.validation_pairs == (Pair("a", "b"),)
    assert dataset.test_pairs == (Pair("c", "a"),)
    assert dataset.pool == ("c",)  # validation cases are not trained with


def test_visits_of_one_subject_are_paired_both_ways(tmp_path):
    images(tmp_path, "p1_in", "p1_out", "p2_in")
    write_json(tmp_path / "dataset.json", {"pairing": "intra_subject"})
    dataset = read_dataset(tmp_path)
    assert dataset.training_pairs == (Pair("p1_in", "p1_out"), Pair("p1_out", "p1_in"))


def test_an_atlas_is_paired_with_every_case(tmp_path):
    images(tmp_path, "t", "a", "b")
    images(tmp_path, "x", split="Ts")
    write_json(tmp_path / "dataset.json", {"pairing": "atlas", "atlas": "t"})
    dataset = read_dataset(tmp_path)
    assert set(dataset.training_pairs) == {
        Pair("t", "a"), Pair("a", "t"), Pair("t", "b"), Pair("b", "t"),
    }  # fmt: skip
    assert dataset.test_pairs == (Pair("x", "t"),)


def test_unlisted_test_pairs_are_neighbours(tmp_path):
    images(tmp_path, "a", "b", "c", split="Ts")
    assert read_dataset(tmp_path).test_pairs == (Pair("a", "b"), Pair("b", "c"))


def test_modalities_of_fixed_and_moving_images_follow_the_pairs(tmp_path):
    images(tmp_path, "p1_ct", "p1_mr", "p2_ct", "p2_mr")
    description = {
        "modality": {"0": "MR"},
        "case_modality": {"p1_ct": ["CT"], "p2_ct": "CT"},
        "training_pairs": [
            {"fixed": "p1_ct", "moving": "p1_mr"},
            {"fixed": "p2_ct", "moving": "p2_mr"},
        ],
    }
    write_json(tmp_path / "dataset.json", description)
    dataset = read_dataset(tmp_path)
    assert dataset.case("p2_ct").modalities == ("CT",)
    assert (dataset.fixed_modalities, dataset.moving_modalities) == (("CT",), ("MR",))


def test_landmarks_are_world_points(tmp_path):
    native(tmp_path, cases=("a",))
    touch(tmp_path, "landmarksTr/a.csv")
    (tmp_path / "landmarksTr" / "a.csv").write_text("x,y,z\n1,2,3\n")
    case = read_dataset(tmp_path).case("a")
    np.testing.assert_array_equal(landmarks_mm(case, case.landmarks), [[1, 2, 3]])


def test_landmarks_of_test_and_training_cases_correspond(tmp_path):
    images(tmp_path, "t", "a")
    images(tmp_path, "x", split="Ts")
    touch(tmp_path, "landmarksTr/t.csv", "landmarksTs/x.csv")
    dataset = read_dataset(tmp_path)
    t, a, x = (dataset.case(name) for name in "tax")
    assert pair_landmarks(x, t) == (x.landmarks, t.landmarks)
    assert pair_landmarks(a, t) is None


@pytest.mark.parametrize(
    ("change", "where", "found", "remedy"),
    [
        ({"modalty": {"0": "MR"}}, "modalty", "unknown key", 'did you mean "modality"'),
        ({"channel_names": {"0": "MR"}}, "channel_names", "unknown key", "modality"),
        ({"pairing": "intersubject"}, "pairing", "intersubject", 'did you mean "inter_subject"'),
        ({"pairing": "atlas"}, "atlas", "nothing", "atlas"),
        ({"atlas": "a"}, "atlas", "a", "pairing"),
        ({"labels": {"x": 1, "y": 1}}, "labels: y", "the value 1 a second time", "own value"),
        ({"labels": {"x": 1.5}}, "labels: x", "1.5", "correct"),
        ({"labels": {"0": {"1": "x"}}}, "labels: 0", '{"1": "x"}', "correct"),
        ({"modality": {"MR": "0"}}, "modality: MR", "0", "correct"),
        ({"modality": {"1": "MR"}}, "modality", "the channels 1", "correct"),
        ({"numTraining": 3}, "numTraining", "3", "correct"),
        ({"training": ["a", "bb"]}, "training", 'the case "bb"', 'did you mean "b"'),
        ({"training_pairs": [["a", "b"]]}, "training_pairs[0]", '["a", "b"]', "correct"),
        ({"case_modality": {"z": ["CT"]}}, "case_modality: z", 'the case "z"', "there are 2"),
        ({"case_modality": {"a": ["CT", "MR"]}}, "case_modality: a", "CT", "correct"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_with_place_and_remedy(tmp_path, change, where, found, remedy):
    images(tmp_path, "a", "b")
    write_json(tmp_path / "dataset.json", change)
    problem = only_problem(tmp_path)
    assert problem.file == f"{tmp_path / 'dataset.json'}: {where}"
    assert found in problem.found
    assert remedy in problem.remedy


def test_a_byte_order_mark_in_dataset_json_does_not_matter(tmp_path):
    images(tmp_path, "a", "b")
    (tmp_path / "dataset.json").write_text('{"labels": {"x": 1}}', encoding="utf-8-sig")
    assert read_dataset(tmp_path).labels == {"x": 1}


def test_a_syntax_error_is_told_with_file_and_line(tmp_path):
    images(tmp_path, "a", "b")
    (tmp_path / "dataset.json").write_text('{\n  "name": "x"\n  "labels": {}\n}')
    problem = only_problem(tmp_path)
    assert problem.file == f"{tmp_path / 'dataset.json'}, line 3, column 3"
    assert "not valid JSON" in problem.found


def test_pairs_with_absent_cases_or_of_one_case_are_told_and_dropped(tmp_path):
    images(tmp_path, "case_1", "case_2")
    pairs = [("case_1", "case_3"), ("case_1", "case_1"), ("case_2", "case_1")]
    listed = [{"fixed": fixed, "moving": moving} for fixed, moving in pairs]
    write_json(tmp_path / "dataset.json", {"training_pairs": listed})
    dataset, (absent, same) = scan_dataset(tmp_path)
    assert dataset.training_pairs == (Pair("case_2", "case_1"),)
    assert absent.file.endswith("training_pairs[0]")
    assert '"case_3"' in absent.found
    assert same.file.endswith("training_pairs[1]")
    assert "with itself" in same.found


@pytest.mark.parametrize(
    ("file", "found", "remedy"),
    [
        ("imagesTr/a_0000.mha", "beside a_0000.mha", "remove one"),  # a_0000.nii.gz is there, too
        ("imagesTr/lonely.nii.gz", '"lonely"', "lonely_0000.nii.gz"),
        ("imagesTr/a_0002.nii.gz", "0000, 0002", "renumber"),
        ("imagesTs/a_0000.nii.gz", "also a training case", "another name"),
        ("labelsTr/zz.nii.gz", "no image", "remove the file"),
        ("labelsTr/a_0000.nii.gz", '"a_0000"', 'rename it to "a.nii.gz"'),
        ("landmarksTr/a.txt", ".txt", "convert"),
        ("masksTr/sub/x.nii.gz", "a folder", "move"),
        ("lablesTr/a.nii.gz", '"lablesTr", which is not read', 'rename it to "labelsTr"'),
    ],
)
def test_files_that_fit_nowhere_are_told(tmp_path, file, found, remedy):
    images(tmp_path, "a", "b")
    touch(tmp_path, file)
    found_text = "".join(p.found for p in problems_of(tmp_path))
    assert found in found_text
    assert remedy in "".join(p.remedy for p in problems_of(tmp_path))


def test_a_case_with_a_channel_too_few_is_told(tmp_path):
    images(tmp_path, "a", "b", channels=2)
    images(tmp_path, "c")
    problem = only_problem(tmp_path)
    assert problem.file == str(tmp_path / "imagesTr" / "c")
    assert (problem.found, problem.expected) == ("1 channels", "2, as most cases have")


def test_reading_raises_one_error_with_every_problem(tmp_path):
    images(tmp_path, "a")
    touch(tmp_path, "labelsTr/zz.nii.gz")
    write_json(tmp_path / "dataset.json", {"naem": "x", "pairing": "?"})
    with pytest.raises(DataError) as error:
        read_dataset(tmp_path)
    text = str(error.value)
    assert "3 problems" in text
    assert 'did you mean "name"?' in text
    assert "zz.nii.gz" in text
    assert "pairing" in text


def test_no_folder_and_no_images_are_told(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        read_dataset(tmp_path / "absent")
    with pytest.raises(DataError, match="no imagesTr, no imagesTs"):
        read_dataset(tmp_path)


def test_the_digest_follows_every_change(tmp_path):
    native(tmp_path, cases=("a", "b"), description={"name": "x"})
    digests = [read_dataset(tmp_path).digest]
    assert read_dataset(tmp_path).digest == digests[0]
    write_json(tmp_path / "dataset.json", {"name": "y"})
    digests.append(read_dataset(tmp_path).digest)
    image = tmp_path / "imagesTr" / "a_0000.nii.gz"
    os.utime(image, ns=(0, image.stat().st_mtime_ns + 1))
    digests.append(read_dataset(tmp_path).digest)
    write_array(tmp_path / "labelsTr" / "a.nii.gz", np.zeros((2, 2, 2), np.uint8))
    digests.append(read_dataset(tmp_path).digest)
    image.rename(tmp_path / "imagesTr" / "c_0000.nii.gz")
    (tmp_path / "labelsTr" / "a.nii.gz").unlink()
    digests.append(read_dataset(tmp_path).digest)
    assert len(set(digests)) == len(digests)


def test_the_digest_does_not_depend_on_the_place(tmp_path):
    native(tmp_path / "one", cases=("a", "b"))
    before = read_dataset(tmp_path / "one").digest
    (tmp_path / "one").rename(tmp_path / "two")
    assert read_dataset(tmp_path / "two").digest == before


def test_data_sets_are_found_by_id_name_or_being_alone(tmp_path):
    assert find_datasets(tmp_path / "absent") == []
    with pytest.raises(UsageError, match="none"):
        resolve_dataset(tmp_path)
    one = tmp_path / "Dataset001_One"
    images(one, "a")
    (tmp_path / "notes").mkdir()
    assert not is_dataset(tmp_path / "notes")
    assert resolve_dataset(tmp_path) == one
    learn2reg = tmp_path / "NLST"
    write_json(learn2reg / "NLST_dataset.json", {})
    images(tmp_path / "Dataset012_Twelve", "a")
    assert resolve_dataset(tmp_path, "1") == resolve_dataset(tmp_path, "001") == one
    assert resolve_dataset(tmp_path, "12").name == "Dataset012_Twelve"
    assert resolve_dataset(tmp_path, "Twelve").name == "Dataset012_Twelve"
    assert resolve_dataset(tmp_path, "NLST") == learn2reg
    with pytest.raises(UsageError, match="Dataset001_One, Dataset012_Twelve, NLST"):
        resolve_dataset(tmp_path)
    with pytest.raises(UsageError, match='"twleve"; did you mean "Dataset012_Twelve"'):
        resolve_dataset(tmp_path, "twleve")
    with pytest.raises(UsageError, match='none of them is "5"'):
        resolve_dataset(tmp_path, "5")
    images(tmp_path / "Dataset001_Other", "a")
    with pytest.raises(UsageError, match="give the whole name"):
        resolve_dataset(tmp_path, "1")
    images(tmp_path / "Other", "a")
    assert resolve_dataset(tmp_path, "Other").name == "Other"  # the whole name wins


def test_an_unknown_case_is_refused_with_a_hint(tmp_path):
    images(tmp_path, "brain_1", "brain_2")
    with pytest.raises(DataError, match='did you mean "brain_'):
        read_dataset(tmp_path).case("brian_1")
