"""autoreg_compare_io through its real command: what it computes, keeps, resumes and refuses."""

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from raw_datasets import write_json
from tiny_models import save_model, sitk_image, tiny_plan

from autoreg.evaluation.cli import main as main_evaluate
from autoreg.inference import batch, batch_pair, compare_io, compare_io_report
from autoreg.inference.cli import main_predict
from autoreg.inference.cli_compare_io import main

SHORT = ("--steps", "1", "2", "--optimised", "network")
SHORTEST = ("--steps", "1", "--optimised", "network")
SETTINGS = (
    "none", "vanilla_network_1", "gradient_projection_network_1", "vanilla_network_2",
    "gradient_projection_network_2",
)  # fmt: skip
CASES = ("one", "two")


def labels_of(image):
    return sitk.Cast(image > 300, sitk.sitkUInt8) + sitk.Cast(image > 600, sitk.sitkUInt8)


def write_pairs(folder, cases=CASES, labels=True):
    folder.mkdir(exist_ok=True)
    for number, case in enumerate(cases):
        for role, seed in (("fixed", 2 * number + 1), ("moving", 2 * number + 2)):
            image = sitk_image(seed, (14, 17, 12), (1.5, 1.2, 2.0))
            sitk.WriteImage(image, str(folder / f"{case}_{role}.nii.gz"))
            if labels:
                sitk.WriteImage(labels_of(image), str(folder / f"{case}_{role}_labels.nii.gz"))
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"))


def run(source, out, model, *flags):
    where = ["-i", str(source), "-o", str(out), "-m", str(model), "--device", "cpu"]
    return main([*where, *(flags or SHORT)])


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Figures take most of the time; `compared` is made before this and has them."""
    monkeypatch.setattr(compare_io_report, "_draw", lambda *_: ((), True))


@pytest.fixture(scope="module")
def compared(pairs, model, tmp_path_factory):
    """A finished comparison; tests that change it work on a copy."""
    out = tmp_path_factory.mktemp("compared")
    assert run(pairs, out, model) == 0
    return out


@pytest.fixture
def copy(compared, tmp_path):
    return shutil.copytree(compared, tmp_path / "compared")


def setting_of(pair, folder):
    """Whose folder holds the pair's, in which its files may first be written to a hidden one."""
    (place,) = (p for p in (folder, *folder.parents) if p.name == pair.case)
    return place.parent.name


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def stamps(out):
    """When the results of all pairs were written."""
    return {str(p.relative_to(out)): p.stat().st_mtime_ns for p in out.glob("*/*/result.json")}


@pytest.fixture
def counted(monkeypatch):
    """The pairs that are really predicted."""
    done = []
    genuine = batch_pair.PairWorker._predict

    def counting(self, pair, folder, digest):
        done.append(f"{setting_of(pair, folder)}/{pair.case}")
        return genuine(self, pair, folder, digest)

    monkeypatch.setattr(batch_pair.PairWorker, "_predict", counting)
    return done


def test_each_setting_is_an_ordinary_output_folder(compared):
    assert {p.parent.parent.name for p in compared.glob("*/*/result.json")} == set(SETTINGS)
    for name in SETTINGS[1:]:
        record = json.loads((compared / name / "one" / "result.json").read_text())["optimisation"]
        mode, optimised, steps = name.rsplit("_", 2)
        assert record["mode"] == mode
        assert (record["optimised"], record["steps"]) == (optimised, int(steps))
    none = json.loads((compared / "none" / "one" / "result.json").read_text())
    assert none["optimisation"]["mode"] == "none"


def test_the_table_is_the_summary_of_autoreg_evaluate(compared, tmp_path):
    table = {row["setting"]: row for row in rows(compared / "compare_io_settings.csv")}
    assert tuple(table) == SETTINGS
    for name in SETTINGS:
        out = tmp_path / name
        flags = ["--device", "cpu", "--no-figures", "--workers", "1"]
        assert main_evaluate(["-i", str(compared / name), "-o", str(out), *flags]) == 0
        metrics = json.loads((out / "summary.json").read_text())["metrics"]
        for key in ("dice", "hd95_mm", "lncc", "ndv_fraction", "sdlogj_plus3"):
            found = metrics[key]["registered"]
            assert float(table[name][f"{key}_mean"]) == found["mean"]
            assert float(table[name][f"{key}_std"]) == found["std"]
        # and what the comparison leaves in the folder is what autoreg_evaluate would
        assert (compared / name / "summary.json").read_text() == (out / "summary.json").read_text()


