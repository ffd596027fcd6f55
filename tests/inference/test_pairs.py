import json

import pytest

from autoreg.errors import DataError, UsageError
from autoreg.inference.pairs import find_pairs
from autoreg.io.records import save_record


@pytest.fixture
def folder(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz", "b_labels.nii.gz", "a_t2.nii.gz", "points.csv"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def write(folder, *lines):
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")


def message(folder):
    with pytest.raises((DataError, UsageError)) as caught:
        find_pairs(folder)
    return str(caught.value)


def test_csv_paths_are_relative_to_the_file_and_channels_are_joined_by_semicolons(folder):
    write(
        folder,
        "case,fixed,moving,moving_labels,fixed_landmarks",
        "x,a.nii.gz;a_t2.nii.gz,b.nii.gz ; b.nii.gz,b_labels.nii.gz,",
        "",
        f",a.nii.gz,{folder / 'b.nii.gz'},,points.csv",
    )
    one, two = find_pairs(folder)
    assert one.case == "x"
    assert one.fixed == (folder / "a.nii.gz", folder / "a_t2.nii.gz")
    assert one.moving == (folder / "b.nii.gz",) * 2
    assert (one.moving_labels, one.fixed_landmarks) == (folder / "b_labels.nii.gz", None)
    assert two.case == "a__b"
    assert two.fixed_landmarks == folder / "points.csv"


def test_json_has_the_same_keys(folder):
    entries = [
        {"fixed": ["a.nii.gz", "a_t2.nii.gz"], "moving": "b.nii.gz;b.nii.gz", "fixed_mask": None},
        {
            "case": "y",
            "fixed": "b.nii.gz",
            "moving": "a.nii.gz",
            "moving_labels": "b_labels.nii.gz",
        },
    ]
    (folder / "pairs.json").write_text(json.dumps(entries), encoding="utf-8-sig")
    one, two = find_pairs(folder / "pairs.json")
    assert (one.case, len(one.fixed), len(one.moving)) == ("a__b", 2, 2)
    assert two.moving_labels == folder / "b_labels.nii.gz"


def test_all_problems_of_a_csv_file_are_reported_with_their_lines(folder):
    write(
        folder,
        "case,fixed,moving,fixed_mask",
        "x,a.nii.gz,b.nii.gz,",
        "y,a.nii.gz,gone.nii.gz,",
        "x,b.nii.gz,a.nii.gz,",
        "z,a.nii.gz",
        "../up,a.nii.gz,b.nii.gz,",
        "w,,b.nii.gz,",
        "v,a.nii.gz,b.nii.gz,points.csv;points.csv",
    )
    text = message(folder)
    assert f"{folder / 'pairs.csv'}: 6 problems" in text
    lines = [line.strip() for line in text.splitlines()[1:]]
    assert [line[:7] for line in lines] == [f"line {n}:" for n in (3, 4, 5, 6, 7, 8)]
    assert "gone.nii.gz: no such file" in lines[0]
    assert '"x" was already given on line 2' in lines[1]
    assert "2 values, expected 4" in lines[2]
    assert "no / " in lines[3]
    assert '"fixed" is empty' in lines[4]
    assert '"fixed_mask" is one file, found 2' in lines[5]


def test_an_unknown_column_hides_no_other_problem(folder):
    write(folder, "fixed,moving,weight", "gone.nii.gz,b.nii.gz,3")
    text = message(folder)
    assert 'line 1: unknown column "weight"' in text
    assert "line 2: fixed: " in text


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("case,fixd,moving", 'line 1: unknown column "fixd"; did you mean "fixed"?'),
        ("case,fixed", 'line 1: the column "moving" is missing'),
        ("case;fixed;moving", 'line 1: the columns are separated by ";"'),
        ("fixed,moving,fixed", 'line 1: the column "fixed" stands twice'),
        ("fixed,moving", "line 1: no pairs"),
        ("", 'line 1: the column "fixed" is missing'),
    ],
)
def test_a_wrong_header_is_named(folder, header, expected):
    write(folder, header)
    assert expected in message(folder)


def test_a_case_given_twice_is_listed_beside_other_problems_of_its_lines(folder):
    write(folder, "case,fixed,moving", "x,absent.nii.gz,b.nii.gz", "x,a.nii.gz,absent.nii.gz")
    text = message(folder)
    assert "3 problems" in text
    assert 'line 3: the case "x" was already given on line 2' in text


def test_problems_of_a_json_file_carry_lines_and_a_did_you_mean(folder):
    (folder / "pairs.json").write_text(
        '[\n {"fixed": "a.nii.gz",\n  "moving": "b.nii.gz"},\n'
        ' {"fixed": "a.nii.gz", "movng": "b.nii.gz"},\n'
        ' {"fixed": 3, "moving": "b.nii.gz"}, 7\n]\n'
    )
    lines = message(folder).splitlines()[1:]
    assert 'line 4: unknown key "movng"; did you mean "moving"?' in lines[0]
    assert 'line 5: "fixed" must be a text, found 3' in lines[1]
    assert "line 5: expected an object" in lines[2]


def test_json_syntax_errors_name_file_and_line(folder):
    (folder / "pairs.json").write_text('[\n {"fixed": "a.nii.gz"\n  "moving": "b.nii.gz"}]')
    assert f"{folder / 'pairs.json'}, line 3" in message(folder)


