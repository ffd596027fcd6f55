"""The commands one after the other, as a user runs them, with each architecture."""

import json

import numpy as np
import pytest
from raw_datasets import blob, write_array, write_json

from autoreg.evaluation.cli import main as main_evaluate
from autoreg.inference.cli import main_predict
from autoreg.planning import rules
from autoreg.planning.cli import main_plan_and_preprocess
from autoreg.training.cli import main as main_train

NAME = "Dataset001_Balls"
CENTRES = {"a": (5.0, 4.5, 4.0), "b": (6.5, 5.0, 3.5), "c": (6.0, 4.0, 4.5)}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Three balls at different places, with labels and spacings that differ between the axes."""
    root = tmp_path_factory.mktemp("raw")
    for number, (case, centre) in enumerate(CENTRES.items()):
        image = blob(centre=centre, seed=number)
        for part, array in (("imagesTr", image), ("labelsTr", (image > 0).astype(np.uint8))):
            name = f"{case}_0000" if part == "imagesTr" else case
            write_array(root / NAME / part / f"{name}.nii.gz", array, spacing=(1.5, 1.0, 2.0))
    description = {
        "modality": {"0": "MR"},
        "labels": {"1": "ball"},
        "test_pairs": [{"fixed": "a", "moving": "b"}],
    }
    write_json(root / NAME / "dataset.json", description)
    return root


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The memory estimates, which have tests of their own, take most of the planner's time."""
    for name in ("training_bytes", "instance_optimisation_bytes", "prediction_bytes"):
        monkeypatch.setattr(rules, name, lambda *_, **__: 1)


@pytest.mark.parametrize("architecture", ["gradicon", "sitreg", "transmorph"])
def test_plan_train_predict_and_evaluate(raw, tmp_path, capsys, architecture):
    prepared = ["--preprocessed", str(tmp_path / "preprocessed")]
    results, out = ["--results", str(tmp_path / "results")], tmp_path / "out"
    cpu = ["--device", "cpu"]

    plan = ["-d", "1", "--raw", str(raw), "--budget", "cpu", "--architecture", architecture]
    assert main_plan_and_preprocess([*plan, *prepared, "--workers", "1", "--no-progress"]) == 0
    short = ["--epochs", "2", "--pairs-per-epoch", "1", "--workers", "0", "--no-progress"]
    fold = ["--config", architecture, "--fold", "all"]
    assert main_train(["1", *fold, *short, *prepared, *results, *cpu]) == 0
    pairs = ["-i", str(raw / NAME), "-o", str(out), "--io-steps", "2"]
    model = ["-d", "1", "--config", architecture, *results]
    assert main_predict([*pairs, *model, *cpu]) == 0
    assert main_evaluate(["-i", str(out), *cpu, "--workers", "1", "--no-figures"]) == 0

    assert "Traceback" not in capsys.readouterr().err
    trained = json.loads((tmp_path / "results" / NAME / architecture / "plan.json").read_text())
    assert trained["network"]["architecture"] == architecture
    (found,) = out.glob("*/result.json")
    assert json.loads(found.read_text())["optimisation"]["steps"] == 2
    summary = json.loads((out / "summary.json").read_text())
    assert len(summary["cases"]) == 1
    for metric in ("dice", "ndv_fraction"):
        assert np.isfinite(summary["metrics"][metric]["registered"]["mean"])
