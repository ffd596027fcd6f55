"""What autoreg_compare_io concludes: verdicts, Holm's p, lost structures, devices and versions.

One small comparison is really computed; its results are then given other scores.
"""

import csv
import dataclasses
import io
import math
import re

import pytest
import SimpleITK as sitk
import torch
from tiny_models import sitk_image

from autoreg.evaluation.protocols import PROTOCOLS
from autoreg.evaluation.referee_scores import RefereeCase, RefereeLabel
from autoreg.evaluation.scores import LabelScore
from autoreg.inference import compare_io_report
from autoreg.inference.cli import main_predict
from autoreg.inference.cli_compare_io import main
from autoreg.inference.compare_io import compare_io, prepare
from autoreg.inference.compare_io_figures import _point
from autoreg.inference.compare_io_page import page_text
from autoreg.inference.compare_io_report import pairs_csv, settings_csv
from autoreg.inference.compare_io_report import tests_csv as csv_of_tests
from autoreg.inference.compare_io_settings import NO_IO, CompareRequest, settings_of
from autoreg.inference.compare_io_table import all_columns, shown_columns
from autoreg.inference.compare_io_table import tests_of as paired_tests
from autoreg.io.atomic import locked_folder

IO, PROJECTED = settings_of([1], ["network"])[1:]
CASES = tuple(f"case{n}" for n in range(8))
GAINS = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08)


def write_pair(folder):
    folder.mkdir(exist_ok=True)
    for seed, role in enumerate(("fixed", "moving"), 1):
        image = sitk_image(seed, (14, 17, 12), (1.5, 1.2, 2.0))
        sitk.WriteImage(image, str(folder / f"one_{role}.nii.gz"))
        labels = sitk.Cast(image > 300, sitk.sitkUInt8)
        sitk.WriteImage(labels, str(folder / f"one_{role}_labels.nii.gz"))
    return folder


def run(source, out, model, *flags):
    where = ["-i", str(source), "-o", str(out), "-m", str(model), "--device", "cpu"]
    return main([*where, "--steps", "1", "--optimised", "network", *flags])


def stamps(out):
    return {p.parent.parent.name: p.stat().st_mtime_ns for p in out.glob("*/*/result.json")}


@pytest.fixture(scope="module")
def scored(model, tmp_path_factory):
    """One pair, scored in three settings."""
    source = write_pair(tmp_path_factory.mktemp("pairs"))
    request = CompareRequest(
        source, tmp_path_factory.mktemp("out"), model, settings_of([1], ["network"])
    )
    comparison = compare_io(prepare(request, torch.device("cpu")))
    assert not comparison.failures
    return comparison


def with_dice(pair, value):
    state = dataclasses.replace(pair.scores.plain.registered, dice=value)
    return with_plain(pair, registered=state)


def with_plain(pair, **changes):
    plain = dataclasses.replace(pair.scores.plain, **changes)
    return dataclasses.replace(pair, scores=dataclasses.replace(pair.scores, plain=plain))


def with_hd95(pair, table):
    """HD95 by label; inf for a lost one. The mean is that of autoreg_evaluate, of finite values."""
    labels = tuple(
        LabelScore(n, "", "lost" if math.isinf(v) else "ok", 0.5, 0.5, 9.0, v)
        for n, v in table.items()
    )
    finite = [v for v in table.values() if math.isfinite(v)]
    state = dataclasses.replace(
        pair.scores.plain.registered,
        hd95_mm=sum(finite) / len(finite),
        hd95_infinite=len(table) - len(finite),
    )
    return with_plain(pair, registered=state, labels=labels)


def by_referee(pair, hd95, notes=(), **scores):
    labels = tuple(
        RefereeLabel(n, "", "lost" if math.isinf(v) else "ok", 0.5, v) for n, v in hd95.items()
    )
    own = dict.fromkeys(PROTOCOLS["lumir"].metrics) | {"hd95_vox": sum(hd95.values()) / len(hd95)}
    case = RefereeCase(pair.folder.name, own | scores, "whole", labels, 3, tuple(notes))
    stored = dataclasses.replace(pair.scores, protocol="lumir", plain=None, referee=case)
    return dataclasses.replace(pair, scores=stored)


def compared(scored, change, cases=CASES, **request):
    """The one pair under several names, `change(setting, number, pair)` giving its scores."""
    (pair,) = scored.pairs
    table = {
        setting.name: {
            case: change(setting, number, scored.scored[setting.name]["one"])
            for number, case in enumerate(cases)
        }
        for setting in scored.settings
    }
    return dataclasses.replace(
        scored,
        request=dataclasses.replace(scored.request, **request),
        pairs=tuple(dataclasses.replace(pair, case=case) for case in cases),
        scored=table,
    )


def page_of(comparison):
    return page_text(comparison, paired_tests(comparison, shown_columns(comparison)), [])


