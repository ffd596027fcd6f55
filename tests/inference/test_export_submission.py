"""autoreg_export_submission: names, numbers, completeness, and refusals."""

import json
import shutil
import zipfile

import nibabel
import numpy as np
import pytest
from referee_pair import SHAPE, make_pair, rough_field, unit_grid, write_u

from autoreg.errors import DataError, UsageError
from autoreg.inference.cli_submission import main
from autoreg.inference.submission_pairs import submission_name, wanted_pairs
from autoreg.io.learn2reg_transforms import read_learn2reg
from autoreg.io.records import load_json, save_record

FIXED, MOVING = "LUMIRMRI_3455_0000", "LUMIRMRI_3454_0000"


def entry(fixed, moving):
    return {"fixed": f"./imagesVal/{fixed}.nii.gz", "moving": f"./imagesVal/{moving}.nii.gz"}


def describe(root, file="LUMIR_dataset.json", pairs=((FIXED, MOVING),), **more):
    path = root / file
    data = {
        "name": "LUMIR",
        "tensorImageShape": {"0": list(SHAPE[::-1])},
        "validation": [entry(*pair) for pair in pairs],
    }
    path.write_text(json.dumps(data | more), encoding="utf-8")
    return path


@pytest.fixture
def pair(tmp_path):
    describe(tmp_path)
    return make_pair(tmp_path)


def run(capsys, pair, *arguments):
    flags = ["-i", pair.root / "predictions", "-d", pair.root, "-o", pair.root / "out", *arguments]
    status = main([str(flag) for flag in flags])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def rewrite(pair, change, folder=None):
    """Change the record of a prediction."""
    path = (folder or pair.folder) / "result.json"
    record = load_json(path)
    change(record)
    save_record(record, path)


def test_the_file_holds_voxels_in_the_evaluators_order(pair, capsys):
    status, text, _ = run(capsys, pair)
    assert status == 0
    assert "1 displacement by the rule of lumir" in text
    (path,) = (pair.root / "out").iterdir()
    assert path.name == "disp_3455_3454.nii.gz"
    image = nibabel.load(path)
    assert image.get_data_dtype() == np.float32
    np.testing.assert_array_equal(image.affine, np.eye(4))
    array = np.asarray(image.dataobj)
    assert array.shape == (*SHAPE[::-1], 3)  # the file's x is the array's last axis
    for component in range(3):
        np.testing.assert_array_equal(array[..., component].T, pair.u_vox[2 - component])


def test_reading_it_back_gives_the_prediction(pair, capsys):
    run(capsys, pair, "--no-zip")
    grid = unit_grid()
    field, _ = read_learn2reg(pair.root / "out" / "disp_3455_3454.nii.gz", grid, grid)
    np.testing.assert_array_equal(field.u_vox, pair.u_vox)
    assert not (pair.root / "out.zip").exists()


def test_the_zip_file_is_flat_and_complete(pair, capsys):
    run(capsys, pair)
    with zipfile.ZipFile(pair.root / "out.zip") as archive:
        assert archive.namelist() == ["disp_3455_3454.nii.gz"]
        assert archive.testzip() is None


@pytest.mark.parametrize(
    ("task", "scans", "name"),
    [
        ("lumir", ("0000", "0000"), "disp_3455_3454.nii.gz"),
        ("learn2reg", ("0000", "0000"), "disp_3455_0000_3454_0000.nii.gz"),
        ("learn2reg", ("0000", "0001"), "disp_3455_3454.nii.gz"),
        ("learn2reg", ("0001", "0000"), "disp_3455_0001_3454_0000.nii.gz"),
        ("learn2reg", ("0001", "0001"), "disp_3455_0001_3454_0001.nii.gz"),
    ],
)
def test_names(task, scans, name):
    assert submission_name(task, ("3455", scans[0]), ("3454", scans[1])) == name


