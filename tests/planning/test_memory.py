import dataclasses
import json
import math
import subprocess
import sys

import pytest
import torch
from fingerprints import fingerprint

from autoreg.io.records import to_plain
from autoreg.network_plan import GradICONPlan
from autoreg.networks.factory import build_network
from autoreg.plan import GridPlan, LossPlan
from autoreg.planning import rules_sitreg, rules_transmorph
from autoreg.planning.budget import get_budget
from autoreg.planning.fake_run import convolution_workspace
from autoreg.planning.memory import (
    CPU_FIGURE_BYTES,
    estimate_memory,
    instance_optimisation_bytes,
    training_bytes,
)
from autoreg.planning.rules import plan_from_fingerprint
from autoreg.planning.rules_sitreg import build_sitreg
from autoreg.planning.rules_transmorph import build_transmorph
from autoreg.training_plan import SupervisionPlan

# Does a job as a command does, in its own process, and prints the peak resident size.
PROGRAM = """
import sys
from autoreg.command import set_passive_threads, steady_heap
set_passive_threads()
steady_heap()
import json, torch
import autoreg.inference.cli, autoreg.planning.preprocess, autoreg.training.batches
from autoreg.io.records import from_plain
from autoreg.networks.factory import build_network
from autoreg.plan import Plan
from autoreg.registration.field_network import optimised_network
from autoreg.registration.instance_optimisation import optimise, preserved
from autoreg.registration.objective import Objective

plan = from_plain(Plan, json.loads(sys.stdin.read()), "stdin")
network = build_network(plan.network, 1)
moving, fixed = (torch.rand(1, 1, *plan.grid.shape) for _ in range(2))
bound = Objective.from_plan(plan).bind(moving, fixed)
optimised = optimised_network(network.eval(), moving, fixed, plan.instance_optimisation)
with preserved(optimised):
    optimise(optimised, bound, plan.instance_optimisation)
status = open("/proc/self/status").read()
print(1024 * int(status.split("VmHWM:")[1].split()[0]))
"""


@pytest.fixture(scope="module")
def plan():
    return plan_from_fingerprint(fingerprint(), get_budget("cpu"))


