import pytest

from autoreg.errors import DataError
from autoreg.io.cases import Case, Pair, RawDataset
from autoreg.planning.dataset_pairs import load_dataset_pairs, save_dataset_pairs


def make_dataset(folder, **values):
    cases = tuple(Case(name, (folder / f"{name}_0000.nii.gz",), ("MR",)) for name in "abc")
    defaults = {
        "name": "Dataset001_X", "folder": folder, "layout": "native", "pairing": "inter_subject",
        "labels": {}, "training": cases, "test": (), "training_pairs": None,
        "validation_pairs": None, "test_pairs": (), "fixed_modalities": ("MR",),
        "moving_modalities": ("MR",), "digest": "",
    }  # fmt: skip
    return RawDataset(**{**defaults, **values})


def test_pairs_come_back_as_the_data_set_has_them(tmp_path):
    pairs = (Pair("a", "b"), Pair("c", "b"))
    save_dataset_pairs(tmp_path, make_dataset(tmp_path, pairing="atlas", training_pairs=pairs))
    record = load_dataset_pairs(tmp_path, "Dataset001_X")
    assert (record.pairing, record.training_pairs) == ("atlas", pairs)
    assert record.validation_pairs is None


def test_cases_of_listed_validation_pairs_are_not_trained_with(tmp_path):
    save_dataset_pairs(tmp_path, make_dataset(tmp_path, validation_pairs=(Pair("a", "a"),)))
    assert load_dataset_pairs(tmp_path, "Dataset001_X").pool == ("b", "c")


def test_missing_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"pairs\.json: no such file; run autoreg_preprocess"):
        load_dataset_pairs(tmp_path, "Dataset001_X")
    save_dataset_pairs(tmp_path, make_dataset(tmp_path))
    path = tmp_path / "Dataset001_X" / "pairs.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(DataError, match="format 2 is not 1"):
        load_dataset_pairs(tmp_path, "Dataset001_X")
