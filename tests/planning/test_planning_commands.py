import json
import shlex

import pytest
from raw_datasets import blob, native, write_array, write_json

from autoreg.errors import PlanError
from autoreg.planning.cli import (
    main_fingerprint,
    main_plan,
    main_plan_and_preprocess,
    main_preprocess,
)
from autoreg.planning.plans_file import load_plan
from autoreg.planning.prepared import list_prepared

NAME = "Dataset007_Blobs"
QUIET = ["--workers", "1", "--no-progress"]


def folders(root):
    return ["--raw", str(root / "raw"), "--preprocessed", str(root / "preprocessed")]


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A data set that went through fingerprint, plan and preprocess, one command at a time."""
    root = tmp_path_factory.mktemp("planned")
    native(root / "raw" / NAME, ("a", "b", "c"), {"modality": {"0": "MR"}})
    assert main_fingerprint([*folders(root), *QUIET]) == 0
    assert main_plan(["-d", "7", "--budget", "cpu", *folders(root)]) == 0
    assert main_preprocess(["-d", NAME, *folders(root), *QUIET]) == 0
    return root


def plans(root):
    return root / "preprocessed" / NAME / "plans.json"


def test_the_commands_leave_everything_for_training(planned):
    folder = planned / "preprocessed" / NAME
    assert {path.name for path in folder.iterdir()} == {
        "dataset_fingerprint.json", "verified.json", "plans.json", "pairs.json", "default",
    }  # fmt: skip
    assert list_prepared(folder / "default") == ("a", "b", "c")
    assert load_plan(plans(planned)).grid.shape == (8, 8, 8)


def test_all_in_one_continues_and_tells_what_happened(planned, capsys):
    assert main_plan_and_preprocess(["--budget", "cpu", *folders(planned), *QUIET]) == 0
    text = capsys.readouterr().out
    for part in (
        "3 for training",
        "12 x 10 x 8",
        'Decided for configuration "default", budget cpu',
        "rule grid_shape",
        "0 cases prepared, 3 up to date",
        "meant to be edited",
    ):
        assert part in text
    following = shlex.split(text.splitlines()[-1].removeprefix("Next:"))
    assert following == ["autoreg_train", NAME, "--preprocessed", str(planned / "preprocessed")]


def test_a_data_set_named_twice_is_worked_on_once(planned, capsys):
    assert main_preprocess(["-d", "7", NAME, "007", *folders(planned), *QUIET]) == 0
    assert capsys.readouterr().out.count("3 up to date") == 1


def test_a_configuration_that_people_added_is_prepared_as_it_stands(planned, capsys):
    data = json.loads(plans(planned).read_text())
    data["configurations"]["small"] = {"inherits_from": "default", "grid": {"shape": [12, 8, 8]}}
    plans(planned).write_text(json.dumps(data))
    assert main_plan_and_preprocess(["--config", "small", *folders(planned), *QUIET]) == 0
    text = capsys.readouterr().out
    assert '"small" is yours: taken as it stands' in text
    assert "autoreg_train Dataset007_Blobs --config small" in text
    assert list_prepared(plans(planned).parent / "small") == ("a", "b", "c")


def test_a_data_set_may_be_given_by_its_path(planned, tmp_path, capsys):
    path = planned / "raw" / NAME
    flags = ["--raw", str(tmp_path), "--preprocessed", str(planned / "preprocessed")]
    assert main_preprocess(["-d", str(path), *flags, *QUIET]) == 0
    assert "3 up to date" in capsys.readouterr().out


# mistakes: one message, exit status 2


def fails(command, arguments, capsys):
    assert command(arguments) == 2
    return capsys.readouterr().err


def test_without_a_fingerprint_nothing_is_planned(tmp_path, capsys):
    native(tmp_path / "raw" / NAME)
    error = fails(main_plan, folders(tmp_path), capsys)
    assert f"run autoreg_fingerprint -d {NAME} first" in error


def test_an_outdated_fingerprint_is_refused(planned, tmp_path, capsys):
    native(tmp_path / "raw" / NAME, ("a", "b"))
    preprocessed = ["--preprocessed", str(planned / "preprocessed")]
    error = fails(main_plan, ["--raw", str(tmp_path / "raw"), *preprocessed], capsys)
    assert "has changed since" in error
    assert "autoreg_fingerprint" in error


def test_without_a_plan_nothing_is_prepared(tmp_path, capsys):
    native(tmp_path / "raw" / NAME)
    assert "run autoreg_plan first" in fails(main_preprocess, folders(tmp_path), capsys)


def test_an_unknown_configuration_is_met_with_a_guess(planned, capsys):
    error = fails(main_preprocess, ["--config", "defualt", *folders(planned)], capsys)
    assert 'did you mean "default"' in error
    error = fails(main_preprocess, ["--config", "nope", *folders(planned)], capsys)
    assert "known: default" in error


@pytest.mark.parametrize("command", [main_plan, main_preprocess, main_plan_and_preprocess])
def test_an_impossible_configuration_name_stops_before_any_work(tmp_path, command, capsys):
    native(tmp_path / "raw" / NAME)
    for name in (".", "..", "a/b"):
        error = fails(command, ["--config", name, *folders(tmp_path)], capsys)
        assert f'"{name}" (--config): a configuration names a folder' in error
    assert not (tmp_path / "preprocessed").exists()


def test_a_new_configuration_is_announced(planned, capsys):
    flags = ["-d", "7", "--budget", "cpu", "--config", "second", *folders(planned)]
    assert main_plan(flags) == 0
    assert 'Note: the configuration "second" is new, beside default' in capsys.readouterr().out
    assert main_plan(flags) == 0
    assert "is new" not in capsys.readouterr().out


def test_another_architecture_is_planned_beside_the_default(planned, capsys):
    flags = ["-d", "7", "--budget", "cpu", *folders(planned)]
    before = load_plan(plans(planned))
    assert main_plan_and_preprocess(["--architecture", "sitreg", *flags, *QUIET]) == 0
    assert f"autoreg_train {NAME} --config sitreg" in capsys.readouterr().out
    assert load_plan(plans(planned), "sitreg").network.architecture == "sitreg"
    assert load_plan(plans(planned)) == before


@pytest.mark.parametrize(
    ("flags", "name", "architecture"),
    [
        ([], "default", None),
        (["--config", "large"], "large", None),
        (["--architecture", "transmorph"], "transmorph", "transmorph"),
        (["--architecture", "transmorph", "--config", "swin"], "swin", "transmorph"),
        (["--config", "sitreg"], "sitreg", "sitreg"),  # planned again, it stays what it is
        (["--config", "sitreg", "--architecture", "gradicon"], "sitreg", "gradicon"),
    ],
)
def test_configuration_and_architecture_name_each_other(
    planned, monkeypatch, flags, name, architecture
):
    asked = []

    def plan(fingerprint, budget, configuration, architecture):
        asked.append((configuration, architecture))
        raise PlanError("stop here")

    monkeypatch.setattr("autoreg.planning.steps.plan_from_fingerprint", plan)
    assert main_plan([*flags, "-d", "7", "--budget", "cpu", *folders(planned)]) == 2
    assert asked == [(name, architecture)]


def test_your_own_configuration_is_not_planned_with_another_architecture(planned, capsys):
    data = json.loads(plans(planned).read_text())
    data["configurations"]["mine"] = {"inherits_from": "default"}
    plans(planned).write_text(json.dumps(data))
    flags = ["--config", "mine", "-d", "7", "--budget", "cpu", *folders(planned)]
    error = fails(main_plan, ["--architecture", "gradicon", *flags], capsys)
    assert '"mine" is yours, and its network is sitreg, not the gradicon' in error
    assert main_plan(["--architecture", "sitreg", *flags]) == 0


def test_an_unknown_device_is_refused(planned, capsys):
    error = fails(main_preprocess, ["--device", "tpu", *folders(planned)], capsys)
    assert "--device tpu: unknown" in error


def test_several_data_sets_are_listed_to_choose_from(tmp_path, capsys):
    for name in ("Dataset001_X", "Dataset002_Y"):
        native(tmp_path / "raw" / name)
    error = fails(main_fingerprint, folders(tmp_path), capsys)
    assert "Dataset001_X, Dataset002_Y" in error
    assert "-d" in error


def test_an_unknown_data_set_stops_before_any_work(planned, capsys):
    error = fails(main_fingerprint, ["-d", "7", "8", *folders(planned), *QUIET], capsys)
    assert 'none of them is "8"' in error


def test_bad_images_are_reported_unless_told_otherwise(tmp_path, capsys):
    folder = native(tmp_path / "raw" / NAME)
    write_array(folder / "labelsTr" / "a.nii.gz", blob() + 0.5)
    assert "labelsTr" in fails(main_fingerprint, [*folders(tmp_path), *QUIET], capsys)
    assert not (tmp_path / "preprocessed").exists()
    (folder / "labelsTr" / "a.nii.gz").unlink()
    assert main_fingerprint([*folders(tmp_path), *QUIET]) == 0


def test_what_was_verified_is_not_opened_again(tmp_path, monkeypatch):
    native(tmp_path / "raw" / NAME)
    arguments = [*folders(tmp_path), *QUIET]
    assert main_fingerprint(arguments) == 0

    def opened(*args, **kwargs):
        raise AssertionError("verified twice")

    monkeypatch.setattr("autoreg.planning.steps.require_valid", opened)
    monkeypatch.setattr("autoreg.planning.steps.compute_fingerprint", opened)
    assert main_fingerprint(arguments) == 0
    with pytest.raises(AssertionError, match="verified twice"):
        main_fingerprint([*arguments, "--overwrite"])
    write_json(tmp_path / "raw" / NAME / "dataset.json", {"modality": {"0": "MR"}})
    with pytest.raises(AssertionError, match="verified twice"):
        main_fingerprint(arguments)


@pytest.mark.parametrize("workers", ["0", "-1", "two"])
def test_workers_are_a_positive_number(workers, capsys):
    with pytest.raises(SystemExit) as caught:
        main_preprocess(["--workers", workers])
    assert caught.value.code == 2
    assert "--workers" in capsys.readouterr().err
