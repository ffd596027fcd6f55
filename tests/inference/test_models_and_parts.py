import sys

import pytest

from autoreg.errors import UsageError
from autoreg.inference import parts
from autoreg.inference.cli import main_predict
from autoreg.inference.models import ModelRequest, choose_model
from autoreg.inference.parts import parse_gpus, part_commands, run_parts


@pytest.fixture
def results(tmp_path):
    for name in (
        "Dataset001_Brains/default",
        "Dataset001_Brains/large",
        "Dataset012_Lungs/default",
    ):
        (tmp_path / name / "fold_0").mkdir(parents=True)
        (tmp_path / name / "plan.json").write_text("{}")
        (tmp_path / name / "fold_0" / "checkpoint_best.pt").write_bytes(b"")
    (tmp_path / "Dataset003_Untrained" / "default").mkdir(parents=True)
    (tmp_path / "Dataset003_Untrained" / "default" / "plan.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize("name", ["12", "012", "Lungs", "Dataset012_Lungs"])
def test_a_data_set_is_found_by_number_or_name(results, name):
    expected = results / "Dataset012_Lungs" / "default"
    assert choose_model(ModelRequest(dataset=name), results) == expected


def test_the_configuration_decides_between_several(results):
    request = ModelRequest(dataset="1", configuration="large")
    assert choose_model(request, results) == results / "Dataset001_Brains" / "large"


def test_an_open_choice_lists_what_there_is(results):
    with pytest.raises(UsageError) as caught:
        choose_model(ModelRequest(), results)
    text = str(caught.value)
    assert text.startswith("3 trained models fit")
    assert "-d Dataset001_Brains --config large" in text
    assert "Untrained" not in text


def test_the_only_trained_model_needs_no_name(results):
    for configuration in ("default", "large"):
        (results / "Dataset001_Brains" / configuration / "plan.json").unlink()
    assert choose_model(ModelRequest(), results) == results / "Dataset012_Lungs" / "default"


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (ModelRequest(dataset="3"), "-d 3: no trained model"),
        (ModelRequest(dataset="Dataset001_Brain"), 'did you mean "Dataset001_Brains"'),
        (ModelRequest(dataset="brians"), 'did you mean "Dataset001_Brains"'),
        (ModelRequest(dataset="1", configuration="huge"), "--config huge: not trained"),
    ],
)
def test_what_is_not_there_is_said(results, request_, expected):
    with pytest.raises(UsageError, match=expected):
        choose_model(request_, results)


def test_a_folder_one_too_high_gets_a_hint(results):
    with pytest.raises(UsageError, match=r"did you mean .*Dataset012_Lungs/default"):
        choose_model(ModelRequest(folder=results / "Dataset012_Lungs"), results)


def test_flags_of_a_model_are_refused_where_there_is_none(tmp_path, capsys):
    arguments = ["-i", str(tmp_path), "-o", str(tmp_path / "o"), "--results", str(tmp_path / "r")]
    assert main_predict([*arguments, "--io", "none", "--fixed-modality", "CT"]) == 2
    assert "no trained model, so that --io, --fixed-modality would" in capsys.readouterr().err


def test_each_gpu_gets_its_part():
    commands = part_commands(["-i", "in", "--gpus", "0,3", "--io=none"], parse_gpus("0,3"))
    tails = [command[3:] for command in commands]
    assert tails == [
        ["-i", "in", "--io=none", "--num-parts", "2", "--part-id", "0", "--device", "cuda:0"],
        ["-i", "in", "--io=none", "--num-parts", "2", "--part-id", "1", "--device", "cuda:3"],
    ]
    assert part_commands(["--gpus=1", "-o", "x"], (1,))[0][3:5] == ["-o", "x"]


def test_exit_statuses_of_all_parts_are_collected():
    programs = [
        "import sys; sys.exit(0)",
        "import sys; sys.exit(3)",
        "import time; time.sleep(0.2)",
    ]
    assert run_parts([[sys.executable, "-c", program] for program in programs]) == [0, 3, 0]


def test_a_failing_part_is_named(pair_folder, tmp_path, model, monkeypatch, capsys):
    monkeypatch.setattr(parts, "_PROGRAM", "import sys; sys.exit(2 * ('cuda:4' in sys.argv))")
    flags = ["-i", str(pair_folder), "-o", str(tmp_path / "o"), "-m", str(model)]
    assert main_predict([*flags, "--gpus", "0,1"]) == 0
    assert main_predict([*flags, "--gpus", "0,4"]) == 2
    text = capsys.readouterr().err
    assert "1 of 2 parts failed: part 1 on cuda:4 (exit status 2)" in text
    assert "--continue" in text


def test_bad_input_is_said_once_before_any_part_begins(tmp_path, model, monkeypatch, capsys):
    monkeypatch.setattr(parts, "run_parts", lambda commands: pytest.fail("a part was started"))
    flags = ["-i", str(tmp_path / "absent"), "-o", str(tmp_path / "o"), "-m", str(model)]
    assert main_predict([*flags, "--gpus", "0,1"]) == 2
    assert "absent: no such file or folder" in capsys.readouterr().err