def test_the_page_shows_the_numbers_of_the_csv_file(compared):
    page = (compared / "compare_io.md").read_text()
    (row,) = (r for r in rows(compared / "compare_io_settings.csv") if r["setting"] == "none")
    dice = f"{100 * float(row['dice_mean']):.2f} ± {100 * float(row['dice_std']):.2f}"
    (line,) = (s for s in page.splitlines() if s.startswith("| no IO "))
    assert dice in line
    assert "| before registration" in page
    assert "no test: 2 of at least 6 pairs" in page
    assert (compared / "compare_io_accuracy.png").stat().st_size > 5000
    assert (compared / "compare_io_conflicts.png").stat().st_size > 5000


def test_the_commands_of_the_page_keep_the_predictions_and_give_the_scores(copy, pairs, model):
    page = (copy / "compare_io.md").read_text()
    block = page.split("```")[1].strip().splitlines()
    assert len(block) == 2 * len(SETTINGS)
    before = stamps(copy)
    wanted = (copy / SETTINGS[2] / "evaluation.csv").read_text()
    (predict,) = (c for c in block if "predict" in c and SETTINGS[2] in c)
    (evaluate,) = (c for c in block if "evaluate" in c and SETTINGS[2] in c)
    place = predict.split(" -o ")[1].split()[0]
    words = predict.replace(place, str(copy / SETTINGS[2])).split()
    assert words[0] == "autoreg_predict"
    assert main_predict(words[1:]) == 0
    assert stamps(copy) == before
    (copy / SETTINGS[2] / "evaluation.csv").unlink()
    words = evaluate.replace(place, str(copy / SETTINGS[2])).split()
    assert main_evaluate(words[1:]) == 0
    assert (copy / SETTINGS[2] / "evaluation.csv").read_text() == wanted


def test_a_second_run_does_nothing_but_the_reports(copy, pairs, model, counted):
    before = stamps(copy)
    scores = {p: p.stat().st_mtime_ns for p in copy.glob("*/*/scores_plain.json")}
    page = (copy / "compare_io_settings.csv").read_text()
    assert run(pairs, copy, model, *SHORT, "--continue") == 0
    assert counted == []
    assert stamps(copy) == before
    assert scores == {p: p.stat().st_mtime_ns for p in copy.glob("*/*/scores_plain.json")}
    assert (copy / "compare_io_settings.csv").read_text() == page


@pytest.mark.parametrize("left", ["all", "scores"])
def test_without_continue_what_is_there_is_not_touched(copy, pairs, model, counted, capsys, left):
    if left == "scores":
        (copy / "compare_io.md").unlink()
    before = stamps(copy)
    assert run(pairs, copy, model, *SHORTEST) == 2
    assert "holds a comparison; --continue keeps" in capsys.readouterr().err
    assert (counted, stamps(copy)) == ([], before)


def test_a_modality_that_the_model_does_not_know_is_refused_before_the_first_pair(
    pairs, model, tmp_path, capsys, counted, monkeypatch
):
    """A contrast of magnetic resonance counts as MR where the model makes no difference."""
    genuine = compare_io.find_pairs

    def called(name):
        def find(*source):
            one = {"fixed_modalities": (name,), "moving_modalities": (name,)}
            return tuple(dataclasses.replace(pair, **one) for pair in genuine(*source))

        monkeypatch.setattr(compare_io, "find_pairs", find)
        monkeypatch.setattr(batch, "find_pairs", find)

    called("PT")
    assert run(pairs, tmp_path / "out", model, *SHORTEST) == 2
    assert 'modality "PT" of one: the model scales' in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    called("T1")
    assert run(pairs, tmp_path / "out", model, *SHORTEST) == 0
    assert len(counted) == 3 * len(CASES)


