"""Trainings that end in the middle, and go on as if they had not."""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from training_runs import interrupt_in_step, run, steps_of, weights_of

from autoreg.training import steps_log, trainer
from autoreg.training.checkpoint import load_checkpoint
from autoreg.training.model_folder import checkpoint_path
from autoreg.training.stopping import StopRequest, stop_signals
from autoreg.training.validation import Validator

OFTEN = ("--checkpoint-minutes", "0.000001")


def latest(blobs):
    return load_checkpoint(checkpoint_path(blobs.model, "0", "latest"))


def assert_equal_weights(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], value) for key, value in other.items())


@pytest.mark.parametrize(
    "flags",
    [
        ("--gradients", "gradient_projection", "--accumulation-steps", "2"),
        ("--precision", "bfloat16", "--workers", "1"),
    ],
)
def test_every_step_after_an_interruption_is_that_of_the_uninterrupted_training(
    make_blobs, monkeypatch, flags
):
    # Two stages, augmentation from epoch 2 on, two steps and a half in each epoch.
    blobs = make_blobs(epochs=5, shallow_epochs=2, pairs_per_epoch=5, validation_every=2)
    assert run(blobs, *flags) == 0
    steps, weights, best = steps_of(blobs), weights_of(blobs), weights_of(blobs, "best")
    assert len(steps) == 1 + 5 * 3
    # With a checkpoint after each step, and once (the last one) with an older one only.
    for resume, place, often in (
        ("--overwrite", (0, 2), OFTEN),
        ("--continue", (1, 1), OFTEN),
        ("--continue", (2, 0), OFTEN),
        ("--continue", (3, 2), ()),
    ):
        with monkeypatch.context() as patch:
            interrupt_in_step(patch, *place)
            assert run(blobs, resume, *often, *flags) == 130
    assert run(blobs, "--continue", *flags) == 0
    assert steps_of(blobs) == steps
    assert_equal_weights(weights_of(blobs), weights)
    assert_equal_weights(weights_of(blobs, "best"), best)


def test_checkpoints_come_by_the_clock(make_blobs, monkeypatch):
    blobs = make_blobs(epochs=3, shallow_epochs=0, pairs_per_epoch=6, validation_every=3)
    for flags, expected in ((OFTEN, 5), ((), 0)):
        with monkeypatch.context() as patch:
            interrupt_in_step(patch, 1, 2)
            assert run(blobs, "--overwrite", *flags) == 130
        found = latest(blobs)
        assert 3 * found.epoch + len(found.resume.epoch_so_far.steps) == expected


def started(blobs, *flags, before=""):
    program = f"{before}\nimport sys; from autoreg.training.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, *blobs.flags, *flags]
    # As many threads as here: another number adds in another order.
    threads = str(torch.get_num_threads())
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    )


def wait_for_steps(blobs, count, process):
    path = blobs.model / "fold_0" / "steps.csv"
    for _ in range(1200):
        if path.exists() and len(path.read_text().splitlines()) > count:
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    raise AssertionError("no steps for a minute")


SIZE = {"epochs": 20, "shallow_epochs": 10, "validation_every": 20}


@pytest.fixture(scope="module")
def uninterrupted(make_blobs_in, tmp_path_factory):
    whole = make_blobs_in(tmp_path_factory.mktemp("whole"), **SIZE)
    assert run(whole) == 0
    return whole


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGKILL, -9), (signal.SIGINT, 130)],
)
def test_a_process_ended_by_a_signal_goes_on_exactly(
    make_blobs_in, tmp_path, uninterrupted, number, status
):
    blobs = make_blobs_in(tmp_path, **SIZE)
    process = started(blobs, *OFTEN)
    wait_for_steps(blobs, 8, process)
    process.send_signal(number)
    text = process.communicate(timeout=60)[0]
    assert process.returncode == status, text
    assert "Traceback" not in text
    if number != signal.SIGKILL:
        assert "go on with --continue" in text
        # Nothing is repeated: the checkpoint holds all that was done.
        found = latest(blobs)
        done = 2 * found.epoch + len(found.resume.epoch_so_far.steps)
        assert len(steps_of(blobs)) == 1 + done
    assert 8 <= len(steps_of(blobs)) < 41
    assert run(blobs, "--continue") == 0
    assert steps_of(blobs) == steps_of(uninterrupted)
    assert_equal_weights(weights_of(blobs), weights_of(uninterrupted))


