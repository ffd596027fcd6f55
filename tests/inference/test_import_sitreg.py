"""What the authors' configuration of SITReg becomes in a plan, and what is refused."""

import json
from dataclasses import replace

import pytest
import torch
from published_files import SETTINGS, SITREG, random_state, save_sitreg, settings, sitreg_state

from autoreg.inference import published_plan
from autoreg.inference.cli import main_import_weights
from autoreg.plan import MemoryPlan
from autoreg.training.model_folder import load_network


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The memory estimate, which has tests of its own, takes most of an import's time."""
    monkeypatch.setattr(published_plan, "estimate_memory", lambda *_, **__: MemoryPlan(0, 0, 0, 0))


def run(file, model, *flags):
    return main_import_weights([str(file), "--from", "sitreg", "-o", str(model), *flags])


def imported_plan(folder, content):
    assert run(save_sitreg(folder, content), folder / "model") == 0
    return json.loads((folder / "model" / "plan.json").read_text())


def test_the_plan_says_what_the_configuration_says(tmp_path):
    plan = imported_plan(tmp_path, SETTINGS)
    network = plan["network"]
    assert network["features"] == [4, 8, 8]
    assert network["deformation_features"] == [6, 8, None]
    assert (network["groups"], network["normalise_deformations"]) == (2, False)
    assert network["bound_share"] == 0.9
    assert network["voxel_size"] == plan["grid"]["spacing_mm"] == [1.5, 2.0, 1.0]
    # Twice the authors' 1.5, which goes with the mean of both directions instead of their sum.
    assert (plan["loss"]["regularity"], plan["loss"]["regularity_weight"]) == ("diffusion", 3.0)
    assert plan["loss"]["similarity_parameters"] == {"window": 11.0}
    assert plan["loss"]["folding_weight"] == 1e-5


def test_the_weights_are_those_of_the_file_without_empty_buffers(tmp_path):
    assert run(save_sitreg(tmp_path), tmp_path / "model") == 0
    state = load_network(tmp_path / "model").network.state_dict()
    expected = sitreg_state()
    assert list(state) == list(expected)
    assert all(torch.equal(state[key], expected[key]) for key in expected)


@pytest.mark.parametrize(
    ("module", "data", "expected"),
    [
        ("oasis", {}, {"MR": {"kind": "window", "lower": 0.0, "upper": 1.0}}),
        (
            "lumir",
            {"shift_and_normalize": [0.0, 255.0]},
            {"MR": {"kind": "window", "lower": 0.0, "upper": 255.0}},
        ),
        ("oasis", {"normalize": True}, {"MR": {"kind": "quantiles", "lower": 0.0, "upper": 1.0}}),
        (
            "nlst",
            {"clip": [0.0, 1024.0], "shift_and_normalize": [0.0, 1024.0]},
            {"CT": {"kind": "window", "lower": -1024.0, "upper": 0.0}},
        ),
    ],
)
def test_intensities_are_scaled_as_by_the_authors_readers(tmp_path, module, data, expected):
    assert imported_plan(tmp_path, settings(data, module))["intensity"] == expected


def test_settings_may_lie_elsewhere_and_hold_the_model_alone(tmp_path, capsys):
    file = save_sitreg(tmp_path / "weights", None)
    assert run(file, tmp_path / "model") == 2
    message = capsys.readouterr().err
    assert "--settings FILE.json" in message
    assert "training_config.json" in message
    alone = tmp_path / "model.json"
    alone.write_text(json.dumps(SETTINGS["application"]["config"]["model"]))
    flags = ["--settings", str(alone), "--window", "0", "80", "--grid", "20", "18", "12"]
    assert run(file, tmp_path / "model", *flags) == 0
    plan = load_network(tmp_path / "model").plan
    assert plan.grid.shape == (20, 18, 12)
    assert plan.intensity["MR"].upper == 80
    told = capsys.readouterr().out
    assert "LocalNormalizedCrossCorrelationLoss expected: a windowed NCC of 7 voxels" in told
    assert "nothing of the intensities" not in told
    assert run(file, tmp_path / "other", *flags[:2]) == 0
    assert "nothing of the intensities: 0 to 1 is taken" in capsys.readouterr().out


