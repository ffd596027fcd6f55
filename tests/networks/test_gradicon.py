import copy

import pytest
import torch
from small_pairs import pair, same_tensors, small_network

from autoreg.errors import CheckpointError, PlanError
from autoreg.network_plan import GradICONPlan
from autoreg.networks import gradicon
from autoreg.networks.factory import build_network
from autoreg.networks.gradicon import GradICON, level_prefixes
from autoreg.networks.unet import pool
from autoreg.numerics.coordinates import unit_grid
from autoreg.numerics.warp import sample_at_unit

PUBLISHED = (0.25, 0.5, 1.0, 1.0)
PUBLISHED_PREFIXES = (
    "netPhi.netPhi.net.netPhi.net.net.",
    "netPhi.netPhi.net.netPsi.net.",
    "netPhi.netPsi.net.",
    "netPsi.net.",
)


@torch.no_grad()
def dense(chain, shape):
    return chain.dense(shape)


def test_state_has_the_published_names_in_their_order():
    with torch.device("meta"):
        keys = list(GradICON(PUBLISHED, 1, 1.0).state_dict())
    assert len(keys) == 188
    # Each stage has 47 entries: 5 + 5 convolutions, 5 norms, the last convolution.
    for stage, prefix in enumerate(PUBLISHED_PREFIXES):
        block = keys[47 * stage : 47 * (stage + 1)]
        assert all(key.startswith(prefix) for key in block)
        names = [key.removeprefix(prefix) for key in block]
        assert names[:2] == ["downConvs.0.weight", "downConvs.0.bias"]
        assert names[10:12] == ["upConvs.0.weight", "upConvs.0.bias"]
        assert names[20:25] == [
            f"batchNorms.0.{n}"
            for n in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        ]
        assert names[45:] == ["lastConv.weight", "lastConv.bias"]


@pytest.mark.parametrize(
    ("factors", "expected"),
    [
        (PUBLISHED, PUBLISHED_PREFIXES),
        ((0.25, 0.5, 1.0), ("netPhi.net.netPhi.net.net.", "netPhi.net.netPsi.net.", "netPsi.net.")),
        ((1.0,), ("net.",)),
        ((0.25, 0.5), ("net.netPhi.net.net.", "net.netPsi.net.")),
        ((0.25, 1.0), ("netPhi.net.net.net.", "netPsi.net.")),
    ],
)
def test_names_follow_the_nesting_of_the_published_modules(factors, expected):
    assert level_prefixes(factors) == expected


@pytest.mark.parametrize("factors", [(0.3,), (1.0, 0.5)])
def test_impossible_factors_are_refused(factors):
    with pytest.raises(PlanError, match="level"):
        GradICON(factors, 1, 0.125)


def test_a_fresh_network_is_the_identity():
    network = GradICON((0.25, 0.5, 1.0, 1.0), 1, 0.125).eval()
    maps = network(*pair((9, 7, 11)))
    for chain in (maps.fixed_to_moving, maps.moving_to_fixed):
        assert torch.equal(dense(chain, (9, 7, 11)), unit_grid((9, 7, 11)))


@pytest.mark.parametrize("train", [True, False])
def test_swapping_the_images_swaps_the_maps(train):
    moving, fixed = pair()
    network = small_network().train(train)
    shape = moving.shape[2:]
    one, other = network(moving, fixed), network(fixed, moving)
    forth = dense(one.fixed_to_moving, shape)
    torch.testing.assert_close(forth, dense(other.moving_to_fixed, shape), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        dense(one.moving_to_fixed, shape), dense(other.fixed_to_moving, shape), rtol=0, atol=1e-6
    )
    assert (forth - dense(one.moving_to_fixed, shape)).abs().max() > 1e-3


def test_the_map_is_the_published_composition():
    """Two levels, written out: u0 on the half grid, u1 on the image warped by it."""
    moving, fixed = pair()
    shape = moving.shape[2:]
    network = small_network((0.5, 1.0))
    coarse, fine = network.get_submodule("netPhi.net.net"), network.get_submodule("netPsi.net")
    with torch.no_grad():
        nodes = unit_grid(shape)
        u0 = coarse(pool(moving), pool(fixed))
        warped = sample_at_unit(moving, nodes + sample_at_unit(u0, nodes), "border")
        points = nodes + fine(warped, fixed)
        expected = points + sample_at_unit(u0, points)
        found = network.one_direction(moving, fixed).dense(shape)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)
    assert (found - nodes).abs().max() > 0.02


@pytest.mark.parametrize("shape", [(1, 9, 4), (3, 5, 17), (2, 1, 1)])
@pytest.mark.parametrize("factors", [(0.125, 0.5, 1.0, 1.0), (0.25, 0.25, 0.5)])
def test_any_shape_and_depth_works(shape, factors):
    moving, fixed = torch.rand(2, 2, 1, *shape)
    maps = small_network(factors)(moving, fixed)
    assert len(maps.fixed_to_moving.fields) == len(factors)
    assert dense(maps.fixed_to_moving, shape).shape == (2, 3, *shape)
    assert torch.isfinite(dense(maps.moving_to_fixed, shape)).all()


