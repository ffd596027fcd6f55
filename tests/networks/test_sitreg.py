"""The theorems of SITReg as properties, for deformations as large as the network can make them."""

import pytest
import torch
from golden_inputs import volume
from small_pairs import pair
from small_sitreg import small_plan, small_sitreg

from autoreg.networks import sitreg_own, sitreg_parts
from autoreg.networks.factory import build_network
from autoreg.networks.sitreg_parts import Resolution
from autoreg.numerics.inverse_layer import InverseSettings

CUBE = (32, 32, 32)
SATURATED = 1000.0


@pytest.fixture(scope="module", params=[40.0, SATURATED], ids=["large", "saturated"])
def cube_maps(request):
    with torch.no_grad():
        return small_sitreg(request.param)(volume(1, CUBE), volume(2, CUBE))


def points_in_and_around(shape, count, seed=0):
    random = torch.rand(1, 3, 1, 1, count, generator=torch.Generator().manual_seed(seed))
    return random * (torch.tensor(shape).view(3, 1, 1, 1) + 3) - 2


@pytest.mark.parametrize(
    ("shape", "channels", "changes"),
    [
        ((16, 16, 16), 1, {}),
        ((21, 26, 17), 1, {"normalise_deformations": True}),
        ((4, 20, 30), 3, {"deformation_features": (None, 12, 12)}),
        ((13, 1, 7), 2, {"affine": True, "axes": "whd", "voxel_size": (1.0, 2.0, 1.5)}),
        ((14, 12, 13), 1, {"affine": True, "checkpointing": True}),
        ((21, 26, 17), 1, {"compatibility": "upstream"}),
    ],
)
def test_swapping_the_images_swaps_the_maps_to_the_last_bit(shape, channels, changes):
    network = small_sitreg(channels=channels, **changes)
    moving, fixed = torch.rand(2, 2, channels, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        one, other = network(moving, fixed), network(fixed, moving)
        forth, back = one.fixed_to_moving.dense(shape), one.moving_to_fixed.dense(shape)
        assert torch.equal(forth, other.moving_to_fixed.dense(shape))
        assert torch.equal(back, other.fixed_to_moving.dense(shape))
        assert torch.equal(network.one_direction(moving, fixed).dense(shape), forth)
    assert (forth - back).abs().max() > 0.01


@torch.no_grad()
def test_the_maps_are_inverse_to_each_other_at_any_point(cube_maps):
    """0.7 voxel and more with stored inverses, as the authors' code has them."""
    points = points_in_and_around(CUBE, 50_000)
    forth, back = cube_maps.fixed_to_moving, cube_maps.moving_to_fixed
    assert (forth.at_index(points) - points).abs().max() > 1.5
    for first, second in ((forth, back), (back, forth)):
        assert (second.at_index(first.at_index(points)) - points).abs().max() < 0.003


def test_no_point_is_folded(cube_maps):
    points = points_in_and_around(CUBE, 50_000).requires_grad_()
    mapped = cube_maps.fixed_to_moving.at_index(points)
    rows = [torch.autograd.grad(c.sum(), points, retain_graph=True)[0] for c in mapped.unbind(1)]
    determinants = torch.linalg.det(torch.stack(rows).permute(1, 3, 4, 5, 0, 2))
    assert determinants.min() > 0
    assert determinants.min() < 0.5
    assert determinants.max() > 1.5


def test_a_fresh_network_moves_less_than_a_voxel():
    torch.manual_seed(0)
    network = build_network(small_plan(affine=True), 1)
    u_vox = network.one_direction(*pair()).displacement_vox(pair()[0].shape[2:])
    assert 0 < u_vox.abs().max() < 0.5


@torch.no_grad()
@pytest.mark.parametrize(
    "shape", [(1, 9, 4), (3, 5, 17), (2, 1, 1), (1, 1, 1), (33, 7, 12)], ids=str
)
def test_any_shape_works(shape):
    moving, fixed = torch.rand(2, 2, 1, *shape, generator=torch.Generator().manual_seed(2))
    for affine in (False, True):
        maps = small_sitreg(affine=affine)(moving, fixed)
        forth = maps.fixed_to_moving.displacement_vox(shape)
        assert forth.shape == (2, 3, *shape)
        points = points_in_and_around(shape, 100)
        there = maps.moving_to_fixed.at_index(maps.fixed_to_moving.at_index(points))
        torch.testing.assert_close(there, points.expand(2, -1, -1, -1, -1), rtol=0, atol=0.009)


@torch.no_grad()
def test_pairs_of_a_batch_do_not_see_each_other():
    moving, fixed = (
        torch.cat([volume(i, (12, 15, 9)), volume(i + 2, (12, 15, 9))]) for i in (1, 5)
    )
    network = small_sitreg(affine=True)
    both = network(moving, fixed).fixed_to_moving
    for i in range(2):
        one = slice(i, i + 1)
        alone = network(moving[one], fixed[one]).fixed_to_moving.displacement_vox((12, 15, 9))
        together = both.select(one).displacement_vox((12, 15, 9))
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)


