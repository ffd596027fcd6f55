"""IXI from its pickles: arrays, label numbers, atlas pairs, and pickles that are refused."""

import os
import pickle

import numpy as np
import pytest
from published_ixi import COUNTS, SHAPE, VALUES, arrays, dump, publish

from autoreg.dataset_conversion import ixi
from autoreg.dataset_conversion.conversion import Options
from autoreg.dataset_conversion.ixi_images import LABELS, PAPER_LABELS
from autoreg.dataset_conversion.writer import Target, write_conversion
from autoreg.errors import DataError
from autoreg.io.cases import Pair
from autoreg.io.dataset import read_dataset
from autoreg.io.images import read_image


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The published sizes, scaled down."""
    monkeypatch.setattr(ixi, "SHAPE_XYZ", SHAPE)
    monkeypatch.setattr(ixi, "COUNTS", COUNTS)


@pytest.fixture
def source(tmp_path):
    publish(tmp_path / "source" / "IXI_data")
    return tmp_path / "source"


def plan(source, variant=""):
    return ixi.plan_conversion(source, Options(variant=variant))


def convert(source, raw, variant="", **target):
    return write_conversion(plan(source, variant), Target(raw, workers=1, **target)).folder


def test_the_atlas_is_brought_onto_each_subject(source, tmp_path):
    dataset = read_dataset(convert(source, tmp_path / "raw"))
    assert dataset.training_pairs == tuple(Pair(f"subject_{n}", "atlas") for n in range(3))
    assert dataset.validation_pairs == tuple(Pair(f"subject_{n}", "atlas") for n in (3, 4))
    assert dataset.test_pairs == tuple(Pair(f"subject_{n}", "atlas") for n in (5, 6))
    assert [case.name for case in dataset.test] == ["subject_5", "subject_6"]
    assert len(dataset.training) == 6


def test_arrays_are_the_published_ones_in_their_order(source, tmp_path):
    folder = convert(source, tmp_path / "raw")
    for split, name, seed in (("Tr", "subject_0", 0), ("Ts", "subject_5", 5), ("Tr", "atlas", 99)):
        image, labels = arrays(seed)
        found = read_image([folder / f"images{split}" / f"{name}_0000.nii.gz"], "intensity")
        np.testing.assert_array_equal(found.single.T, image)
        written = read_image([folder / f"labels{split}" / f"{name}.nii.gz"], "label")
        numbers = np.vectorize(VALUES.index)(labels)
        np.testing.assert_array_equal(written.single.T, numbers)
        assert found.geometry.difference(written.geometry) is None
        np.testing.assert_allclose(found.geometry.to_world([3, 2, 1]), [1, 2, 3])


def test_labels_are_numbered_from_0_to_45():
    """The table of TransMorph's programs: FreeSurfer's value becomes its place."""
    assert len(VALUES) == 46
    assert sorted(LABELS.values()) == list(range(1, 46))
    for name, value in (
        ("left_cerebral_white_matter", 2), ("csf", 24), ("right_hippocampus", 53),
        ("optic_chiasm", 85), ("corpus_callosum_anterior", 255),
    ):  # fmt: skip
        assert VALUES[LABELS[name]] == value


def test_the_paper_scores_30_structures_with_the_same_numbers(source, tmp_path):
    assert len(PAPER_LABELS) == 30
    assert PAPER_LABELS.items() <= LABELS.items()
    folder = convert(source, tmp_path / "raw", "paper")
    written = read_image([folder / "labelsTr" / "subject_0.nii.gz"], "label").single.T
    numbers = np.vectorize(VALUES.index)(arrays(0)[1])
    kept = np.isin(numbers, list(PAPER_LABELS.values()))
    np.testing.assert_array_equal(written, np.where(kept, numbers, 0))
    assert read_dataset(folder).labels == PAPER_LABELS


def test_another_variant_makes_only_label_maps_anew(source, tmp_path):
    written = write_conversion(plan(source), Target(tmp_path / "raw", workers=1))
    assert written.written == 16
    again = write_conversion(plan(source, "paper"), Target(tmp_path / "raw", workers=1))
    assert (again.kept, again.written) == (8, 8)


def test_a_malicious_pickle_is_refused_and_not_run(source, tmp_path):
    trace = tmp_path / "trace"

    class Malice:
        def __reduce__(self):
            return os.mkdir, (str(trace),)

    path = source / "IXI_data" / "Train" / "subject_1.pkl"
    path.write_bytes(pickle.dumps((*arrays(1), Malice())))
    with pytest.raises(DataError, match=r"subject_1\.pkl: refused: .*nothing in it was run"):
        convert(source, tmp_path / "raw")
    assert not trace.exists()
    assert not any(p.name.startswith("Dataset") for p in (tmp_path / "raw").iterdir())


def test_a_run_goes_on_where_the_last_one_stopped(source, tmp_path):
    path = source / "IXI_data" / "Test" / "subject_6.pkl"
    whole = path.read_bytes()
    path.write_bytes(whole[:300] + b".")
    with pytest.raises(DataError, match=r"subject_6\.pkl: not a complete pickle"):
        convert(source, tmp_path / "raw")
    path.write_bytes(whole)
    written = write_conversion(plan(source), Target(tmp_path / "raw", workers=1))
    assert (written.kept, written.written) == (14, 2)


def test_one_subject_in_two_splits_is_told(source):
    """What is tested would be trained."""
    dump(source / "IXI_data" / "Test" / "subject_0.pkl", arrays(0))
    texts = [f"{p.file}: {p.found}" for p in plan(source).problems]
    assert any("Test/subject_0.pkl: the same subject as" in text for text in texts)


def test_all_problems_are_told_at_once_and_nothing_is_written(source, tmp_path):
    root = source / "IXI_data"
    for name in ("Train/subject_0.pkl", "Val/subject_3.pkl"):
        (root / name).write_bytes((root / name).read_bytes()[:-1])
    (root / "Test" / "p_0438.pkl").write_bytes(b".")
    (root / "atlas.pkl").unlink()
    with pytest.raises(DataError) as caught:
        convert(source, tmp_path / "raw")
    text = str(caught.value)
    for part in ("subject_0.pkl", "subject_3.pkl", "p_0438.pkl", "atlas.pkl", "it is cut off"):
        assert part in text
    assert not any((tmp_path / "raw").glob("*"))


def test_missing_subjects_stop_unless_a_part_is_wanted(source, tmp_path):
    (source / "IXI_data" / "Train" / "subject_2.pkl").unlink()
    (source / "IXI_data.zip").write_bytes(b"PK")
    assert plan(source).missing[0].found == "2 subjects"
    with pytest.raises(DataError, match=r"expected: 3 subjects(.|\n)*--partial"):
        convert(source, tmp_path / "raw")
    assert len(read_dataset(convert(source, tmp_path / "raw", partial=True)).training_pairs) == 2


def test_too_many_subjects_are_another_edition(source):
    dump(source / "IXI_data" / "Val" / "subject_77.pkl", arrays(77))
    (problem,) = plan(source).problems
    assert (problem.found, problem.expected) == ("3 subjects", "2 subjects")


def changed(labels, value, count):
    labels = labels.copy()
    labels.flat[:count] = value
    return labels


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ((arrays(0)[0],), r"arrays of \(5, 6, 7\), expected image and label map"),
        ((*arrays(0), *arrays(1)), "another edition"),
        (arrays(0, (5, 7, 6)), r"arrays of \(5, 7, 6\), \(5, 7, 6\), expected"),
        ((arrays(0)[0] * 255, arrays(0)[1]), "intensities from .* expected an image of 0 to 1"),
        ((arrays(0)[0] * np.nan, arrays(0)[1]), "intensities from nan"),
        ((arrays(0)[0], changed(arrays(0)[1], 1000, 50)), "50 voxels have other label values"),
        ((arrays(0)[0], changed(arrays(0)[1].astype(float), 2.5, 50)), "IXI's: 2.5"),
    ],
    ids=["no labels", "two pairs", "shape", "range", "nan", "values", "fractions"],
)
def test_other_editions_are_told(source, tmp_path, content, message):
    dump(source / "IXI_data" / "Train" / "subject_0.pkl", content)
    with pytest.raises(DataError, match=message):
        convert(source, tmp_path / "raw")


def test_a_few_other_values_become_background_and_are_told(source, tmp_path, caplog):
    """TransMorph's programs make them background without a word."""
    image, labels = arrays(0)
    labels = changed(labels, 29, 1)
    dump(source / "IXI_data" / "Train" / "subject_0.pkl", (image, labels))
    folder = convert(source, tmp_path / "raw")
    assert "subject_0.pkl: 1 voxels have other label values than IXI's: 29" in caplog.text
    written = read_image([folder / "labelsTr" / "subject_0.nii.gz"], "label").single.T
    assert written.flat[0] == 0


def test_nothing_of_the_data_set_is_told(tmp_path):
    (tmp_path / "IXI_data.zip").write_bytes(b"PK")
    absent, archive = plan(tmp_path).problems
    assert absent.found == "no images of IXI"
    assert "cut off" in archive.found
