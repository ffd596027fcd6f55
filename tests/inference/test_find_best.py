"""autoreg_find_best_configuration through its real command: what it compares, says and refuses."""

import csv
import dataclasses
import inspect
import json
import logging
import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
from raw_datasets import write_json
from refinable import write_raw
from tiny_models import save_model, tiny_plan

from autoreg.evaluation.cli import main as main_evaluate
from autoreg.inference import batch_pair, cli_find_best
from autoreg.inference.cli import main_predict
from autoreg.inference.cli_find_best import main
from autoreg.inference.find_best_commands import _values
from autoreg.io.cases import Pair
from autoreg.io.records import save_record
from autoreg.planning.dataset_pairs import PAIRS_FORMAT, PAIRS_NAME, DatasetPairs
from autoreg.planning.plans_file import plans_path, write_plans
from autoreg.training.cli import _parser as train_parser
from autoreg.training.overrides import Overrides
from autoreg.training.splits import SPLITS_FORMAT, SPLITS_NAME, Fold, Splits
from autoreg.training_plan import SupervisionPlan

PAGE = Path(__file__).resolve().parents[2] / "documentation" / "find_best_configuration.md"
NAME = "Dataset001_Blobs"
CASES = ("case0", "case1", "case2", "case3")
SPLITS = Splits(SPLITS_FORMAT, (Fold(CASES[:2], CASES[2:]), Fold(CASES[2:], CASES[:2])))
PAIRS = ("case0__case1", "case1__case0", "case2__case3", "case3__case2")
QUICK = ("--io-steps", "0", "1", "--no-baseline")


def plan_of(configuration):
    return tiny_plan(dataset=NAME, configuration=configuration)


def write_trained(root, trained, **raw):
    """Raw images, splits, and models with a deformation that has nothing to do with the images.

    Args:
        root: Folder for all.
        trained: Folds of each configuration.
        raw: See `refinable.write_raw`.
    """
    folder = write_raw(root / "raw" / NAME, **raw)
    description = json.loads((folder / "dataset.json").read_text())
    pairs = [{"fixed": "case1", "moving": "case3"}]
    write_json(folder / "dataset.json", {**description, "test_pairs": pairs})
    home = root / "preprocessed" / NAME
    record = DatasetPairs(PAIRS_FORMAT, NAME, "inter_subject", CASES, None, None)
    save_record(record, home / PAIRS_NAME)
    save_record(SPLITS, home / SPLITS_NAME)
    os.utime(home / SPLITS_NAME, (1, 1))
    for configuration, folds in trained.items():
        plan = plan_of(configuration)
        write_plans(plans_path(root / "preprocessed", NAME), plan, "digest")
        for fold in folds:
            save_model(root / "results" / NAME / configuration, plan, fold)
    return root


def list_validation_pairs(root):
    record = DatasetPairs(
        PAIRS_FORMAT, NAME, "inter_subject", CASES[:2], None, (Pair("case2", "case3"),)
    )
    save_record(record, root / "preprocessed" / NAME / PAIRS_NAME)
    (root / "preprocessed" / NAME / SPLITS_NAME).unlink()


def run(root, *flags, dataset="1"):
    folders = [f for n in ("raw", "preprocessed", "results") for f in (f"--{n}", str(root / n))]
    return main([dataset, *flags, "--device", "cpu", *folders])


def out_of(root):
    return root / "results" / NAME / "best_configuration"


def record_of(root):
    return json.loads((out_of(root) / "best_configuration.json").read_text())


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def commands_of(root):
    lines = (out_of(root) / "commands.txt").read_text().splitlines()
    return [shlex.split(line) for line in lines if not line.startswith("#")]


