"""autoreg_evaluate from the terminal: reports, exit status, bad input."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from autoreg.evaluation import evaluate, figures
from autoreg.evaluation.cli import main
from autoreg.geometry.resampling import resample_volume
from autoreg.io.images import read_geometry, read_image, write_image


def run(capsys, *arguments):
    status = main(["--device", "cpu", "--workers", "1", "--no-figures", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_reports_and_table(add_pair, tmp_path, capsys):
    add_pair("a")
    pair = add_pair("b", seed=1, perfect=False)
    out = tmp_path / "out"
    status, text, _ = run(capsys, "-i", pair.predictions, "-o", out)
    assert status == 0
    assert "2 pairs evaluated" in text
    assert "Dice ↑" in text
    assert "TRE mean [mm] ↓" in text
    summary = json.loads((out / "summary.json").read_text("utf-8"))
    metric = summary["metrics"]["dice"]
    assert metric["better"] == "higher"
    assert metric["initial"]["mean"] < metric["registered"]["mean"]
    cases = {case["case"]: case for case in summary["cases"]}
    mean = (cases["a"]["registered"]["dice"] + cases["b"]["registered"]["dice"]) / 2
    assert metric["registered"]["mean"] == pytest.approx(mean)
    with (out / "evaluation.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == ["a", "b"]
    assert float(rows[1]["tre_mean_mm"]) == cases["b"]["registered"]["tre_mean_mm"]
    assert rows[0]["ndv_fraction"] == "0.0"
    with (out / "labels.csv").open(encoding="utf-8") as file:
        labels = list(csv.DictReader(file))
    assert [(row["case"], row["label"], row["name"]) for row in labels[:3]] == [
        ("a", "1", "shell"), ("a", "2", ""), ("a", "3", "core"),
    ]  # fmt: skip


def test_figures_are_written_unless_refused(pair, tmp_path, capsys):
    arguments = ["-i", str(pair.predictions), "--device", "cpu", "--workers", "1"]
    assert main(arguments) == 0
    figure = pair.predictions / "figures" / "fixed__moving.png"
    assert figure.read_bytes()[:4] == b"\x89PNG"
    shutil.rmtree(figure.parent)
    assert main([*arguments, "--no-figures"]) == 0
    assert not figure.parent.exists()
    assert (pair.predictions / "summary.json").is_file()


def test_workers_give_the_same_scores(add_pair, tmp_path, capsys):
    add_pair("a")
    pair = add_pair("b", seed=1)
    run(capsys, "-i", pair.predictions, "-o", tmp_path / "one")
    run(capsys, "-i", pair.predictions, "-o", tmp_path / "two", "--workers", 2)
    one, two = ((tmp_path / name / "evaluation.csv").read_text() for name in ("one", "two"))
    assert one == two


def test_a_bad_pair_does_not_stop_the_others(add_pair, tmp_path, capsys):
    broken, incomplete = add_pair("broken", seed=1), add_pair("incomplete", seed=2)
    pair = add_pair("whole")
    (broken.folder / "result.json").write_text('{"case": "broken",\n oops}')
    (incomplete.folder / "result.json").unlink()
    status, text, _ = run(capsys, "-i", pair.predictions)
    assert status == 2
    assert "1 pair evaluated" in text
    assert "2 pairs NOT evaluated" in text
    assert "result.json, line 2, column 2: not valid JSON" in text
    assert "incomplete: " in text
    assert "--continue" in text
    summary = json.loads((pair.predictions / "summary.json").read_text("utf-8"))
    assert [failure["case"] for failure in summary["failures"]] == ["broken", "incomplete"]
    assert [case["case"] for case in summary["cases"]] == ["whole"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r: r.pop("inputs"), '"inputs" is missing'),
        (lambda r: r["inputs"].pop("moving"), '"moving" is missing'),
        (lambda r: r["inputs"].update(fixed_labels=3), "expected a text, found 3"),
        (lambda r: r.update(case="other"), 'tells of the case "other"'),
        (lambda r: r.update(outside=1), 'unknown key "outside"; did you mean "outside_value"'),
        (lambda r: r.update(format=99, later=1), "a record of format 99, expected 3; predict"),
    ],
)
def test_an_unusable_result_is_explained(pair, capsys, damage, message):
    damage(pair.record)
    pair.save_record()
    status, text, _ = run(capsys, "-i", pair.predictions)
    assert status == 2
    assert message in text


def test_what_is_no_prediction_folder_ends_with_2(pair, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for folder, message in (
        (tmp_path / "absent", "no such folder"),
        (tmp_path / "empty", "holds no registered pairs"),
    ):
        status, _, error = run(capsys, "-i", folder)
        assert status == 2
        assert message in error


def test_the_folder_of_one_pair_will_do(pair, tmp_path, capsys):
    status, text, _ = run(capsys, "-i", pair.folder, "-o", tmp_path / "one")
    assert status == 0
    assert "1 pair evaluated" in text
    (case,) = json.loads((tmp_path / "one/summary.json").read_text("utf-8"))["cases"]
    assert case["case"] == pair.folder.name


def test_reports_of_an_earlier_evaluation_do_not_linger(pair, capsys):
    run(capsys, "-i", pair.predictions)
    assert (pair.predictions / "labels.csv").exists()
    pair.inputs["fixed_labels"] = pair.inputs["moving_labels"] = None
    pair.save_record()
    run(capsys, "-i", pair.predictions)
    assert not (pair.predictions / "labels.csv").exists()


def test_an_unexpected_error_in_one_pair_is_told_and_does_not_stop_the_others(
    add_pair, capsys, monkeypatch
):
    add_pair("a")
    pair = add_pair("b", seed=1)
    real = evaluate.evaluate_case

    def failing(prediction, images, device):
        if prediction.result.case == "a":
            raise RuntimeError("a library gave up")
        return real(prediction, images, device)

    monkeypatch.setattr(evaluate, "evaluate_case", failing)
    status, text, _ = run(capsys, "-i", pair.predictions)
    assert status == 2
    assert "a: RuntimeError: a library gave up" in text
    assert "1 pair evaluated" in text


def test_a_pair_without_a_result_says_why_and_other_folders_are_no_pairs(pair, capsys):
    failed = pair.predictions / "never_finished"
    failed.mkdir()
    (failed / "unfinished.txt").write_text("out of memory\n")
    (pair.predictions / "figures").mkdir()
    (pair.predictions / "logs").mkdir()
    (pair.predictions / "logs" / "notes.txt").write_text("mine")
    status, text, _ = run(capsys, "-i", pair.predictions)
    assert status == 2
    assert "1 pair evaluated" in text
    assert "1 pair NOT evaluated" in text
    assert "never_finished: result.json is missing, so the prediction is incomplete (out of" in text


def test_results_older_than_a_failed_prediction_are_noted(pair, capsys):
    (pair.folder / "unfinished.txt").write_text("the image is constant\n")
    status, text, _ = run(capsys, "-i", pair.predictions)
    assert status == 0
    assert "results of an earlier prediction; the last one: the image is constant" in text


def test_a_pair_may_be_called_figures(add_pair, capsys):
    pair = add_pair("figures")
    for _ in range(2):
        assert main(["-i", str(pair.predictions), "--device", "cpu", "--workers", "1"]) == 0
    assert "1 pair evaluated" in capsys.readouterr().out
    assert (pair.folder / "figures.png").is_file()


def test_a_picture_that_fails_costs_no_scores(pair, capsys, monkeypatch):
    def failing(*arguments):
        raise RuntimeError("no fonts")

    monkeypatch.setattr(figures, "pair_figure", failing)
    assert main(["-i", str(pair.predictions), "--device", "cpu", "--workers", "1"]) == 2
    text = capsys.readouterr().out
    assert "1 pair evaluated" in text
    assert "fixed__moving: no picture: RuntimeError: no fonts" in text
    (case,) = json.loads((pair.predictions / "summary.json").read_text("utf-8"))["cases"]
    assert case["registered"]["dice"] == 1
    assert case["notes"] == ["no picture: RuntimeError: no fonts"]


def test_where_reports_cannot_go_is_found_before_the_work(pair, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "evaluate_case", None)
    (tmp_path / "taken").write_text("a file")
    for folder, message in (
        (tmp_path / "taken", "is a file; expected a folder"),
        (tmp_path / "taken" / "below", "cannot be written"),
    ):
        status, text, error = run(capsys, "-i", pair.predictions, "-o", folder)
        assert status == 2
        assert message in error
        assert text == ""


def test_no_improvement_is_said(pair, capsys):
    for name in ("warped.nii.gz", "warped_labels.nii.gz"):
        role = "moving" if name == "warped.nii.gz" else "moving_labels"
        kind = "intensity" if role == "moving" else "label"
        source = pair.inputs[role][0] if role == "moving" else pair.inputs[role]
        grid = read_geometry(pair.folder / name)
        write_image(
            pair.folder / name, resample_volume(read_image([Path(source)], kind), None, grid)
        )
    _, text, _ = run(capsys, "-i", pair.predictions)
    rows = {line.split("  ")[0]: line for line in text.splitlines()}
    assert rows["LNCC ↑"].endswith("no improvement")
    assert rows["Dice ↑"].endswith("no improvement")
    assert not rows["TRE mean [mm] ↓"].endswith("no improvement")