@torch.no_grad()
def test_axes_may_enter_the_network_in_reverse():
    moving, fixed = pair()
    reverse = (0, 1, 4, 3, 2)
    changes = {"affine": True, "voxel_size": (3.0, 1.0, 2.0)}
    as_nibabel = small_sitreg(axes="whd", **changes)
    changes["voxel_size"] = (2.0, 1.0, 3.0)
    found = as_nibabel(moving, fixed).fixed_to_moving.displacement_vox(moving.shape[2:])
    turned = small_sitreg(**changes)(moving.permute(reverse), fixed.permute(reverse))
    expected = turned.fixed_to_moving.displacement_vox(moving.shape[:1:-1])
    torch.testing.assert_close(found, expected.permute(reverse).flip(1), rtol=0, atol=1e-5)
    assert found.abs().max() > 1


@torch.no_grad()
def test_the_finest_deformation_counts_whatever_resolutions_have_none():
    """The authors' code would leave it out here: it counts the coarsest resolution, too."""
    moving, fixed = pair()
    network = small_sitreg(deformation_features=(8, 12, None))
    shape = moving.shape[2:]
    before = network.one_direction(moving, fixed).displacement_vox(shape)
    network.parts().heads[0].final_convolution.conv.weight.neg_()
    after = network.one_direction(moving, fixed).displacement_vox(shape)
    assert (after - before).abs().max() > 0.1


def test_gradients_are_those_of_the_loss(monkeypatch):
    torch.manual_seed(0)
    exact = InverseSettings(tolerance_vox=1e-12, max_evaluations=100)
    monkeypatch.setattr(sitreg_own, "_EXACT", exact)
    monkeypatch.setattr(sitreg_own, "_STORED", exact)
    network = small_sitreg(affine=True).double()
    moving, fixed = (image.double() for image in pair((9, 8, 10)))
    parameters = list(network.parameters())
    weights = torch.rand(1, 3, 9, 8, 10, dtype=torch.float64)

    def loss():
        maps = network(moving, fixed)
        difference = maps.fixed_to_moving.dense((9, 8, 10)) - maps.moving_to_fixed.dense((9, 8, 10))
        return (weights * difference).sum()

    gradients = torch.autograd.grad(loss(), parameters)
    directions = [torch.randn_like(p) for p in parameters]
    step = 1e-7
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter += sign * step * direction
            values.append(loss())
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter -= sign * step * direction
    slope = (values[0] - values[1]) / (2 * step)
    expected = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
    assert slope.item() == pytest.approx(expected.item(), rel=1e-4)
    assert all(g.abs().max() > 0 for g in gradients)


def test_checkpointing_changes_memory_alone():
    """Twice through one graph, as instance optimisation with gradient projection goes."""
    moving, fixed = pair()
    results, kept = [], []
    for checkpointing in (False, True):
        network = small_sitreg(checkpointing=checkpointing)
        sizes = []

        def count(tensor, sizes=sizes):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            maps = network(moving, fixed)
        kept.append(sum(sizes))
        points = maps.fixed_to_moving.dense(moving.shape[2:])
        parameters = list(network.parameters())
        first = torch.autograd.grad(points.square().sum(), parameters, retain_graph=True)
        second = torch.autograd.grad(points.sum(), parameters)
        results.append([points, *first, *second])
    for plain, checkpointed in zip(*results, strict=True):
        assert torch.equal(plain, checkpointed)
    assert kept[1] < 0.7 * kept[0]


@pytest.mark.parametrize("convolutions", [1, 3])
def test_heads_give_the_same_slab_by_slab(convolutions, monkeypatch):
    resolution = Resolution(0, (14, 7, 6), samples=1)
    parts = small_sitreg(checkpointing=True, deformation_convolutions=convolutions).parts()
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 4, *resolution.shape, generator=generator).requires_grad_()
    moved = torch.randn(2, 3, *resolution.shape, generator=generator)
    points = (resolution.centres(moved) + moved).requires_grad_()
    leaves = [features, points, *parts.heads[0].parameters()]
    results = []
    for layers in (100, 5):
        monkeypatch.setattr(sitreg_parts, "_SLAB_LAYERS", layers)
        monkeypatch.setattr(sitreg_parts, "_SLAB_VOXELS", 1)
        control_points = parts.control_points(resolution, features, points)
        with torch.no_grad():
            alone = parts.control_points(resolution, features, points)
        gradients = torch.autograd.grad(control_points.square().sum(), leaves)
        results.append([control_points, alone, *gradients])
    for whole, slabs in zip(*results, strict=True):
        torch.testing.assert_close(
            slabs, whole, atol=1e-4 * float(whole.detach().abs().max()), rtol=0
        )


def test_normalised_heads_are_not_cut():
    plain, normalised = (
        small_sitreg(normalise_deformations=n).parts().heads[0] for n in (False, True)
    )
    assert plain.reach == 2
    assert normalised.reach is None