def test_what_the_plan_does_otherwise_is_told(tmp_path, capsys):
    content = settings({"clip": [0.0, 512.0], "shift_and_normalize": [0.0, 1024.0]})
    loss = content["application"]["config"]["training"]["loss"]
    loss["similarity"][0].append({"type": "GlobalMutualInformationLoss"})
    loss["regularity"] = []
    imported_plan(tmp_path, content)
    told = capsys.readouterr().out
    assert "clipped to 0 to 512; the plan clips to 0 to 1024" in told
    assert "the loss GlobalMutualInformationLoss of the configuration is left out" in told
    assert "nothing is configured and GradientDeformationLoss expected" in told
    imported_plan(tmp_path / "faithful", SETTINGS)
    told = capsys.readouterr().out
    assert told.count("note:") == 2
    assert "of the configuration, n_epochs, displacement_field_inversion are not taken over" in told
    assert "group consistency" not in told


def test_a_training_that_the_plan_does_not_repeat_is_told(tmp_path, capsys):
    content = settings()
    training = content["application"]["config"]["training"]
    training["optimizer"] = {"learning_rate": 1e-4}
    training["loss"]["consistency_loss_weight_per_epoch"] = [0.0, 0.0, 40.0]
    plan = imported_plan(tmp_path, content)
    told = capsys.readouterr().out
    for name in ("n_epochs", "optimizer", "loss.consistency_loss_weight_per_epoch"):
        assert f" {name}" in told.split("not taken over")[0]
    assert "trained with group consistency (weight up to 40), the plan has none" in told
    assert plan["training"]["group_consistency"]["weight"] == 0
    training["loss"]["consistency_loss_weight_per_epoch"] = [0.0]
    imported_plan(tmp_path / "without", content)
    assert "trained with group consistency" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"max_displacements": [0.3, 0.3, 0.3]}, "weights of that release cannot be imported"),
        ({"transformation_downsampling_factor": [2.0, 2.0, 2.0]}, "only maps at the images' own"),
        ({"n_features_per_resolution": [4, 8, 10]}, "of another shape: _feature_extractor"),
        ({"n_transformation_features_per_resolution": [6, None, 8],
          "n_transformation_convolutions_per_resolution": [2, None, 2],
          "n_features_per_resolution": [4, 8, 6]}, "of another shape"),
        ({"predict_affine": True}, "missing: _affine_extraction_network"),
        ({"use_normalization_in_deformation_extraction": True}, "belong to another configuration"),
        ({"n_transformation_convolutions_per_resolution": [2, 1, None]}, "one number for all"),
        ({"normalizer": {"type": "BatchNorm", "args": {"n_groups": 2}}}, "GroupNormalizerFactory"),
        ({"activation": {"type": "Swish"}}, "expected one of ReLUFactory"),
        ({"normalizer": {"type": "GroupNormalizerFactory", "args": {"n_groups": 3}}}, "groups (3)"),
        ({"n_featuers": 3}, 'unknown key "n_featuers"'),
        ({"input_shape": [16, 12]}, "input_shape"),
    ],
)  # fmt: skip
def test_a_configuration_that_cannot_be_followed_is_refused(tmp_path, capsys, changed, expected):
    assert run(save_sitreg(tmp_path, settings(**changed)), tmp_path / "model") == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_an_affine_stage_is_imported_and_keeps_its_grid(tmp_path, capsys):
    content = settings(predict_affine=True, input_shape=[4, 3, 4])
    state = random_state(replace(SITREG, affine=True), "final_convolution")
    file = save_sitreg(tmp_path, content, state)
    assert run(file, tmp_path / "other", "--grid", "8", "8", "8") == 2
    assert "affine stage" in capsys.readouterr().err
    assert run(file, tmp_path / "model") == 0
    assert load_network(tmp_path / "model").plan.network.affine
