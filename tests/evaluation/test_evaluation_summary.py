"""Aggregates and tables that hide nothing."""

import dataclasses
import json
import math

import numpy as np
import pytest

from autoreg.evaluation.report import (
    LANDMARKS_FILE,
    cases_csv,
    labels_csv,
    terminal_table,
    write_reports,
)
from autoreg.evaluation.scores import (
    CaseScores,
    Failure,
    FieldQuality,
    LabelScore,
    LandmarkScore,
    PairState,
)
from autoreg.evaluation.summary import METRICS, statistic, summarise

FIELD = FieldQuality(2.5e-5, 1e-3, 0.0, 0.4, 0.1, 0.3, 0.02, 0.05, 0.97)


def scores(name, dice=0.8, hd95=2.0, infinite=0, labels=(), landmarks=()):
    before = PairState(0.5, 4.0, 0, None, None, 0.4)
    after = PairState(dice, hd95, infinite, None, None, 0.9)
    return CaseScores(name, before, after, FIELD, "mask", tuple(labels), tuple(landmarks), 3.5, ())


def test_statistics_leave_out_what_has_no_value_and_count_it():
    found = statistic([1.0, 3.0, None, float("nan"), float("inf")])
    assert (found.mean, found.std) == (2.0, 1.0)
    assert (found.finite, found.nan, found.infinite) == (2, 1, 1)
    assert math.isnan(statistic([None]).mean)


def test_the_table_tells_what_was_left_out():
    label = LabelScore(4, "liver", "lost", 0.5, 0.0, 3.0, math.inf)
    cases = [scores("a"), scores("b", dice=math.nan, hd95=math.nan, infinite=1, labels=[label])]
    text = terminal_table(summarise("here", cases, [Failure("c", "it broke")]))
    rows = {line.split("  ")[0]: line for line in text.splitlines()}
    assert "left out: 1 NaN after" in rows["Dice ↑"]
    assert "1 label lost by the warp" in text
    assert "1 pair NOT evaluated" in text
    assert "c: it broke" in text
    assert "TRE" not in text  # applies to no pair


def test_ndv_is_stored_as_a_fraction_and_shown_in_per_cent():
    summary = summarise("here", [scores("a")], [])
    assert summary.metrics["ndv_fraction"].registered.mean == 2.5e-5
    (row,) = [r for r in terminal_table(summary).splitlines() if r.startswith("NDV [%]")]
    assert "0.003" in row or "0.0025" in row


def test_before_and_after_of_each_pair():
    text = terminal_table(summarise("here", [scores("a"), scores("b", dice=0.7)], []))
    assert "0.500 → 0.800" in text
    assert "0.500 → 0.700" in text


def test_all_landmarks_together_count_once_each(tmp_path):
    """A pair with many landmarks counts as many times, unlike in the mean over pairs."""
    many = [LandmarkScore(10.0 + i, float(i)) for i in range(4)]
    cases = [scores("a", landmarks=many), scores("b", landmarks=[LandmarkScore(20.0, 9.0)])]
    summary = summarise("here", cases, [])
    after = summary.landmarks.tre_mm
    assert (summary.landmarks.count, after.mean) == (5, 3.0)
    assert (after.p25, after.p50, after.p75) == (1.0, 2.0, 3.0)
    assert after.p95 == pytest.approx(7.8)
    assert summary.landmarks.initial_tre_mm.p50 == 12.0
    assert "TRE of all 5 landmarks [mm], mean / 25 / 50 / 75 %: 13.20" in terminal_table(summary)
    write_reports(summary, tmp_path)
    lines = (tmp_path / LANDMARKS_FILE).read_text("utf-8").splitlines()
    assert lines[0] == "case,landmark,initial_tre_mm,tre_mm"
    assert lines[4:] == ["a,4,13.0,3.0", "b,1,20.0,9.0"]
    write_reports(summarise("here", [scores("a")], []), tmp_path)
    assert not (tmp_path / LANDMARKS_FILE).exists()


def test_all_pairs_failed():
    text = terminal_table(summarise("here", [], [Failure("c", "it broke")]))
    assert "1 pair NOT evaluated" in text


def test_csv_tells_absent_nan_and_infinite_apart():
    label = LabelScore(4, "liver, left", "lost", 0.5, 0.0, math.nan, math.inf)
    case = scores("a", dice=math.nan, labels=[label])
    header, row = (line.split(",") for line in cases_csv([case]).splitlines())
    cells = dict(zip(header, row, strict=True))
    assert cells["dice"] == "nan"
    assert cells["tre_mean_mm"] == ""
    assert cells["initial_dice"] == "0.5"
    assert labels_csv([case]).splitlines()[1] == 'a,4,"liver, left",lost,0.5,0.0,nan,inf'


def test_summary_json_is_strict_json(tmp_path):
    label = LabelScore(4, "", "lost", 0.5, 0.0, 3.0, math.inf)
    write_reports(summarise("here", [scores("a", math.nan, labels=[label])], []), tmp_path)
    text = (tmp_path / "summary.json").read_text("utf-8")
    parsed = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert parsed["cases"][0]["registered"]["dice"] is None
    assert parsed["metrics"]["dice"]["registered"] == {
        "mean": None, "std": None, "finite": 0, "nan": 1, "infinite": 0,
    }  # fmt: skip
    assert parsed["labels"][0]["hd95_mm"]["infinite"] == 1


def test_every_stored_score_has_its_column():
    case = scores("a")
    values = {metric.registered(case) for metric in METRICS.values()}
    assert set(dataclasses.astuple(FIELD)) <= values
    assert {0.8, 2.0, 0.9, 3.5} <= values
    assert np.isfinite([v for v in values if v is not None]).all()
