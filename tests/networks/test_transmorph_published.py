"""TransMorph against the published code: names, sizes and numbers."""

import pytest
import torch
from small_transmorph import blobs, displacing_network, transmorph_plan

from autoreg.networks.factory import build_network
from autoreg.numerics.warp import sample_at_unit

WINDOW = (5, 6, 7)
BASE = {"window": WINDOW, "embedding": 96}
LARGE = {"window": WINDOW, "embedding": 128, "depths": (2, 2, 12, 2), "heads": (4, 4, 8, 16)}
SMALL = {"window": WINDOW, "embedding": 48, "heads": (4, 4, 4, 4)}
TINY = {"window": WINDOW, "embedding": 6, "heads": (2, 2, 4, 4)}
LUMIR = {
    "window": (2, 3, 3), "embedding": 96, "depths": (4, 4, 5), "heads": (8, 8, 8), "time_steps": 7,
}  # fmt: skip


@pytest.mark.parametrize(
    ("variant", "values", "parameters"),
    [
        ("full", BASE, 46_771_251),
        ("full", LARGE, 108_343_907),
        ("full", SMALL, 11_757_195),
        ("full", TINY, 244_527),
        ("half", BASE, 46_556_979),
        ("half", LARGE, 107_949_923),
        ("half", SMALL, 11_708_811),
        ("half", TINY, 239_235),
        ("time_varying", LUMIR, 17_449_584),
    ],
)
def test_published_configurations_have_their_number_of_parameters(variant, values, parameters):
    with torch.device("meta"):
        network = build_network(transmorph_plan(variant, **values), 1)
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize(
    ("variant", "values", "entries", "some"),
    [
        # One entry fewer than published, two in the last: the sampling grids.
        ("full", BASE, 165, {
            "transformer.patch_embed.proj.weight": (96, 2, 4, 4, 4),
            "transformer.layers.0.blocks.1.attn.relative_position_bias_table": (1287, 4),
            "transformer.layers.2.blocks.3.attn.relative_position_index": (210, 210),
            "transformer.layers.3.blocks.1.mlp.fc2.weight": (768, 3072),
            "transformer.layers.2.downsample.reduction.weight": (768, 3072),
            "transformer.norm3.bias": (768,),
            "up0.conv1.0.weight": (384, 1152, 3, 3, 3),
            "up4.conv1.0.weight": (16, 64, 3, 3, 3),
            "c1.0.weight": (48, 2, 3, 3, 3),
            "c2.0.weight": (16, 2, 3, 3, 3),
            "reg_head.0.bias": (3,),
        }),
        ("half", LARGE, 267, {
            "up3.conv1.0.weight": (16, 192, 3, 3, 3), "c2.0.weight": (16, 2, 3, 3, 3),
        }),
        ("time_varying", LUMIR, 269, {
            "cs.6.1.running_mean": (48,),
            "c1.1.num_batches_tracked": (),
            "up3s.6.conv1.0.weight": (16, 96, 3, 3, 3),
            "reg_heads.0.0.weight": (3, 16, 3, 3, 3),
            "reg_head.0.weight": (3, 16, 3, 3, 3),
        }),
    ],
)  # fmt: skip
def test_state_has_the_published_names_and_shapes(variant, values, entries, some):
    with torch.device("meta"):
        state = build_network(transmorph_plan(variant, **values), 1).state_dict()
    assert len(state) == entries
    assert {key: tuple(state[key].shape) for key in some} == some


# Float64 results of the published code (torch 2.13), stored as float32: voxel, (d, h, w) there.
FLOWS = {
    ("full", (2, 3, 2), (64, 96, 64)): {
        (21, 48, 15): (-0.654686, -0.97237, 0.059276),
        (33, 30, 48): (0.441563, -0.790266, 0.253741),
        (48, 72, 33): (0.175684, -1.134033, -0.256206),
    },
    ("full", (3, 4, 5), (32, 64, 96)): {
        (9, 33, 24): (0.644607, -0.966465, 0.01958),
        (15, 21, 72): (0.089106, -0.38621, -0.412447),
        (24, 48, 48): (-0.631419, -0.905533, -0.628493),
    },
    ("half", (3, 4, 5), (32, 64, 96)): {
        (9, 33, 24): (0.427875, -0.974031, 0.409794),
        (15, 21, 72): (0.267309, 0.105567, 0.073001),
        (24, 48, 48): (0.606004, 0.723507, -0.345213),
    },
}


@torch.no_grad()
@pytest.mark.parametrize("case", FLOWS, ids=str)
def test_displacements_are_those_of_the_published_code(case):
    variant, window, shape = case
    network = displacing_network(transmorph_plan(variant, window))
    u_vox = network.one_direction(*blobs(shape)).displacement_vox(shape)
    assert_values(u_vox, FLOWS[case], 1e-4)


@torch.no_grad()
@pytest.mark.parametrize(
    ("compatibility", "values"),
    [
        ("upstream", {(10, 24, 8): (1.177344, 2.200961, 0.709255),
                      (16, 16, 24): (1.615289, 2.128539, -1.149919),
                      (24, 36, 16): (1.058885, 0.100832, 0.452213)}),
        ("own", {(10, 24, 8): (1.065643, 2.031645, 0.724809),
                 (16, 16, 24): (1.721923, 2.30608, -1.307167),
                 (24, 36, 16): (1.043612, 0.135314, 0.434607)}),
    ],
)  # fmt: skip
def test_time_steps_are_those_of_the_published_code_with_either_sampling(compatibility, values):
    plan = transmorph_plan("time_varying", (2, 3, 3), compatibility=compatibility)
    u_half = displacing_network(plan).half_displacement(torch.cat(blobs((32, 48, 32)), 1))
    assert_values(u_half, values, 1e-4)


@torch.no_grad()
@pytest.mark.parametrize(
    ("compatibility", "values"),
    [
        ("upstream", {(9, 33, 24): 0.196332, (15, 21, 72): 0.36537, (24, 48, 48): 0.116851}),
        ("own", {(9, 33, 24): 0.200741, (15, 21, 72): 0.374201, (24, 48, 48): 0.134153}),
    ],
)
def test_the_map_is_the_one_whose_warped_image_the_published_training_saw(compatibility, values):
    shape = (32, 64, 96)
    moving, fixed = blobs(shape)
    network = displacing_network(transmorph_plan("half", compatibility=compatibility))
    points_unit = network.one_direction(moving, fixed).dense(shape)
    warped = sample_at_unit(moving, points_unit, "zeros")
    assert_values(warped, {voxel: (value,) for voxel, value in values.items()}, 1e-5)


def assert_values(volume, values, tolerance):
    for (d, h, w), expected in values.items():
        found = volume[0, :, d, h, w]
        torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=tolerance)