def test_a_killed_run_goes_on_where_it_stopped(pairs, model, tmp_path, monkeypatch, counted):
    genuine = batch_pair.export_pair
    calls = []

    def dying(*arguments, **named):
        calls.append(1)
        if len(calls) == 6:  # some files of the sixth pair are there, its result is not
            genuine(*arguments, **named)
            raise KeyboardInterrupt
        return genuine(*arguments, **named)

    monkeypatch.setattr(batch_pair, "export_pair", dying)
    assert run(pairs, tmp_path, model) == 130
    monkeypatch.setattr(batch_pair, "export_pair", genuine)
    assert not (tmp_path / "compare_io.md").exists()
    before, done = stamps(tmp_path), len(counted)
    assert len(before) == 5
    assert run(pairs, tmp_path, model, *SHORT, "--continue") == 0
    assert len(counted) - done == len(CASES) * len(SETTINGS) - 5
    after = stamps(tmp_path)
    assert {name: after[name] for name in before} == before


def test_further_steps_join_what_is_there(copy, pairs, model, counted):
    flags = ("--steps", "2", "3", "--optimised", "network", "--continue")
    assert run(pairs, copy, model, *flags) == 0
    assert {name.split("/")[0] for name in counted} == {
        "vanilla_network_3", "gradient_projection_network_3",
    }  # fmt: skip


def test_scores_of_an_interrupted_scoring_are_taken_without_predicting(copy, pairs, model, counted):
    (copy / "none" / "one" / "scores_plain.json").write_text("{")
    assert run(pairs, copy, model, *SHORT, "--continue") == 0
    assert counted == []
    assert json.loads((copy / "none" / "one" / "scores_plain.json").read_text())["plain"]


def test_pairs_of_an_earlier_comparison_are_not_compared_and_named(copy, model, tmp_path, capsys):
    source = write_pairs(tmp_path / "in", ("three",))
    assert run(source, copy, model, *SHORTEST, "--continue") == 0
    assert "what else lies there: one, two." in capsys.readouterr().out
    assert {row["case"] for row in rows(copy / "compare_io_pairs.csv")} == {"three"}


def test_edited_labels_are_noticed(model, tmp_path, counted):
    source = write_pairs(tmp_path / "in")
    assert run(source, tmp_path / "out", model, *SHORTEST) == 0
    before = rows(tmp_path / "out" / "compare_io_pairs.csv")
    labels = sitk.ReadImage(str(source / "one_fixed_labels.nii.gz"))
    sitk.WriteImage(sitk.Cast(labels == 1, sitk.sitkUInt8), str(source / "one_fixed_labels.nii.gz"))
    del counted[:]
    assert run(source, tmp_path / "out", model, *SHORTEST, "--continue") == 0
    after = rows(tmp_path / "out" / "compare_io_pairs.csv")
    assert sorted({name.split("/")[1] for name in counted}) == ["one"]
    changed = [a["case"] for b, a in zip(before, after, strict=True) if b["dice"] != a["dice"]]
    assert set(changed) == {"one"}


