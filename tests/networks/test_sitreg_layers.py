"""Names, sizes and single layers of SITReg, and the authors' form of it."""

import pytest
import torch
from golden_inputs import volume
from small_pairs import pair
from small_sitreg import small_plan, small_sitreg

from autoreg.errors import PlanError
from autoreg.network_plan import SITRegPlan
from autoreg.networks import sitreg_own
from autoreg.networks.sitreg import SITReg
from autoreg.networks.sitreg_affine import (
    AffineHead,
    affine_parts,
    centred_to_index,
    half_affine,
)
from autoreg.networks.sitreg_features import Convolution, ConvolutionBlock
from autoreg.networks.sitreg_parts import Resolution
from autoreg.numerics.index_maps import Displacement, MidpointStep
from autoreg.numerics.inverse_layer import InverseSettings, invert_field

CUBE = (32, 32, 32)


@pytest.mark.parametrize(
    ("features", "heads", "groups", "normalised", "affine", "parameters"),
    [
        ((8, 40, 40, 40), (16, 72, 72, 72), 2, False, False, 1_196_820),
        ((8, *[36] * 4), (16, *[62] * 4), 2, False, False, 1_234_615),
        ((8, *[36] * 3), (16, *[62] * 3), 2, False, False, 928_050),
        (
            (8, *[36] * 5, 48, 64, 88),
            (16, *[62] * 5, None, None, None),
            2,
            False,
            True,
            2_464_872,
        ),
        ((12, 32, 64, 128, 128, 128), (12, 64, 128, 256, 256, 256), 4, True, False, 15_076_110),
    ],
    ids=["oasis", "oasis deep", "lpba40", "oasis raw", "lumir"],
)
def test_published_configurations_have_the_published_size(
    features, heads, groups, normalised, affine, parameters
):
    plan = SITRegPlan(
        features=features,
        feature_convolutions=(2,) * len(features),
        deformation_features=heads,
        deformation_convolutions=2,
        groups=groups,
        normalise_deformations=normalised,
        bound_share=0.99,
        affine=affine,
    )
    with torch.device("meta"):
        network = SITReg(plan, 1)
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_state_has_the_names_of_the_authors():
    plan = small_plan(deformation_features=(None, 12, 12), affine=True, normalise_deformations=True)
    with torch.device("meta"):
        names = {name.removesuffix(".weight") for name in SITReg(plan, 1).state_dict()}
    block = [
        f"{kind}.{i}{conv}"
        for i in (0, 1)
        for kind, conv in (("convolutions", ".conv"), ("normalizers", ""))
    ]
    expected = {"_feature_extractor.initial_projection"}
    expected |= {f"_feature_extractor.initial_convs.{name}" for name in block}
    for i in (0, 1):
        stage = f"_feature_extractor.downsampling_blocks.{i}"
        expected |= {f"{stage}.downsampling.conv", f"{stage}.projection.conv"}
        expected |= {f"{stage}.conv.{name}" for name in block}
        head = f"_not_none_dense_extration_networks.{i}"
        expected |= {f"{head}.final_convolution.conv"}
        expected |= {f"{head}.convolutions.{name}" for name in block}
    affine = "_affine_extraction_network"
    expected |= {f"{affine}.linears.0", f"{affine}.linears.1", f"{affine}.final_linear"}
    assert {name for name in names if not name.endswith(".bias")} == expected
    assert {f"{name}.bias" for name in expected} == {n for n in names if n.endswith(".bias")}


