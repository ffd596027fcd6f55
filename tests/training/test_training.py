"""Whole trainings on tiny images, through the command."""

import json
import logging

import numpy as np
import pytest
import torch
from training_runs import (
    losses_of,
    progress_of,
    run,
)

from autoreg.io.atomic import locked_folder
from autoreg.networks.factory import build_network
from autoreg.numerics.coordinates import unit_grid
from autoreg.planning.prepared import load_prepared
from autoreg.registration.objective import Objective
from autoreg.training import early_stopping, trainer
from autoreg.training.checkpoint import load_checkpoint
from autoreg.training.model_folder import checkpoint_path
from autoreg.training.state import add_last_level, new_state
from autoreg.training_plan import SupervisionPlan

CPU = torch.device("cpu")


def test_training_improves_the_registration_of_held_out_pairs(make_blobs):
    blobs = make_blobs(epochs=14, pairs_per_epoch=8, learning_rate=1e-3, validation_every=2)
    assert run(blobs, "--shallow-epochs", "4", "--augmentation-from", "99") == 0
    progress = progress_of(blobs)
    validations = [e["validation"] for e in progress["epochs"] if e["validation"]]
    # So young a network goes up and down from epoch to epoch: the best is what is kept.
    before, after = progress["before_training"], min(validations, key=lambda v: v["total"])
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
        "progress.json", "progress.png", "validation.json", "steps.csv", "tensorboard",
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


@pytest.mark.parametrize("masked", [True, False])
def test_the_similarity_counts_inside_the_masks_if_the_plan_says_so(make_blobs, plan, masked):
    blobs = make_blobs(
        cases=2, epochs=1, shallow_epochs=0, batch_size=1, pairs_per_epoch=1,
        supervision=SupervisionPlan(masks=masked),
    )  # fmt: skip
    for name, low in (("case0", 3), ("case1", 6)):
        blobs.add_mask(name, low)
    assert run(blobs) == 0
    progress = progress_of(blobs, "all")
    validated = json.loads((blobs.model / "fold_all" / "validation.json").read_text())["pairs"]
    cases = [load_prepared(blobs.folder, name) for name in ("case0", "case1")]
    images = [torch.from_numpy(np.array(case.image))[None] for case in cases]
    masks = [torch.from_numpy(np.array(case.mask))[None, None] for case in cases]
    with torch.no_grad():
        identity = build_network(plan.network, 1)(*images)
        loss = Objective.from_plan(plan).bind(*images, *masks)(identity, torch.Generator())
        plain = Objective.from_plan(plan).bind(*images)(identity, torch.Generator())
    # A fresh network moves nothing, and swapping the two images leaves the sum as it is.
    expected = pytest.approx(float((loss if masked else plain).similarity), abs=1e-5)
    assert progress["epochs"][0]["similarity"] == expected
    assert progress["before_training"]["similarity"] == expected
    assert len(validated) == 2
    assert abs(float(plain.similarity) - float(loss.similarity)) > 0.01


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


def test_labels_and_landmarks_make_the_registration_better_where_they_are_learnt_from(make_blobs):
    scores = {}
    for name, supervision in (
        ("none", SupervisionPlan()),
        ("dice", SupervisionPlan(dice_weight=1.0)),
        ("landmarks", SupervisionPlan(landmark_weight=0.2)),
    ):
        # Statistics as they are: those of so short a training would lag behind its weights.
        blobs = make_blobs(
            name, cases=2, epochs=12, shallow_epochs=1, pairs_per_epoch=8, learning_rate=5e-4,
            validation_every=12, batch_norm="frozen", supervision=supervision,
        )  # fmt: skip
        assert run(blobs, "--augmentation-from", "99") == 0
        last = progress_of(blobs, "all")["epochs"][-1]
        assert (last["supervised"] is not None) == (name != "none")
        scores[name] = last["validation"]
    assert scores["dice"]["dice"] > scores["none"]["dice"] + 0.1
    assert scores["landmarks"]["tre_mm"] < 0.6 * scores["none"]["tre_mm"]


def test_a_training_ends_early_when_nothing_gets_better(make_blobs, monkeypatch, capsys):
    blobs = make_blobs(epochs=9, shallow_epochs=0, validation_every=1, early_stopping=2)
    scores = iter([5.0, 4.0, 4.5, 3.0, 3.5, 3.0, 1.0])
    known = {}

    def score(summary):
        if summary not in known:
            known[summary] = next(scores)
        return known[summary]

    monkeypatch.setattr(trainer, "score", score)
    monkeypatch.setattr(early_stopping, "score", score)
    assert run(blobs) == 0
    assert len(losses_of(blobs)) == 6
    assert "no better validation in the last 2: the training ends after 6 of 9" in (
        capsys.readouterr().err
    )
    assert load_checkpoint(checkpoint_path(blobs.model, "0", "final")).epoch == 6
    assert load_checkpoint(checkpoint_path(blobs.model, "0", "best")).epoch == 4
    assert run(blobs, "--continue") == 2
    assert "is finished after 6 epochs" in capsys.readouterr().err


def test_two_trainings_of_one_fold_at_once_are_refused(make_blobs, capsys):
    blobs = make_blobs()
    folder = blobs.model / "fold_0"
    with locked_folder(folder):
        assert run(blobs) == 2
    assert "another process is writing there" in capsys.readouterr().err
    assert run(blobs) == 0
