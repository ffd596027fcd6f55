import dataclasses

import pytest
import torch

from autoreg.errors import PlanError
from autoreg.planning.budget import detect_budget, get_budget
from autoreg.planning.costs import StepSeconds
from autoreg.planning.recipes import recipe_of
from autoreg.planning.rules_training import (
    Batch,
    Workload,
    choose_batch,
    choose_instance_optimisation,
    choose_pairs_per_epoch,
    choose_training,
)

CPU, GPU = get_budget("cpu"), get_budget("80gb")
BRAIN = (160.0, 224.0, 192.0)


def workload(seconds=3.0, pairs=500):
    return Workload(StepSeconds(seconds, 0.75 * seconds), pairs)


def training_of(budget=GPU, extent=BRAIN, architecture="gradicon", batch=4):
    recipe = recipe_of(architecture, budget)
    return choose_training(budget, workload(), Batch(batch, 1, "", ""), extent, recipe)[0]


def optimisation_of(budget, work=None, architecture="gradicon"):
    recipe = recipe_of(architecture, budget)
    return choose_instance_optimisation(budget, work or workload(), recipe)[0]


def test_a_gpu_trains_as_published():
    plan = training_of()
    assert (plan.epochs, plan.shallow_epochs, plan.learning_rate) == (80, 64, 5e-5)
    augmentation = plan.augmentation
    assert augmentation.from_epoch == 50
    assert (augmentation.rotation_deg, augmentation.translation_mm) == (10.0, 5.0)
    assert (augmentation.scaling, augmentation.gamma, augmentation.flip_axis) == (0.03, 0.2, 0)
    probabilities = (
        augmentation.affine_probability,
        augmentation.flip_probability,
        augmentation.gamma_probability,
    )
    assert probabilities == (0.5, 0.5, 0.1)


def test_a_narrow_network_starts_from_nothing_and_faster():
    assert training_of(CPU).learning_rate == 5e-4


def test_a_small_field_of_view_is_not_shifted_out_of_sight():
    assert training_of(extent=(30.0, 40.0, 60.0)).augmentation.translation_mm == 1.5


def test_a_gpu_optimises_as_published():
    plan = optimisation_of(GPU)
    assert (plan.mode, plan.projection) == ("gradient_projection", "random_one")
    assert (plan.steps, plan.optimiser) == (50, "amsgrad")
    assert (plan.learning_rate, plan.weight_decay) == (2e-5, 1e-3)
    assert plan.flat_window == 0


@pytest.mark.parametrize(
    ("seconds", "steps"), [(3.05, 39), (0.4, 50), (24.4, 10), (10.3, 11), (500.0, 10)]
)
def test_a_cpu_takes_the_steps_that_two_minutes_allow(seconds, steps):
    plan = optimisation_of(CPU, workload(seconds))
    assert plan.steps == steps
    assert plan.flat_window > 0
    if 10 < steps < 50:
        assert steps * seconds <= 120 < (steps + 1) * seconds


def test_each_architecture_is_trained_as_published():
    sitreg, transmorph = (training_of(architecture=name) for name in ("sitreg", "transmorph"))
    assert (sitreg.learning_rate, sitreg.optimiser, sitreg.schedule) == (4e-4, "adam", "constant")
    found = (transmorph.learning_rate, transmorph.optimiser, transmorph.schedule)
    assert found == (1e-4, "amsgrad", "polynomial")
    assert sitreg.shallow_epochs == transmorph.shallow_epochs == 0
    assert training_of(get_budget("24gb"), architecture="sitreg", batch=1).learning_rate == 1e-4


@pytest.mark.parametrize(("batch", "rate"), [(4, 4e-4), (2, 2e-4), (1, 1e-4)])
def test_sitregs_rate_follows_the_batch(batch, rate):
    """Published: 1e-4 for single pairs, 4e-4 for four."""
    found = training_of(architecture="sitreg", batch=batch).learning_rate
    assert found == pytest.approx(rate)
    assert training_of(batch=batch).learning_rate == 5e-5


def test_an_unknown_architecture_lists_the_known_ones():
    with pytest.raises(PlanError, match='"sitregg" is unknown; did you mean "sitreg"'):
        recipe_of("sitregg", GPU)


@pytest.mark.parametrize(("pairs", "expected"), [(6, 100), (380, 380), (10**6, 1000)])
def test_pairs_per_epoch_on_a_gpu(pairs, expected):
    assert choose_pairs_per_epoch(GPU, workload(pairs=pairs)).value == expected


def test_a_cpu_trains_within_its_hours():
    huge = workload(10.3, 10**6)
    count = choose_pairs_per_epoch(CPU, huge).value
    assert 1 <= count < 1000
    assert 80 * count * huge.seconds.training <= 12 * 3600


@pytest.mark.parametrize(("limit_gb", "parts"), [(100, 1), (30, 2), (15, 4)])
def test_the_published_batch_in_the_fewest_parts_that_fit(limit_gb, parts):
    budget = dataclasses.replace(GPU, memory_bytes=limit_gb * 10**9)
    recipe = recipe_of("gradicon", budget)
    batch = choose_batch(budget, recipe, lambda size, parts: size // parts * 12 * 10**9)
    assert (batch.size, batch.parts) == (4, parts)


def test_where_kept_gradients_are_too_much_a_batch_is_one_pair():
    budget = dataclasses.replace(GPU, memory_bytes=15 * 10**9)
    recipe = recipe_of("gradicon", budget)
    batch = choose_batch(
        budget, recipe, lambda size, parts: (size // parts * 12 + (parts > 1) * 4) * 10**9
    )
    assert (batch.size, batch.parts) == (1, 1)
    assert "not even parts of one pair fit" in batch.reason


def test_no_batch_is_larger_than_published():
    batch = choose_batch(GPU, recipe_of("transmorph", GPU), lambda size, parts: size)
    assert (batch.size, batch.parts) == (1, 1)


def test_a_cpu_takes_single_pairs():
    batch = choose_batch(CPU, recipe_of("gradicon", CPU), lambda size, parts: size)
    assert (batch.size, batch.parts) == (1, 1)


def test_budgets_leave_room_on_the_card():
    limits = [get_budget(name).memory_bytes for name in ("8gb", "24gb", "80gb")]
    assert limits == sorted(limits)
    for limit, size in zip(limits, (8, 24, 80), strict=True):
        assert 0.8 * size * 2**30 < limit < 0.9 * size * 2**30


def test_an_unknown_budget_lists_the_known_ones():
    with pytest.raises(PlanError, match='"12gb" is unknown; known: cpu, 8gb, 24gb, 80gb'):
        get_budget("12gb")


@pytest.mark.parametrize(
    ("gigabytes", "expected"),
    [(139, "80gb"), (79.1, "80gb"), (23.7, "24gb"), (11, "8gb"), (4, "cpu")],
)
def test_the_budget_of_a_card(monkeypatch, gigabytes, expected):
    class Properties:
        total_memory = int(gigabytes * 2**30)

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    assert detect_budget(torch.device("cuda", 0)).name == expected


def test_the_cpu_has_the_cpu_budget():
    assert detect_budget(torch.device("cpu")).name == "cpu"