class TestDiscardFields:
    def test_scores_are_the_same_and_the_big_files_gone(self, pairs, model, compared, tmp_path):
        assert run(pairs, tmp_path, model, *SHORT, "--discard-fields") == 0
        assert not list(tmp_path.glob("*/*/*.nii.gz"))
        assert len(list(tmp_path.glob("*/*/trace.csv"))) == 8
        for name in ("compare_io_settings.csv", "compare_io_pairs.csv"):
            ours, kept = rows(tmp_path / name), rows(compared / name)
            for ours_row, kept_row in zip(ours, kept, strict=True):
                for key in ("dice", "dice_mean", "hd95_mm_std", "conflict_rate_mean", "conflicts"):
                    assert ours_row.get(key) == kept_row.get(key)

    def test_a_second_run_does_nothing(self, pairs, model, tmp_path, counted):
        assert run(pairs, tmp_path, model, *SHORTEST, "--discard-fields") == 0
        before = stamps(tmp_path)
        del counted[:]
        assert run(pairs, tmp_path, model, *SHORTEST, "--discard-fields", "--continue") == 0
        assert counted == []
        assert stamps(tmp_path) == before

    def test_a_run_killed_while_removing_goes_on(self, copy, pairs, model, counted):
        (copy / "none" / "one" / "displacement.nii.gz").unlink()
        assert run(pairs, copy, model, *SHORT, "--discard-fields", "--continue") == 0
        assert counted == []
        assert not list(copy.glob("*/*/*.nii.gz"))

    def test_another_protocol_needs_the_fields_again(self, copy, pairs, model, counted):
        for path in copy.glob("*/one/*.nii.gz"):
            path.unlink()
        flags = ("--protocol", "learn2reg", "--continue")
        assert run(pairs, copy, model, *SHORT, *flags) == 0
        assert {name.split("/")[1] for name in counted} == {"one"}
        assert len(counted) == len(SETTINGS)

    def test_scores_beside_an_interrupted_prediction_do_not_count(
        self, copy, pairs, model, counted
    ):
        for name in ("result.json", "displacement.nii.gz"):
            (copy / "none" / "one" / name).unlink()
        (copy / "none" / "one" / "unfinished.txt").write_text("it still runs\n")
        assert run(pairs, copy, model, *SHORT, "--continue") == 0
        assert counted == ["none/one"]

    def test_scores_beside_another_prediction_do_not_count(self, copy, pairs, model, counted):
        folder = copy / "none" / "one"
        record = json.loads((folder / "result.json").read_text())
        (folder / "result.json").write_text(json.dumps(record | {"request": "of other options"}))
        (folder / "displacement.nii.gz").unlink()
        assert run(pairs, copy, model, *SHORT, "--continue") == 0
        assert counted == ["none/one"]

    def test_autoreg_predict_makes_them_again(self, pairs, model, tmp_path):
        assert run(pairs, tmp_path, model, *SHORTEST, "--discard-fields") == 0
        out = tmp_path / "none"
        again = ["-i", str(pairs), "-o", str(out), "-m", str(model), "--io", "none"]
        assert main_predict([*again, "--refine", "off", "--device", "cpu", "--continue"]) == 0
        assert (out / "one" / "displacement.nii.gz").exists()


def test_the_referees_protocol(copy, pairs, model, tmp_path):
    flags = ("--protocol", "learn2reg", "--labels", "1-2")
    assert run(pairs, copy, model, *SHORT, "--continue", *flags) == 0
    (row,) = (r for r in rows(copy / "compare_io_settings.csv") if r["setting"] == SETTINGS[4])
    evaluate = ["-i", str(copy / SETTINGS[4]), "-o", str(tmp_path / "by"), "--device", "cpu"]
    assert main_evaluate([*evaluate, "--workers", "1", *flags]) == 0
    metrics = json.loads((tmp_path / "by" / "learn2reg.json").read_text())["metrics"]
    for key, found in metrics.items():
        assert float(row[f"{key}_mean"]) == found["mean"]
        assert float(row[f"{key}_std"]) == found["std"]
    page = (copy / "compare_io.md").read_text()
    assert "--labels 1-2" in page
    assert "HD95 [voxels]" in page


def test_fields_and_refinement_are_settings_too(pairs, tmp_path):
    plan = tiny_plan()
    loss = dataclasses.replace(plan.loss, regularity="diffusion")
    model = save_model(tmp_path / "model", dataclasses.replace(plan, loss=loss))
    flags = ("--steps", "1", "--optimised", "displacements", "velocity", "--refine", "fast")
    assert run(pairs, tmp_path, model, *flags) == 0
    names = [row["setting"] for row in rows(tmp_path / "compare_io_settings.csv")]
    assert names == [
        "none", "refine_fast", "vanilla_displacements_1", "gradient_projection_displacements_1",
        "vanilla_velocity_1", "gradient_projection_velocity_1",
    ]  # fmt: skip
    refined = json.loads((tmp_path / "refine_fast" / "one" / "result.json").read_text())
    assert refined["field_optimisation"]["preset"] == "fast"


