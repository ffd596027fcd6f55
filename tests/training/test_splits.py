import json

import pytest
from training_runs import error_of, run

from autoreg.errors import DataError, UsageError
from autoreg.io.cases import Pair
from autoreg.planning.dataset_pairs import PAIRS_FORMAT, DatasetPairs
from autoreg.training.splits import (
    OrderedPairs,
    allowed_pairs,
    fold_pairs,
    make_splits,
)


@pytest.fixture
def training(make_plan):
    return make_plan(pairs_per_epoch=500, seed=0).training


def dataset(count=0, pairing="inter_subject", training=None, validation=None):
    names = tuple(f"c{i:02d}" for i in range(count))
    return DatasetPairs(PAIRS_FORMAT, "Dataset001_X", pairing, names, training, validation)


def cases(pairs):
    return {name for pair in pairs for name in (pair.fixed, pair.moving)}


def test_ordered_pairs_are_all_pairs_of_different_cases():
    pairs = list(OrderedPairs(("a", "b", "c", "d")))
    assert len(pairs) == len(set(pairs)) == 12
    assert all(pair.fixed != pair.moving for pair in pairs)
    assert OrderedPairs(("a", "b", "c"))[1:3] == [Pair("a", "c"), Pair("b", "a")]
    assert len(OrderedPairs(("a",))) == len(OrderedPairs(())) == 0


@pytest.mark.parametrize(("count", "folds"), [(2, 0), (3, 3), (4, 4), (5, 5), (7, 5), (23, 5)])
def test_held_out_cases_are_disjoint_and_cover_everything(count, folds, training):
    splits = make_splits(dataset(count), seed=0)
    assert len(splits.folds) == folds
    held = [case for fold in splits.folds for case in fold.validation]
    assert len(held) == len(set(held)) == (count if folds else 0)
    for fold in splits.folds:
        assert not set(fold.training) & set(fold.validation)
        assert len(fold.training) + len(fold.validation) == count
        assert len(fold.training) >= 2


def test_the_seed_decides_the_folds():
    assert make_splits(dataset(20), 1) == make_splits(dataset(20), 1)
    assert make_splits(dataset(20), 1) != make_splits(dataset(20), 2)


@pytest.mark.parametrize("count", [4, 12])
def test_training_and_validation_pairs_of_a_fold(tmp_path, count, training):
    fold = fold_pairs(dataset(count), tmp_path, "1", training)
    split = json.loads((tmp_path / "splits.json").read_text())["folds"][1]
    assert cases(fold.training) == set(split["training"])
    assert fold.held_out
    assert not set(fold.training) & set(fold.validation)
    for pair in fold.validation:
        held = {pair.fixed, pair.moving} & set(split["validation"])
        # Held-out cases among themselves, unless there is just one.
        assert len(held) == (1 if count == 4 else 2)


def test_two_cases_train_and_validate_together(tmp_path, training):
    fold = fold_pairs(dataset(2), tmp_path, None, training)
    assert fold.fold == "all"
    assert not fold.held_out
    assert set(fold.validation) == set(fold.training) == set(OrderedPairs(("c00", "c01")))


def test_by_default_it_is_fold_0(tmp_path, training):
    assert fold_pairs(dataset(6), tmp_path, None, training).fold == "0"


def test_scans_of_a_subject_stay_together():
    listed = (*(Pair(f"s{i}_a", f"s{i}_b") for i in range(6)), Pair("s0_b", "s0_c"))
    pairs = dataset(pairing="intra_subject", training=listed)
    splits = make_splits(pairs, seed=0)
    assert len(splits.folds) == 5
    for fold in splits.folds:
        training, held = (
            {case.split("_")[0] for case in part} for part in (fold.training, fold.validation)
        )
        assert not training & held


def test_the_atlas_is_in_every_fold(tmp_path, training):
    listed = tuple(Pair("atlas", f"s{i}") for i in range(5))
    pairs = dataset(pairing="atlas", training=listed)
    assert all("atlas" in fold.training for fold in make_splits(pairs, 0).folds)
    fold = fold_pairs(pairs, tmp_path, "2", training)
    assert len(fold.training) == 4
    assert len(fold.validation) == 1
    assert not set(fold.training) & set(fold.validation)


def test_listed_validation_pairs_serve_every_fold(tmp_path, training):
    validation = (Pair("v0", "v1"), Pair("v1", "v2"))
    pairs = dataset(5, validation=validation)
    for name in (None, "0", "all"):
        fold = fold_pairs(pairs, tmp_path, name, training)
        assert fold.validation == validation
        assert list(fold.training) == list(allowed_pairs(pairs))
    assert not (tmp_path / "splits.json").exists()
    with pytest.raises(UsageError, match="one fold only; use --fold 0"):
        fold_pairs(pairs, tmp_path, "3", training)


@pytest.mark.parametrize(("per_epoch", "expected"), [(500, 20), (50, 10), (1, 2)])
def test_many_validation_pairs_are_thinned_by_the_seed(tmp_path, make_plan, per_epoch, expected):
    training = make_plan(pairs_per_epoch=per_epoch).training
    first, again = (fold_pairs(dataset(60), tmp_path, "0", training) for _ in range(2))
    assert len(set(first.validation)) == expected
    assert first.validation == again.validation


def test_an_edited_file_is_obeyed(tmp_path, training):
    folds = [{"training": ["c00", "c01", "c02"], "validation": ["c04", "c05"]}]
    (tmp_path / "splits.json").write_text(json.dumps({"format": 1, "folds": folds}))
    fold = fold_pairs(dataset(6), tmp_path, "0", training)
    assert cases(fold.training) == {"c00", "c01", "c02"}
    assert set(fold.validation) == {Pair("c04", "c05"), Pair("c05", "c04")}
    with pytest.raises(UsageError, match="has the folds 0, all"):
        fold_pairs(dataset(6), tmp_path, "1", training)
    with pytest.raises(UsageError, match="--fold best"):
        fold_pairs(dataset(6), tmp_path, "best", training)


@pytest.mark.parametrize(
    ("fold", "message"),
    [
        ({"training": ["c00", "c1"], "validation": ["c02"]}, 'names the case "c1".*did you mean'),
        ({"training": ["c00", "c01"], "validation": ["c01"]}, "both trains with and holds out c01"),
        ({"training": ["c00"], "validation": ["c01"]}, "0 training and 2 validation pairs"),
        ({"training": ["c00", "c01"], "validation": []}, "2 training and 0 validation pairs"),
        ({"train": ["c00", "c01"], "validation": []}, 'unknown key "train"'),
    ],
)
def test_a_spoilt_file_is_refused(tmp_path, fold, message, training):
    (tmp_path / "splits.json").write_text(json.dumps({"format": 1, "folds": [fold]}))
    with pytest.raises(DataError, match=message):
        fold_pairs(dataset(4), tmp_path, "0", training)


def test_a_single_case_cannot_be_trained_with(tmp_path, training):
    with pytest.raises(DataError, match="no training pair; found the training cases c00"):
        fold_pairs(dataset(1), tmp_path, None, training)


def test_splits_without_folds_are_refused_where_there_could_be_some(make_blobs, capsys):
    blobs = make_blobs()
    path = blobs.preprocessed / blobs.plan.dataset / "splits.json"
    path.write_text('{"format": 1, "folds": []}')
    assert run(blobs) == 2
    assert "splits.json: has no folds; remove the file" in error_of(capsys)
