import copy

import pytest
import torch
from small_pairs import same_tensors
from small_transmorph import blobs, displacing_network, tiny_plan
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from autoreg.errors import PlanError
from autoreg.networks.factory import build_network
from autoreg.numerics.coordinates import index_grid

SHAPE = (30, 34, 27)
VARIANTS = ("full", "half", "time_varying")
UNUSED = {
    "full": set(),
    "half": {"c2.0.weight"},
    "time_varying": {"reg_head.0.weight", "reg_head.0.bias"},
}


@torch.no_grad()
def displacements(network, moving, fixed):
    maps = network(moving, fixed)
    shape = moving.shape[2:]
    return maps.fixed_to_moving.displacement_vox(shape), maps.moving_to_fixed.displacement_vox(
        shape
    )


def assert_near(a, b, tolerance=2e-4):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_fresh_network_is_nearly_the_identity(variant):
    torch.manual_seed(0)
    network = build_network(tiny_plan(variant), 1).eval()
    for u_vox in displacements(network, *blobs(SHAPE)):
        assert u_vox.shape == (1, 3, *SHAPE)
        assert 0 < u_vox.abs().max() < 1e-2


@pytest.mark.parametrize("variant", VARIANTS)
def test_swapping_the_images_swaps_the_maps_and_one_direction_is_half_of_both(variant):
    moving, fixed = blobs(SHAPE)
    network = displacing_network(tiny_plan(variant))
    forth, back = displacements(network, moving, fixed)
    other_forth, other_back = displacements(network, fixed, moving)
    assert_near(forth, other_back)
    assert_near(back, other_forth)
    with torch.no_grad():
        assert_near(network.one_direction(moving, fixed).displacement_vox(SHAPE), forth)
    assert (forth - back).abs().max() > 0.1
    assert forth.abs().max() > 0.5


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_pair_of_a_batch_is_registered_by_itself(variant):
    moving, fixed = blobs(SHAPE)
    network = displacing_network(tiny_plan(variant))
    alone, _ = displacements(network, moving, fixed)
    batch, _ = displacements(
        network, torch.cat([fixed, moving, moving]), torch.cat([moving, fixed, moving])
    )
    assert_near(batch[1:2], alone)


@pytest.mark.parametrize("variant", VARIANTS)
def test_any_grid_is_that_grid_padded_with_zeros_at_the_high_ends(variant):
    moving, fixed = blobs(SHAPE)
    network = displacing_network(tiny_plan(variant))
    u_vox, _ = displacements(network, moving, fixed)
    padded = [functional.pad(image, (0, 5, 0, 30, 0, 2)) for image in (moving, fixed)]
    assert padded[0].shape[2:] == (32, 64, 32)
    expected, _ = displacements(network, *padded)
    assert_near(u_vox, expected[:, :, :30, :34, :27])


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_grid_of_few_voxels_works(variant):
    network = displacing_network(tiny_plan(variant))
    u_vox, _ = displacements(network, *torch.rand(2, 2, 1, 1, 9, 4))
    assert u_vox.shape == (2, 3, 1, 9, 4)
    assert torch.isfinite(u_vox).all()


@pytest.mark.parametrize(
    ("variant", "compatibility"),
    [("full", "own"), ("time_varying", "own"), ("time_varying", "upstream")],
)
def test_reversed_axes_register_the_reversed_images(variant, compatibility):
    moving, fixed = blobs((20, 32, 26))
    plan = {"compatibility": compatibility}
    there, _ = displacements(
        displacing_network(tiny_plan(variant, axes="whd", **plan)), moving, fixed
    )
    reversed_images = [image.permute(0, 1, 4, 3, 2) for image in (moving, fixed)]
    here, _ = displacements(displacing_network(tiny_plan(variant, **plan)), *reversed_images)
    assert_near(there, here.flip(1).permute(0, 1, 4, 3, 2))


def test_upstream_sampling_is_off_by_half_a_voxel_at_the_ends():
    """What means c = p + u is sampled at c n/(n - 1) - 1/2 of the padded grid."""
    moving, fixed = blobs(SHAPE)
    own, _ = displacements(displacing_network(tiny_plan("half")), moving, fixed)
    plan = tiny_plan("half", compatibility="upstream")
    upstream, _ = displacements(displacing_network(plan), moving, fixed)
    nodes = index_grid(SHAPE)
    n = torch.tensor([32.0, 64, 32]).view(1, 3, 1, 1, 1)
    mixed = (nodes + own) * n / (n - 1) - 0.5 - nodes
    assert_near(upstream, mixed)


@pytest.mark.parametrize(
    ("variant", "changes", "message"),
    [
        ("full", {"time_steps": 3}, 'time_steps: variant "full" has none, found 3'),
        ("half", {"time_steps": 9}, 'time_steps: variant "half" has none, found 9'),
        ("full", {"compatibility": "upstream"}, 'the published "full" samples nothing'),
        ("time_varying", {"time_steps": 0}, "time_steps must be positive, found 0"),
        ("half", {"heads": (2, 2, 0, 2), "drop_path": 1.0}, "heads must be .*; network.drop_path"),
    ],
)
def test_values_that_are_impossible_or_do_nothing_are_refused(variant, changes, message):
    with pytest.raises(PlanError, match=message):
        tiny_plan(variant, **changes)