def rows_of_tests(page, metric):
    """The cells of the paired tests of one metric."""
    lines = page.split("## Paired tests")[1].splitlines()
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines if "|" in line]
    return {(row[1], row[2]): row[3:] for row in rows if row[0].startswith(metric)}


def csv_rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def dice_by(scored):
    """IO gains on every pair, projection loses on every pair."""
    sign = {NO_IO.name: 0, IO.name: 1, PROJECTED.name: -1}
    return compared(scored, lambda s, n, pair: with_dice(pair, 0.7 + sign[s.name] * GAINS[n]))


def test_higher_dice_is_better_and_lower_is_worse(scored):
    found = rows_of_tests(page_of(dice_by(scored)), "Dice")
    assert found[IO.title, "no IO"][-1] == "better"
    assert found[PROJECTED.title, "no IO"][-1] == "worse"
    assert found[PROJECTED.title, IO.title][-1] == "worse"


def test_lower_hd95_is_better(scored):
    gain = {NO_IO.name: 0, IO.name: -1, PROJECTED.name: 1}
    comparison = compared(
        scored,
        lambda s, n, pair: with_hd95(pair, {1: 4.0 + gain[s.name] * GAINS[n], 2: 3.0}),
    )
    found = rows_of_tests(page_of(comparison), "HD95")
    assert found[IO.title, "no IO"][-1] == "better"
    assert found[PROJECTED.title, "no IO"][-1] == "worse"


def test_p_is_corrected_over_the_comparisons_of_a_metric(scored):
    comparison = dice_by(scored)
    column = next(c for c in all_columns("plain") if c.key == "dice")
    tests = paired_tests(comparison, [column])
    assert [t.difference.p for t in tests] == [pytest.approx(2 / 2**8)] * 3
    assert [t.p_holm for t in tests] == [pytest.approx(3 * 2 / 2**8)] * 3
    rows = [r for r in csv_rows(csv_of_tests(tests)) if r["metric"] == "dice"]
    assert [float(r["p_holm"]) for r in rows] == pytest.approx([3 * 2 / 2**8] * 3)


def test_a_verdict_rests_on_the_corrected_p(scored):
    # 7 of 8 pairs gain: p = 4 / 2^8 to each of 2 others, over 3 comparisons; 0.0234 x 3 > 0.05.
    values = (0.01, 0.02, -0.03, 0.04, 0.05, 0.06, 0.07, 0.08)
    share = {NO_IO.name: 0.0, IO.name: 1.0, PROJECTED.name: 0.5}
    comparison = compared(
        scored, lambda s, n, pair: with_dice(pair, 0.7 + share[s.name] * values[n])
    )
    column = next(c for c in all_columns("plain") if c.key == "dice")
    first = paired_tests(comparison, [column])[0]
    assert first.difference.p < 0.05 < first.p_holm
    assert first.difference.low > 0
    assert rows_of_tests(page_of(comparison), "Dice")[IO.title, "no IO"][-1] == ""


def test_the_seed_reaches_the_predictions(model, tmp_path, monkeypatch):
    monkeypatch.setattr(compare_io_report, "_draw", lambda *_: ((), True))
    source, out = write_pair(tmp_path / "in"), tmp_path / "out"
    assert run(source, out, model, "--seed", "7") == 0
    before = stamps(out)
    setting = ["--io", "vanilla", "--io-optimised", "network", "--io-steps", "1", "--refine", "off"]
    where = ["-i", str(source), "-o", str(out / IO.name), "-m", str(model), "--device", "cpu"]
    assert main_predict([*where, *setting, "--seed", "7", "--continue"]) == 0
    assert stamps(out) == before
    assert main_predict([*where, *setting, "--seed", "8", "--continue"]) == 0
    assert stamps(out) != before
    assert "--seed 7" in (out / "compare_io.md").read_text()