def test_a_pair_that_fails_is_named_and_left_out_everywhere(
    pairs, model, tmp_path, monkeypatch, capsys
):
    genuine = batch_pair.PairWorker._predict

    def failing(self, pair, folder, digest):
        if (setting_of(pair, folder), pair.case) == ("vanilla_network_1", "two"):
            raise RuntimeError("out of memory")
        return genuine(self, pair, folder, digest)

    monkeypatch.setattr(batch_pair.PairWorker, "_predict", failing)
    assert run(pairs, tmp_path, model, *SHORTEST) == 2
    page = capsys.readouterr().out
    assert "1 of 2 pairs (see below)" in page
    assert "because a setting failed on them: two." in page
    assert "Failed: two, IO, 1 steps, network: out of memory" in page
    table = rows(tmp_path / "compare_io_settings.csv")
    assert {row["pairs"] for row in table} == {"1"}
    assert [r["failed_pairs"] for r in table if r["setting"] == "vanilla_network_1"] == ["1"]
    by_pair = rows(tmp_path / "compare_io_pairs.csv")
    assert {r["case"] for r in by_pair if r["compared"] == "0"} == {"two"}
    (failed,) = (r for r in by_pair if r["failure"])
    assert (failed["setting"], failed["case"], failed["dice"]) == ("vanilla_network_1", "two", "")
    assert {row["pairs"] for row in rows(tmp_path / "compare_io_tests.csv")} == {"1"}
    monkeypatch.setattr(batch_pair.PairWorker, "_predict", genuine)
    assert run(pairs, tmp_path, model, *SHORTEST, "--continue") == 0
    assert "Failed" not in (tmp_path / "compare_io.md").read_text()


def test_a_setting_that_fails_everywhere_does_not_take_the_others_along(
    pairs, model, tmp_path, monkeypatch, capsys
):
    genuine = batch_pair.PairWorker._predict

    def failing(self, pair, folder, digest):
        if setting_of(pair, folder) == "vanilla_network_1":
            raise RuntimeError("out of memory")
        return genuine(self, pair, folder, digest)

    monkeypatch.setattr(batch_pair.PairWorker, "_predict", failing)
    assert run(pairs, tmp_path, model, *SHORTEST) == 2
    assert "IO, 1 steps, network: failed on every pair and is left out." in capsys.readouterr().out
    names = [row["setting"] for row in rows(tmp_path / "compare_io_settings.csv")]
    assert names == ["none", "gradient_projection_network_1"]


def test_nothing_to_compare_is_one_message(pairs, model, tmp_path, monkeypatch, capsys):
    def failing(self, pair, folder, digest):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(batch_pair.PairWorker, "_predict", failing)
    assert run(pairs, tmp_path, model) == 2
    message = capsys.readouterr().err
    assert message.count("error: ") == 1
    assert "nothing to compare" in message
    assert "  two, IO, 2 steps, network: out of memory" in message
    assert "Traceback" not in message


def test_a_pair_that_cannot_be_scored_counts_as_failed(model, tmp_path, capsys):
    source = write_pairs(tmp_path / "in")
    labels = sitk.ReadImage(str(source / "two_fixed_labels.nii.gz"))
    labels.SetOrigin((500.0, 0, 0))
    sitk.WriteImage(labels, str(source / "two_fixed_labels.nii.gz"))
    assert run(source, tmp_path / "out", model, *SHORTEST) == 2
    page = capsys.readouterr().out
    assert page.count("not scored: ") == 3
    assert "1 of 2 pairs" in page


def test_without_labels_and_landmarks_the_page_says_what_is_missing(model, tmp_path, capsys):
    source = write_pairs(tmp_path / "in", labels=False)
    assert run(source, tmp_path / "out", model, *SHORTEST) == 0
    page = capsys.readouterr().out
    assert "No pair has labels or landmarks that can be scored: similarity and folds alone" in page
    assert "Dice" not in page.split("## By hand")[0].split("## Paired")[0]
    assert "LNCC" in page


def test_six_pairs_are_tested_and_shared_images_confessed(model, tmp_path, capsys):
    write_pairs(tmp_path / "in", ("one", "two", "three"))
    names = ("one", "two", "three")
    lines = ["case,fixed,moving,fixed_labels,moving_labels"]
    for fixed in names:
        for moving in names:
            if fixed != moving:
                files = (f"{fixed}_fixed", f"{moving}_fixed")
                parts = [f"{f}{end}.nii.gz" for end in ("", "_labels") for f in files]
                lines.append(",".join([f"{fixed}_{moving}", *parts]))
    (tmp_path / "in" / "pairs.csv").write_text("\n".join(lines) + "\n")
    flags = ("--steps", "2", "--optimised", "displacements")
    assert run(tmp_path / "in", tmp_path / "out", model, *flags) == 0
    page = capsys.readouterr().out
    assert "The 6 pairs are formed of 3 images" in page
    assert "Holm's p cannot be below 0.094" in page  # 3 comparisons, 2 / 2^6 each
    tests = rows(tmp_path / "out" / "compare_io_tests.csv")
    couples = {(row["setting"], row["reference"]) for row in tests}
    vanilla, projected = "vanilla_displacements_2", "gradient_projection_displacements_2"
    assert couples == {(vanilla, "none"), (projected, "none"), (projected, vanilla)}
    similarity = [row for row in tests if row["metric"] == "lncc"]
    assert all(0 < float(row["p_wilcoxon"]) <= float(row["p_holm"]) <= 1 for row in similarity[:2])
    by_pair = rows(tmp_path / "out" / "compare_io_pairs.csv")
    lncc = {
        name: np.array([float(r["lncc"]) for r in by_pair if r["setting"] == name])
        for name in (vanilla, "none")
    }
    mean = (lncc[vanilla] - lncc["none"]).mean()
    assert float(similarity[0]["mean_difference"]) == pytest.approx(mean)