def test_a_signal_during_validation_does_not_cost_the_epoch(make_blobs, monkeypatch):
    blobs = make_blobs(epochs=2, shallow_epochs=0, validation_every=1)
    assert run(blobs) == 0
    steps, weights = steps_of(blobs), weights_of(blobs)
    original = Validator._one

    def one(validator, network, pair):
        if validator.stop_now:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(validator, network, pair)

    monkeypatch.setattr(Validator, "_one", one)
    monkeypatch.setattr(Validator, "stop_now", True, raising=False)
    assert run(blobs, "--overwrite") == 143  # before the first step
    assert run(blobs, "--continue") == 143
    monkeypatch.setattr(Validator, "stop_now", False)
    with monkeypatch.context() as patch:
        interrupt_in_step(patch, 0, 1)
        assert run(blobs, "--continue") == 130
    monkeypatch.setattr(Validator, "stop_now", True)
    assert run(blobs, "--continue") == 143  # after the first epoch
    assert latest(blobs).epoch == 1
    monkeypatch.setattr(Validator, "stop_now", False)
    assert run(blobs, "--continue") == 0
    assert steps_of(blobs) == steps
    assert_equal_weights(weights_of(blobs), weights)
    assert latest(blobs).resume.records[0].validation is not None


def test_a_full_disk_at_a_checkpoint_by_the_clock_does_not_end_the_training(
    make_blobs, monkeypatch, capsys
):
    from autoreg.errors import UsageError

    blobs = make_blobs(epochs=2, shallow_epochs=0, validation_every=2)
    original, calls = trainer.save_checkpoint, []

    def save(path, checkpoint):
        calls.append(path.name)
        if len(calls) == 2:  # the first one is written before training
            raise UsageError(f"{path}: the disk is full")
        original(path, checkpoint)

    monkeypatch.setattr(trainer, "save_checkpoint", save)
    assert run(blobs, *OFTEN) == 0
    assert "not written, tried again later" in capsys.readouterr().err
    assert len(calls) > 3


def test_the_scale_of_float16_is_kept(make_blobs, monkeypatch):
    flags = ("--precision", "float16", *OFTEN)
    blobs = make_blobs(epochs=2, shallow_epochs=1, pairs_per_epoch=3, batch_size=1)
    # It grows with every second step here, in place of every 2000th.
    scaler = functools.partial(torch.amp.GradScaler, growth_interval=2)
    monkeypatch.setattr(torch.amp, "GradScaler", scaler)
    assert run(blobs, *flags) == 0
    steps, weights, scale = steps_of(blobs), weights_of(blobs), latest(blobs).resume.scaler
    assert scale["scale"] != 65536
    with monkeypatch.context() as patch:
        interrupt_in_step(patch, 1, 1)
        assert run(blobs, "--overwrite", *flags) == 130
    assert run(blobs, "--continue", *flags) == 0
    assert steps_of(blobs) == steps
    assert latest(blobs).resume.scaler == scale
    assert_equal_weights(weights_of(blobs), weights)


def test_a_log_of_steps_that_cannot_be_written_does_not_end_the_training(
    make_blobs, monkeypatch, capsys
):
    blobs = make_blobs(epochs=2, shallow_epochs=0)
    # A device that is always full.
    monkeypatch.setattr(steps_log, "STEPS_NAME", "full.csv")
    original = steps_log.Path.open

    def opened(path, mode="r", *arguments, **options):
        target = Path("/dev/full") if path.name == "full.csv" and mode == "a" else path
        return original(target, mode, *arguments, **options)

    monkeypatch.setattr(steps_log.Path, "open", opened)
    assert run(blobs) == 0
    text = capsys.readouterr().err
    assert text.count("nothing more is written there") == 1
    assert "Traceback" not in text


def test_a_signal_to_all_processes_of_the_group_still_leaves_a_checkpoint(make_blobs_in, tmp_path):
    # As torchrun, systemd and batch systems send it; here while the training waits for its data.
    slow = """
import time
from autoreg.training.loading import PairLoader
original = PairLoader._load
PairLoader._load = lambda *arguments: time.sleep(1) or original(*arguments)
"""
    blobs = make_blobs_in(tmp_path, **SIZE)
    process = started(blobs, "--workers", "1", before=slow)
    wait_for_steps(blobs, 2, process)
    os.killpg(process.pid, signal.SIGTERM)
    text = process.communicate(timeout=60)[0]
    assert process.returncode == 143, text
    found = latest(blobs)
    done = 2 * found.epoch + len(found.resume.epoch_so_far.steps)
    assert len(steps_of(blobs)) == 1 + done


def test_one_more_signal_ends_at_once_but_not_within_two_seconds(monkeypatch):
    now = [10.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for hear in (StopRequest.hear, lambda stop, number: stop.receive(number, None)):
        stop = StopRequest()
        hear(stop, signal.SIGTERM)
        stop.receive(signal.SIGTERM, None)
        now[0] += 3
        with pytest.raises(KeyboardInterrupt):
            stop.receive(signal.SIGINT, None)
        assert stop.number == signal.SIGTERM


def test_what_is_ignored_from_the_start_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with stop_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.number == signal.SIGUSR1
    finally:
        signal.signal(signal.SIGHUP, before)