def batch_sizes(network, moving, fixed):
    sizes = []
    for prefix in level_prefixes((0.5, 1.0)):
        network.get_submodule(prefix[:-1]).register_forward_hook(
            lambda _m, inputs, _out: sizes.append(inputs[0].shape[0])
        )
    network(moving, fixed)
    return sizes


def test_eval_mode_runs_both_directions_in_one_batch():
    assert batch_sizes(small_network(), *pair()) == [2, 2]


def test_train_mode_takes_statistics_per_direction_fixed_to_moving_first():
    moving, fixed = pair()
    network = small_network().train()
    by_hand = copy.deepcopy(network)
    assert batch_sizes(network, moving, fixed) == [1, 1, 1, 1]
    by_hand.one_direction(moving, fixed)
    by_hand.one_direction(fixed, moving)
    assert same_tensors(list(network.buffers()), list(by_hand.buffers()))
    by_hand.one_direction(fixed, moving)
    assert not same_tensors(list(network.buffers()), list(by_hand.buffers()))


def test_each_pair_of_a_batch_is_registered_by_itself():
    moving, fixed = pair()
    network = small_network()
    batch = network(torch.cat([moving, fixed]), torch.cat([fixed, fixed]))
    alone = network(moving, fixed)
    for both, one in (
        (batch.fixed_to_moving, alone.fixed_to_moving),
        (batch.moving_to_fixed, alone.moving_to_fixed),
    ):
        found = dense(both, moving.shape[2:])[:1]
        torch.testing.assert_close(found, dense(one, moving.shape[2:]), rtol=0, atol=1e-6)


def test_one_direction_is_half_of_both():
    moving, fixed = pair()
    network = small_network()
    single = dense(network.one_direction(moving, fixed), moving.shape[2:])
    both = dense(network(moving, fixed).fixed_to_moving, moving.shape[2:])
    torch.testing.assert_close(single, both, rtol=0, atol=1e-6)


def test_images_are_pooled_once(monkeypatch):
    calls = []
    monkeypatch.setattr(gradicon, "pool", lambda x: calls.append(1) or pool(x))
    small_network((0.25, 0.25, 0.5, 1.0))(*pair())
    assert len(calls) == 4  # two halvings of two images, for both directions and all levels


@pytest.mark.parametrize("factors", [(0.25, 0.5, 1.0, 1.0), (0.5, 1.0), (0.25, 0.5), (0.25, 1.0)])
def test_weights_of_the_cascade_without_its_last_level_give_the_same_map(factors):
    moving, fixed = pair()
    shallow = small_network(factors[:-1])
    deep = GradICON(factors, 1, 0.125).eval()
    deep.load_without_last_level(shallow.state_dict())
    expected = dense(shallow(moving, fixed).fixed_to_moving, moving.shape[2:])
    found = dense(deep(moving, fixed).fixed_to_moving, moving.shape[2:])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert (found - unit_grid(moving.shape[2:])).abs().max() > 0.02


def test_weights_of_another_cascade_are_refused_and_nothing_is_loaded():
    deep = GradICON((0.5, 1.0, 1.0), 1, 0.125)
    before = [t.clone() for t in deep.state_dict().values()]
    for other in (small_network((0.5, 1.0, 1.0)), small_network((1.0,)), small_network((0.25, 1))):
        with pytest.raises(CheckpointError, match="without its last level"):
            deep.load_without_last_level(other.state_dict())
    assert same_tensors(before, list(deep.state_dict().values()))
    with pytest.raises(CheckpointError, match="width"):
        deep.load_without_last_level(GradICON((0.5, 1.0), 1, 0.25).state_dict())


@pytest.mark.parametrize("training", [True, False])
def test_checkpointing_changes_no_bit(training):
    """Maps, gradients and running statistics, after two backward passes through one graph."""
    moving, fixed = torch.rand(2, 2, 1, 12, 16, 14, generator=torch.Generator().manual_seed(3))
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        plan = GradICONPlan((0.5, 1.0), 0.125, checkpointing)
        network = build_network(plan, 1).train(training)
        for name, weight in network.named_parameters():
            if "lastConv" in name:
                torch.nn.init.normal_(weight, std=0.02)
        maps = network(moving, fixed)
        dense = maps.fixed_to_moving.dense((12, 16, 14))
        loss = dense.square().mean() + maps.moving_to_fixed.dense((12, 16, 14)).sin().mean()
        parameters = list(network.parameters())
        first = torch.autograd.grad(loss, parameters, retain_graph=True)
        second = torch.autograd.grad(loss, parameters)
        found.append([dense.detach(), *first, *second, *network.state_dict().values()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_checkpointing_is_kept_without_the_last_level():
    assert GradICONPlan((0.5, 1.0), 0.125, True).without_last_level().checkpointing
