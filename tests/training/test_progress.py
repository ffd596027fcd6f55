import dataclasses
import json

import pytest

from autoreg.io.records import from_plain, load_json
from autoreg.training.progress import (
    EpochRecord,
    PictureClock,
    ValidationSummary,
    describe,
    describe_validation,
    write_progress,
)
from autoreg.training.progress_picture import draw_progress

SUMMARY = ValidationSummary(1.0, 0.5, 1.5, 0.75, None, 0.125, 0.5, pairs=3)
RECORD = EpochRecord(
    0, 1, False, 0.1, 0.2, 0.3, 8.0, 2.0, None,
    folding=4.0, cycle=0.25, conflicts=0.75, supervised=0.4, learning_rate=5e-5,
)  # fmt: skip
BARE = EpochRecord(1, 1, False, 0.1, 0.2, 0.3, 8.0, 2.0, SUMMARY)


def test_a_line_shows_what_was_measured_and_nothing_else():
    assert describe(RECORD, 10) == (
        "epoch 1/10: loss 0.3000 (similarity 0.1000, regularity 0.2000, supervision 0.4000, "
        "folding 4 voxels, cycle error 0.25), gradients in conflict in 75 % of the steps, "
        "learning rate 5e-05, 8.0 s, 25 % of it waiting for data"
    )
    assert describe(BARE, 10) == (
        "epoch 2/10: loss 0.3000 (similarity 0.1000, regularity 0.2000), 8.0 s, 25 % of it "
        "waiting for data; validation of 3 pairs: loss 1.5000, Dice 0.7500, LNCC 0.5000, "
        "NDV 0.1250 %"
    )
    without = dataclasses.replace(SUMMARY, dice=None, tre_mm=2.0, lncc=None)
    assert describe_validation(without).endswith("loss 1.5000, TRE 2.00 mm, NDV 0.1250 %")


def test_the_json_comes_back_as_the_records(tmp_path):
    write_progress([RECORD, BARE], SUMMARY, "dice", tmp_path, draw=False)
    content = load_json(tmp_path / "progress.json")
    assert content["best_by"] == "dice"
    assert from_plain(ValidationSummary, content["before_training"], "") == SUMMARY
    assert [from_plain(EpochRecord, one, "") for one in content["epochs"]] == [RECORD, BARE]
    assert not (tmp_path / "progress.png").exists()


def test_records_of_earlier_versions_are_read():
    summary = {
        "pairs": 2, "similarity": 1, "regularity": 0, "total": 1, "dice": None, "tre_mm": None,
        "ndv_percent": 0,
    }  # fmt: skip
    record = {
        "epoch": 0, "levels": 1, "augmented": False, "similarity": 1, "regularity": 0, "total": 1,
        "seconds": 1, "waiting_seconds": 0, "validation": summary,
    }  # fmt: skip
    read = from_plain(EpochRecord, json.loads(json.dumps(record)), "")
    assert (read.validation.lncc, read.conflicts, read.learning_rate) == (None, None, None)


def test_the_picture_is_drawn_where_asked_for(tmp_path):
    write_progress([RECORD, BARE], SUMMARY, "dice", tmp_path)
    assert (tmp_path / "progress.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def lines(monkeypatch, tmp_path, records, initial):
    """Label and values of each line of the picture."""
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, dpi: drawn.append(figure))
    draw_progress(records, initial, tmp_path / "progress.png")
    return {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
        for axes in drawn[0].axes
        for line in axes.lines
    }


def test_the_picture_shows_the_measures_where_they_are_known(monkeypatch, tmp_path):
    shown = lines(monkeypatch, tmp_path, [RECORD, BARE], SUMMARY)
    assert shown["validation: LNCC"] == ([0, 2], [0.5, 0.5])
    assert shown["validation: Dice"] == ([0, 2], [0.75, 0.75])
    assert shown["validation: NDV"] == ([0, 2], [0.125, 0.125])
    assert shown["steps in conflict"] == ([1], [0.75])
    assert shown["training: supervision"] == ([1], [0.4])
    assert shown["learning rate"] == ([1], [5e-5])


@pytest.mark.parametrize("tre", [None, 2.0])
def test_the_picture_leaves_out_what_was_not_measured(monkeypatch, tmp_path, tre):
    summary = dataclasses.replace(SUMMARY, dice=None, tre_mm=tre, lncc=None)
    record = dataclasses.replace(BARE, validation=summary)
    shown = lines(monkeypatch, tmp_path, [record], summary)
    absent = {"validation: Dice", "validation: LNCC", "steps in conflict", "training: supervision"}
    assert not absent & set(shown)
    assert ("validation: TRE (mm)" in shown) == (tre is not None)


def test_pictures_are_drawn_at_first_then_once_a_minute_and_at_the_end():
    times = iter([100.0, 101.0, 159.0, 160.0, 161.0, 219.0, 220.0, 221.0])
    clock = PictureClock(60, lambda: next(times))
    due = [clock.is_due(is_last=False) for _ in range(7)]
    assert due == [True, False, False, True, False, False, True]
    assert clock.is_due(is_last=True)
