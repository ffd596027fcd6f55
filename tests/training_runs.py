"""Trainings through the command, and what they leave behind."""

import json

from autoreg.training import trainer
from autoreg.training.checkpoint import load_checkpoint
from autoreg.training.cli import main
from autoreg.training.model_folder import checkpoint_path


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


def interrupt_in_epoch(monkeypatch, epoch):
    original = trainer._train_epoch

    def train_epoch(setup, state, batches, bar):
        if state.epoch == epoch:
            raise KeyboardInterrupt
        return original(setup, state, batches, bar)

    monkeypatch.setattr(trainer, "_train_epoch", train_epoch)