def test_a_data_set_gives_pairs_and_model(tmp_path):
    name = "Dataset007_Tiny"
    raw, results = tmp_path / "raw", tmp_path / "results"
    (raw / name / "imagesTr").mkdir(parents=True)
    for case, seed in (("a", 1), ("b", 2), ("c", 3)):
        image = sitk_image(seed, (14, 17, 12), (1.5, 1.2, 2.0))
        sitk.WriteImage(image, str(raw / name / "imagesTr" / f"{case}_0000.nii.gz"))
    pairs = {"test_pairs": [{"fixed": "a", "moving": "b"}]}
    more = {"validation_pairs": [{"fixed": "b", "moving": "c"}]}
    write_json(raw / name / "dataset.json", {"modality": {"0": "MR"}, **pairs, **more})
    save_model(results / name / "default", tiny_plan())
    flags = ["--raw", str(raw), "--results", str(results), "--device", "cpu"]
    flags += ["--steps", "1", "--optimised", "network"]
    assert main(["-d", "7", "-o", str(tmp_path / "test"), *flags]) == 0
    assert (tmp_path / "test" / "none" / "a__b" / "result.json").exists()
    other = ["-d", "Tiny", "-m", str(results / name / "default"), "--split", "validation"]
    assert main([*other, "-o", str(tmp_path / "validation"), *flags]) == 0
    assert (tmp_path / "validation" / "none" / "b__c" / "result.json").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--steps", "5", "5"), "--steps: 5 stands there twice"),
        (("--optimised", "network", "network"), "--optimised: network stands there twice"),
        (("--refine", "fast", "fast"), "--refine: fast stands there twice"),
        (("--labels", "1-2"), "--labels does nothing with --protocol plain"),
        (("--protocol", "lumir", "--labels", "x"), 'labels "x"'),
        (("--split", "test"), "--split test: does nothing"),
    ],
)
def test_flags_that_make_no_sense_are_refused(pairs, model, tmp_path, capsys, flags, message):
    assert run(pairs, tmp_path / "out", model, *flags) == 2
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*/*/result.json"))


def test_what_the_model_cannot_do_is_refused_before_the_first_pair(pairs, model, tmp_path, capsys):
    flags = ("--steps", "1", "2", "--optimised", "network", "velocity")
    assert run(pairs, tmp_path / "out", model, *flags) == 2
    message = capsys.readouterr().err
    assert message.count("--optimised velocity: ") == 1
    assert "nothing would be regularised" in message
    assert not (tmp_path / "out").exists()


def test_zero_steps_are_refused(pairs, model, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        run(pairs, tmp_path, model, "--steps", "0")
    assert stop.value.code == 2
    assert "1 or more, found 0" in capsys.readouterr().err


def test_no_pairs_no_model_no_source(tmp_path, model, pairs, capsys):
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty", tmp_path / "out", model) == 2
    assert "holds no pairs" in capsys.readouterr().err
    nowhere = ["--results", str(tmp_path / "no"), "-o", str(tmp_path / "out")]
    assert main(["-i", str(pairs), *nowhere]) == 2
    assert "no trained model; train one" in capsys.readouterr().err
    assert main(nowhere) == 2
    assert "name a data set with -d" in capsys.readouterr().err
    assert main(["-d", "9", "--raw", str(tmp_path), *nowhere]) == 2
    assert "raw data sets found" in capsys.readouterr().err
    assert not Path(tmp_path / "out").exists()
