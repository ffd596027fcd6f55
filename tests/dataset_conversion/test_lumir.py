"""LUMIR: counts, labelled images out of training, the evaluator's pairs."""

import pytest
from published_brains import content_of, lumir_tree, one_image, put

from autoreg.dataset_conversion import lumir
from autoreg.dataset_conversion.conversion import Options
from autoreg.dataset_conversion.writer import Target, write_conversion
from autoreg.errors import DataError
from autoreg.io.cases import Pair
from autoreg.io.dataset import read_dataset
from autoreg.planning.verification import verify

LABELLED = range(3364, 3374)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Images of 10x14x12 voxels in place of 160x224x192; 12 of 3384."""
    monkeypatch.setattr(lumir, "SHAPE_XYZ", (10, 14, 12))
    monkeypatch.setattr(lumir, "TRAINING_COUNT", 12)
    image = one_image(tmp_path, (10, 14, 12))
    label = one_image(tmp_path, (10, 14, 12), lumir.LABEL_VALUES)
    lumir_tree(tmp_path / "source", image, label, [0, 1, *LABELLED], LABELLED)
    return tmp_path / "source"


def test_the_published_numbers():
    assert lumir.SHAPE_XYZ == (160, 224, 192)
    assert lumir.TRAINING_COUNT == 3384
    assert len(lumir.LABEL_VALUES) == 132
    assert {4, 23, 32, 76, 109, 157, 207} <= set(lumir.LABEL_VALUES)
    assert not {0, 110, 111, 126, 127, 158, 188, 189} & set(lumir.LABEL_VALUES)


def test_labelled_images_are_tested_and_not_trained(small, tmp_path):
    conversion = lumir.plan_conversion(small, Options())
    assert not conversion.problems
    assert not conversion.missing
    folder = write_conversion(conversion, Target(tmp_path / "raw")).folder
    dataset = read_dataset(folder)
    labelled = {f"LUMIRMRI_{subject}" for subject in LABELLED}
    assert {case.name for case in dataset.test} == labelled
    assert all(case.labels is not None for case in dataset.test)
    assert dataset.pool == ("LUMIRMRI_0000", "LUMIRMRI_0001")
    assert len(dataset.test_pairs) == 90
    assert {p.fixed for p in dataset.test_pairs} == {p.moving for p in dataset.test_pairs}
    assert dataset.labels == {f"label_{value}": value for value in lumir.LABEL_VALUES}
    assert not verify(folder, workers=1)


def test_validation_pairs_are_the_evaluators(small):
    pairs = lumir.plan_conversion(small, Options()).validation_pairs
    assert len(pairs) == 38
    assert pairs[0] == Pair("LUMIRMRI_3455", "LUMIRMRI_3454")
    assert pairs[-1] == Pair("LUMIRMRI_3493", "LUMIRMRI_3492")
    assert Pair("LUMIRMRI_3484", "LUMIRMRI_3483") not in pairs


def test_what_is_missing_is_named_with_its_source(small, tmp_path):
    (small / "LUMIR/imagesTr/LUMIRMRI_0001_0000.nii.gz").unlink()
    (small / "LUMIR/imagesVal/LUMIRMRI_3470_0000.nii.gz").unlink()
    for path in (small / "LUMIR/SanityCheckLabelsTr").iterdir():
        path.unlink()
    missing = lumir.plan_conversion(small, Options()).missing
    assert [problem.found for problem in missing] == [
        "no such file", "11 training images", "no such file", "no label maps of training images",
    ]  # fmt: skip
    assert missing[0].file.endswith("imagesTr/LUMIRMRI_0001_0000.nii.gz")
    assert all("github.com/JHU-MedImage-Reg/LUMIR_L2R" in problem.remedy for problem in missing)
    conversion = lumir.plan_conversion(small, Options())
    folder = write_conversion(conversion, Target(tmp_path / "raw", partial=True)).folder
    content = content_of(folder)
    assert len(content["validation_pairs"]) == 36
    assert content["test_pairs"] == []
    assert "labels" not in content


def test_labels_may_lie_elsewhere(small, tmp_path):
    (small / "LUMIR/SanityCheckLabelsTr").rename(tmp_path / "elsewhere")
    conversion = lumir.plan_conversion(small, Options(labels=tmp_path / "elsewhere"))
    assert not conversion.missing
    assert len(conversion.test_pairs) == 90
    assert lumir.plan_conversion(small, Options(labels=tmp_path / "none")).problems


def test_wrong_editions_are_refused(small, tmp_path):
    coarse = one_image(tmp_path, (10, 14, 12), range(1, 11))
    put(small / "LUMIR/SanityCheckLabelsTr/LUMIRMRI_3364_0000.nii.gz", coarse)
    put(small / "LUMIR/imagesTr/LUMIRMRI_0000_0000.nii.gz", one_image(tmp_path, (9, 14, 12)))
    put(small / "LUMIR/imagesTr/LUMIRT2_0000_0000.nii.gz", b"x")
    problems = lumir.plan_conversion(small, Options()).problems
    assert any("LUMIR25's coarse ones" in problem.remedy for problem in problems)
    assert any(problem.found == "9 x 14 x 12 voxels" for problem in problems)
    assert any("LUMIRT2" in problem.found for problem in problems)


def test_damage_and_stray_label_maps_are_told_together(small):
    cut = small / "LUMIR/imagesTr/LUMIRMRI_0000_0000.nii.gz"
    cut.write_bytes(cut.read_bytes()[:-5])
    labels = small / "LUMIR/SanityCheckLabelsTr"
    one = (labels / "LUMIRMRI_3364_0000.nii.gz").read_bytes()
    put(labels / "LUMIRMRI_3364.nii.gz", one)
    put(labels / "LUMIRMRI_0999_0000.nii.gz", one)
    files = {problem.file for problem in lumir.plan_conversion(small, Options()).problems}
    stray = str(labels / "LUMIRMRI_0999_0000.nii.gz")
    assert {str(cut), stray} <= files
    assert len(files) == 3


def test_other_values_are_listed_and_noted(small, tmp_path):
    more = one_image(tmp_path, (10, 14, 12), (*lumir.LABEL_VALUES, 250))
    put(small / "LUMIR/SanityCheckLabelsTr/LUMIRMRI_3364_0000.nii.gz", more)
    conversion = lumir.plan_conversion(small, Options())
    assert conversion.labels["label_250"] == 250
    assert any(note.endswith("does not score: 250") for note in conversion.notes)


def test_a_packed_archive_is_named(tmp_path):
    put(tmp_path / "source/LUMIR.zip", b"PK\x03\x04 not whole")
    conversion = lumir.plan_conversion(tmp_path / "source", Options())
    with pytest.raises(DataError, match=r"no images of LUMIR[\s\S]*cut off"):
        write_conversion(conversion, Target(tmp_path / "raw"))
    assert not (tmp_path / "raw").exists()


def test_pairs_of_another_json_are_noted(small):
    (small / "LUMIR/LUMIR_dataset.json").write_text(
        '{"validation": [{"fixed": "./imagesVal/LUMIRMRI_3454_0000.nii.gz", '
        '"moving": "./imagesVal/LUMIRMRI_3455_0000.nii.gz"}]}'
    )
    conversion = lumir.plan_conversion(small, Options())
    assert any("lists 1 validation pairs" in note for note in conversion.notes)
    assert len(conversion.validation_pairs) == 38