@pytest.fixture(autouse=True)
def _quiet_root_logger():
    before = list(logging.getLogger().handlers)
    yield
    logging.getLogger().handlers = before


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A finished comparison of two configurations with two folds; tests change a copy."""
    root = tmp_path_factory.mktemp("compared")
    write_trained(root, {"default": "01", "smooth": "01"})
    assert run(root, *QUICK) == 0
    return root


@pytest.fixture
def copy(compared, tmp_path):
    return shutil.copytree(compared, tmp_path / "root")


@pytest.fixture
def trained(tmp_path):
    return lambda folds, **raw: write_trained(tmp_path, folds, **raw)


@pytest.fixture
def counted(monkeypatch):
    """The pairs that are really predicted, with the folds of their weights."""
    done = []
    genuine = batch_pair.PairWorker._predict

    def counting(self, pair, folder, digest):
        done.append((self.checkpoint.parent.name, pair.case))
        return genuine(self, pair, folder, digest)

    monkeypatch.setattr(batch_pair.PairWorker, "_predict", counting)
    return done


def test_every_held_out_pair_counts_once_with_the_weights_that_never_saw_it(trained, counted):
    root = trained({"default": "01"})
    assert run(root, "--io-steps", "0", "--no-baseline") == 0
    assert counted == [
        ("fold_0", PAIRS[2]), ("fold_0", PAIRS[3]), ("fold_1", PAIRS[0]), ("fold_1", PAIRS[1]),
    ]  # fmt: skip
    (one,) = record_of(root)["candidates"]
    assert sorted(one["pairs"]) == list(PAIRS)
    dice = [pair["scores"]["dice"] for pair in one["pairs"].values()]
    assert one["means"]["dice"]["mean"] == pytest.approx(sum(dice) / 4)
    assert record_of(root)["folds"] == {"0": list(PAIRS[2:]), "1": list(PAIRS[:2])}


def test_a_pair_that_two_folds_hold_out_counts_in_one_of_them(trained, counted):
    root = trained({"default": "01"})
    both = Splits(
        SPLITS_FORMAT, (Fold(CASES[2:], CASES[:2]), Fold(CASES[3:] + CASES[2:3], CASES[:2]))
    )
    save_record(both, root / "preprocessed" / NAME / SPLITS_NAME)
    assert run(root, "--io-steps", "0", "--no-baseline") == 0
    assert counted == [("fold_0", PAIRS[0]), ("fold_1", PAIRS[1])]


def test_the_scores_are_those_of_predict_and_evaluate(compared, tmp_path):
    pairs = compared / "raw" / NAME
    folder = tmp_path / "in"
    folder.mkdir()
    for case, role in (("case2", "fixed"), ("case3", "moving")):
        shutil.copy(pairs / "imagesTr" / f"{case}_0000.nii.gz", folder / f"a_{role}.nii.gz")
        shutil.copy(pairs / "labelsTr" / f"{case}.nii.gz", folder / f"a_{role}_labels.nii.gz")
    model = ["-m", str(compared / "results" / NAME / "default"), "--fold", "0", "--device", "cpu"]
    flags = ["--io", "gradient_projection", "--io-optimised", "network", "--io-steps", "1"]
    out = tmp_path / "out"
    assert main_predict(["-i", str(folder), "-o", str(out), *model, *flags, "--refine", "off"]) == 0
    evaluate = ["-i", str(out), "--device", "cpu", "--no-figures", "--workers", "1"]
    assert main_evaluate(evaluate) == 0
    (by_hand,) = rows(out / "evaluation.csv")
    (row,) = (
        r
        for r in rows(out_of(compared) / "best_configuration_pairs.csv")
        if r["configuration"] == "default"
        and r["case"] == "case2__case3"
        and r["setting"] != "none"
    )
    assert row["setting"] == "gradient_projection_network_1"
    for key in ("dice", "hd95_mm", "ndv_fraction", "sdlogj_plus3", "lncc"):
        assert float(row[key]) == float(by_hand[key])


def test_all_settings_of_all_configurations_are_compared(compared):
    names = [one["name"] for one in record_of(compared)["candidates"]]
    settings = ("none", "gradient_projection_network_1")
    assert names == [f"{c}/{s}" for s in settings for c in ("default", "smooth")]
    assert len(record_of(compared)["comparisons"]) == 3
    # two configurations with the same weights: nothing can be said against the first
    assert record_of(compared)["best"].startswith("default/")
    assert not list(out_of(compared).glob("**/*.nii.gz"))


def test_a_second_run_predicts_nothing_and_says_the_same(copy, counted, capsys):
    # a copied checkpoint keeps its time, but not its path
    assert run(copy, *QUICK) == 0
    del counted[:]
    first, record = capsys.readouterr().out, record_of(copy)
    assert run(copy, *QUICK) == 0
    assert counted == []
    assert capsys.readouterr().out == first
    assert record_of(copy) == record


def test_a_killed_run_goes_on(trained, monkeypatch, counted):
    root = trained({"default": "01"})
    genuine, calls = batch_pair.export_pair, []

    def dying(*arguments, **named):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return genuine(*arguments, **named)

    monkeypatch.setattr(batch_pair, "export_pair", dying)
    assert run(root, *QUICK) == 130
    assert not (out_of(root) / "best_configuration.json").exists()
    del counted[:]
    assert run(root, *QUICK) == 0
    assert len(counted) == 8 - 2


def test_the_printed_commands_work(copy, monkeypatch, capsys):
    monkeypatch.chdir(copy)
    assert run(copy, *QUICK) == 0
    text = capsys.readouterr().out
    predict, train, after = commands_of(copy)
    assert all(shlex.join(words) in text for words in (predict, train, after))
    assert record_of(copy)["best"].startswith("default/")
    assert predict[0] == "autoreg_predict"
    assert main_predict(predict[1:]) == 0
    (result,) = copy.glob(f"{NAME}_predictions/*/result.json")
    found = json.loads(result.read_text())
    assert found["case"] == "case1__case3"
    assert found["model"]["checkpoint"].endswith("default/fold_0/checkpoint_final.pt")
    steps = record_of(copy)["setting"]["steps"]
    assert found["optimisation"]["steps"] == steps

    assert train[:2] == ["autoreg_train", NAME]
    parsed = train_parser().parse_args(train[1:])
    assert (parsed.fold, parsed.config, parsed.device) == ("all", "default", "cpu")
    assert parsed.preprocessed == copy / "preprocessed"
    assert after[after.index("--fold") + 1] == "all"
    # as if that had been trained
    save_model(copy / "results" / NAME / "default", plan_of("default"), "all")
    assert main_predict(after[1:]) == 0
    assert json.loads(result.read_text())["model"]["checkpoint"].count("fold_all")
    # from then on it is what is recommended
    assert run(copy, *QUICK) == 0
    assert commands_of(copy) == [after]


def test_training_on_all_cases_repeats_the_flags_of_the_folds(copy):
    for configuration in ("default", "smooth"):
        plan = plan_of(configuration)
        training = dataclasses.replace(
            plan.training, epochs=plan.training.epochs // 2, learning_rate=0.25
        )
        changed = dataclasses.replace(plan, training=training)
        save_record(changed, copy / "results" / NAME / configuration / "plan.json")
    assert run(copy, *QUICK) == 0
    parsed = train_parser().parse_args(commands_of(copy)[1][1:])
    assert parsed.epochs == plan.training.epochs // 2
    assert parsed.learning_rate == 0.25
    assert parsed.shallow_epochs == plan.training.shallow_epochs
    assert parsed.batch_size is None
    assert "another plan" not in (out_of(copy) / "commands.txt").read_text()
    changed = dataclasses.replace(changed, loss=dataclasses.replace(plan.loss, regularity_weight=9))
    save_record(changed, copy / "results" / NAME / "smooth" / "plan.json")
    assert run(copy, *QUICK, "--configs", "smooth") == 0
    assert "loss.regularity_weight was 9.0" in (out_of(copy) / "commands.txt").read_text()


def test_without_listed_pairs_the_input_is_left_to_the_user(copy):
    file = copy / "raw" / NAME / "dataset.json"
    description = json.loads(file.read_text())
    del description["test_pairs"]
    write_json(file, description)
    assert run(copy, *QUICK) == 0
    assert commands_of(copy)[0][:3] == ["autoreg_predict", "-i", "INPUT_FOLDER"]
    text = (out_of(copy) / "commands.txt").read_text()
    assert "INPUT_FOLDER: your folder or file of pairs" in text


def test_a_training_from_other_weights_is_pointed_out(copy):
    for configuration in ("default", "smooth"):
        plan = plan_of(configuration)
        told = {"training.shallow_epochs": "0: the training starts from pretrained weights"}
        plan = dataclasses.replace(plan, reasons=told)
        save_record(plan, copy / "results" / NAME / configuration / "plan.json")
    assert run(copy, *QUICK) == 0
    assert "add --pretrained MODEL" in (out_of(copy) / "commands.txt").read_text()


def test_whatever_replaces_a_plan_value_is_a_flag_of_the_training():
    known = {option for action in train_parser()._actions for option in action.option_strings}
    assert {f"--{f.name.replace('_', '-')}" for f in dataclasses.fields(Overrides)} <= known
    assert set(_values(plan_of("default"))) == {f.name for f in dataclasses.fields(Overrides)}


def test_no_network_is_recommended_where_the_network_is_worth_nothing(
    trained, capsys, monkeypatch, tmp_path
):
    """Its deformation is random; labels follow the images, which the optimised field brings
    together."""
    monkeypatch.chdir(tmp_path)
    root = trained({"default": "01"})
    assert run(root, "--io-steps", "0") == 0
    record = record_of(root)
    assert record["best"] == "without_network"
    assert (record["configuration"], record["setting"]) == (None, None)
    assert "No trained network is worth it" in capsys.readouterr().out
    (predict,) = commands_of(root)
    assert main_predict(predict[1:]) == 0
    (result,) = tmp_path.glob(f"{NAME}_predictions/*/result.json")
    assert json.loads(result.read_text())["model"] is None
    stamps = {p: p.stat().st_mtime_ns for p in out_of(root).glob("**/result.json")}
    assert not list(out_of(root).glob("**/*.nii.gz"))
    assert run(root, "--io-steps", "0") == 0
    assert stamps == {p: p.stat().st_mtime_ns for p in out_of(root).glob("**/result.json")}


def test_without_model_takes_no_model(tmp_path, capsys):
    flags = ["-i", str(tmp_path), "-o", str(tmp_path / "out"), "--without-model"]
    assert main_predict([*flags, "-d", "1", "--config", "default"]) == 2
    assert "--without-model: takes no model; drop -d, --config" in capsys.readouterr().err
    assert main_predict([*flags, "--io-steps", "3"]) == 2
    assert "--without-model, so that --io-steps would do nothing" in capsys.readouterr().err


def test_by_default_the_plan_is_compared_with_less_and_with_refinement(trained, monkeypatch):
    root = trained({"default": "0"})
    asked_for = []
    from autoreg.inference import find_best

    monkeypatch.setattr(
        find_best, "compare_io", lambda p: asked_for.append(p.request.settings) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        run(root)
    names = [setting.name for setting in asked_for[0]]
    assert names == ["none", "refine_balanced", "gradient_projection_network_2"]


def supervise(root, configuration, **weights):
    """As if the configuration had been trained so."""
    plan = plan_of(configuration)
    training = dataclasses.replace(plan.training, supervision=SupervisionPlan(**weights))
    changed = dataclasses.replace(plan, training=training)
    save_record(changed, root / "results" / NAME / configuration / "plan.json")


def test_what_favours_a_configuration_is_said(trained, compared, capsys):
    root = trained({"default": "01", "smooth": "01"})
    supervise(root, "smooth", dice_weight=0.5)
    for path in (root / "results").rglob("default/fold_*/checkpoint_final.pt"):
        shutil.copy(path, path.with_name("checkpoint_best.pt"))
    flags = ("--io-steps", "0", "--no-baseline")
    assert run(root, *flags) == 0
    learnt = "smooth: trained on label maps (training.supervision.dice_weight), and Dice decides"
    assert sum(note.startswith(learnt) for note in record_of(root)["notes"]) == 1
    assert not any("checkpoint_best.pt" in note for note in record_of(root)["notes"])
    capsys.readouterr()
    assert run(root, *flags, "--configs", "default", "--checkpoint", "best") == 0
    text = capsys.readouterr().out
    assert (
        "* default: checkpoint_best.pt is of the epoch that was best on pairs of the same" in text
    )
    assert "trained on label maps" not in text
    for word in ("trained on", "checkpoint_best.pt"):
        assert not any(word in note for note in record_of(compared)["notes"])


def test_landmarks_decide_without_labels_and_similarity_without_both(trained, capsys, tmp_path):
    root = trained({"default": "01"}, labels=None, landmarks=True)
    supervise(root, "default", dice_weight=1.0, landmark_weight=0.1)
    assert run(root, "--io-steps", "0", "--no-baseline") == 0
    assert record_of(root)["measure"] == "tre_mean_mm"
    text = capsys.readouterr().out
    assert "TRE mean [mm]" in text
    assert "* default: trained on landmarks (training.supervision.landmark_weight)" in text
    assert "trained on label maps" not in text
    shutil.rmtree(root / "raw" / NAME / "landmarksTr")
    assert run(root, "--io-steps", "0", "--no-baseline") == 0
    assert record_of(root)["measure"] == "lncc"
    assert "No pair has labels or landmarks" in capsys.readouterr().out


def test_fewer_pairs_are_drawn_evenly_from_the_folds(trained, counted, capsys):
    root = trained({"default": "01"})
    assert run(root, "--io-steps", "0", "--no-baseline", "--pairs", "2") == 0
    assert [fold for fold, _ in counted] == ["fold_0", "fold_1"]
    assert "2 of 4 held-out pairs were taken" in capsys.readouterr().out


class TestFolds:
    def test_only_common_ones_and_what_is_missing_is_said(self, trained, capsys, counted):
        root = trained({"default": "01", "smooth": ("0", "all")})
        assert run(root, "--io-steps", "0", "--no-baseline") == 0
        text = capsys.readouterr().out
        assert "common folds only (0)" in text
        (line,) = (line for line in text.splitlines() if "smooth lacks fold 1: " in line)
        words = shlex.split(line.partition("fold 1: ")[2])
        parsed = train_parser().parse_args(words[1:])
        assert (parsed.dataset, parsed.config, parsed.fold) == ("1", "smooth", "1")
        assert {fold for fold, _ in counted} == {"fold_0"}

    def test_a_fold_that_was_asked_for_must_be_there(self, trained, capsys):
        root = trained({"default": "01", "smooth": "0"})
        assert run(root, "--folds", "0", "1") == 2
        assert "smooth lacks fold 1: autoreg_train 1 --config smooth" in capsys.readouterr().err

    def test_none_in_common(self, trained, capsys):
        root = trained({"default": "1", "smooth": "0"})
        assert run(root) == 2
        error = capsys.readouterr().err
        assert "default lacks fold 0" in error
        assert "smooth lacks fold 1" in error

    def test_all_measures_nothing(self, trained, capsys):
        root = trained({"default": ("all",), "smooth": ("0", "all")})
        assert run(root, "--configs", "default") == 2
        error = capsys.readouterr().err
        assert "which has seen every case and measures nothing" in error
        assert "autoreg_train 1 --fold 0" in error
        assert run(root, "--folds", "all") == 2
        assert "no held-out pairs" in capsys.readouterr().err
        assert run(root, "--io-steps", "0", "--no-baseline") == 0  # the other one has a fold
        assert "default: only fold" in capsys.readouterr().out

    def test_listed_validation_pairs_are_held_out_of_every_fold(self, trained, counted):
        root = trained({"default": ("all",), "smooth": "0"})
        list_validation_pairs(root)
        assert run(root, "--io-steps", "0", "--no-baseline") == 0
        assert counted == [("fold_all", PAIRS[2]), ("fold_0", PAIRS[2])]
        (predict,) = commands_of(root)  # there is nothing to be trained on all cases
        assert predict[0] == "autoreg_predict"

    def test_unfinished_trainings_and_younger_splits_are_pointed_out(self, trained, capsys):
        root = trained({"default": "01"})
        fold = root / "results" / NAME / "default" / "fold_1"
        (fold / "checkpoint_final.pt").rename(fold / "checkpoint_best.pt")
        (root / "preprocessed" / NAME / SPLITS_NAME).touch()
        assert run(root, "--io-steps", "0", "--no-baseline") == 0
        text = capsys.readouterr().out
        assert "1 fold without a finished training (1)" in text
        assert "was written after default fold 0, default fold 1 had been trained" in text


class TestRefused:
    def error(self, root, capsys, *flags, **where):
        assert run(root, *flags, **where) == 2
        error = capsys.readouterr().err
        assert "Traceback" not in error
        assert not out_of(root).exists()
        return error

    def test_a_configuration_in_the_place_of_the_reports(self, trained, capsys):
        root = trained({"best_configuration": "0"})
        assert run(root) == 2
        assert "rename the configuration" in capsys.readouterr().err

    def test_nothing_trained(self, trained, capsys):
        root = trained({})
        assert "no trained fold; train one with: autoreg_train 1" in self.error(root, capsys)

    def test_unknown_names(self, trained, capsys):
        root = trained({"default": "0", "smooth": "0"})
        assert 'did you mean "smooth"?' in self.error(root, capsys, "--configs", "smoth")
        assert "did you mean" in self.error(root, capsys, dataset="Dataset001_Blob")
        assert "lacks fold 7" in self.error(root, capsys, "--folds", "7")
        assert "autoreg_train" in self.error(root, capsys, "--configs", "other")

    def test_no_raw_data(self, trained, capsys):
        root = trained({"default": "0"})
        shutil.rmtree(root / "raw")
        assert "is no raw data set" in self.error(root, capsys)

    def test_no_pairs_or_splits(self, trained, capsys):
        root = trained({"default": "0"})
        home = root / "preprocessed" / NAME
        save_record(Splits(SPLITS_FORMAT, (Fold(CASES, ()),)), home / SPLITS_NAME)
        assert "0 validation pairs" in self.error(root, capsys)
        (home / SPLITS_NAME).unlink()
        assert "says which cases each fold held out" in self.error(root, capsys)
        assert not (home / SPLITS_NAME).exists()
        (home / PAIRS_NAME).unlink()
        assert "run autoreg_preprocess" in self.error(root, capsys)

    def test_flags_that_contradict_each_other_or_the_network(self, trained, capsys):
        root = trained({"default": "0"})
        assert "stands there twice" in self.error(root, capsys, "--io-steps", "1", "1")
        flags = ("--io-steps", "0", "--optimised", "network")
        assert "--optimised: does nothing" in self.error(root, capsys, *flags)
        flags = ("--checkpoint", "best")
        assert "no fold has a checkpoint_best.pt" in self.error(root, capsys, *flags)


def test_what_failed_on_a_pair_is_not_recommended(trained, capsys, monkeypatch):
    root = trained({"default": "01", "smooth": "01"})
    genuine = batch_pair.PairWorker._predict

    def failing(self, pair, folder, digest):
        if "default" in str(self.checkpoint) and pair.case == PAIRS[0]:
            raise MemoryError
        return genuine(self, pair, folder, digest)

    monkeypatch.setattr(batch_pair.PairWorker, "_predict", failing)
    assert run(root, "--io-steps", "0", "--no-baseline") == 2
    text = capsys.readouterr().out
    assert record_of(root)["best"] == "smooth/none"
    assert "failed on 1 pair" in text
    assert f"failed: {PAIRS[0]}, default, no IO" in text
    (default,) = (c for c in record_of(root)["candidates"] if c["name"] == "default/none")
    assert default["means"]["dice"]["pairs"] == 3
    assert list(default["failures"]) == [PAIRS[0]]


def test_the_page_knows_every_flag_and_file(compared):
    page = PAGE.read_text("utf-8")
    for flag in re.findall(r"--[a-z-]+", inspect.getsource(cli_find_best)):
        assert flag in page
    for file in out_of(compared).iterdir():
        assert file.name in page or file.name.startswith(".")
    for key in record_of(compared):
        assert f"`{key}`" in page
