"""Interrupted and finished trainings: what goes on, and what is left alone."""

import json

import torch
from training_runs import (
    error_of,
    interrupt_in_epoch,
    losses_of,
    progress_of,
    run,
    weights_of,
)

from autoreg.planning.plans_file import plans_path
from autoreg.training import trainer
from autoreg.training.checkpoint import load_checkpoint
from autoreg.training.model_folder import checkpoint_path, load_network
from autoreg.training.splits import SPLITS_NAME


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


def test_continue_writes_a_final_checkpoint_that_is_missing(make_blobs):
    blobs = make_blobs()
    assert run(blobs) == 0
    weights, final = weights_of(blobs), checkpoint_path(blobs.model, "0", "final")
    final.unlink()  # as if the process had ended while it was being written
    assert run(blobs, "--continue") == 0
    assert all(torch.equal(weights[key], value) for key, value in weights_of(blobs).items())


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
    assert "is finished after 2 epochs" in error_of(capsys)
    assert run(blobs, "--fold", "1", "--epochs", "1") == 2
    assert "fold_0 was trained by another plan: training" in error_of(capsys)
    before = (blobs.model / "fold_0" / "checkpoint_final.pt").read_bytes()
    assert run(blobs, "--overwrite", "--epochs", "1") == 0
    assert len(losses_of(blobs)) == 1
    # The new training may be worse: the old one stays a model folder that can be predicted with.
    kept = blobs.model / "replaced_1"
    assert (kept / "fold_0" / "checkpoint_final.pt").read_bytes() == before
    assert load_network(kept).plan.training.epochs == 2
    # People delete these folders, in any order.
    kept.rename(blobs.model / "replaced_2")
    for name in ("replaced_1", "replaced_3"):
        assert run(blobs, "--overwrite", "--epochs", "1") == 0
        assert (blobs.model / name / "fold_0" / "checkpoint_final.pt").exists()


def test_other_pairs_are_not_gone_on_with(make_blobs, capsys, monkeypatch):
    blobs = make_blobs()
    with monkeypatch.context() as patch:
        interrupt_in_epoch(patch, 3)
        assert run(blobs) == 130
    path = blobs.preprocessed / blobs.plan.dataset / SPLITS_NAME
    before = path.read_text()
    splits = json.loads(before)
    fold = splits["folds"][0]
    moved = fold["validation"].pop()
    fold["training"].append(moved)
    fold["validation"].append(fold["training"].pop(0))
    path.write_text(json.dumps(splits))
    capsys.readouterr()
    assert run(blobs, "--continue") == 2
    text = error_of(capsys)
    assert f"training now has {moved}" in text
    assert "validation no longer has" in text
    assert "Put splits.json and the data set back as they were" in text
    path.write_text(before)
    assert run(blobs, "--continue") == 0


def test_what_a_killed_training_left_half_written_is_removed_and_what_it_lacks_made_up_for(
    make_blobs, monkeypatch
):
    blobs = make_blobs(epochs=2, shallow_epochs=0, validation_every=1)
    folder = blobs.model / "fold_0"

    def killed(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        # Between the last checkpoint and everything that is written after it.
        patch.setattr(trainer, "describe", lambda *_: killed() if saved() == 2 else "epoch")
        patch.setattr(trainer, "write_progress", lambda *_, **__: saved() == 2 and killed())

        def saved():
            path = folder / "checkpoint_latest.pt"
            return load_checkpoint(path).epoch if path.exists() else 0

        assert run(blobs) == 130
    (folder / ".partial_x_checkpoint_latest.pt").write_bytes(b"half")
    assert not (folder / "progress.json").exists()
    assert run(blobs, "--continue") == 0
    assert len(losses_of(blobs)) == 2
    assert progress_of(blobs)["epochs"][1]["validation"] is not None
    assert not list(folder.glob(".partial*"))
