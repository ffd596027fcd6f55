"""OASIS: two editions, SITReg's and Learn2Reg's splits, crop, structures."""

from dataclasses import replace

import numpy as np
import pytest
from published_brains import learn2reg_oasis_tree, neurite_tree, one_image, put

from autoreg.dataset_conversion import oasis
from autoreg.dataset_conversion.conversion import Options
from autoreg.dataset_conversion.writer import Target, write_conversion
from autoreg.errors import DataError
from autoreg.io.cases import Pair
from autoreg.io.dataset import read_dataset
from autoreg.io.images import read_image
from autoreg.planning.verification import verify

SUBJECTS = 414


def released(folder, shape_xyz, subjects=SUBJECTS):
    image, label = one_image(folder, shape_xyz), one_image(folder, shape_xyz, range(1, 36))
    files = {"aligned_norm.nii.gz": image, "aligned_seg35.nii.gz": label}
    neurite_tree(folder / "source", subjects, files)
    return folder / "source"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """All 414 subjects in images of 6x7x8 voxels, which stand for 160x192x224."""
    return released(tmp_path_factory.mktemp("oasis"), (6, 7, 8))


@pytest.fixture
def small_shape(monkeypatch):
    small = oasis._Variant("aligned_norm.nii.gz", "aligned_seg35.nii.gz", (6, 7, 8))
    for name in ("aligned", "learn2reg"):
        monkeypatch.setitem(oasis.VARIANTS, name, small)


def test_the_published_numbers():
    assert oasis.VARIANTS["aligned"].shape_xyz == (160, 192, 224)
    assert oasis.VARIANTS["scanner"].shape_xyz == (256, 256, 256)
    assert oasis.LEARN2REG.shape_xyz == (160, 224, 192)
    left = {"left_cerebral_white_matter": 1, "left_pallidum": 10, "third_ventricle": 11}
    rest = {"brain_stem": 13, "left_hippocampus": 14, "left_choroid_plexus": 19}
    right = {"right_cerebral_white_matter": 20, "right_pallidum": 29, "right_hippocampus": 30}
    assert left.items() | rest.items() | right.items() <= oasis.LABELS.items()
    assert oasis.LABELS["right_choroid_plexus"] == 35
    assert sorted(oasis.LABELS.values()) == list(range(1, 36))


@pytest.mark.usefixtures("small_shape")
def test_sitregs_split_by_the_order_of_the_file(whole):
    conversion = oasis.plan_conversion(whole, Options())
    assert not conversion.problems
    assert not conversion.missing
    train = [case.name for case in conversion.cases if case.split == "training"]
    test = [case.name for case in conversion.cases if case.split == "test"]
    assert (len(train), len(test)) == (275, 139)
    assert test[0] == "OASIS_OAS1_0276_MR1"
    assert len(conversion.validation_pairs) == 190
    assert len(conversion.test_pairs) == 9591
    validation = {n for p in conversion.validation_pairs for n in (p.fixed, p.moving)}
    assert validation == set(train[255:])
    assert {n for p in conversion.test_pairs for n in (p.fixed, p.moving)} == set(test)


@pytest.mark.usefixtures("small_shape")
def test_learn2regs_split(whole):
    conversion = oasis.plan_conversion(whole, Options(variant="learn2reg"))
    pairs = conversion.validation_pairs
    assert len(pairs) == 19
    assert pairs[0] == Pair("OASIS_OAS1_0395_MR1", "OASIS_OAS1_0396_MR1")
    assert pairs[-1] == Pair("OASIS_OAS1_0413_MR1", "OASIS_OAS1_0414_MR1")
    assert conversion.test_pairs == pairs
    assert all(case.split == "training" for case in conversion.cases)


@pytest.mark.usefixtures("small_shape")
def test_the_order_of_subjects_is_the_files_and_not_the_alphabets(tmp_path):
    source = released(tmp_path, (6, 7, 8), subjects=5)
    names = [f"OASIS_OAS1_{number:04d}_MR1" for number in (3, 1, 5, 2, 4)]
    (source / "subjects.txt").write_text("\n".join(names))
    cases = oasis.plan_conversion(source, Options()).cases
    assert [case.name for case in cases] == names


def test_the_crop_keeps_voxels_and_their_place(tmp_path, monkeypatch):
    small = replace(oasis.VARIANTS["cropped"], shape_xyz=(10, 60, 40))
    monkeypatch.setitem(oasis.VARIANTS, "cropped", small)
    monkeypatch.setattr(oasis, "SUBJECT_COUNT", 2)
    source = released(tmp_path, (10, 60, 40), subjects=2)
    conversion = oasis.plan_conversion(source, Options(variant="cropped"))
    assert not conversion.problems
    folder = write_conversion(conversion, Target(tmp_path / "raw", workers=1)).folder
    name = "OASIS_OAS1_0001_MR1"
    before = read_image([source / name / "aligned_seg35.nii.gz"], "label")
    after = read_image([folder / f"labelsTr/{name}.nii.gz"], "label")
    assert after.geometry.shape == (8, 12, 10)
    assert np.array_equal(after.single, before.single[16:-16, 24:-24])
    corner = before.geometry.to_world([16, 24, 0])
    np.testing.assert_allclose(after.geometry.to_world([0, 0, 0]), corner)


