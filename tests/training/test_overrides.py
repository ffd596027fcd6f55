import dataclasses
import logging

import pytest

from autoreg.errors import PlanError, UsageError
from autoreg.network_plan import GradICONPlan
from autoreg.training import overrides, run
from autoreg.training.comparison import plan_differences
from autoreg.training.overrides import Overrides, override
from autoreg.training.processes import ALONE, Processes
from autoreg.training.request import TrainingRequest


@pytest.fixture
def long_plan(make_plan):
    plan = make_plan(epochs=80, shallow_epochs=40)
    augmentation = dataclasses.replace(plan.training.augmentation, from_epoch=50)
    return dataclasses.replace(
        plan, training=dataclasses.replace(plan.training, augmentation=augmentation)
    )


def test_without_flags_the_plan_holds(long_plan):
    assert override(long_plan, Overrides(), pretrained=False) == long_plan


def test_flags_replace_values_and_leave_a_reason(long_plan):
    flags = Overrides(pairs_per_epoch=3, learning_rate=0.5, seed=9, validation_every=7)
    plan = override(long_plan, flags, pretrained=False)
    expected = dataclasses.replace(
        long_plan.training, pairs_per_epoch=3, learning_rate=0.5, seed=9, validation_every=7
    )
    assert plan.training == expected
    assert plan.reasons["training.learning_rate"] == "set by --learning-rate"


def test_a_shorter_training_keeps_its_proportions(long_plan, caplog):
    with caplog.at_level(logging.INFO):
        training = override(long_plan, Overrides(epochs=8), pretrained=False).training
    assert (training.epochs, training.shallow_epochs, training.augmentation.from_epoch) == (8, 4, 5)
    assert "training.shallow_epochs moves to 4" in caplog.text


@pytest.mark.parametrize("epochs", range(1, 12))
def test_the_last_level_is_trained_however_few_epochs_there_are(long_plan, epochs):
    planned = dataclasses.replace(long_plan.training, shallow_epochs=64)
    plan = dataclasses.replace(long_plan, training=planned)
    training = override(plan, Overrides(epochs=epochs), pretrained=False).training
    assert training.shallow_epochs < epochs


def test_what_is_given_is_not_moved(long_plan):
    flags = Overrides(epochs=8, shallow_epochs=0, augmentation_from=80)
    training = override(long_plan, flags, pretrained=False).training
    assert (training.shallow_epochs, training.augmentation.from_epoch) == (0, 80)


def test_pretrained_weights_skip_the_first_stage(long_plan):
    assert override(long_plan, Overrides(), pretrained=True).training.shallow_epochs == 0


def test_a_first_stage_to_the_end_is_refused(long_plan):
    with pytest.raises(UsageError, match="the last level would never be trained"):
        override(long_plan, Overrides(shallow_epochs=80), pretrained=False)


def test_a_first_stage_is_refused_where_no_level_can_join_later(long_plan):
    network = GradICONPlan((1.0,), 0.125)
    plan = dataclasses.replace(long_plan, network=network)
    with pytest.raises(UsageError, match=r"--shallow-epochs 2: .*has no last level"):
        override(plan, Overrides(shallow_epochs=2), pretrained=False)
    assert override(plan, Overrides(shallow_epochs=0), pretrained=False)


def test_a_first_stage_is_refused_with_pretrained_weights(long_plan):
    with pytest.raises(UsageError, match=r"--shallow-epochs 2: with --pretrained all levels"):
        override(long_plan, Overrides(shallow_epochs=2), pretrained=True)
    assert override(long_plan, Overrides(shallow_epochs=0), pretrained=True)


def test_impossible_values_are_refused(long_plan):
    with pytest.raises(PlanError, match=r"learning_rate must be positive"):
        override(long_plan, Overrides(learning_rate=0.0), pretrained=False)


def test_another_batch_size_is_weighed(long_plan, caplog):
    plan = override(long_plan, Overrides(batch_size=1), pretrained=False)
    larger = override(long_plan, Overrides(batch_size=64), pretrained=False)
    assert 0 < plan.memory.training < larger.memory.training
    assert "more than the 0.0 GiB of budget cpu" in caplog.text


def known_needs(monkeypatch):
    """8 bytes for a process alone, 5 for each of several."""

    def needed(plan, *, cuda, processes=ALONE):
        return 8 if processes.count == 1 else 5

    monkeypatch.setattr(overrides, "most_training_bytes", needed)


def limited(plan, limit, budget):
    return dataclasses.replace(
        plan, budget=budget, memory=dataclasses.replace(plan.memory, limit=limit)
    )


@pytest.mark.parametrize(
    ("budget", "limit", "processes", "warning"),
    [
        ("8gb", 7, ALONE, "of memory, more than"),
        ("8gb", 7, Processes(0, 2, 0, 2), None),
        ("8gb", 4, Processes(0, 2, 0, 2), "of memory for each of 2 processes, more"),
        ("cpu", 9, Processes(0, 2, 0, 2), "of memory for 2 processes on this machine, more"),
        ("cpu", 9, Processes(0, 2, 0, 1), None),
    ],
)
def test_what_is_warned_of_is_the_share_and_the_plan_holds_the_whole(
    long_plan, monkeypatch, caplog, budget, limit, processes, warning
):
    known_needs(monkeypatch)
    plan, flags = limited(long_plan, limit, budget), Overrides(batch_size=4)
    plan = override(plan, flags, pretrained=False, processes=processes)
    assert plan.memory.training == 8
    assert (warning in caplog.text) if warning else ("memory" not in caplog.text)


def test_a_training_is_weighed_with_its_processes(make_blobs, tmp_path, monkeypatch):
    two, found = Processes(0, 2, 0, 2), []

    def asked(plan, overrides, *, pretrained, processes):
        found.append(processes)
        raise UsageError("enough")

    monkeypatch.setattr(run, "override", asked)
    with pytest.raises(UsageError, match="enough"):
        run.run_training(TrainingRequest("1", make_blobs().preprocessed, tmp_path, processes=two))
    assert found == [two]


def test_differences_are_told_in_the_plans_own_words(long_plan):
    other = override(long_plan, Overrides(epochs=8), pretrained=False)
    other = dataclasses.replace(other, labels={"blob": 1, "other": 2})
    assert plan_differences(long_plan, other) == [
        "labels.other was absent and is now 2",
        "training.augmentation.from_epoch was 50 and is now 5",
        "training.epochs was 80 and is now 8",
        "training.shallow_epochs was 40 and is now 4",
    ]
    assert plan_differences(long_plan, other, only=("network",)) == []
