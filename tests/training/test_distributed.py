"""Trainings of two processes under torchrun, on the CPU."""

import csv
import json
import os
import subprocess
import sys

import pytest
import torch
from training_runs import error_of, run, steps_of, weights_of

from autoreg.planning.prepared import record_path
from autoreg.training.checkpoint import load_checkpoint
from autoreg.training.cli import main
from autoreg.training.model_folder import checkpoint_path
from autoreg.training.processes import Processes, started_processes
from autoreg.training.run import _require_shares
from autoreg.training_plan import SupervisionPlan

PROGRAM = "import sys; from autoreg.training.cli import main; sys.exit(main())"


def torchrun(tmp_path, blobs, *flags, program=PROGRAM):
    path = tmp_path / "train.py"
    path.write_text(program)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
        str(path), *blobs.flags, *flags,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=200, check=False
    )


def numbers(blobs):
    rows = list(csv.DictReader(steps_of(blobs)))
    return torch.tensor([[float(r["total"]), float(r["regularity"])] for r in rows])


def validated(blobs):
    content = json.loads((blobs.model / "fold_0" / "validation.json").read_text())["pairs"]
    return [(p["moving"], p["fixed"]) for p in content], torch.tensor(
        [[p["total"], p["dice"] or 0, p["tre_mm"] or 0] for p in content]
    )


# Batches of three and, at the end of each epoch, of two: uneven shares. Two stages, and both
# processes have a part of the validation.
SIZE = {
    "cases": 5, "epochs": 2, "shallow_epochs": 1, "pairs_per_epoch": 5, "batch_size": 3,
    "learning_rate": 1e-4,
}  # fmt: skip


@pytest.fixture(scope="module")
def alone(make_blobs_in, tmp_path_factory):
    """The same training by a single process."""
    blobs = make_blobs_in(tmp_path_factory.mktemp("alone"), **SIZE)
    assert run(blobs) == 0
    return blobs


def assert_equal_trainings(found, expected):
    torch.testing.assert_close(numbers(found), numbers(expected), rtol=2e-4, atol=1e-6)
    names, values = validated(found)
    wanted_names, wanted = validated(expected)
    assert names == wanted_names
    assert len(names) == 2
    torch.testing.assert_close(values, wanted, rtol=1e-3, atol=1e-4)
    for (name, one), other in zip(
        weights_of(found).items(), weights_of(expected).values(), strict=True
    ):
        # Adam's first steps have the size of the learning rate whatever the gradient's: where
        # this is rounding alone, weights differ by as much.
        limit = 2e-3 if "running" not in name else 1e-2
        torch.testing.assert_close(one, other, rtol=1e-2, atol=limit)


def test_two_processes_train_as_one_does(make_blobs_in, tmp_path, alone):
    blobs = make_blobs_in(tmp_path / "two", **SIZE)
    done = torchrun(tmp_path, blobs)
    assert done.returncode == 0, done.stderr
    # Told once, by the first process.
    assert done.stdout.count("trained: ") == 1
    assert done.stderr.count("epoch 2/2") == 1
    assert_equal_trainings(blobs, alone)


def test_parts_shares_and_what_supervises_make_no_difference(make_blobs_in, tmp_path):
    # Labels, landmarks and masks of some cases alone; gradients projected over the whole batch.
    values = {
        **SIZE, "batch_size": 4, "pairs_per_epoch": 8, "batch_norm": "frozen",
        "gradients": "gradient_projection",
        "supervision": SupervisionPlan(masks=True, dice_weight=0.5, landmark_weight=0.1),
    }  # fmt: skip
    one, two = (make_blobs_in(tmp_path / name, **values) for name in ("one", "two"))
    for blobs in (one, two):
        blobs.add_mask("case1", 3)
        path = record_path(blobs.folder, "case2")
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**record, "landmarks_vox": {}}))
    assert run(one) == 0
    done = torchrun(tmp_path, two, "--accumulation-steps", "2", "--augment-on", "device")
    assert done.returncode == 0, done.stderr
    assert_equal_trainings(two, one)
    rows = list(csv.DictReader(steps_of(two)))
    assert all(float(row["supervised"]) > 0 for row in rows)


STOPPED = f"""
import os, signal
from autoreg.training.stepping import Stepper
original = Stepper.step
def step(stepper, batch, index):
    if (os.environ["RANK"], stepper._state.epoch, index) == ("1", 0, 1):
        os.kill(os.getpid(), signal.SIGTERM)
    return original(stepper, batch, index)
Stepper.step = step
# The first process takes so long for its last checkpoint that torchrun hears of the other's end.
from autoreg.training import trainer
save = trainer.save_checkpoint
def slow(path, checkpoint):
    if checkpoint.resume and checkpoint.resume.epoch_so_far.steps:
        import time
        time.sleep(3)
    save(path, checkpoint)
trainer.save_checkpoint = slow
{PROGRAM}
"""


def test_two_processes_stop_together_and_one_goes_on(make_blobs_in, tmp_path, alone):
    # The second process is told to stop; the first one hears of it after that step.
    blobs = make_blobs_in(tmp_path / "stopped", **SIZE)
    done = torchrun(tmp_path, blobs, program=STOPPED)
    assert done.returncode != 0
    assert "go on with --continue" in done.stderr
    latest = load_checkpoint(checkpoint_path(blobs.model, "0", "latest"))
    assert (latest.epoch, len(latest.resume.epoch_so_far.steps)) == (0, 2)
    assert run(blobs, "--continue") == 0
    torch.testing.assert_close(numbers(blobs), numbers(alone), rtol=2e-4, atol=1e-6)


def test_an_error_of_one_process_ends_all_with_its_message(make_blobs_in, tmp_path):
    blobs = make_blobs_in(tmp_path / "broken", **SIZE)
    (blobs.folder / "case1.image.npy").write_bytes(b"short")
    done = torchrun(tmp_path, blobs)
    assert done.returncode != 0
    assert "case1.image.npy: 5 bytes found" in done.stderr


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 1}, "training.batch_size is 1; give --batch-size 2 or more"),
        ({"pairs_per_epoch": 3}, "an epoch's last batch has 1; give --pairs-per-epoch as"),
    ],
)
def test_a_batch_without_a_share_for_each_process_is_refused(make_plan, values, message):
    from autoreg.errors import UsageError

    _require_shares(make_plan(**values), Processes())
    with pytest.raises(UsageError, match=message):
        _require_shares(make_plan(**values), Processes(1, 2, 1, 2))


def test_what_torchrun_says_incompletely_is_refused(make_blobs, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(make_blobs().flags) == 2
    assert "RANK, LOCAL_RANK, LOCAL_WORLD_SIZE is not set" in error_of(capsys)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert started_processes() == Processes()


def test_shares_are_all_and_as_even_as_possible():
    for count in (1, 2, 3, 5):
        for total in range(12):
            shares = [Processes(rank, count).share(total) for rank in range(count)]
            things = [n for share in shares for n in range(total)[share]]
            assert things == list(range(total))
            sizes = [share.stop - share.start for share in shares]
            assert max(sizes) - min(sizes) <= 1
