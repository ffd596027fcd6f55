"""NLST: checked, and read in place as Learn2Reg published it."""

import json
from dataclasses import replace

import numpy as np
import pytest
from published_brains import nlst_tree, one_image, put

from autoreg.dataset_conversion import nlst
from autoreg.dataset_conversion.conversion import Options
from autoreg.dataset_conversion.writer import Target, write_conversion
from autoreg.io.cases import Pair
from autoreg.io.dataset import landmarks_mm, read_dataset
from autoreg.planning.verification import verify


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setattr(nlst, "EXPECTED", replace(nlst.EXPECTED, shape_xyz=(12, 10, 11)))
    scan, mask = one_image(tmp_path, (12, 10, 11)), one_image(tmp_path, (12, 10, 11), [1])
    nlst_tree(tmp_path / "source/NLST", scan, mask)
    return tmp_path / "source"


def test_the_published_numbers():
    assert nlst.EXPECTED.shape_xyz == (224, 192, 224)
    assert nlst.VALIDATION_SUBJECTS == tuple(range(101, 111))


def test_it_is_linked_and_read_in_place(source, tmp_path):
    conversion = nlst.plan_conversion(source, Options())
    assert not conversion.problems
    assert any("needs no conversion" in note for note in conversion.notes)
    folder = write_conversion(conversion, Target(tmp_path / "raw")).folder
    dataset = read_dataset(folder)
    assert dataset.training_pairs == tuple(
        Pair(f"NLST_{subject:04d}_0000", f"NLST_{subject:04d}_0001") for subject in (1, 2)
    )
    assert len(dataset.validation_pairs) == 10
    assert dataset.fixed_modalities == ("CT",)
    case = dataset.case("NLST_0101_0001")
    assert case.mask is not None
    points = landmarks_mm(case, case.landmarks)
    np.testing.assert_allclose(points[0], [3, 4, 5])  # spacing 1, origin 0
    assert not verify(folder, workers=1)


def test_missing_parts_are_named(source):
    root = source / "NLST"
    (root / "masksTr/NLST_0001_0001.nii.gz").unlink()
    (root / "keypointsTr/NLST_0002_0000.csv").unlink()
    (root / "imagesTr/NLST_0105_0001.nii.gz").unlink()
    files = {problem.file for problem in nlst.plan_conversion(source, Options()).problems}
    assert str(root / "masksTr/NLST_0001_0001") in files
    assert str(root / "keypointsTr/NLST_0002_0000") in files
    assert str(root / "imagesTr/NLST_0105_0001.nii.gz") in files


def test_validation_may_lack_what_the_organisers_keep(source):
    for path in (source / "NLST/keypointsTr").glob("NLST_01*"):
        path.unlink()
    conversion = nlst.plan_conversion(source, Options())
    assert not conversion.problems
    assert "20 validation images have no file in keypointsTr" in conversion.notes


def test_another_edition_and_half_a_download_are_refused(source, tmp_path):
    root = source / "NLST"
    put(root / "imagesTr/NLST_0001_0000.nii.gz", one_image(tmp_path, (12, 10, 9)))
    cut = root / "masksTr/NLST_0002_0000.nii.gz"
    cut.write_bytes(cut.read_bytes()[:50])
    put(root / "NLST2023.zip", b"cut off")
    problems = nlst.plan_conversion(source, Options()).problems
    texts = [problem.found for problem in problems]
    assert "12 x 10 x 9 voxels" in texts
    assert str(cut) in {problem.file for problem in problems}
    assert any("archive that is cut off" in text for text in texts)


def test_other_pairs_and_modalities_are_noted(source):
    file = source / "NLST/NLST_dataset.json"
    content = json.loads(file.read_text())
    content["registration_val"] = content["registration_val"][:3]
    content["modality"] = {"0": "scan"}
    file.write_text(json.dumps(content))
    notes = "\n".join(nlst.plan_conversion(source, Options()).notes)
    assert "other validation pairs than the evaluator's" in notes
    assert "calls the modality scan" in notes


def test_without_the_json_nothing_is_guessed(source, tmp_path):
    (source / "NLST/NLST_dataset.json").unlink()
    (problem,) = nlst.plan_conversion(source, Options()).problems
    assert problem.file.endswith("NLST_dataset.json")
    (tmp_path / "empty").mkdir()
    assert nlst.plan_conversion(tmp_path / "empty", Options()).problems
