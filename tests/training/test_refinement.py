"""Whether refinement helps: measured after a training, or left open without harm."""

import dataclasses
import json
import logging
import shutil

import pytest
from refinable import WHERE_IT_HELPS, write_raw
from training_runs import error_of, run, weights_of

from autoreg.errors import DataError
from autoreg.io.cases import Pair
from autoreg.io.dataset import read_dataset
from autoreg.io.records import load_record, save_record
from autoreg.plan import Plan
from autoreg.planning.plans_file import plans_path, write_plans
from autoreg.training import refinement
from autoreg.training.refinement import judged, scored_pairs
from autoreg.training.refinement_record import (
    REFINEMENT_FILE,
    REFINEMENT_METHOD,
    RefinementRecord,
    Scores,
    decision,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, make_blobs_in):
    """A tiny model whose plan asks for refinement, trained without asking whether it helps."""
    small = {"epochs": 1, "shallow_epochs": 0, "pairs_per_epoch": 2, "validation_every": 1}
    blobs = make_blobs_in(tmp_path_factory.mktemp("trained"), **small)
    io = dataclasses.replace(blobs.plan.instance_optimisation, mode="none", refine=WHERE_IT_HELPS)
    blobs.plan = dataclasses.replace(blobs.plan, instance_optimisation=io, labels={})
    write_plans(plans_path(blobs.preprocessed, blobs.plan.dataset), blobs.plan, "digest")
    assert run(blobs, "--no-refinement-check") == 0
    return blobs


@pytest.fixture
def make_refinable(trained, tmp_path):
    """A copy of it, beside raw images with labels or landmarks."""

    def make(**raw):
        shutil.copytree(trained.root, tmp_path, dirs_exist_ok=True)
        write_raw(tmp_path / "raw" / trained.plan.dataset, **raw)
        return dataclasses.replace(trained, root=tmp_path)

    return make


def raw_flags(blobs):
    return ("--raw", str(blobs.root / "raw"))


def record_of(blobs):
    return load_record(RefinementRecord, blobs.model / "fold_0" / REFINEMENT_FILE)


def decided(blobs):
    refine = load_record(Plan, blobs.model / "plan.json").instance_optimisation.refine
    return decision(refine, blobs.model / "fold_0")


def test_it_helps_where_labels_follow_the_images(make_refinable, caplog):
    caplog.set_level(logging.INFO)
    blobs = make_refinable(landmarks=True)
    assert run(blobs, "--overwrite", *raw_flags(blobs)) == 0
    record = record_of(blobs)
    assert record.helps is True
    assert record.measure == "dice"
    assert record.held_out is True
    assert record.refined.dice > record.network.dice + 0.03
    assert record.refined.tre_mm < 0.5 * record.network.tre_mm
    assert record.refined.ndv_percent == 0
    assert len(record.pairs) == 2
    assert all(pair.refinement_seconds > 0 for pair in record.pairs)
    assert record.refined.dice == pytest.approx(sum(p.refined.dice for p in record.pairs) / 2)
    assert f"refinement: on: {record.reason}" in caplog.text
    assert decided(blobs).field == WHERE_IT_HELPS.field


def test_it_does_not_help_where_labels_say_that_nothing_moved(make_refinable):
    blobs = make_refinable(labels="unmoved")
    assert run(blobs, "--continue", *raw_flags(blobs)) == 0
    record = record_of(blobs)
    assert record.helps is False
    assert record.refined.dice < record.network.dice
    found = decided(blobs)
    assert (found.field, found.is_open) == (None, False)


def test_what_another_version_measured_is_open_again(make_refinable):
    blobs = make_refinable(labels="unmoved")
    assert run(blobs, "--continue", *raw_flags(blobs)) == 0
    file = blobs.model / "fold_0" / REFINEMENT_FILE
    record = json.loads(file.read_text())
    del record["method"]  # of before there were versions
    file.write_text(json.dumps(record))
    found = decided(blobs)
    assert (found.field, found.is_open) == (None, True)
    assert "earlier version of the refinement" in found.reason


def test_landmarks_decide_where_there_are_no_labels(make_refinable):
    blobs = make_refinable(labels=None, landmarks=True)
    assert run(blobs, "--continue", *raw_flags(blobs)) == 0
    record = record_of(blobs)
    assert (record.measure, record.helps, record.network.dice) == ("tre_mm", True, None)
    assert record.refined.tre_mm < record.network.tre_mm


