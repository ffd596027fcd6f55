"""Lung250M-4B from its published files: split, landmarks, what owners hand out themselves."""

import nibabel as nib
import numpy as np
import pytest
import torch
from published_lung250m_4b import (
    AFFINE,
    SHAPE,
    TEST,
    VALIDATION,
    landmark_tables,
    write_case,
    write_landmarks,
    write_volume,
)

from autoreg.dataset_conversion import lung250m_4b
from autoreg.dataset_conversion.conversion import Options
from autoreg.dataset_conversion.writer import Target, write_conversion
from autoreg.errors import DataError
from autoreg.io.dataset import landmarks_mm, read_dataset
from autoreg.io.images import read_geometry

EMPIRE = range(12)
SEVERAL = (1, 2, 12, 54, 104, 113, 114)


def publish(root, numbers=SEVERAL, **options):
    for number in numbers:
        write_case(root, number, **options)
    evaluated = [n for n in numbers if n in (*TEST, *VALIDATION)]
    tables = landmark_tables(evaluated)
    write_landmarks(root, tables)
    return tables


def plan(source):
    return lung250m_4b.plan_conversion(source, Options())


def convert(source, raw, *, partial=True):
    return write_conversion(plan(source), Target(raw, workers=1, partial=partial)).folder


@pytest.fixture
def source(tmp_path):
    publish(tmp_path / "source")
    return tmp_path / "source"


def numbers_of(pairs):
    return {int(pair.fixed[5:8]) for pair in pairs}


def test_113_is_a_test_case_and_nothing_is_in_two_splits(tmp_path):
    """The README calls 113 a validation case and a test case; it is in imagesTs as both are."""
    root = tmp_path / "source"
    publish(root, range(124))
    dataset = read_dataset(convert(root, tmp_path / "raw", partial=False))
    training, validation, test = (
        numbers_of(pairs)
        for pairs in (dataset.training_pairs, dataset.validation_pairs, dataset.test_pairs)
    )
    assert test == set(range(104, 114))
    assert validation == {2, 8, 54, 55, 56, 94, 97, *range(114, 124)}
    assert training == set(range(124)) - test - validation
    assert len(training) == 97


def test_inhale_is_fixed_and_both_ways_are_trained(source, tmp_path):
    dataset = read_dataset(convert(source, tmp_path / "raw"))
    for pair in (*dataset.validation_pairs, *dataset.test_pairs):
        assert pair.fixed[-2:] == "_1"
        assert pair.moving == pair.fixed[:-1] + "2"
    trained = {(pair.fixed, pair.moving) for pair in dataset.training_pairs}
    assert trained == {
        (f"case_{n}_{a}", f"case_{n}_{b}") for n in ("001", "012") for a, b in ("12", "21")
    }
    assert dataset.fixed_modalities == ("CT",)


def test_images_and_masks_are_the_published_ones(source, tmp_path):
    folder = convert(source, tmp_path / "raw")
    case = read_dataset(folder).case("case_054_2")
    assert case.images[0].resolve() == source / "imagesTs" / "case_054_2.nii.gz"
    assert case.mask.resolve() == source / "masksTs" / "case_054_2.nii.gz"


@pytest.mark.parametrize(
    "affine",
    [AFFINE, np.array([[0, 0, 1.0, -3], [1.0, 0, 0, 5], [0, -1.0, 0, 9], [0, 0, 0, 1]])],
    ids=["LPS", "turned"],
)
def test_landmarks_lie_where_the_published_programs_read_the_image(tmp_path, affine):
    """An image that is one along each axis: the point's index less a half is what it shows."""
    root = tmp_path / "source"
    tables = publish(root, (104,), affine=affine)
    dataset = read_dataset(convert(root, tmp_path / "raw"))
    for phase, columns in ((1, slice(0, 3)), (2, slice(3, 6))):
        case = dataset.case(f"case_104_{phase}")
        index = read_geometry(case.images[0]).to_index(landmarks_mm(case, case.landmarks))
        np.testing.assert_allclose(index[:, ::-1], tables["104"][:, columns] - 0.5, atol=1e-5)
        ras = landmarks_mm(case, case.landmarks) * [-1, -1, 1]
        file_index = nib.affines.apply_affine(np.linalg.inv(affine), ras)
        np.testing.assert_allclose(file_index, tables["104"][:, columns] - 0.5, atol=1e-5)


def test_training_cases_have_no_landmarks(source, tmp_path):
    dataset = read_dataset(convert(source, tmp_path / "raw"))
    assert dataset.case("case_012_1").landmarks is None
    assert dataset.case("case_113_1").landmarks is not None


def test_names_of_the_readme_are_read_too(tmp_path):
    """Its tree leaves out the `case_` that the programs use."""
    root = tmp_path / "source"
    publish(root, (12, 104), prefix="")
    dataset = read_dataset(convert(root, tmp_path / "raw"))
    assert [case.name for case in dataset.training] == ["case_012_1", "case_012_2"]