def test_the_task_is_read_from_the_description_unless_it_is_given(tmp_path):
    lumir = describe(tmp_path)
    assert wanted_pairs(lumir, None, "validation").task == "lumir"
    assert wanted_pairs(tmp_path, "learn2reg", "validation").pairs[0].file == (
        "disp_3455_0000_3454_0000.nii.gz"
    )
    lumir.unlink()
    other = describe(tmp_path, "OASIS_dataset.json", name="OASIS")
    assert wanted_pairs(other, None, "validation").task == "learn2reg"


def test_registration_val_goes_before_validation_and_test_has_its_own_list(tmp_path):
    path = describe(
        tmp_path,
        registration_val=[entry("T_0001_0000", "T_0002_0000")],
        registration_test=[entry("T_0003_0000", "T_0004_0000")],
    )
    assert wanted_pairs(path, None, "validation").pairs[0].fixed == "T_0001_0000"
    assert wanted_pairs(path, None, "test").pairs[0].fixed == "T_0003_0000"


@pytest.mark.parametrize("empty", ["registration_val", "validation"])
def test_an_empty_list_does_not_hide_the_filled_one(tmp_path, empty):
    filled = {"registration_val": "validation", "validation": "registration_val"}[empty]
    path = describe(tmp_path, **{empty: [], filled: [entry(FIXED, MOVING)]})
    (found,) = wanted_pairs(path, None, "validation").pairs
    assert (found.fixed, found.moving) == (FIXED, MOVING)


def test_lumirs_shape_holds_where_the_description_gives_none(tmp_path):
    path = describe(tmp_path, tensorImageShape=None)
    assert wanted_pairs(path, "lumir", "validation").shape == (160, 224, 192)
    assert wanted_pairs(path, "learn2reg", "validation").shape is None


@pytest.mark.parametrize(
    ("pairs", "more", "message"),
    [
        (((FIXED, MOVING),), {"validation": []}, "lists no pairs under registration_val or valid"),
        ((("brain_a", MOVING),), {}, 'image "brain_a" cannot be named'),
        (((FIXED, "LUMIRMRI_3454_0001"),), {}, "no place for different scans"),
        (((FIXED, MOVING), (FIXED, MOVING)), {}, "would be the name of two pairs"),
        (((FIXED, MOVING),), {"tensorImageShape": [1, 2]}, "tensorImageShape"),
    ],
)
def test_descriptions_that_cannot_be_followed_are_refused(tmp_path, pairs, more, message):
    path = describe(tmp_path, pairs=pairs, **more)
    with pytest.raises((DataError, UsageError), match=message):
        wanted_pairs(path, None, "validation")


def test_missing_superfluous_doubled_and_unfinished_pairs_are_told_at_once(pair, capsys):
    describe(pair.root, pairs=((FIXED, MOVING), ("LUMIRMRI_3456_0000", FIXED)))
    again = pair.folder.with_name("again")
    shutil.copytree(pair.folder, again)
    rewrite(pair, lambda r: r.update(case="again"), again)
    other = pair.folder.with_name("other")
    shutil.copytree(pair.folder, other)
    rewrite(pair, lambda r: r.update(case="other"), other)
    rewrite(pair, lambda r: r["inputs"].update(fixed=r["inputs"]["moving"]), other)
    failed = pair.folder.with_name("failed")
    failed.mkdir()
    (failed / "unfinished.txt").write_text("out of memory\n")
    status, _, error = run(capsys, pair)
    assert status == 2
    assert "disp_3455_3454.nii.gz: several predictions" in error
    assert "missing, 1 of 2 pairs: LUMIRMRI_3456_0000 with LUMIRMRI_3455_0000;" in error
    assert "predicted but not listed, 1 pair: other;" in error
    assert "failed: result.json is missing" in error
    assert "Traceback" not in error
    assert not (pair.root / "out").exists()


def test_a_swapped_pair_is_not_taken_for_the_listed_one(pair, capsys):
    def swap(record):
        files = record["inputs"]
        files["fixed"], files["moving"] = files["moving"], files["fixed"]

    rewrite(pair, swap)
    status, _, error = run(capsys, pair)
    assert status == 2
    assert "missing, 1 of 1 pairs" in error


