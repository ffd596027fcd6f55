import dataclasses
import json
import subprocess
import sys

import pytest
from fingerprints import fingerprint

from autoreg.io.records import to_plain
from autoreg.plan import GridPlan, NetworkPlan
from autoreg.planning.budget import get_budget
from autoreg.planning.memory import (
    convolution_workspace,
    estimate_memory,
    instance_optimisation_bytes,
    training_bytes,
)
from autoreg.planning.rules import plan_from_fingerprint

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
from autoreg.registration.instance_optimisation import optimise, preserved
from autoreg.registration.objective import Objective

plan = from_plain(Plan, json.loads(sys.stdin.read()), "stdin")
network = build_network(plan.network, 1)
moving, fixed = (torch.rand(1, 1, *plan.grid.shape) for _ in range(2))
bound = Objective.from_plan(plan.loss).bind(moving, fixed)
with preserved(network):
    optimise(network, bound, plan.instance_optimisation)
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
        network=NetworkPlan("gradicon", levels, width),
        training=dataclasses.replace(plan.training, **training),
        instance_optimisation=dataclasses.replace(plan.instance_optimisation, steps=2),
    )


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_the_estimate_is_within_a_fifth_of_the_measured_peak(plan):
    plan = with_network(plan, (48, 40, 44), 0.25, (0.5, 1.0, 1.0))
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
