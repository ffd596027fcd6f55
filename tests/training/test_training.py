"""Whole trainings on tiny images, through the command."""

import dataclasses
import json
import logging
import re

import numpy as np
import pytest
import torch

from autoreg.errors import CheckpointError
from autoreg.io.cases import Pair
from autoreg.networks.factory import build_network
from autoreg.numerics.coordinates import unit_grid
from autoreg.planning.plans_file import plans_path
from autoreg.training import trainer
from autoreg.training.checkpoint import (
    Checkpoint,
    checkpoint_path,
    load_checkpoint,
    save_checkpoint,
)
from autoreg.training.cli import main
from autoreg.training.state import add_last_level, new_state, pretrained_state

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _quiet_root_logger():
    before = list(logging.getLogger().handlers)
    yield
    logging.getLogger().handlers = before


def run(blobs, *flags):
    return main([*blobs.flags, *flags])


def error_of(capsys):
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return text.split("error: ", 1)[1]


def progress_of(blobs, fold="0"):
    return json.loads((blobs.model / f"fold_{fold}" / "progress.json").read_text())


def losses_of(blobs, fold="0"):
    return [epoch["total"] for epoch in progress_of(blobs, fold)["epochs"]]


def weights_of(blobs, which="final", fold="0"):
    return load_checkpoint(checkpoint_path(blobs.model, fold, which)).network


def test_training_improves_the_registration_of_held_out_pairs(make_blobs):
    blobs = make_blobs(epochs=14, pairs_per_epoch=8, learning_rate=2e-3, validation_every=14)
    assert run(blobs, "--shallow-epochs", "4", "--augmentation-from", "99") == 0
    progress = progress_of(blobs)
    before, after = progress["before_training"], progress["epochs"][-1]["validation"]
    assert after["total"] < 0.8 * before["total"]
    assert after["tre_mm"] < before["tre_mm"]
    assert after["dice"] > before["dice"]
    totals = losses_of(blobs)
    assert np.mean(totals[-4:]) < 0.8 * np.mean(totals[:4])


