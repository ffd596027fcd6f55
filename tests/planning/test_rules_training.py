import dataclasses

import pytest
import torch

from autoreg.errors import PlanError
from autoreg.networks.factory import build_network
from autoreg.plan import NetworkPlan
from autoreg.planning.budget import (
    cpu_step_seconds,
    detect_budget,
    get_budget,
    macs_per_voxel,
)
from autoreg.planning.choice import Choice
from autoreg.planning.rules_training import (
    Workload,
    choose_batch,
    choose_instance_optimisation,
    choose_pairs_per_epoch,
    choose_training,
    choose_width,
)

CPU, GPU = get_budget("cpu"), get_budget("80gb")
SMALL = Workload(voxels=64**3, macs=17e3, pairs=500)
BRAIN = (160.0, 224.0, 192.0)


def training_of(budget=GPU, workload=SMALL, extent=BRAIN):
    return choose_training(budget, workload, Choice(4, ""), extent)[0]


def optimisation_of(budget, workload=SMALL):
    return choose_instance_optimisation(budget, workload)[0]


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


@pytest.mark.parametrize(("voxels", "steps"), [(64**3, 39), (32**3, 50), (128**3, 10), (96**3, 11)])
def test_a_cpu_takes_the_steps_that_two_minutes_allow(voxels, steps):
    workload = Workload(voxels, 17e3, 500)
    plan = optimisation_of(CPU, workload)
    assert plan.steps == steps
    assert plan.flat_window > 0
    if 10 < steps < 50:
        seconds = cpu_step_seconds(voxels, 17e3)
        assert steps * seconds <= 120 < (steps + 1) * seconds


@pytest.mark.parametrize(("pairs", "expected"), [(6, 100), (380, 380), (10**6, 1000)])
def test_pairs_per_epoch_on_a_gpu(pairs, expected):
    assert choose_pairs_per_epoch(GPU, Workload(175**3, 60e3, pairs)).value == expected


def test_a_cpu_trains_within_its_hours():
    huge = Workload(96**3, 17e3, 10**6)
    count = choose_pairs_per_epoch(CPU, huge).value
    seconds = 80 * count * 0.75 * cpu_step_seconds(huge.voxels, huge.macs)
    assert 1 <= count < 1000
    assert seconds <= 12 * 3600


@pytest.mark.parametrize(("limit_gb", "expected"), [(100, 4), (30, 2), (15, 1), (5, 1)])
def test_the_largest_batch_that_fits(limit_gb, expected):
    budget = dataclasses.replace(GPU, memory_bytes=limit_gb * 10**9)
    assert choose_batch(budget, lambda size: size * 12 * 10**9).value == expected


def test_a_cpu_takes_single_pairs():
    assert choose_batch(CPU, lambda size: size).value == 1


def test_only_the_cpu_narrows_the_network():
    assert choose_width(GPU).value == 1.0
    assert choose_width(CPU).value == 0.5


@pytest.mark.parametrize("width", [0.25, 0.5, 1.0])
def test_multiply_adds_are_those_of_the_layers(width):
    factors, channels, size = (0.5, 1.0), 2, 32
    with torch.device("meta"):
        network = build_network(NetworkPlan("gradicon", factors, width), channels).eval()
        counted = 0

        def count(module, inputs, output):
            nonlocal counted
            # Each output of a convolution takes ci * k^3 products; transposed, each input co * k^3.
            many = inputs[0] if isinstance(module, torch.nn.ConvTranspose3d) else output
            counted += many.numel() // many.shape[1] * module.weight.numel()

        for module in network.modules():
            if isinstance(module, torch.nn.Conv3d | torch.nn.ConvTranspose3d):
                module.register_forward_hook(count)
        image = torch.zeros(1, channels, size, size, size)
        network(image, image)
    assert macs_per_voxel(factors, width, channels) == pytest.approx(counted / size**3, rel=0.02)


def test_published_multiply_adds():
    assert macs_per_voxel((0.25, 0.5, 1.0, 1.0), 1.0, 1) == pytest.approx(60.5e3, rel=1e-3)


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
