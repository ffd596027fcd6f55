"""Any heap of images: which file is what, and whose."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from published_brains import content_of, put
from raw_datasets import blob, native, touch, write_array

from autoreg.dataset_conversion.conversion import Options
from autoreg.dataset_conversion.folder import plan_conversion
from autoreg.dataset_conversion.heap import files_of, sort_heap
from autoreg.dataset_conversion.writer import Target, write_conversion
from autoreg.errors import DataError
from autoreg.io.dataset import landmarks_mm, read_dataset
from autoreg.io.images import read_image
from autoreg.planning.verification import verify

LABELS = (blob() > 0).astype(np.uint8)


def heap(folder, *names):
    """Cases by name with the file names of their images and companions; no file has content."""
    touch(folder, *names)
    problems = []
    cases = sort_heap(folder, problems)
    found = {
        case.name: (
            [one.path.relative_to(folder).as_posix() for one in case.images],
            {kind: path.relative_to(folder).as_posix() for kind, path in case.others.items()},
        )
        for case in cases
    }
    return found, problems


def test_linked_folders_are_searched_and_none_twice(tmp_path):
    touch(tmp_path / "elsewhere", "ben.nii.gz", "ben_seg.nii.gz", "deeper/carl.nii.gz")
    touch(tmp_path / "heap", "anna/anna.nii.gz")
    (tmp_path / "heap" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "heap" / "a_second_link").symlink_to(tmp_path / "heap" / "anna")
    (tmp_path / "heap" / "anna" / "circle").symlink_to(tmp_path / "heap")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "heap")
    problems = []
    cases = {case.name: case for case in sort_heap(tmp_path / "heap", problems)}
    assert not problems
    assert sorted(cases) == ["anna", "ben", "carl"]
    assert cases["anna"].images[0].path == tmp_path / "heap/anna/anna.nii.gz"
    assert cases["ben"].others["labels"] == tmp_path / "heap/linked/ben_seg.nii.gz"


def test_a_link_to_nowhere_is_named(tmp_path):
    """As of a disk that is not mounted, whose images would be missed silently."""
    source = tmp_path / "scans"
    source.mkdir()
    (source / "dead.nii.gz").symlink_to(tmp_path / "unmounted" / "a.nii.gz")
    with pytest.raises(DataError, match=r"dead\.nii\.gz: is a link to .*unmounted"):
        files_of(source)


def test_side_by_side(tmp_path):
    found, problems = heap(
        tmp_path, "anna.nii.gz", "anna_seg.nii.gz", "ben.mha", "ben-mask.mha", "ben.fcsv",
        "anna.csv", "readme.txt", ".hidden.nii.gz",
    )  # fmt: skip
    assert not problems
    assert found == {
        "anna": (["anna.nii.gz"], {"labels": "anna_seg.nii.gz", "landmarks": "anna.csv"}),
        "ben": (["ben.mha"], {"mask": "ben-mask.mha", "landmarks": "ben.fcsv"}),
    }


def test_folders_by_kind_and_split(tmp_path):
    found, problems = heap(
        tmp_path, "train/images/a.nii.gz", "train/labels/a.nii.gz", "train/images/b.nii.gz",
        "test/images/c.nii.gz", "test/Masks/c.nii.gz", "landmarks/a.csv", "landmarks/c_points.csv",
    )  # fmt: skip
    assert not problems
    assert found["a"][1] == {"labels": "train/labels/a.nii.gz", "landmarks": "landmarks/a.csv"}
    assert found["b"][1] == {}
    assert found["c"][1] == {"mask": "test/Masks/c.nii.gz", "landmarks": "landmarks/c_points.csv"}
    splits = {case.name: case.images[0].split for case in sort_heap(tmp_path, [])}
    assert splits == {"a": "training", "b": "training", "c": "test"}


def test_a_folder_for_each_subject(tmp_path):
    found, problems = heap(
        tmp_path, "all/anna/T1.nii.gz", "all/anna/seg.nii.gz", "all/ben/T1.nii.gz",
        "all/ben/T1_brainmask.nii.gz",
    )  # fmt: skip
    assert not problems
    assert found == {
        "anna": (["all/anna/T1.nii.gz"], {"labels": "all/anna/seg.nii.gz"}),
        "ben": (["all/ben/T1.nii.gz"], {"mask": "all/ben/T1_brainmask.nii.gz"}),
    }


def test_folder_and_file_where_both_are_needed(tmp_path):
    found, problems = heap(
        tmp_path, "anna/ct.nii.gz", "anna/mr.nii.gz", "ben/ct.nii.gz", "ben/mr.nii.gz",
        "ben/mr_seg.nii.gz", "ben/seg.nii.gz",
    )  # fmt: skip
    assert set(found) == {"anna_ct", "anna_mr", "ben_ct", "ben_mr"}
    assert found["ben_mr"][1] == {"labels": "ben/mr_seg.nii.gz"}
    (problem,) = problems
    assert problem.file.endswith("ben/seg.nii.gz")
    assert "fits 2 images: ben_ct, ben_mr" in problem.found


def test_longer_and_shorter_names_of_labels(tmp_path):
    found, problems = heap(
        tmp_path, "anna_T1.nii.gz", "anna_labels.nii.gz", "annabel_T1.nii.gz", "ben.nii.gz",
        "ben_T1_dseg.nii.gz",
    )  # fmt: skip
    assert not problems
    assert found["anna_T1"][1] == {"labels": "anna_labels.nii.gz"}
    assert found["annabel_T1"][1] == {}
    assert found["ben"][1] == {"labels": "ben_T1_dseg.nii.gz"}


def test_a_files_own_word_comes_before_its_folders(tmp_path):
    found, problems = heap(
        tmp_path, "a.nii.gz", "segmentations/a_mask.nii.gz", "masks/a_seg.nii.gz"
    )
    assert not problems
    expected = {"mask": "segmentations/a_mask.nii.gz", "labels": "masks/a_seg.nii.gz"}
    assert found["a"][1] == expected


def test_label_maps_of_nobody_and_second_ones(tmp_path):
    _, problems = heap(
        tmp_path, "anna.nii.gz", "anna_seg.nii.gz", "anna_labels.nii.gz", "carl_seg.nii.gz",
    )  # fmt: skip
    assert {problem.file.rpartition("/")[2]: problem.found for problem in problems} == {
        "anna_seg.nii.gz": "a second label map of anna, beside anna_labels.nii.gz",
        "carl_seg.nii.gz": "a label map without an image of that name",
    }


def test_other_tables_are_passed_over(tmp_path):
    touch(tmp_path, "anna.nii.gz", "participants.csv", "scans.csv", "points/carl.csv")
    problems, notes = [], []
    (case,) = sort_heap(tmp_path, problems, notes)
    assert not case.others
    assert [note.rpartition("/")[2] for note in notes] == ["participants.csv", "scans.csv"]
    assert [problem.file.rpartition("/")[2] for problem in problems] == ["carl.csv"]


def test_channels_only_where_all_names_end_alike(tmp_path):
    names = ["anna_0000.nii.gz", "anna_0001.nii.gz", "ben_0000.nii.gz", "ben_0001.nii.gz"]
    found, _ = heap(tmp_path / "channels", *names, "anna_seg.nii.gz")
    assert found == {
        "anna": (names[:2], {"labels": "anna_seg.nii.gz"}),
        "ben": (names[2:], {}),
    }
    found, _ = heap(tmp_path / "cases", "case_0000.nii.gz", "case_0001.nii.gz")
    assert set(found) == {"case_0000", "case_0001"}
    found, _ = heap(tmp_path / "gaps", *names[:3])
    assert set(found) == {"anna_0000", "anna_0001", "ben_0000"}


def source_of(folder, names=("anna", "ben", "cara")):
    for number, name in enumerate(names):
        write_array(folder / f"{name}.nii.gz", blob(seed=number))
        write_array(folder / f"{name}_seg.nii.gz", LABELS)
        (folder / f"{name}.csv").write_text("x,y,z\n3,4,5\n4,4,6\n")
    return folder


def test_the_raw_data_set_passes_verification(tmp_path):
    source = source_of(tmp_path / "scans")
    (source / "cara_seg.nii.gz").unlink()
    conversion = plan_conversion(source, Options(modality=("CT",)))
    folder = write_conversion(conversion, Target(tmp_path / "raw", workers=1)).folder
    assert folder.name == "Dataset001_scans"
    assert not verify(folder, workers=1)
    dataset = read_dataset(folder)
    assert dataset.fixed_modalities == ("CT",)
    assert [case.labels is not None for case in dataset.training] == [True, True, False]
    assert "1 of 3 cases have no label map: cara" in conversion.notes


@pytest.mark.parametrize(
    ("frame", "expected"),
    [("lps_mm", [3, 4, 5]), ("ras_mm", [-3, -4, 5]), ("voxels", [10 + 2 * 3, 20 + 4, 30 + 3 * 5])],
)
def test_points_without_a_header_need_a_frame(tmp_path, frame, expected):
    for name in ("anna", "ben"):
        path = tmp_path / f"scans/{name}.nii.gz"
        write_array(path, blob(), spacing=(2, 1, 3), origin=(10, 20, 30))
        (tmp_path / f"scans/{name}.csv").write_text("3,4,5\n")
    refused = plan_conversion(tmp_path / "scans", Options())
    assert {problem.found for problem in refused.problems} == {"points without a header"}
    conversion = plan_conversion(tmp_path / "scans", Options(landmark_frame=frame))
    folder = write_conversion(conversion, Target(tmp_path / "raw", workers=1)).folder
    case = read_dataset(folder).case("anna")
    np.testing.assert_allclose(landmarks_mm(case, case.landmarks), [expected])


def test_slicer_points_keep_their_own_frame(tmp_path):
    source = source_of(tmp_path / "scans")
    (source / "anna.csv").unlink()
    (source / "anna.fcsv").write_text(
        "# Markups fiducial file version = 4.11\n# CoordinateSystem = RAS\n"
        "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
        "1,-3,-4,5,0,0,0,1,1,1,0,one,,\n2,-4,-4,6,0,0,0,1,1,1,0,two,,\n"
    )
    conversion = plan_conversion(source, Options(landmark_frame="voxels"))
    folder = write_conversion(conversion, Target(tmp_path / "raw", workers=1)).folder
    case = read_dataset(folder).case("anna")
    np.testing.assert_allclose(landmarks_mm(case, case.landmarks), [[3, 4, 5], [4, 4, 6]])


def test_images_of_two_files_become_one(tmp_path):
    source = tmp_path / "scans"
    for number, name in enumerate(("anna", "ben")):
        write_array(source / f"{name}.mhd", (100 * blob(seed=number)).astype(np.int16))
    values = np.arange(8 * 10 * 12, dtype=np.int16).reshape(8, 10, 12)
    nib.save(nib.Nifti1Pair(values, np.diag([-2.0, -1.0, 3.0, 1.0])), source / "cara.img")
    conversion = plan_conversion(source, Options())
    assert not conversion.problems
    folder = write_conversion(conversion, Target(tmp_path / "raw", workers=1)).folder
    assert not verify(folder, workers=1)
    for name, header in (("anna", "anna.mhd"), ("cara", "cara.hdr")):
        before = read_image([source / header], "intensity")
        after = read_image([folder / f"imagesTr/{name}_0000.nii.gz"], "intensity")
        assert np.array_equal(before.single, after.single)
        assert before.geometry.difference(after.geometry) is None
        assert sitk.ReadImage(str(folder / f"imagesTr/{name}_0000.nii.gz")).GetPixelID() == 2


def test_pairing_and_atlas_are_passed_on(tmp_path):
    source = source_of(tmp_path / "scans")
    conversion = plan_conversion(source, Options(pairing="atlas", atlas="ben"))
    folder = write_conversion(conversion, Target(tmp_path / "raw", workers=1)).folder
    assert content_of(folder)["atlas"] == "ben"
    assert all("ben" in (p.fixed, p.moving) for p in read_dataset(folder).training_pairs)


def test_bad_input_is_told_at_once(tmp_path):
    source = source_of(tmp_path / "scans")
    cut = source / "anna.nii.gz"
    cut.write_bytes(cut.read_bytes()[:60])
    write_array(source / "flat.nii.gz", blob()[:1])
    write_array(source / "ben_seg.nii.gz", LABELS, origin=(5, 0, 0))
    put(source / "more/more.zip", b"PK\x03\x04")
    put(source / "more/later.nii.gz.part", b"x")
    put(source / "dicom/0001", bytes(128) + b"DICM" + bytes(50))
    conversion = plan_conversion(source, Options(modality=("T1", "T2")))
    files = {problem.file for problem in conversion.problems}
    named = ("anna.nii.gz", "ben_seg.nii.gz", "more/more.zip", "more/later.nii.gz.part", "dicom")
    assert {str(source), *(str(source / name) for name in named)} <= files


def test_an_empty_folder_is_refused(tmp_path):
    (problem,) = plan_conversion(tmp_path, Options()).problems
    assert problem.found == "no image"


def test_a_raw_data_set_is_linked_as_it_is(tmp_path):
    native(tmp_path / "brains", description={"modality": {"0": "T1"}})
    (tmp_path / "brains/conversion.json").write_text("{}")
    conversion = plan_conversion(tmp_path / "brains", Options())
    assert conversion.in_place == tmp_path / "brains"
    folder = write_conversion(conversion, Target(tmp_path / "raw")).folder
    assert len(read_dataset(folder).training) == 3
    assert (folder / "dataset.json").is_symlink()