def test_a_training_leaves_what_the_documentation_says(make_blobs, capsys):
    blobs = make_blobs()
    assert run(blobs, "--seed", "5", "--batch-size", "3") == 0
    assert capsys.readouterr().out == f"trained: {blobs.model / 'fold_0'}\n"
    assert {path.name for path in (blobs.model / "fold_0").iterdir()} == {
        "checkpoint_best.pt", "checkpoint_latest.pt", "checkpoint_final.pt", "training.log",
        "progress.json", "progress.png", "validation.json",
    }  # fmt: skip
    plan = json.loads((blobs.model / "plan.json").read_text())
    assert (plan["training"]["seed"], plan["training"]["batch_size"]) == (5, 3)
    assert json.loads((blobs.model / "dataset.json").read_text())["labels"] == {"blob": 1}
    progress = progress_of(blobs)
    assert progress["best_by"] == "dice"
    assert [e["levels"] for e in progress["epochs"]] == [1, 1, 2, 2]
    assert [e["augmented"] for e in progress["epochs"]] == [False, False, True, True]
    assert [e["validation"] is None for e in progress["epochs"]] == [True, False, True, False]
    log = (blobs.model / "fold_0" / "training.log").read_text()
    assert "epoch 4/4: loss" in log
    assert "the last level joins" in log
    png = (blobs.model / "fold_0" / "progress.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert not logging.getLogger("autoreg").handlers


def test_the_seed_decides_everything_and_the_workers_nothing(make_blobs, tmp_path):
    blobs = make_blobs()
    runs = []
    for name, flags in (
        ("alone", ()), ("again", ("--workers", "2")), ("other", ("--seed", "1")),
    ):  # fmt: skip
        assert run(blobs, "--results", str(tmp_path / name), "--fold", "all", *flags) == 0
        model = tmp_path / name / blobs.plan.dataset / "default"
        progress = json.loads((model / "fold_all" / "progress.json").read_text())
        weights = load_checkpoint(checkpoint_path(model, "all", "final")).network
        runs.append(([epoch["total"] for epoch in progress["epochs"]], weights))
    (losses, weights), (again, same), (other, _) = runs
    assert losses == again
    assert all(torch.equal(weights[key], same[key]) for key in weights)
    assert losses != other


def test_the_last_level_leaves_the_map_as_it_was(plan):
    state = new_state(plan, CPU)
    assert state.levels == 1
    with torch.no_grad():
        for parameter in state.network.parameters():
            parameter.add_(0.02)
    moving, fixed = (torch.rand(1, 1, 16, 16, 16) for _ in range(2))

    def displacement():
        state.network.eval()
        with torch.no_grad():
            return state.network(moving, fixed).fixed_to_moving.dense((16, 16, 16))

    before, optimiser = displacement(), state.optimiser
    assert (before - unit_grid((16, 16, 16))).abs().max() > 1e-3
    add_last_level(state, plan, CPU)
    assert state.levels == 2
    assert state.network.training is True
    assert state.optimiser is not optimiser
    after = displacement()
    torch.testing.assert_close(after, before, rtol=0, atol=1e-6)


def interrupt_in_epoch(monkeypatch, epoch):
    original = trainer._train_epoch

    def train_epoch(setup, state, batches, bar):
        if state.epoch == epoch:
            raise KeyboardInterrupt
        return original(setup, state, batches, bar)

    monkeypatch.setattr(trainer, "_train_epoch", train_epoch)


def test_continue_goes_on_as_if_nothing_had_happened(make_blobs, monkeypatch):
    blobs = make_blobs(epochs=5, shallow_epochs=3, validation_every=2)
    assert run(blobs) == 0
    losses, weights, best = losses_of(blobs), weights_of(blobs), weights_of(blobs, "best")
    # Once in the first stage (the last checkpoint has 2 epochs) and once in the second (4).
    for flag, epoch in (("--overwrite", 3), ("--continue", 4)):
        with monkeypatch.context() as patch:
            interrupt_in_epoch(patch, epoch)
            assert run(blobs, flag) == 130
        assert not checkpoint_path(blobs.model, "0", "final").exists()
    assert run(blobs, "--continue") == 0
    assert losses_of(blobs) == losses
    assert all(torch.equal(weights[key], value) for key, value in weights_of(blobs).items())
    assert all(torch.equal(best[key], value) for key, value in weights_of(blobs, "best").items())


def test_the_best_checkpoint_is_that_of_the_lowest_score_also_after_continuing(
    make_blobs, monkeypatch
):
    blobs = make_blobs(validation_every=1)
    scores = iter([3.0, 1.0, 2.0, 2.5])
    monkeypatch.setattr(trainer, "score", lambda summary: next(scores))
    with monkeypatch.context() as patch:
        interrupt_in_epoch(patch, 2)
        assert run(blobs) == 130
    assert run(blobs, "--continue") == 0
    assert load_checkpoint(checkpoint_path(blobs.model, "0", "best")).epoch == 2
    assert load_checkpoint(checkpoint_path(blobs.model, "0", "final")).epoch == 4


def test_continue_is_refused_where_it_would_be_another_training(make_blobs, capsys, monkeypatch):
    blobs = make_blobs()
    assert run(blobs, "--continue") == 2
    assert "nothing to continue" in error_of(capsys)
    with monkeypatch.context() as patch:
        interrupt_in_epoch(patch, 3)
        assert run(blobs) == 130
    capsys.readouterr()
    assert run(blobs, "--continue", "--learning-rate", "0.5") == 2
    assert "training.learning_rate was 0.001 and is now 0.5" in error_of(capsys)
    path = plans_path(blobs.preprocessed, blobs.plan.dataset)
    path.write_text(path.read_text().replace('"regularity_weight": 0.5', '"regularity_weight": 2'))
    assert run(blobs, "--continue") == 2
    assert "loss.regularity_weight was 0.5 and is now 2.0" in error_of(capsys)


def test_a_trained_fold_is_neither_continued_nor_replaced_unasked(make_blobs, capsys):
    blobs = make_blobs(epochs=2, shallow_epochs=0)
    assert run(blobs) == 0
    capsys.readouterr()
    assert run(blobs) == 2
    assert "is trained already" in error_of(capsys)
    assert run(blobs, "--continue") == 2
    assert "has all its 2 epochs" in error_of(capsys)
    assert run(blobs, "--fold", "1", "--epochs", "1") == 2
    assert "fold_0 was trained by another plan: training" in error_of(capsys)
    assert run(blobs, "--overwrite", "--epochs", "1") == 0
    assert len(losses_of(blobs)) == 1


def test_pretrained_weights_start_all_levels_at_once(make_blobs, tmp_path, plan):
    torch.manual_seed(3)
    network = build_network(plan.network, 1)
    model = tmp_path / "pretrained"
    checkpoint = Checkpoint(plan, "all", 2, 0, network.state_dict())
    save_checkpoint(checkpoint_path(model, "all", "final"), checkpoint)
    state = pretrained_state(plan, model, CPU)
    assert state.levels == 2
    for key, value in state.network.state_dict().items():
        assert torch.equal(value, network.state_dict()[key])
    blobs = make_blobs(epochs=1)
    assert run(blobs, "--pretrained", str(model)) == 0
    assert [e["levels"] for e in progress_of(blobs)["epochs"]] == [2]


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
        pretrained_state(plan, tmp_path, CPU)


def spoil(blobs, case):
    image = np.load(blobs.folder / f"{case}.npy")
    image[0, 3, 3, 3] = np.nan
    np.save(blobs.folder / f"{case}.npy", image)


def test_a_training_loss_that_is_not_a_number_names_the_pair(make_blobs, capsys):
    blobs = make_blobs(validation_pairs=(Pair("case2", "case3"),))
    record = blobs.preprocessed / blobs.plan.dataset / "pairs.json"
    pool = json.loads(record.read_text()) | {"pool": ["case0", "case1"]}
    record.write_text(json.dumps(pool))
    spoil(blobs, "case1")
    assert run(blobs) == 2
    text = error_of(capsys)
    assert "the loss is nan in epoch 1" in text
    assert "case1" in text
    assert "--learning-rate (now 0.001)" in text
    assert "stopped: AutoregError" in (blobs.model / "fold_0" / "training.log").read_text()


def test_a_validation_loss_that_is_not_a_number_shows_before_training(make_blobs, capsys):
    blobs = make_blobs(validation_pairs=(Pair("case2", "case3"),))
    spoil(blobs, "case3")
    assert run(blobs) == 2
    text = error_of(capsys)
    assert "validation: the loss of case3 to case2 is nan" in text
    assert "epoch 1" not in text


def test_a_broken_case_is_named_through_workers(make_blobs, capsys):
    blobs = make_blobs(cases=2)
    (blobs.folder / "case1.npy").write_bytes(b"short")
    assert run(blobs, "--workers", "2") == 2
    assert "case1.npy: 5 bytes found" in error_of(capsys)


def test_cases_must_be_prepared(make_blobs, capsys):
    blobs = make_blobs()
    (blobs.folder / "case2.json").unlink()
    assert run(blobs) == 2
    assert "1 cases of fold 0 are not prepared, e.g. case2" in error_of(capsys)


def test_cases_must_be_prepared_by_this_plan(make_blobs, capsys):
    blobs = make_blobs()
    path = plans_path(blobs.preprocessed, blobs.plan.dataset)
    text = path.read_text()
    assert '"upper": 0.99' in text
    path.write_text(text.replace('"upper": 0.99', '"upper": 0.95'))
    assert run(blobs) == 2
    assert "4 cases of fold 0 are prepared by another plan" in error_of(capsys)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--config", "defualt"), 'no configuration "defualt"; did you mean "default"'),
        (("--fold", "7"), "--fold 7: .*splits.json has the folds 0, 1, 2, 3, all"),
        (("--epochs", "4", "--shallow-epochs", "4"), "the last level would never be trained"),
        (("--device", "gpu"), "--device gpu: unknown"),
        (("--pretrained", "nowhere"), "nowhere: no fold with a checkpoint"),
        (("--preprocessed", "elsewhere"), 'elsewhere: 0 prepared data sets are "1"'),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_message(make_blobs, capsys, flags, message):
    assert run(make_blobs(), *flags) == 2
    assert re.search(message, error_of(capsys))


@pytest.mark.parametrize(
    "flags", [("--epochs", "0"), ("--learning-rate", "-1"), ("--epochs", "many"), ("--epoch", "3")]
)
def test_impossible_flags_are_refused_by_the_parser(make_blobs, capsys, flags):
    with pytest.raises(SystemExit) as stop:
        run(make_blobs(), *flags)
    assert stop.value.code == 2
    assert "usage: autoreg_train" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_training_on_cuda_follows_that_on_the_cpu(make_blobs, tmp_path):
    blobs = make_blobs(epochs=3, shallow_epochs=1, validation_every=1)
    totals = []
    for device in ("cpu", "cuda"):
        results = tmp_path / device
        assert run(blobs, "--results", str(results), "--device", device, "--workers", "2") == 0
        record = results / blobs.plan.dataset / "default" / "fold_0" / "progress.json"
        totals.append([epoch["total"] for epoch in json.loads(record.read_text())["epochs"]])
    np.testing.assert_allclose(totals[0], totals[1], rtol=2e-3)
