"""Which network, and how large."""

import itertools
import math

import pytest
import torch

from autoreg.networks.factory import build_network
from autoreg.numerics.bspline import control_point_bound
from autoreg.plan import GridPlan
from autoreg.planning import rules_sitreg, rules_transmorph
from autoreg.planning.budget import get_budget
from autoreg.planning.choice import Choice
from autoreg.planning.rules_network import (
    NetworkNeeds,
    choose_architecture,
    choose_network,
    choose_width,
)
from autoreg.planning.rules_sitreg import build_sitreg, choose_levels, most_levels, reach_vox
from autoreg.planning.rules_transmorph import build_transmorph, choose_window

CPU, GPU = get_budget("cpu"), get_budget("80gb")


def grid(*shape, spacing=1.0):
    return GridPlan(shape, (spacing,) * 3, False)


def network_of(architecture, budget, at, displacement=8.0, *, frugal=False):
    needs = NetworkNeeds(get_budget(budget), at, displacement, frugal)
    return choose_network(Choice(architecture, "asked for"), needs)[0]


def parameters(network):
    with torch.device("meta"):
        return sum(p.numel() for p in build_network(network, 1).parameters())


# which one


def test_the_users_wish_comes_first():
    for budget, name in itertools.product((CPU, GPU), ("gradicon", "sitreg", "transmorph")):
        choice = choose_architecture(budget, name)
        assert choice.value == name
        assert "--architecture" in choice.reason


def test_without_a_wish_a_gpu_gets_the_network_with_published_weights():
    assert choose_architecture(GPU).value == "gradicon"
    assert "published weights" in choose_architecture(GPU).reason


def test_only_the_cpu_narrows_the_cascade():
    assert choose_width(GPU).value == 1.0
    assert choose_width(CPU).value == 0.5


# SITReg


@pytest.mark.parametrize(
    ("channels", "levels", "count"),
    [
        (rules_sitreg.OASIS, 4, 1_196_820),
        (rules_sitreg.LUMIR, 6, 15_076_110),
    ],
)
def test_published_sitregs_have_their_number_of_weights(channels, levels, count):
    assert parameters(build_sitreg(channels, levels, (1.0,) * 3, checkpointing=False)) == count


@pytest.mark.parametrize(
    ("shape", "displacement", "fewest", "expected"),
    [
        ((160, 144, 192), 8.0, 4, 4),  # 12 voxels: OASIS as published
        ((160, 144, 192), 15.0, 4, 4),  # 22.5 voxels of 22.8
        ((160, 144, 192), 16.0, 4, 5),  # 24 voxels
        ((160, 224, 192), 8.0, 6, 6),  # LUMIR as published
        ((320, 320, 320), 100.0, 4, 7),
        ((64, 64, 64), 500.0, 4, 5),  # no resolution under 4 voxels
        ((16, 24, 12), 8.0, 4, 3),
        ((8, 64, 64), 40.0, 4, 5),  # one thin axis does not count
        ((4, 4, 4), 8.0, 4, 1),
    ],
)
def test_resolutions_by_displacement(shape, displacement, fewest, expected):
    assert choose_levels(grid(*shape), displacement, fewest).value == expected


def test_the_reach_is_that_of_the_bounded_control_points():
    bounds = [control_point_bound((n, n, n)) for n in (1, 2, 2)]
    assert reach_vox(3) == pytest.approx(4 * 0.99 * (bounds[0] + 2 * bounds[1] + 4 * bounds[2]))
    assert reach_vox(6) > 2 * reach_vox(5)


def test_a_displacement_beyond_reach_is_told():
    choice = choose_levels(grid(64, 64, 64), 500.0, 4)
    assert "750.0 voxels, 5 resolutions reach 47.2, and more would leave" in choice.reason
    assert "more would" not in choose_levels(grid(64, 64, 64), 5.0, 4).reason


def test_displacements_count_in_voxels():
    coarse, fine = (choose_levels(grid(*(160,) * 3, spacing=s), 30.0, 2).value for s in (4.0, 1.0))
    assert (coarse, fine) == (4, 5)


@pytest.mark.parametrize("shape", [(160, 224, 192), (64, 52, 72), (9, 40, 33), (5, 5, 5)])
def test_the_coarsest_resolution_has_four_voxels_along_two_axes(shape):
    coarsest = [n / 2 ** (most_levels(shape) - 1) for n in shape]
    assert sum(n >= 4 for n in coarsest) >= 2


def test_channels_follow_the_budget():
    at = grid(160, 224, 192)
    lumir, oasis, small = (network_of("sitreg", name, at) for name in ("80gb", "24gb", "cpu"))
    assert lumir.features == (12, 32, 64, 128, 128, 128)
    assert lumir.deformation_features == (12, 64, 128, 256, 256, 256)
    assert (lumir.groups, lumir.normalise_deformations) == (4, True)
    assert (oasis.features, oasis.deformation_features) == ((8, 40, 40, 40), (16, 72, 72, 72))
    assert (oasis.groups, oasis.normalise_deformations) == (2, False)
    assert max(small.features) < max(oasis.features)
    assert network_of("sitreg", "8gb", at) == oasis


def test_memory_is_saved_where_asked_and_the_voxels_are_the_grids():
    at = GridPlan((64, 64, 64), (3.0, 1.0, 2.0), False)
    assert network_of("sitreg", "8gb", at, frugal=True).checkpointing
    assert not network_of("sitreg", "8gb", at).checkpointing
    assert network_of("sitreg", "8gb", at).voxel_size == (3.0, 1.0, 2.0)


# TransMorph


def test_the_published_transmorph_has_its_number_of_weights():
    sizes = (rules_transmorph.BASE, rules_transmorph.OASIS)
    counts = [parameters(build_transmorph(size, (5, 6, 7))) for size in sizes]
    assert counts == [46_771_251, 46_556_979]


@pytest.mark.parametrize(
    ("shape", "window"),
    [((160, 192, 224), (5, 6, 7)), ((64, 64, 64), (2, 2, 2)), ((100, 20, 96), (4, 2, 3))],
)
def test_the_window_is_the_deepest_grid(shape, window):
    assert choose_window(shape).value == window


@pytest.mark.parametrize("budget", ["cpu", "8gb", "24gb", "80gb"])
def test_every_transmorph_can_be_built_and_shifts_its_windows(budget):
    network = network_of("transmorph", budget, grid(64, 96, 32))
    assert min(n // 2 for n in network.window) > 0
    assert math.log10(parameters(network)) > 6


def test_large_cards_get_the_full_resolution():
    variants = [network_of("transmorph", b, grid(64, 64, 64)).variant for b in ("8gb", "24gb")]
    assert variants == ["half", "full"]