class TestLost:
    def losing(self, scored, **request):
        """IO loses label 2, the hard one, on every pair, and is worse on label 1."""

        def change(setting, number, pair):
            if setting == IO:
                return with_hd95(pair, {1: 2.0 + GAINS[number], 2: math.inf})
            return with_hd95(pair, {1: 2.0, 2: 30.0})

        return compared(scored, change, **request)

    def test_a_setting_does_not_win_by_losing_the_hard_label(self, scored):
        comparison = self.losing(scored)
        found = rows_of_tests(page_of(comparison), "HD95")
        assert found[IO.title, "no IO"][-1] == "worse"
        assert found[PROJECTED.title, IO.title][-1] == "better"
        column = next(c for c in all_columns("plain") if c.key == "hd95_mm")
        first = paired_tests(comparison, [column])[0].difference
        assert first.mean == pytest.approx(sum(GAINS) / 8)
        # the figure's bar is the same interval
        reach = (first.high - first.low) / 2
        assert _point(comparison, IO, column)[1] == pytest.approx((reach, reach))

    def test_what_was_lost_is_named_and_counted(self, scored):
        comparison = self.losing(scored)
        page = page_of(comparison)
        note = f"* {IO.title}: 8 labels lost, Dice 0, HD95 without them: case0 (2), case1 (2)"
        assert note in page
        assert page.count("labels lost") == 1
        counts = {r["setting"]: r["labels_lost"] for r in csv_rows(settings_csv(comparison))}
        assert counts == {NO_IO.name: "0", IO.name: "8", PROJECTED.name: "0"}
        by_pair = csv_rows(pairs_csv(comparison))
        assert {r["labels_lost"] for r in by_pair if r["setting"] == IO.name} == {"1"}
        assert {r["labels_lost"] for r in by_pair if r["setting"] != IO.name} == {"0"}

    def test_a_pair_without_a_common_label_forbids_a_verdict(self, scored):
        def change(setting, number, pair):
            if number == 7:
                lost = 1 if setting == IO else 2
                table = {1: 2.0, 2: 2.0} | {lost: math.inf}
            else:
                table = {1: 2.0 + (GAINS[number] if setting == IO else 0), 2: 3.0}
            return with_hd95(pair, table)

        found = rows_of_tests(page_of(compared(scored, change)), "HD95")
        assert found[IO.title, "no IO"][-1] == "not judged: something lost in 1 pair"

    def test_a_referees_infinite_hd95_is_explained_and_not_judged(self, scored):
        def change(setting, number, pair):
            lost = setting == IO and number == 3
            table = {1: 1.0 if setting == IO else 2.0 + GAINS[number], 7: 5.0}
            return by_referee(pair, table | ({7: math.inf} if lost else {}))

        comparison = compared(scored, change, protocol="lumir")
        page = page_of(comparison)
        assert f"* {IO.title}: 1 label lost, Dice 0, HD95 infinite: case3 (7)." in page
        assert rows_of_tests(page, "HD95")[IO.title, "no IO"][-1].startswith("not judged")
        tests = csv_rows(csv_of_tests(paired_tests(comparison, shown_columns(comparison))))
        row = next(r for r in tests if (r["setting"], r["reference"]) == (IO.name, "none"))
        assert (row["pairs"], row["undefined"]) == ("7", "1")

    def test_lost_landmarks_are_named(self, scored):
        def change(setting, number, pair):
            lost = setting == PROJECTED and number == 2
            note = "landmarks lost by the warp, so that TRE is NaN: 11, 12"
            return by_referee(
                pair, {1: 2.0}, [note] if lost else [], tre_vox=math.nan if lost else 1.0
            )

        page = page_of(compared(scored, change, protocol="lumir"))
        note = f"* {PROJECTED.title}: landmarks lost, TRE without a value: case2 (11, 12)."
        assert note in page
        assert page.count("landmarks lost") == 1


class TestWhere:
    def kept(self, scored, **changes):
        """The first pairs of no IO are of an earlier run, with `changes` in their result.json."""

        def change(setting, number, pair):
            if setting == NO_IO and number < 2:
                return dataclasses.replace(pair, result=dataclasses.replace(pair.result, **changes))
            return pair

        return compared(scored, change)

    def test_one_device_has_times_and_is_named(self, scored):
        comparison = self.kept(scored)
        page = page_of(comparison)
        assert "* device: cpu\n" in page
        assert f"autoreg {scored.scored['none']['one'].result.versions['autoreg']}" in page
        assert all(
            float(r["register_seconds_mean"]) > 0 for r in csv_rows(settings_csv(comparison))
        )
        assert "DIFFER" not in page

    def test_pairs_kept_from_another_device_leave_no_common_time(self, scored):
        comparison = self.kept(scored, device="cuda:0")
        page = page_of(comparison)
        assert "* device, which DIFFER between the pairs: cuda:0 (in none); cpu (in none, " in page
        assert "not all predicted on one device" in page
        table = [line for line in page.splitlines() if re.match(r"\| (no IO|IO)", line)][:3]
        assert [line[1:-1].split("|")[-1].strip() for line in table] != []
        assert not [line for line in table if re.search(r"\d ± [\d.]+ *\|$", line)]
        assert {r["register_seconds_mean"] for r in csv_rows(settings_csv(comparison))} == {""}
        by_pair = csv_rows(pairs_csv(comparison))
        assert [r["device"] for r in by_pair if r["setting"] == "none"][:3] == [
            "cuda:0", "cuda:0", "cpu",
        ]  # fmt: skip

    def test_other_versions_are_told(self, scored):
        versions = {"autoreg": "0.0.1", "torch": "2.6"}
        page = page_of(self.kept(scored, versions=versions))
        assert (
            "* versions, which DIFFER between the pairs: autoreg 0.0.1, torch 2.6 (in none)" in page
        )


def test_a_second_comparison_in_the_same_folder_is_refused(scored, model, tmp_path, capsys):
    out = tmp_path / "out"
    with locked_folder(out):
        assert run(scored.request.source, out, model) == 2
    message = capsys.readouterr().err
    assert "another process" in message
    assert "Traceback" not in message
    assert not list(out.iterdir())