def with_network(plan, shape, width, levels=(1.0,), **training):
    return dataclasses.replace(
        plan,
        grid=GridPlan(shape, (1.0, 1.0, 1.0), False),
        network=GradICONPlan(levels, width),
        training=dataclasses.replace(plan.training, **training),
        instance_optimisation=dataclasses.replace(plan.instance_optimisation, steps=2),
    )


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize("optimised", ["network", "velocity"])
def test_the_estimate_is_within_a_fifth_of_the_measured_peak(plan, optimised):
    plan = with_network(plan, (48, 40, 44), 0.25, (0.5, 1.0, 1.0))
    if optimised == "velocity":
        plan = with_field(plan, optimised, (80, 72, 76))
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(to_plain(plan)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    measured = int(result.stdout.split()[-1])
    estimate = instance_optimisation_bytes(plan, cuda=False)
    assert 0.8 < estimate / measured < 1.2, (estimate / 2**20, measured / 2**20)


FIGURE = """
from autoreg.command import set_passive_threads, steady_heap
set_passive_threads()
steady_heap()
import autoreg.training.run
from pathlib import Path
from autoreg.training.progress import EpochRecord, write_progress
from autoreg.training.validation import ValidationSummary
status = lambda: int(open("/proc/self/status").read().split("VmRSS:")[1].split()[0])
before = status()
summary = ValidationSummary(0.5, 0.1, 0.6, 0.7, None, 0.0, 0.9, pairs=2)
record = EpochRecord(0, 1, False, 0.5, 0.1, 0.6, 1.0, 0.1, summary)
write_progress([record], summary, "dice", Path("."))
print(1024 * (status() - before))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the size from /proc")
def test_the_progress_of_a_training_takes_what_is_counted_for_it(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", FIGURE], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert 0.6 < CPU_FIGURE_BYTES / int(result.stdout) < 1.6, result.stdout


def with_field(plan, optimised, shape):
    io = dataclasses.replace(plan.instance_optimisation, optimised=optimised)
    loss = dataclasses.replace(plan.loss, regularity="diffusion")
    grid = dataclasses.replace(plan.grid, shape=shape)
    return dataclasses.replace(plan, instance_optimisation=io, loss=loss, grid=grid)


@pytest.mark.parametrize("architecture", ["gradicon", "sitreg"])
def test_a_field_takes_less_than_the_weights(architecture):
    plan = plan_from_fingerprint(fingerprint(), get_budget("cpu"), architecture=architecture)
    needed = [
        instance_optimisation_bytes(with_field(plan, name, (48, 40, 44)), cuda=False)
        for name in ("network", "velocity", "displacements")
    ]
    assert max(needed[1:]) < needed[0]
    assert min(needed[1:]) < needed[0] - 2**20


def test_memory_grows_with_grid_width_and_batch(plan):
    base = training_bytes(with_network(plan, (64, 64, 64), 0.25), cuda=False)
    grown = [
        with_network(plan, (64, 96, 64), 0.25),
        with_network(plan, (64, 64, 64), 0.5),
        with_network(plan, (64, 64, 64), 0.25, batch_size=2),
    ]
    assert all(training_bytes(other, cuda=False) > base for other in grown)


def test_optimisation_needs_more_than_prediction(plan):
    memory = estimate_memory(with_network(plan, (32, 32, 32), 0.5), limit=7, cuda=True)
    assert memory.limit == 7
    assert memory.prediction < memory.training < memory.instance_optimisation


def test_activations_grow_in_proportion_to_the_grid(plan):
    sizes = [training_bytes(with_network(plan, (n, 64, 64), 0.5), cuda=True) for n in (64, 96, 128)]
    assert sizes[2] - sizes[1] == pytest.approx(sizes[1] - sizes[0], rel=0.03)


def bytes_of_weights(network):
    with torch.device("meta"):
        return 4 * sum(p.numel() for p in build_network(network, 1).parameters())


SITREG = build_sitreg(rules_sitreg.OASIS, 3, (1.0, 1.0, 1.0), checkpointing=False)


@pytest.mark.parametrize(
    "network",
    [SITREG, build_transmorph(rules_transmorph.OASIS, (2, 2, 2))],
    ids=["sitreg", "transmorph, half"],
)
def test_every_architecture_is_estimated(plan, network):
    """The half TransMorph has a parameter without gradient."""
    loss = LossPlan("windowed_ncc", {"window": 7.0}, "diffusion", 2.0)
    grid = GridPlan((32, 64, 32), (1.0, 1.0, 1.0), False)
    changed = dataclasses.replace(plan, grid=grid, network=network, loss=loss)
    memory = estimate_memory(changed, limit=7, cuda=True)
    weights = bytes_of_weights(network)
    assert weights < memory.prediction < memory.training < memory.instance_optimisation


def test_a_third_moment_counts_in_training(plan):
    """Three lists as large as the weights beside them instead of two."""
    network = build_transmorph(rules_transmorph.OASIS, (2, 2, 2))
    loss = LossPlan("windowed_ncc", {"window": 7.0}, "diffusion", 2.0)
    changed = dataclasses.replace(
        plan, grid=GridPlan((32, 32, 32), (1.0,) * 3, False), network=network, loss=loss
    )
    weights = bytes_of_weights(network)
    adam, amsgrad = (
        training_bytes(
            dataclasses.replace(
                changed, training=dataclasses.replace(plan.training, optimiser=optimiser)
            ),
            cuda=False,
        )
        for optimiser in ("adam", "amsgrad")
    )
    assert amsgrad - adam == pytest.approx(weights, rel=0.01)


def test_checkpointing_needs_less_memory(plan):
    loss = LossPlan("windowed_ncc", {"window": 7.0}, "diffusion", 2.0)
    grid = GridPlan((64, 64, 64), (1.0, 1.0, 1.0), False)
    kept, twice = (
        instance_optimisation_bytes(
            dataclasses.replace(plan, grid=grid, loss=loss, network=network), cuda=True
        )
        for network in (SITREG, dataclasses.replace(SITREG, checkpointing=True))
    )
    # At least the features of both images, before and after a normalisation.
    assert kept - twice > 2 * (2 * SITREG.features[0] * 64**3 * 4)


def test_large_images_count_on_the_cpu_and_not_on_the_device(plan):
    small = with_network(plan, (16, 16, 16), 0.25)
    for cuda, grows in ((False, True), (True, False)):
        with_images, without = (
            estimate_memory(small, limit=0, cuda=cuda, native_voxels=voxels)
            for voxels in (512**3, 0)
        )
        assert with_images.training == without.training
        assert (with_images.prediction > without.prediction + 512**3) is grows
        assert (with_images.instance_optimisation > without.instance_optimisation) is grows


def test_workspace_counts_blocks_of_channels():
    voxels = 4 * 4 * 4
    small, full = (1, 3, 4, 4, 4), (1, 16, 4, 4, 4)
    assert convolution_workspace(small, full, transposed=False, backward=False) == (
        convolution_workspace(full, full, transposed=False, backward=False)
    )
    assert convolution_workspace(full, full, transposed=True, backward=False) == 2 * 4 * 16 * voxels


CASCADE = ((64, 64, 64), 0.25, (0.5, 1.0, 1.0))


def trained(plan, checkpointing=False, **training):
    changed = with_network(plan, *CASCADE, **training)
    network = dataclasses.replace(changed.network, checkpointing=checkpointing)
    return training_bytes(dataclasses.replace(changed, network=network), cuda=True)


def test_a_batch_in_parts_needs_what_a_part_needs_and_the_kept_gradients(plan):
    whole, half = trained(plan, batch_size=4), trained(plan, batch_size=2)
    parts = trained(plan, batch_size=4, accumulation_steps=2)
    weights = bytes_of_weights(GradICONPlan(CASCADE[2], CASCADE[1]))
    assert half <= parts <= half + 1.2 * weights < whole
    uneven = trained(plan, batch_size=3, accumulation_steps=2)
    assert uneven == parts  # the largest part decides


def test_processes_need_the_largest_share_and_its_largest_part(plan):
    def shared(processes, **training):
        changed = with_network(plan, *CASCADE, **training)
        return training_bytes(changed, cuda=True, processes=processes)

    assert shared(2, batch_size=4) == trained(plan, batch_size=2)
    assert shared(2, batch_size=3) == trained(plan, batch_size=2)
    # Shares of 2 and 3 in 2 parts each: no process may have fewer parts than another one.
    of_two = trained(plan, batch_size=4, accumulation_steps=2)
    assert shared(2, batch_size=5, accumulation_steps=5) == of_two
    assert shared(2, batch_size=2, accumulation_steps=2) == trained(plan, batch_size=1)


@pytest.mark.parametrize("gradients", ["vanilla", "gradient_projection"])
def test_the_message_to_other_processes_is_counted(plan, gradients):
    """A copy of all gradients; alone, on a tiny grid, it is the update of the weights that decides,
    with two float64 copies of the largest one."""
    levels = (0.5, 1.0, 1.0)
    alone, shared = (
        training_bytes(
            with_network(plan, (8, 8, 8), 1.0, levels, batch_size=count, gradients=gradients),
            cuda=False,
            processes=count,
        )
        for count in (1, 2)
    )
    network = GradICONPlan(levels, 1.0)
    with torch.device("meta"):
        largest = max(p.numel() for p in build_network(network, 1).parameters())
    assert shared - alone == pytest.approx(bytes_of_weights(network) - 16 * largest, rel=0.02)


def test_what_saves_memory_is_seen_to_save_it(plan):
    usual = trained(plan)
    # What is left is the loss, which is float32.
    assert trained(plan, precision="bfloat16") < usual
    assert trained(plan, checkpointing=True) < usual


def test_two_gradients_and_supervision_take_memory(plan):
    usual = trained(plan)
    voxels = math.prod(CASCADE[0])
    assert trained(plan, gradients="gradient_projection") > usual
    labels = SupervisionPlan(dice_weight=1.0)
    assert trained(plan, supervision=labels) > usual + 40 * voxels
    assert trained(plan, supervision=SupervisionPlan(masks=True)) > usual + 4 * voxels
    assert trained(plan, supervision=SupervisionPlan(landmark_weight=1.0)) == usual
