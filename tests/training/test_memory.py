"""The memory of steps on cycles."""

import dataclasses

import pytest
from small_sitreg import small_plan

from autoreg.plan import GridPlan, LossPlan
from autoreg.planning.memory import training_bytes
from autoreg.training import memory
from autoreg.training.memory import cycle_bytes, most_training_bytes
from autoreg.training.overrides import Overrides, override
from autoreg.training.processes import Processes
from autoreg.training_plan import GroupConsistencyPlan

SHAPE = (32, 32, 32)
NETWORK = small_plan(
    features=(4, 8), feature_convolutions=(1, 1), deformation_features=(8, 12),
    deformation_convolutions=1,
)  # fmt: skip


@pytest.fixture
def cycles(make_plan):
    """Trained on single pairs, later on cycles."""
    plan = make_plan(batch_size=1, group_consistency=GroupConsistencyPlan(weight=1.0))
    return dataclasses.replace(
        plan,
        grid=GridPlan(SHAPE, (2.0, 2.0, 2.0), False),
        network=NETWORK,
        loss=LossPlan("windowed_ncc", {"window": 5}, "diffusion", 1.0),
    )


def changed(plan, **training):
    return dataclasses.replace(plan, training=dataclasses.replace(plan.training, **training))


def test_a_cycle_needs_more_than_a_pair_and_less_than_three_at_once(cycles):
    """Beside a pair there are the images and fields of the other two, but no activations."""
    pair, three = (training_bytes(changed(cycles, batch_size=n), cuda=True) for n in (1, 3))
    needed = cycle_bytes(cycles, cuda=True)
    voxels = SHAPE[0] ** 3
    assert pair + 4 * voxels * (2 * 2 + 2 * 2 * 3) < needed < pair + (three - pair) / 2


@pytest.mark.parametrize("pairs", [3, 9])
def test_the_estimate_is_of_the_larger_step(cycles, monkeypatch, caplog, pairs):
    monkeypatch.setattr(
        memory, "training_bytes", lambda plan, *, cuda, processes: pairs // processes
    )
    monkeypatch.setattr(memory, "cycle_bytes", lambda plan, *, cuda: 5)
    assert override(cycles, Overrides(), pretrained=False).memory.training == max(pairs, 5)
    assert "batches of 1 and cycles of three need about" in caplog.text
    without = changed(cycles, group_consistency=GroupConsistencyPlan())
    assert most_training_bytes(without, cuda=False) == pairs
    three = Processes(0, 3, 0, 3)
    assert most_training_bytes(without, cuda=False, processes=three) == pairs // 3
    assert override(without, Overrides(), pretrained=False).memory == without.memory
