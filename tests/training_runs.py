"""Trainings through the command, and what they leave behind."""

import json

from autoreg.training import stepping
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


def steps_of(blobs, fold="0"):
    return (blobs.model / f"fold_{fold}" / "steps.csv").read_text().splitlines()


def interrupt_in_epoch(monkeypatch, epoch):
    interrupt_in_step(monkeypatch, epoch, 0)


def interrupt_in_step(monkeypatch, epoch, step):
    original = stepping.Stepper.step

    def one_step(stepper, batch, index):
        if (stepper._state.epoch, index) == (epoch, step):
            raise KeyboardInterrupt
        return original(stepper, batch, index)

    monkeypatch.setattr(stepping.Stepper, "step", one_step)