def test_another_shape_is_refused(pair, capsys):
    describe(pair.root, tensorImageShape={"0": [160, 224, 192]})
    status, _, error = run(capsys, pair)
    assert status == 2
    assert "18x16x14 voxels, expected 160x224x192" in error


def test_numbers_that_are_none_are_refused(pair, capsys):
    path = pair.folder / "displacement.nii.gz"
    image = nibabel.load(path)
    array = np.asarray(image.dataobj).copy()
    array[3, 3, 3] = np.nan
    nibabel.save(nibabel.Nifti1Image(array, image.affine, image.header), path)
    status, _, error = run(capsys, pair)
    assert status == 2
    assert "NaN" in error
    assert not (pair.root / "out.zip").exists()


def test_what_is_no_part_of_the_submission_is_not_zipped_over(pair, capsys):
    (pair.root / "out").mkdir()
    (pair.root / "out" / "disp_0001_0002.nii.gz").write_bytes(b"")
    status, _, error = run(capsys, pair)
    assert status == 2
    assert "no part of this submission: disp_0001_0002.nii.gz" in error


def test_a_second_export_replaces_the_first(pair, capsys):
    run(capsys, pair)
    write_u(pair, rough_field(seed=5))
    assert run(capsys, pair)[0] == 0
    array = np.asarray(nibabel.load(pair.root / "out" / "disp_3455_3454.nii.gz").dataobj)
    np.testing.assert_array_equal(array[..., 0].T, pair.u_vox[2])


class TestEarlierExport:
    """What lies there from before belongs together, whatever a later export does."""

    @pytest.fixture
    def two(self, pair, capsys):
        """Two pairs, exported; the second one is then damaged."""
        describe(pair.root, pairs=((FIXED, MOVING), (MOVING, FIXED)))
        other = pair.folder.with_name("other")
        shutil.copytree(pair.folder, other)

        def swap(record):
            files = record["inputs"]
            files["fixed"], files["moving"] = files["moving"], files["fixed"]
            record["case"] = "other"

        rewrite(pair, swap, other)
        assert run(capsys, pair)[0] == 0
        write_u(pair, rough_field(seed=5))
        return pair

    def contents(self, pair):
        files = sorted(path for path in pair.root.glob("out*/**/*") if path.is_file())
        return {path.name: path.read_bytes() for path in [*files, *pair.root.glob("out.zip")]}

    def test_stays_whole_when_the_next_one_fails(self, two, capsys):
        before = self.contents(two)
        path = two.folder.with_name("other") / "displacement.nii.gz"
        image = nibabel.load(path)
        array = np.full(image.shape, np.nan, np.float32)
        nibabel.save(nibabel.Nifti1Image(array, image.affine, image.header), path)
        status, _, error = run(capsys, two)
        assert (status, "NaN" in error) == (2, True)
        assert len(before) == 3
        assert self.contents(two) == before

    def test_leaves_no_zip_file_of_other_numbers(self, two, capsys):
        before = self.contents(two)
        assert run(capsys, two, "--no-zip")[0] == 0
        after = self.contents(two)
        assert sorted(after) == ["disp_3454_3455.nii.gz", "disp_3455_3454.nii.gz"]
        assert after["disp_3455_3454.nii.gz"] != before["disp_3455_3454.nii.gz"]

    def test_what_a_killed_export_left_is_no_obstacle(self, two, capsys):
        hidden = two.root / "out" / ".unfinished"
        hidden.mkdir()
        (hidden / "disp_3455_3454.nii.gz").write_bytes(b"half")
        assert run(capsys, two)[0] == 0
        assert not hidden.exists()


def test_a_folder_without_description_is_refused(pair, capsys):
    (pair.root / "LUMIR_dataset.json").unlink()
    status, _, error = run(capsys, pair)
    assert status == 2
    assert "expected <TASK>_dataset.json or the folder that holds it" in error