@pytest.mark.usefixtures("small_shape")
def test_the_converted_data_set_passes_verification(tmp_path, monkeypatch):
    monkeypatch.setattr(oasis, "SUBJECT_COUNT", 5)
    monkeypatch.setattr(oasis, "_SITREG_PARTS", (2, 4))
    source = released(tmp_path, (6, 7, 8), subjects=5)
    conversion = oasis.plan_conversion(source, Options())
    folder = write_conversion(conversion, Target(tmp_path / "raw")).folder
    assert not verify(folder, workers=1)
    assert read_dataset(folder).pool == ("OASIS_OAS1_0001_MR1", "OASIS_OAS1_0002_MR1")


@pytest.mark.usefixtures("small_shape")
def test_missing_and_damaged_files_are_told_at_once(tmp_path):
    source = released(tmp_path, (6, 7, 8), subjects=5)
    (source / "OASIS_OAS1_0001_MR1/aligned_seg35.nii.gz").unlink()
    cut = source / "OASIS_OAS1_0002_MR1/aligned_norm.nii.gz"
    cut.write_bytes(cut.read_bytes()[:-3])
    put(source / "OASIS_OAS1_0003_MR1/aligned_norm.nii.gz", one_image(tmp_path, (8, 7, 6)))
    conversion = oasis.plan_conversion(source, Options())
    assert [problem.file.rpartition("/")[2] for problem in conversion.missing] == [
        "aligned_seg35.nii.gz"
    ]
    texts = "\n".join(problem.found for problem in conversion.problems)
    assert "5 subjects" in texts
    assert "cut off" in texts
    assert "8 x 7 x 6 voxels" in texts
    assert len(conversion.cases) == 4


def test_without_the_list_of_subjects_there_is_no_split(tmp_path):
    source = released(tmp_path, (6, 7, 8), subjects=2)
    (source / "subjects.txt").unlink()
    conversion = oasis.plan_conversion(source, Options())
    assert conversion.problems[0].file.endswith("subjects.txt")


def test_transmorphs_edition_and_packed_archives_are_named(tmp_path):
    put(tmp_path / "pickled/OASIS_L2R_2021_task03/All/p_0001.pkl", b"x")
    (problem,) = oasis.plan_conversion(tmp_path / "pickled", Options()).problems
    assert "TransMorph" in problem.found
    put(tmp_path / "packed/neurite-oasis.v1.0.tar", b"cut")
    problems = oasis.plan_conversion(tmp_path / "packed", Options()).problems
    assert [problem.found.split(":")[0] for problem in problems] == [
        "no images of OASIS", "an archive that is cut off or empty",
    ]  # fmt: skip


@pytest.fixture
def learn2reg(tmp_path, monkeypatch):
    """Learn2Reg's edition with 4 subjects of 6x8x7 voxels."""
    images = tuple(f"imagesTr/OASIS_{number:04d}_0000" for number in range(1, 5))
    small = replace(oasis.LEARN2REG, shape_xyz=(6, 8, 7), images=images)
    monkeypatch.setattr(oasis, "LEARN2REG", small)
    image, label = one_image(tmp_path, (6, 8, 7)), one_image(tmp_path, (6, 8, 7), [1])
    learn2reg_oasis_tree(tmp_path / "source/OASIS", image, label, subjects=4, held_out=1)
    return tmp_path / "source"


def test_learn2regs_edition_is_read_in_place(learn2reg, tmp_path):
    put(learn2reg / "OASIS/OASIS.zip", b"left over")
    conversion = oasis.plan_conversion(learn2reg, Options())
    assert not conversion.problems
    assert any("needs no conversion" in note for note in conversion.notes)
    folder = write_conversion(conversion, Target(tmp_path / "raw")).folder
    dataset = read_dataset(folder)
    assert dataset.layout == "learn2reg"
    assert dataset.validation_pairs == (Pair("OASIS_0003_0000", "OASIS_0004_0000"),)
    assert not verify(folder, workers=1)
    assert not (folder / "OASIS.zip").exists()
    again = write_conversion(oasis.plan_conversion(learn2reg, Options()), Target(tmp_path / "raw"))
    assert (again.kept, again.written) == (9, 0)


def test_learn2regs_edition_has_no_variants_and_all_its_labels(learn2reg, tmp_path):
    (problem,) = oasis.plan_conversion(learn2reg, Options(variant="cropped")).problems
    assert "--variant cropped" in problem.found
    (learn2reg / "OASIS/labelsTr/OASIS_0002_0000.nii.gz").unlink()
    (learn2reg / "OASIS/imagesTr/OASIS_0001_0000.nii.gz").unlink()
    with pytest.raises(DataError, match=r"imagesTr/OASIS_0001[\s\S]*labelsTr/OASIS_0002"):
        write_conversion(oasis.plan_conversion(learn2reg, Options()), Target(tmp_path / "raw"))
