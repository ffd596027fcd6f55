import dataclasses

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from autoreg.network_plan import GradICONPlan
from autoreg.networks.factory import build_network
from autoreg.planning import rules_sitreg, rules_transmorph
from autoreg.planning.costs import cpu_step_seconds, macs_per_voxel
from autoreg.planning.rules_sitreg import build_sitreg
from autoreg.planning.rules_transmorph import build_transmorph, choose_window

GRID = (32, 64, 64)
ATEN = torch.ops.aten


class Count(TorchDispatchMode):
    """Multiply-adds of convolutions and of products with a weight or of two sets of tokens."""

    def __init__(self):
        super().__init__()
        self.macs = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is ATEN.convolution.default:
            # Each output takes ci * k^3 products; transposed, each input co * k^3.
            many = args[0] if args[6] else result
            self.macs += many.numel() // many.shape[1] * args[1].numel()
        elif func in (ATEN.mm.default, ATEN.addmm.default):
            self.macs += args[-2].numel() * args[-1].shape[1]
        elif func is ATEN.bmm.default and args[0].shape[1] == args[1].shape[2]:
            self.macs += args[0].numel() * args[1].shape[2]  # queries by keys
        elif func is ATEN.bmm.default and args[0].shape[1] == args[0].shape[2]:
            self.macs += args[0].numel() * args[1].shape[2]  # weights by values
        elif func is ATEN._scaled_dot_product_flash_attention_for_cpu.default:
            queries, keys = args[:2]
            self.macs += 2 * queries.numel() * keys.shape[2]
        return result


def counted(network, channels):
    with FakeTensorMode(), torch.no_grad():
        built = build_network(network, channels).eval()
        # Two pairs, since SITReg may work on a single small one twice over.
        images = torch.zeros(2, channels, *GRID)
        with Count() as count:
            built(images, images)
    return count.macs / images[:, 0].numel()


TRANSMORPH = build_transmorph(rules_transmorph.BASE, choose_window(GRID).value)
HALF = build_transmorph(rules_transmorph.CPU, choose_window(GRID).value)
LATER = dataclasses.replace(
    HALF, variant="time_varying", depths=(4, 4, 5), heads=(8, 8, 8), window=(2, 2, 2), time_steps=3
)


@pytest.mark.parametrize(
    "network",
    [
        GradICONPlan((0.5, 1.0), 0.25),
        GradICONPlan((1.0,), 1.0),
        build_sitreg(rules_sitreg.LUMIR, 4, (1.0, 1.0, 1.0), checkpointing=False),
        build_sitreg(rules_sitreg.CPU, 3, (1.0, 1.0, 1.0), checkpointing=False),
        TRANSMORPH,
        HALF,
        LATER,
    ],
    ids=["narrow", "gradicon", "lumir", "sitreg", "full", "half", "time_varying"],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_multiply_adds_are_those_of_the_layers(network, channels):
    assert macs_per_voxel(network, channels) == pytest.approx(counted(network, channels), rel=0.05)


def test_attention_counts_every_pair_of_tokens_in_a_window():
    """By the difference of two windows: all the rest is much more."""
    windows = [dataclasses.replace(HALF, window=window) for window in ((1, 2, 2), (1, 1, 1))]
    many, one = (macs_per_voxel(network, 1) for network in windows)
    assert many - one == pytest.approx(counted(windows[0], 1) - counted(windows[1], 1), rel=1e-6)


def test_published_multiply_adds():
    cascade = GradICONPlan((0.25, 0.5, 1.0, 1.0), 1.0)
    assert macs_per_voxel(cascade, 1) == pytest.approx(60.5e3, rel=1e-3)


def test_more_channels_take_longer_and_training_less_than_optimisation():
    narrow, wide = (
        cpu_step_seconds(build_sitreg(c, 4, (1.0,) * 3, checkpointing=False), 1, GRID)
        for c in (rules_sitreg.CPU, rules_sitreg.LUMIR)
    )
    assert narrow.optimisation < wide.optimisation
    assert narrow.training < narrow.optimisation
