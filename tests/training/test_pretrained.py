"""Trainings that start from another model's weights."""

import dataclasses

import pytest
import torch
from training_runs import (
    error_of,
    interrupt_in_epoch,
    progress_of,
    run,
    weights_of,
)

from autoreg.errors import CheckpointError
from autoreg.networks.factory import build_network
from autoreg.training import trainer
from autoreg.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from autoreg.training.model_folder import checkpoint_path
from autoreg.training.state import load_pretrained, pretrained_state

CPU = torch.device("cpu")


def test_pretrained_weights_start_all_levels_at_once(make_blobs, tmp_path, plan):
    torch.manual_seed(3)
    network = build_network(plan.network, 1)
    model = tmp_path / "pretrained"
    checkpoint = Checkpoint(plan, "all", 2, 0, network.state_dict())
    save_checkpoint(checkpoint_path(model, "all", "final"), checkpoint)
    state = pretrained_state(plan, load_pretrained(plan, model), CPU)
    assert state.levels == 2
    for key, value in state.network.state_dict().items():
        assert torch.equal(value, network.state_dict()[key])
    blobs = make_blobs(epochs=1)
    assert run(blobs, "--pretrained", str(model)) == 0
    assert [e["levels"] for e in progress_of(blobs)["epochs"]] == [2]


def test_a_trained_fold_can_start_itself_anew_and_is_not_lost_to_a_wrong_model(make_blobs, capsys):
    blobs = make_blobs()
    assert run(blobs) == 0
    before = weights_of(blobs)
    assert run(blobs, "--overwrite", "--pretrained", str(blobs.model / "typo")) == 2
    assert "no fold with a checkpoint" in error_of(capsys)
    assert all(torch.equal(before[key], value) for key, value in weights_of(blobs).items())
    flags = ("--pretrained", str(blobs.model), "--epochs", "1", "--learning-rate", "1e-9")
    assert run(blobs, "--overwrite", *flags) == 0
    for key, value in weights_of(blobs).items():
        if "running" not in key and "tracked" not in key:
            torch.testing.assert_close(value, before[key], rtol=0, atol=1e-6)


@pytest.mark.parametrize("change", ["width", "levels", "channels"])
def test_pretrained_weights_of_another_network_are_refused(tmp_path, plan, change):
    theirs, levels = plan, 2
    if change == "width":
        theirs = dataclasses.replace(plan, network=dataclasses.replace(plan.network, width=0.25))
    if change == "levels":
        levels = 1
    if change == "channels":
        theirs = dataclasses.replace(
            plan, fixed_modalities=("MR", "MR"), moving_modalities=("MR", "MR")
        )
    path = checkpoint_path(tmp_path, "all", "final")
    save_checkpoint(path, Checkpoint(theirs, "all", levels, 0, {}))
    with pytest.raises(CheckpointError, match=r"its network is not that of configuration"):
        load_pretrained(plan, tmp_path)


def save_two_folds(model, plan):
    for seed, fold in enumerate(("0", "1")):
        torch.manual_seed(seed)
        weights = build_network(plan.network, 1).state_dict()
        path = checkpoint_path(model, fold, "final")
        save_checkpoint(path, Checkpoint(plan, fold, 2, 0, weights))


def test_one_of_several_folds_is_named_by_its_folder(tmp_path, plan, make_blobs, capsys):
    model = tmp_path / "pretrained"
    save_two_folds(model, plan)
    assert load_pretrained(plan, model / "fold_1").fold == "1"
    blobs = make_blobs(epochs=1)
    assert run(blobs, "--pretrained", str(model)) == 2
    text = error_of(capsys)
    assert "has the folds 0, 1" in text
    assert f"--pretrained {model / 'fold_0'}" in text
    assert run(blobs, "--pretrained", str(model / "fold_7")) == 2
    assert "fold 7 has no checkpoint; these have: 0, 1" in error_of(capsys)
    assert run(blobs, "--pretrained", str(model / "fold_0")) == 0


def test_the_pretrained_state_is_the_best_one_until_training_improves_on_it(
    make_blobs, monkeypatch
):
    blobs = make_blobs(epochs=3, validation_every=1)
    assert run(blobs, "--fold", "all") == 0
    start = weights_of(blobs, fold="all")
    scores = iter([2.0, 3.0, 2.5, 1.0])
    monkeypatch.setattr(trainer, "score", lambda summary: next(scores))
    flags = ("--pretrained", str(blobs.model), "--shallow-epochs", "0", "--results")
    flags = (*flags, str(blobs.root / "tuned"))
    tuned = blobs.root / "tuned" / blobs.plan.dataset / "default"
    for epoch in (0, 2):
        with monkeypatch.context() as patch:
            interrupt_in_epoch(patch, epoch)
            assert run(blobs, *flags, *(("--continue",) if epoch else ())) == 130
        best = load_checkpoint(checkpoint_path(tuned, "0", "best"))
        assert best.epoch == 0
        assert all(torch.equal(best.network[key], value) for key, value in start.items())
    assert run(blobs, *flags, "--continue") == 0
    assert load_checkpoint(checkpoint_path(tuned, "0", "best")).epoch == 3