def test_the_displacement_of_halved_images_counts_twice_in_voxels_of_the_grid():
    moving, fixed = blobs((64, 32, 32))
    network = displacing_network(tiny_plan("time_varying"))
    u_vox, _ = displacements(network, moving, fixed)
    halves = functional.avg_pool3d(torch.cat([moving, fixed], 1), 2)
    with torch.no_grad():
        u_half = network.half_displacement(halves)
    assert u_half.shape == (1, 3, 32, 16, 16)
    assert_near(u_vox.mean((2, 3, 4)), 2 * u_half.mean((2, 3, 4)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_image_channels_of_the_moving_image_come_first(variant):
    network = displacing_network(tiny_plan(variant), channels=2)
    assert network.get_parameter("transformer.patch_embed.proj.weight").shape[1] == 4
    seen = []
    network.transformer.patch_embed.register_forward_hook(lambda _m, i, _o: seen.append(i[0]))
    moving, fixed = torch.rand(2, 1, 2, 32, 32, 32)
    with torch.no_grad():
        u_vox = network.one_direction(moving, fixed).displacement_vox((32, 32, 32))
    images = torch.cat([moving, fixed], 1)
    halved = variant == "time_varying"
    assert torch.equal(seen[0], functional.avg_pool3d(images, 2) if halved else images)
    assert torch.isfinite(u_vox).all()


def test_batch_norms_see_one_direction_at_a_time_while_training():
    moving, fixed = blobs((32, 32, 32))
    network = displacing_network(tiny_plan("time_varying", drop_path=0.0)).train()
    by_hand = copy.deepcopy(network)
    network(moving, fixed)
    by_hand.one_direction(moving, fixed)
    by_hand.one_direction(fixed, moving)
    assert same_tensors(list(network.buffers()), list(by_hand.buffers()))
    by_hand.one_direction(fixed, moving)
    assert not same_tensors(list(network.buffers()), list(by_hand.buffers()))


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("variant", ["full", "half"])
def test_other_variants_run_both_directions_in_one_batch(variant, train):
    network = displacing_network(tiny_plan(variant)).train(train)
    sizes = []
    network.transformer.register_forward_hook(lambda _m, i, _o: sizes.append(i[0].shape[0]))
    network(*blobs((32, 32, 32)))
    assert sizes == [2]


@pytest.mark.parametrize("variant", VARIANTS)
def test_all_used_parameters_get_gradients_and_the_graph_serves_twice(variant):
    network = displacing_network(tiny_plan(variant)).double()
    maps = network(*(image.double() for image in blobs((32, 32, 32))))
    loss = sum(m.fields[0].square().mean() for m in (maps.fixed_to_moving, maps.moving_to_fixed))
    assert loss.dtype == torch.float64
    names, parameters = zip(*network.named_parameters(), strict=True)
    first = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    second = torch.autograd.grad(loss, parameters, allow_unused=True)
    without = {name for name, g in zip(names, first, strict=True) if g is None}
    assert without == UNUSED[variant]
    for a, b in zip(first, second, strict=True):
        assert a is b is None or torch.equal(a, b)
        assert a is None or torch.isfinite(a).all()


def test_gradients_are_those_of_finite_differences():
    torch.manual_seed(0)
    network = displacing_network(tiny_plan("half")).double()
    images = [image.double() for image in blobs((32, 32, 32))]
    names = ("transformer.layers.0.blocks.1.attn.relative_position_bias_table",
             "transformer.layers.1.blocks.0.attn.qkv.weight", "up2.conv1.0.weight")  # fmt: skip

    def loss():
        return network.one_direction(*images).fields[0].square().sum()

    parameters = [network.get_parameter(name) for name in names]
    for parameter, gradient in zip(
        parameters, torch.autograd.grad(loss(), parameters), strict=True
    ):
        direction = torch.randn_like(parameter) / parameter.numel() ** 0.5
        with torch.no_grad():
            values = []
            for step in (1e-5, -2e-5):
                parameter += step * direction
                values.append(float(loss()))
            parameter += 1e-5 * direction
        slope = (values[0] - values[1]) / 2e-5
        assert slope == pytest.approx(float((gradient * direction).sum()), rel=1e-4)


def test_little_is_kept_for_the_backward_pass():
    """Nothing as large as the doubled features, and no attention of more than one block."""
    shape = (64, 32, 32)
    network = displacing_network(tiny_plan())
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    moving, fixed = blobs(shape)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        network(moving, fixed)
    voxels = 2 * 4 * moving.numel()  # bytes of one channel, both directions
    assert max(kept.values()) <= 16 * voxels
    # Three units of 16 channels, one of them twice: the convolution of the images keeps those, too.
    assert sum(kept.values()) < 60 * voxels


@pytest.mark.parametrize("variant", VARIANTS)
def test_shapes_alone_suffice_for_the_memory_estimate(variant):
    with FakeTensorMode():
        network = build_network(tiny_plan(variant), 1)
        maps = network(*torch.zeros(2, 1, 1, *SHAPE))
        loss = maps.fixed_to_moving.dense(SHAPE).sum() + maps.moving_to_fixed.dense(SHAPE).sum()
        parameters = list(network.parameters())
        torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    assert sum(g is None for g in gradients) == len(UNUSED[variant])
