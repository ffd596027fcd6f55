"""What a training refuses, and how it says so."""

import json
import re

import numpy as np
import pytest
import torch
from training_runs import (
    error_of,
    run,
)

from autoreg.errors import UsageError
from autoreg.io.cases import Pair
from autoreg.planning.plans_file import plans_path
from autoreg.training import stepping
from autoreg.training.run import find_prepared_dataset


def spoil(blobs, case):
    image = np.load(blobs.folder / f"{case}.image.npy")
    image[0, 3, 3, 3] = np.nan
    np.save(blobs.folder / f"{case}.image.npy", image)


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
    assert "stopped: " in (blobs.model / "fold_0" / "training.log").read_text()


def test_a_validation_loss_that_is_not_a_number_shows_before_training(make_blobs, capsys):
    blobs = make_blobs(validation_pairs=(Pair("case2", "case3"),))
    spoil(blobs, "case3")
    assert run(blobs) == 2
    text = error_of(capsys)
    assert "validation: the loss of case3 to case2 is nan" in text
    assert "epoch 1" not in text


def test_too_little_memory_of_the_device_has_a_remedy(make_blobs, capsys, monkeypatch):
    def step(stepper, batch, index):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(stepping.Stepper, "step", step)
    assert run(make_blobs()) == 2
    text = error_of(capsys)
    assert "out of memory on cpu with batches of 2; what saves memory" in text
    assert "--accumulation-steps 2" in text


def test_a_broken_case_is_named_through_workers(make_blobs, capsys):
    blobs = make_blobs(cases=2)
    (blobs.folder / "case1.image.npy").write_bytes(b"short")
    assert run(blobs, "--workers", "2") == 2
    assert "case1.image.npy: 5 bytes found" in error_of(capsys)


def test_a_mistyped_data_set_is_met_with_a_guess(make_blobs):
    blobs = make_blobs()
    for name in ("Blosb", "Dataset001_blobs"):
        with pytest.raises(UsageError, match='Did you mean "Dataset001_Blobs"'):
            find_prepared_dataset(blobs.preprocessed, name)
    with pytest.raises(UsageError, match="Give one of these names"):
        find_prepared_dataset(blobs.preprocessed, "7")


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
    "flags",
    [
        ("--epochs", "0"), ("--learning-rate", "-1"), ("--epochs", "many"), ("--epoch", "3"),
        ("--continue", "--overwrite"),
    ],
)  # fmt: skip
def test_impossible_flags_are_refused_by_the_parser(make_blobs, capsys, flags):
    with pytest.raises(SystemExit) as stop:
        run(make_blobs(), *flags)
    assert stop.value.code == 2
    assert "usage: autoreg_train" in capsys.readouterr().err