def test_one_scan_under_two_names_is_told(source):
    write_case(source, 12, prefix="")
    problems = plan(source).problems
    assert len(problems) == 4
    assert all("the same scan as" in problem.found for problem in problems)


def test_a_scan_in_training_and_test_is_told(source):
    for kind in ("images", "masks"):
        original = source / f"{kind}Ts" / "case_113_1.nii.gz"
        (source / f"{kind}Tr" / original.name).write_bytes(original.read_bytes())
    assert len(plan(source).problems) == 2


def test_empire_may_be_absent_and_copd_may_not(tmp_path):
    """SITReg did without EMPIRE10; the test pairs are all of COPDgene."""
    root = tmp_path / "source"
    publish(root, set(range(124)) - set(EMPIRE) - set(TEST))
    conversion = plan(root)
    assert len(conversion.missing) == 1
    assert "DIR-LAB COPDgene" in conversion.missing[0].expected
    assert "process_copd.py" in conversion.missing[0].remedy
    assert len(conversion.validation_pairs) == 15
    assert any("process_empire.py" in note for note in conversion.notes)
    with pytest.raises(DataError, match="--partial"):
        write_conversion(conversion, Target(tmp_path / "raw", workers=1))
    written = write_conversion(conversion, Target(tmp_path / "raw", workers=1, partial=True))
    assert read_dataset(written.folder).test == ()


def test_masks_without_images_are_no_problem(source, tmp_path):
    """Masks of EMPIRE10 and COPDgene are published, their images are not."""
    (source / "imagesTs" / "case_002_1.nii.gz").unlink()
    (source / "imagesTs" / "case_002_2.nii.gz").unlink()
    assert read_dataset(convert(source, tmp_path / "raw")).layout == "native"


def test_half_a_pair_is_left_out_and_told(source, tmp_path):
    (source / "imagesTr" / "case_012_2.nii.gz").unlink()
    texts = [problem.found for problem in plan(source).missing]
    assert any("case_012_2" in text for text in texts)
    names = [case.name for case in read_dataset(convert(source, tmp_path / "raw")).training]
    assert "case_012_1" not in names


def test_a_missing_mask_is_told(source):
    (source / "masksTr" / "case_012_1.nii.gz").unlink()
    assert any(p.file.endswith("case_012_1.nii.gz") for p in plan(source).missing)


def test_missing_landmarks_are_told(source, tmp_path):
    write_landmarks(source, landmark_tables((2, 54, 104, 113)))
    assert any(p.found == "no landmarks of case 114" for p in plan(source).missing)
    (source / "evaluation" / "lms_validation.pth").unlink()
    assert any(p.file.endswith("lms_validation.pth") for p in plan(source).missing)
    assert read_dataset(convert(source, tmp_path / "raw")).case("case_113_1").landmarks is None


def test_all_problems_are_told_at_once_and_nothing_is_written(source, tmp_path):
    image = source / "imagesTs" / "case_104_1.nii.gz"
    image.write_bytes(image.read_bytes()[:200])
    (source / "evaluation" / "lms_validation.pth").write_bytes(b"<html>")
    (source / "imagesTr" / "LungCT_0001_0000.nii.gz").write_bytes(b"")
    write_volume(source / "imagesTs" / "case_113_2.nii.gz", np.zeros((9, 9, 9), np.int16), AFFINE)
    with pytest.raises(DataError) as caught:
        convert(source, tmp_path / "raw")
    text = str(caught.value)
    for part in ("4 problems", "case_104_1", "lms_validation.pth", "LungCT_0001", "case_113_2"):
        assert part in text
    assert not any((tmp_path / "raw").glob("*"))


def test_images_that_were_not_cropped_are_told(source):
    """Of the mask's size but with landmarks outside: another case, or another edition."""
    tables = landmark_tables((2, 54, 104, 113, 114))
    tables["104"][2, 4] = SHAPE[1] + 3
    write_landmarks(source, tables)
    (problem,) = plan(source).problems
    assert problem.file.endswith("case_104_2.nii.gz")
    assert problem.found == "1 of 5 landmarks lie outside of the image"


def test_other_voxel_sizes_are_noted(tmp_path):
    publish(tmp_path, (12, 104), affine=np.diag([-1.25, -1.0, 1.0, 1.0]))
    assert any("not of 1 mm" in note for note in plan(tmp_path).notes)
    assert plan(tmp_path).problems == ()


def test_code_in_the_landmarks_is_refused(source):
    class Malice:
        def __reduce__(self):
            return print, ("run",)

    torch.save({"104": Malice()}, source / "evaluation" / "lms_validation.pth")
    (problem,) = plan(source).problems
    assert "nothing in it was executed" in problem.found


def test_nothing_of_the_data_set_is_told(tmp_path):
    (tmp_path / "Lung250M-4B.zip").write_bytes(b"PK")
    absent, archive = plan(tmp_path).problems
    assert absent.found == "no images of Lung250M-4B"
    assert "cut off" in archive.found