@torch.no_grad()
def test_normalisation_is_as_accurate_as_its_type():
    """Torch's kernel for channels last is off by 3e-4 here, and by more on larger grids."""
    torch.manual_seed(0)
    block = ConvolutionBlock(8, 8, 1, 2)
    block.first.bias += 3
    x = torch.rand(2, 8, 40, 40, 40)
    expected = block.double()(x.double())
    torch.testing.assert_close(block.float()(x), expected.float(), rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kernel", [1, 2, 3])
def test_convolutions_round_alike_wherever_an_item_is_in_its_batch(kernel):
    torch.manual_seed(0)
    for shape in ((21, 26, 17), (11, 13, 9), (6, 7, 5), (3, 11, 20)):
        layer = Convolution(12, 3, kernel, stride=2 if kernel == 2 else 1, padding=kernel // 3)
        x = torch.randn(2, 12, *shape)
        assert torch.equal(layer(x).flip(0), layer(x.flip(0)))
        torch.testing.assert_close(layer(x), layer.conv(x))
        torch.testing.assert_close(layer(x[:1]), layer.conv(x)[:1])


def test_resolutions_cover_the_grid():
    coarse = Resolution(3, (33, 16, 5), samples=2)
    assert coarse.shape == (5, 2, 1)
    assert coarse.field_shape == (9, 4, 2)
    assert coarse.field_factors == (4, 4, 4)
    like = torch.zeros(1)
    assert coarse.centres(like)[0, 0, :, 0, 0].tolist() == [3.5, 11.5, 19.5, 27.5, 35.5]
    assert coarse.field_nodes(like)[0, 2, 0, 0].tolist() == [1.5, 5.5]
    ramp = torch.arange(5.0).view(1, 1, 5, 1, 1).expand(1, 1, 5, 2, 1)
    sampled = coarse.sampled(ramp, coarse.field_nodes(like))[0, 0, :, 0, 0]
    assert sampled.tolist() == [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75]


def test_control_points_become_full_grid_voxels():
    resolution = Resolution(2, (16, 16, 16), samples=2)
    field = resolution.field(torch.full((2, 3, 4, 4, 4), 0.25))
    torch.testing.assert_close(field, torch.ones(2, 3, 8, 8, 8))


@pytest.mark.parametrize("samples", [1, 2])
def test_fields_round_alike_wherever_an_item_is_in_its_batch(samples):
    control_points = torch.randn(2, 3, 17, 5, 10, generator=torch.Generator().manual_seed(0))
    resolution = Resolution(samples - 1, tuple(samples * n for n in (17, 5, 10)), samples)
    field = resolution.field(control_points)
    assert torch.equal(field.flip(0), resolution.field(control_points.flip(0)))


def test_half_way_maps_are_followed_by_both_deformations():
    """What the next resolution's features are warped by is what the chain of steps does."""
    torch.manual_seed(0)
    resolution = Resolution(1, (12, 10, 9), samples=2)
    half = torch.randn(2, 3, *resolution.shape, dtype=torch.float64)
    field = resolution.field(0.7 * torch.rand(1, 3, *resolution.shape, dtype=torch.float64) - 0.35)
    field = torch.cat([-field, field])
    settings = InverseSettings(tolerance_vox=1e-9, max_evaluations=100)
    middle = invert_field(field, resolution.field_factors, settings)
    nodes = resolution.field_nodes(field)
    delta = MidpointStep(field, resolution.field_factors, None, settings)
    expected = Displacement(half, (2, 2, 2))(delta(nodes)) - nodes
    found = sitreg_own._advanced(half, resolution, middle)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


def test_affine_maps_are_those_of_the_authors():
    parameters = torch.tensor([[0.2, -0.1, 0.3, 0.05, -0.2, 0.1, 0.3, 0.2, -0.4, 0.1, 0.2, 0.3]])
    linear, inverse, translation = affine_parts(parameters.double())
    symmetric = torch.tensor([[0.2, 0.05, -0.2], [0.05, -0.1, 0.1], [-0.2, 0.1, 0.3]])
    skew = torch.tensor([[0.0, 0.3, 0.2], [-0.3, 0.0, -0.4], [-0.2, 0.4, 0.0]])
    expected = torch.matrix_exp(symmetric.double()) @ torch.matrix_exp(skew.double())
    torch.testing.assert_close(linear[0], expected, rtol=0, atol=1e-7)
    torch.testing.assert_close(linear @ inverse, torch.eye(3).double()[None])
    assert translation.tolist() == parameters[:, 9:].double().tolist()


def test_half_affine_maps_are_inverse_to_each_other():
    torch.manual_seed(0)
    parameters = 0.4 * torch.randn(4, 12, dtype=torch.float64)
    last = torch.tensor([[[0.0, 0.0, 0.0, 1.0]]]).double().expand(4, 1, 4)
    square = torch.cat([half_affine(parameters), last], dim=1)
    product = square[:2] @ square[2:]
    torch.testing.assert_close(product, torch.eye(4).double().expand(2, 4, 4))
    # A = M_f M_r^-1 with M = (x -> L (x + t)).
    linear, _, translation = affine_parts(parameters)
    point = torch.randn(2, 3, 1, dtype=torch.float64)
    undone = torch.linalg.solve(linear[2:], point) - translation[2:, :, None]
    expected = linear[:2] @ (undone + translation[:2, :, None])
    torch.testing.assert_close(square[:2, :3, :3] @ point + square[:2, :3, 3:], expected)


def test_centred_coordinates_are_physical_up_to_one_factor():
    shape, size = (10, 40, 20), (2.0, 1.0, 3.0)
    turn = torch.zeros(1, 3, 4, dtype=torch.float64)
    turn[0, 0, 2], turn[0, 2, 0], turn[0, 1, 1] = 1, -1, 1
    turn[0, 1, 3] = 0.5  # the longest side, axis 2 with 60 mm, spans [-1, 1]: 15 mm
    index = centred_to_index(turn, shape, size)[0]
    middle = torch.tensor([4.5, 19.5, 9.5], dtype=torch.float64)
    moved = index[:, :3] @ middle + index[:, 3]
    assert (moved - middle).tolist() == pytest.approx([0, 15, 0])
    scale = torch.tensor(size, dtype=torch.float64)
    physical = scale[:, None] * index[:, :3] / scale
    torch.testing.assert_close(physical.T @ physical, torch.eye(3).double())


@torch.no_grad()
def test_both_forms_agree_to_first_order():
    """With the displacements of a fresh network, some tenths of a voxel, second order is small."""
    moving, fixed = volume(1, CUBE), volume(2, CUBE)
    own, upstream = (
        small_sitreg(1.0, compatibility=form)(moving, fixed) for form in ("own", "upstream")
    )
    for name in ("fixed_to_moving", "moving_to_fixed"):
        a, b = (getattr(maps, name).displacement_vox(CUBE) for maps in (own, upstream))
        assert (a - b).abs().max() < 0.07
        assert (a - b).abs().mean() < 0.007 < 0.2 * b.abs().mean()


@torch.no_grad()
def test_upstream_stores_its_maps_on_the_grid():
    maps = small_sitreg(compatibility="upstream")(*pair())
    (step,) = maps.fixed_to_moving.steps
    assert step.factors == (1, 1, 1)
    assert step.u_vox.shape == (1, 3, *pair()[0].shape[2:])


@torch.no_grad()
def test_upstream_counts_resolutions_as_the_authors_do():
    """One resolution without a head at the coarse end: the finest head is left out."""
    network = small_sitreg(deformation_features=(8, 12, None), compatibility="upstream")
    shape = pair()[0].shape[2:]
    before = network.one_direction(*pair()).displacement_vox(shape)
    finest, coarser, _ = network.parts().heads
    finest.final_convolution.conv.bias += 1
    assert torch.equal(network.one_direction(*pair()).displacement_vox(shape), before)
    coarser.final_convolution.conv.bias += 1
    assert not torch.equal(network.one_direction(*pair()).displacement_vox(shape), before)


def test_a_plan_of_which_the_authors_would_leave_out_everything_is_refused():
    heads = (8, None, None)
    with pytest.raises(PlanError, match="none of the deformations counts"):
        small_plan(deformation_features=heads, compatibility="upstream")
    assert small_plan(deformation_features=heads).levels == 1


@torch.no_grad()
@pytest.mark.parametrize(("form", "counts"), [("own", True), ("upstream", False)])
def test_the_first_affine_layer_counts_in_the_own_form_alone(form, counts):
    shape = (4, 4, 3)
    network = small_sitreg(affine=True, compatibility=form)
    before = network.one_direction(*pair(shape)).displacement_vox(shape)
    network.parts().affine_head.linears[0].weight *= 3
    after = network.one_direction(*pair(shape)).displacement_vox(shape)
    assert torch.equal(before, after) != counts


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@torch.no_grad()
@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(("batch", "channels"), [(3, 36), (5, 88)])
def test_the_affine_head_rounds_alike_wherever_an_item_is_in_its_batch(batch, channels):
    """Torch's linear layer does not, with two threads and an odd number of pairs."""
    torch.manual_seed(0)
    head = AffineHead(channels, chained=True)
    features = torch.randn(2 * batch, channels, 2, 3, 1)
    parameters = head(features)
    assert torch.equal(parameters.roll(batch, 0), head(features.roll(batch, 0)))
    first, second = features.mean((2, 3, 4)).chunk(2)
    x = torch.cat([first - second, first + second], dim=1)
    for layer in head.linears:
        x = torch.relu(layer(x))
    torch.testing.assert_close(parameters[:batch], head.final_linear(x))


def test_the_authors_affine_stage_needs_one_coarsest_voxel():
    network = small_sitreg(affine=True, compatibility="upstream")
    with pytest.raises(PlanError, match="one coarsest voxel"):
        network(*pair((5, 4, 4)))


@torch.no_grad()
def test_the_affine_stage_moves_the_whole_grid():
    shape = (6, 12, 8)
    network = small_sitreg(0.0, affine=True, voxel_size=(2.0, 1.0, 1.0))
    head = network.parts().affine_head.final_linear
    parameters = {name: p.clone() for name, p in head.named_parameters()}
    head.weight[:] = 0
    forth = network.one_direction(*pair(shape))
    # Equal parameters of both directions are no transformation.
    nothing = torch.zeros(1, 3, *shape)
    torch.testing.assert_close(forth.displacement_vox(shape), nothing, rtol=0, atol=1e-5)
    head.load_state_dict(parameters)
    maps = network(*pair(shape))
    moved = maps.fixed_to_moving.displacement_vox(shape)
    assert moved.abs().max() > 0.02
    for axis in (2, 3, 4):
        torch.testing.assert_close(
            moved.diff(n=2, dim=axis).abs().max(), nothing.max(), rtol=0, atol=1e-5
        )