def test_without_labels_and_landmarks_it_stays_open_and_off(make_refinable, caplog):
    caplog.set_level(logging.INFO)
    blobs = make_refinable(labels=None)
    assert run(blobs, "--continue", *raw_flags(blobs)) == 0
    assert not (blobs.model / "fold_0" / REFINEMENT_FILE).exists()
    (line,) = [m for m in caplog.messages if m.startswith("refinement:")]
    assert line.endswith("not decided, hence off: no validation pair has label maps or landmarks")
    found = decided(blobs)
    assert (found.field, found.is_open) == (None, True)


def test_continue_makes_up_for_what_was_left_out_or_interrupted(
    make_refinable, monkeypatch, capsys
):
    blobs = make_refinable()
    weights, file = weights_of(blobs), blobs.model / "fold_0" / REFINEMENT_FILE

    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(refinement, "register_from", interrupted)
        assert run(blobs, "--continue", *raw_flags(blobs)) == 130
    assert not file.exists()
    assert run(blobs, "--continue", "--raw", str(blobs.root)) == 0  # no data set there
    assert not file.exists()
    assert run(blobs, "--continue", *raw_flags(blobs)) == 0
    assert record_of(blobs).helps is True
    assert all((weights[key] == value).all() for key, value in weights_of(blobs).items())
    capsys.readouterr()
    assert run(blobs, "--continue", *raw_flags(blobs)) == 2
    assert "nothing to continue" in error_of(capsys)


def test_a_new_training_forgets_what_an_old_one_found(make_refinable):
    blobs = make_refinable()
    folder = blobs.model / "fold_0"
    (folder / REFINEMENT_FILE).write_text("{}")
    for path in folder.glob("checkpoint_*.pt"):
        path.unlink()
    assert run(blobs, "--no-refinement-check") == 0
    assert not (folder / REFINEMENT_FILE).exists()


def test_what_was_found_of_one_refinement_says_nothing_of_another(tmp_path):
    field = dataclasses.replace(WHERE_IT_HELPS.field, flat_tolerance=0.5)
    none = Scores(None, 2.0, 0.0)
    measured = (1, True, "it does", "tre_mm", True, "w", none, none, field, ())
    record = RefinementRecord(*measured, method=REFINEMENT_METHOD)
    save_record(record, tmp_path / REFINEMENT_FILE)
    found = decision(WHERE_IT_HELPS, tmp_path)
    assert (found.field, found.is_open) == (None, True)
    assert "is about another one than the plan's" in found.reason
    assert decision(dataclasses.replace(WHERE_IT_HELPS, field=field), tmp_path).field == field
    always = dataclasses.replace(WHERE_IT_HELPS, when="always")
    assert decision(always, tmp_path / "absent").field == WHERE_IT_HELPS.field
    text = json.loads((tmp_path / REFINEMENT_FILE).read_text())
    (tmp_path / REFINEMENT_FILE).write_text(json.dumps({**text, "format": 0}))
    with pytest.raises(DataError, match="format 0 is not 1"):
        decision(WHERE_IT_HELPS, tmp_path)


@pytest.mark.parametrize(
    ("measure", "before", "after", "helps"),
    [
        ("dice", Scores(0.7, None, 0.0), Scores(0.71, None, 0.0), True),
        ("dice", Scores(0.7, 3.0, 0.0), Scores(0.7, 1.0, 0.0), False),
        ("dice", Scores(0.7, None, 0.0), Scores(0.9, None, 0.1), False),
        ("dice", Scores(0.7, None, 0.2), Scores(0.9, None, 0.1), True),
        ("tre_mm", Scores(None, 2.0, 0.0), Scores(None, 1.5, 0.0), True),
        ("tre_mm", Scores(None, 2.0, 0.0), Scores(None, 2.5, 0.0), False),
    ],
)
def test_better_and_no_more_folds_is_help(measure, before, after, helps):
    assert judged(measure, before, after)[0] is helps


def test_a_few_scored_pairs_are_taken_from_all_over_the_list(tmp_path):
    folder = write_raw(tmp_path / "Dataset001_Blobs", landmarks=True)
    (folder / "labelsTr" / "case3.nii.gz").unlink()
    dataset = read_dataset(folder)
    names = ["case0", "case1", "case2", "case3"]
    pairs = [Pair(a, b) for a in names for b in names if a != b]
    measure, chosen = scored_pairs(dataset, pairs)
    assert measure == "dice"
    assert len(chosen) == 4
    assert not any("case3" in (p.fixed, p.moving) for p in chosen)
    assert (chosen[0], chosen[-1]) == (Pair("case0", "case1"), Pair("case2", "case1"))
    assert scored_pairs(dataset, [Pair("case3", "case0")])[0] == "tre_mm"
