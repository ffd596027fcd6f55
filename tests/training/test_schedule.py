import dataclasses

import pytest
import torch

from autoreg.training.early_stopping import has_stopped_early
from autoreg.training.progress import EpochRecord, ValidationSummary
from autoreg.training.schedule import (
    cycle_weight,
    learning_rate,
    seed_layers,
    set_learning_rate,
)
from autoreg.training.state import new_state
from autoreg.training_plan import AugmentationPlan, GroupConsistencyPlan


def test_the_polynomial_schedule_is_transmorphs(make_plan):
    training = make_plan(epochs=500, learning_rate=1e-4, schedule="polynomial").training
    assert learning_rate(training, 0) == 1e-4
    assert learning_rate(training, 250) == pytest.approx(1e-4 * 0.5**0.9, rel=1e-12)
    assert learning_rate(training, 499) == pytest.approx(1e-4 * (1 / 500) ** 0.9, rel=1e-12)
    constant = dataclasses.replace(training, schedule="constant")
    assert {learning_rate(constant, epoch) for epoch in range(500)} == {1e-4}


def test_a_loaded_optimiser_does_not_bring_its_old_rate(plan):
    faster = dataclasses.replace(plan.training, learning_rate=4e-4)
    saved = new_state(dataclasses.replace(plan, training=faster), torch.device("cpu")).optimiser
    optimiser = new_state(plan, torch.device("cpu")).optimiser
    optimiser.load_state_dict(saved.state_dict())
    assert [group["lr"] for group in optimiser.param_groups] == [4e-4]
    set_learning_rate(optimiser, 0.25)
    assert [group["lr"] for group in optimiser.param_groups] == [0.25]


def test_the_optimiser_is_the_plans(make_plan):
    for name in ("adam", "amsgrad"):
        optimiser = new_state(make_plan(optimiser=name), torch.device("cpu")).optimiser
        assert optimiser.defaults["amsgrad"] == (name == "amsgrad")


def test_the_cycle_weight_rises_as_for_lumir(make_plan):
    # 0 up to epoch 30, full from epoch 31 on, a line in between.
    group = GroupConsistencyPlan(weight=40, from_epoch=30, ramp_epochs=1)
    training = make_plan(epochs=45, group_consistency=group).training
    weights = [cycle_weight(training, epoch) for epoch in (0, 29.9, 30, 30.25, 31, 44.9)]
    assert weights == [0, 0, 0, 10, 40, 40]
    at_once = dataclasses.replace(group, ramp_epochs=0)
    training = dataclasses.replace(training, group_consistency=at_once)
    assert [cycle_weight(training, epoch) for epoch in (29.9, 30)] == [0, 40]


def test_layers_draw_by_the_key_alone():
    draws = []
    for key in ((0, 1, 2), (0, 1, 3), (0, 1, 2)):
        with torch.random.fork_rng():
            seed_layers(*key)
            draws.append(torch.rand(4))
    assert torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[1])


def record(epoch, total):
    measures = ValidationSummary(0.5, 0.25, total, None, None, 0.0, None, pairs=2)
    return EpochRecord(epoch, 2, False, 0.1, 0.2, 0.3, 1.0, 0.5, measures)


def test_no_training_ends_early_before_its_last_stage(make_plan):
    # Nothing gets better after the first epoch.
    records = [record(epoch, 1.0 + epoch) for epoch in range(8)]

    def ends_after(**training):
        plan = make_plan(epochs=8, early_stopping=2, **training)
        return next((n for n in range(9) if has_stopped_early(plan, records[:n])), None)

    unchanged = AugmentationPlan(0, 0.5, 10, 5, 0.03, 0.5, 0, 0.1, 0.2)
    late = dataclasses.replace(unchanged, from_epoch=4)
    never = dataclasses.replace(unchanged, from_epoch=8)
    group = GroupConsistencyPlan(40.0, from_epoch=2, ramp_epochs=1)
    for shallow, augmentation, expected in (
        (0, unchanged, 3), (3, unchanged, 6), (0, late, 7), (0, never, 3), (3, late, 7),
    ):  # fmt: skip
        assert ends_after(shallow_epochs=shallow, augmentation=augmentation) == expected
    assert ends_after(shallow_epochs=0, augmentation=unchanged, group_consistency=group) == 6
    endless = GroupConsistencyPlan(40.0, from_epoch=2, ramp_epochs=20)
    assert ends_after(shallow_epochs=0, augmentation=unchanged, group_consistency=endless) == 5
    assert not has_stopped_early(make_plan(epochs=8), records)