def test_named_files_become_pairs(tmp_path):
    names = [
        "p_1_fixed.nii.gz", "p_1_moving.mha", "p_1_moving_labels.nii.gz", "p_1_fixed_mask.nii",
        "p_1_fixed_landmarks.mrk.json", "q_fixed_0000.nii.gz", "q_fixed_0001.nii.gz",
        "q_moving_0000.nii.gz", "q_moving_0001.nii.gz", "readme.txt", "r_fixed.hdr",
        "r_fixed.img.gz", "r_moving.nii.bz2",
    ]  # fmt: skip
    for name in names:
        (tmp_path / name).write_bytes(b"")
    p, q, r = find_pairs(tmp_path)
    assert (p.case, q.case, r.case) == ("p_1", "q", "r")
    assert r.fixed == (tmp_path / "r_fixed.hdr",)
    assert p.fixed == (tmp_path / "p_1_fixed.nii.gz",)
    assert p.moving_labels == tmp_path / "p_1_moving_labels.nii.gz"
    assert p.fixed_mask == tmp_path / "p_1_fixed_mask.nii"
    assert p.fixed_landmarks == tmp_path / "p_1_fixed_landmarks.mrk.json"
    assert q.moving == (tmp_path / "q_moving_0000.nii.gz", tmp_path / "q_moving_0001.nii.gz")


def test_named_files_without_a_partner_or_given_twice_are_all_listed(tmp_path):
    for name in ("a_fixed.nii.gz", "b_moving.nii.gz", "c_fixed.nii", "c_fixed.mha", "c_moving.nii"):
        (tmp_path / name).write_bytes(b"")
    text = message(tmp_path)
    assert 'case "a": a_moving.* is missing' in text
    assert 'case "b": b_fixed.* is missing' in text
    assert 'case "c": found c_fixed.mha, c_fixed.nii' in text


@pytest.mark.parametrize("numbers", [("0000", "0002"), ("0001",)])
def test_channels_of_named_files_have_no_gap(tmp_path, numbers):
    names = [f"a_moving_{number}.nii" for number in numbers]
    for name in (*names, *(f"a_fixed_{n:04d}.nii" for n in range(len(numbers)))):
        (tmp_path / name).write_bytes(b"")
    text = message(tmp_path)
    assert f'case "a": found {", ".join(names)}; expected the channels' in text
    assert "a_fixed" not in text


def test_a_raw_data_set_gives_its_test_pairs(tmp_path):
    for case in ("a", "b"):
        for kind, suffix in (("images", "_0000.nii.gz"), ("labels", ".nii.gz")):
            (tmp_path / f"{kind}Ts").mkdir(exist_ok=True)
            (tmp_path / f"{kind}Ts" / f"{case}{suffix}").write_bytes(b"")
    description = {
        "name": "D",
        "modality": {"0": "MR"},
        "test_pairs": [{"fixed": "a", "moving": "b"}],
    }
    save_record(description, tmp_path / "dataset.json")
    (pair,) = find_pairs(tmp_path)
    assert pair.case == "a__b"
    assert pair.moving == (tmp_path / "imagesTs" / "b_0000.nii.gz",)
    assert pair.moving_labels == tmp_path / "labelsTs" / "b.nii.gz"
    assert pair.fixed_modalities == ("MR",)
    with pytest.raises(UsageError, match=r"no validation pairs; use --split test"):
        find_pairs(tmp_path, "validation")
    for case in ("a", "b"):
        (tmp_path / f"{case}.nii").write_bytes(b"")
    write(tmp_path, "fixed,moving", "a.nii,b.nii")
    assert find_pairs(tmp_path)[0].fixed == (tmp_path / "a.nii",)
    with pytest.raises(UsageError, match=r"--split test: does nothing"):
        find_pairs(tmp_path, "test")


def test_points_of_different_kinds_are_no_pair(tmp_path):
    images = ["L_0001_0000", "L_0001_0001"]
    folders = ["keypoints01Tr", "keypoints02Tr"]
    for image, points in zip(images, folders, strict=True):
        for file in (f"imagesTr/{image}.nii.gz", f"{points}/{image}.csv"):
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).write_text("1,2,3\n")
    paths = [f"./imagesTr/{image}.nii.gz" for image in images]
    description = {"registration_test": [{"fixed": paths[0], "moving": paths[1]}]}
    save_record(description, tmp_path / "L_dataset.json")
    (pair,) = find_pairs(tmp_path)
    assert (pair.fixed_landmarks, pair.moving_landmarks) == (
        tmp_path / "keypoints01Tr" / "L_0001_0000.csv", None,
    )  # fmt: skip
    (tmp_path / "keypoints01Tr" / "L_0001_0001.csv").write_text("1,2,3\n")
    (pair,) = find_pairs(tmp_path)
    assert pair.moving_landmarks == tmp_path / "keypoints01Tr" / "L_0001_0001.csv"


def test_nothing_to_do_is_said_clearly(tmp_path):
    assert "holds no pairs; expected pairs.csv" in message(tmp_path)
    assert "no such file or folder" in message(tmp_path / "absent")
    (tmp_path / "image.nii.gz").write_bytes(b"")
    assert "neither a folder nor a .csv" in message(tmp_path / "image.nii.gz")
    (tmp_path / "pairs.json").write_text("[]")
    assert "no pairs" in message(tmp_path)
    (tmp_path / "pairs.csv").write_text("fixed,moving\n")
    assert "holds pairs.csv and pairs.json" in message(tmp_path)
