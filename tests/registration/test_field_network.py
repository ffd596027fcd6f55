"""First-order optimisation of a field on top of a network's maps."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_pairs import SHAPE, VANILLA, example_plan, pair, same_tensors, small_network
from small_sitreg import small_sitreg

from autoreg.errors import AutoregError, PlanError
from autoreg.geometry.grid import Geometry
from autoreg.losses.folding import folded_volume
from autoreg.networks.base import MapPair, RegistrationNetwork
from autoreg.numerics.coordinates import unit_grid, unit_to_index_displacement
from autoreg.numerics.maps import FieldChain
from autoreg.plan import LossPlan
from autoreg.registration.field_network import FieldNetwork, optimised_network
from autoreg.registration.instance_optimisation import optimise, preserved
from autoreg.registration.objective import Objective
from autoreg.registration.prepare import Prepared
from autoreg.registration.register import register

KINDS = ("velocity", "displacements")
VELOCITY = replace(VANILLA, optimised="velocity", steps=30)
DISPLACEMENTS = replace(VELOCITY, optimised="displacements")
DIFFUSION = LossPlan("lncc", {"sigma": 2.0}, "diffusion", 0.5)


class Identity(RegistrationNetwork):
    """A network that moves nothing."""

    def forward(self, moving, fixed):
        still = FieldChain((torch.zeros(1, 3, 1, 1, 1),))
        return MapPair(still, still)

    def one_direction(self, moving, fixed):
        return self.forward(moving, fixed).fixed_to_moving


def blobs(shift=(0.0, 0.0, 0.0), shape=(20, 18, 16)):
    """Some Gaussians of two voxels, moved by so many voxels."""
    grid = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in shape), indexing="ij"))
    image = torch.zeros(shape)
    for number in range(12):
        middle = torch.rand(3, generator=torch.Generator().manual_seed(number))
        centre = middle * (torch.tensor(shape) - 9.0) + 4 + torch.tensor(shift)
        square = (grid - centre.view(3, 1, 1, 1)).square().sum(0)
        image += (1 + number % 3) * torch.exp(-square / 8)
    return image[None, None] / image.max()


def prepared(image, mask=None, native_spacing_mm=None):
    geometry = Geometry.from_itk(image.shape[:1:-1], (1.0, 2.0, 3.0), (5, 6, 7), np.eye(3).ravel())
    return Prepared(image, mask, geometry, native_spacing_mm)


def random_field(network, kind, size_vox, shape=SHAPE):
    """A field network with random control points of about so many voxels."""
    with torch.no_grad():
        maps = network(*pair(shape))
        field = FieldNetwork(maps, shape, kind)
        noise = torch.Generator().manual_seed(3)
        field.control_points += size_vox * torch.randn(field.control_points.shape, generator=noise)
    return field


def inverse_error_vox(maps, shape):
    """Mean distance of the composed maps from the identity, off the border."""
    nodes = unit_grid(shape)
    found = []
    for one, other in ((0, 1), (1, 0)):
        both = (maps.fixed_to_moving, maps.moving_to_fixed)
        error = unit_to_index_displacement(both[one](both[other].dense(shape)) - nodes, shape)
        found.append(float(error.norm(dim=1)[..., 3:-3, 3:-3, 3:-3].mean()))
    return max(found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("network", [small_network(), small_sitreg(200.0), Identity()])
@torch.no_grad()
def test_before_the_first_step_the_maps_are_the_networks(network, kind):
    plan = replace(VELOCITY, optimised=kind)
    field = optimised_network(network, *pair(), plan)
    own = network(*pair())
    for maps in (field(*pair()), field.result()):
        for name in ("fixed_to_moving", "moving_to_fixed"):
            expected = getattr(own, name).displacement_vox(SHAPE).expand(1, 3, *SHAPE)
            found = getattr(maps, name).displacement_vox(SHAPE)
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    one = field.one_direction(*pair()).dense(SHAPE)
    assert torch.equal(one, field(*pair()).fixed_to_moving.dense(SHAPE))


def test_the_plan_decides_what_is_optimised():
    network = small_network()
    assert optimised_network(network, *pair(), VANILLA) is network
    counts = [
        len(optimised_network(network, *pair(), plan).control_points)
        for plan in (VELOCITY, DISPLACEMENTS)
    ]
    assert counts == [1, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_a_known_shift_is_found_with_the_right_sign(kind):
    shift = (1.5, -1.0, 2.0)
    fixed, moving = prepared(blobs()), prepared(blobs(shift))
    shape = tuple(fixed.image.shape[2:])
    plan = example_plan(
        loss=replace(DIFFUSION, regularity_weight=0.3),
        grid=replace(example_plan().grid, shape=shape),
        instance_optimisation=replace(VELOCITY, optimised=kind, steps=40),
    )
    found = register(Identity(), plan, fixed, moving)
    inside = blobs()[0, 0].numpy() > 0.3
    assert np.abs(found.u_vox[:, inside].mean(axis=1) - shift).max() < 0.35
    assert found.loss_after.total < found.loss_before.total - 0.3
    assert found.trace.steps[0].loss == found.loss_before


@pytest.mark.parametrize("network", [Identity(), small_sitreg(100.0)])
def test_a_velocitys_maps_are_inverse_to_each_other_and_do_not_fold(network):
    shape = (20, 18, 16)
    images = blobs((1.5, -1.0, 2.0)), blobs()
    plan = example_plan(loss=DIFFUSION)
    field = optimised_network(network, *images, VELOCITY)
    objective = Objective.from_plan(plan).bind(*images)
    optimise(field, objective, replace(VELOCITY, mode="gradient_projection", projection="both"))
    with torch.no_grad():
        maps, roughly = field.result(), field(*images)
        u_vox = maps.fixed_to_moving.displacement_vox(shape)
        assert float(u_vox.norm(dim=1).max()) > 1.5
        assert inverse_error_vox(maps, shape) < 0.05
        for one in (maps.fixed_to_moving, maps.moving_to_fixed):
            assert float(folded_volume(one.displacement_vox(shape))) == 0
        assert inverse_error_vox(roughly, shape) < 0.15
        difference = u_vox - roughly.fixed_to_moving.displacement_vox(shape)
        assert float(difference.norm(dim=1).mean()) < 0.1


@torch.no_grad()
def test_displacements_are_tied_by_nothing_but_the_loss():
    field = random_field(small_network(), "displacements", 1.0)
    start = field(*pair())
    field.control_points[0] += 0.5
    after = field(*pair())
    moved = after.fixed_to_moving.displacement_vox(SHAPE)
    assert float((moved - start.fixed_to_moving.displacement_vox(SHAPE)).abs().max()) > 0.3
    same = after.moving_to_fixed.dense(SHAPE)
    assert torch.equal(same, start.moving_to_fixed.dense(SHAPE))
    field.control_points[1] += 0.5
    assert not torch.equal(field(*pair()).moving_to_fixed.dense(SHAPE), same)


@pytest.mark.parametrize("mode", ["vanilla", "gradient_projection"])
@pytest.mark.parametrize("kind", KINDS)
def test_modes_seeds_and_trace_are_those_of_weights(mode, kind):
    fixed, moving = map(prepared, pair()[::-1])
    io = replace(
        VELOCITY, optimised=kind, mode=mode, projection="random_one", steps=8, optimiser="amsgrad"
    )
    plan = example_plan(loss=replace(DIFFUSION, regularity_weight=3.0), instance_optimisation=io)
    network = small_network()
    found, again = (register(network, plan, fixed, moving) for _ in range(2))
    assert np.array_equal(found.u_vox, again.u_vox)
    assert (len(found.trace.steps), found.trace.stopped) == (8, "steps")
    assert found.loss_after.total < found.loss_before.total
    cosines = [step.cosine for step in found.trace.steps]
    if mode == "vanilla":
        assert cosines == [None] * 8
        return
    assert all(-1 <= cosine <= 1 for cosine in cosines)
    assert found.trace.conflicts == sum(cosine < 0 for cosine in cosines) > 0
    other = register(network, plan, fixed, moving, replace(io, seed=1))
    assert not np.array_equal(found.u_vox, other.u_vox)


class Counting(RegistrationNetwork):
    """Counts its evaluations."""

    def __init__(self):
        super().__init__()
        self.inner = small_network()
        self.calls = []

    def forward(self, moving, fixed):
        self.calls.append((self.training, torch.is_grad_enabled()))
        return self.inner(moving, fixed)

    def one_direction(self, moving, fixed):
        raise NotImplementedError


def test_the_network_is_evaluated_once_and_stays_what_it_was():
    network = Counting().train()
    before = [t.detach().clone() for t in network.state_dict().values()]
    fixed, moving = map(prepared, pair()[::-1])
    register(network, example_plan(), fixed, moving, replace(DISPLACEMENTS, steps=3))
    assert network.calls == [(False, False)]
    assert same_tensors(before, list(network.state_dict().values()))
    assert all(module.training for module in network.modules())
    assert all(p.requires_grad and p.grad is None for p in network.parameters())


def test_gradicon_ties_two_displacements_and_has_no_hold_on_a_velocity():
    fixed, moving = map(prepared, pair()[::-1])
    errors = []
    for weight in (0.0, 5.0):
        loss = LossPlan("lncc", {"sigma": 2.0}, "gradicon", weight)
        plan = example_plan(loss=loss)
        field = optimised_network(Identity(), moving.image, fixed.image, DISPLACEMENTS)
        optimise(field, Objective.from_plan(plan).bind(moving.image, fixed.image), DISPLACEMENTS)
        with torch.no_grad():
            errors.append(inverse_error_vox(field.result(), SHAPE))
    assert errors[1] < errors[0] / 2
    with pytest.raises(PlanError, match=r'"velocity".*"gradicon".*"displacements"'):
        register(small_network(), example_plan(), fixed, moving, VELOCITY)
    with pytest.raises(PlanError, match="nothing would be regularised"):
        example_plan(instance_optimisation=VELOCITY)
    example_plan(instance_optimisation=replace(VELOCITY, mode="none"))


@pytest.mark.parametrize("kind", KINDS)
def test_an_exact_map_stays_exact_between_nodes(kind):
    network = small_sitreg(200.0)
    field = random_field(network, kind, 0.7)
    with torch.no_grad():
        own, result = network(*pair()), field.result()
        assert result.fixed_to_moving.is_exact_between_nodes
        assert not field(*pair()).fixed_to_moving.is_exact_between_nodes
        points = torch.rand(1, 3, 1, 1, 500, generator=torch.Generator().manual_seed(0))
        still = random_field(Identity(), kind, 0.7).result()
        u_unit = still.fixed_to_moving(points) - points
        assert u_unit.abs().max() > 0.05
        expected = own.fixed_to_moving(points + u_unit)
        torch.testing.assert_close(result.fixed_to_moving(points), expected, atol=1e-5, rtol=0)
        interpolated = field(*pair()).fixed_to_moving(points)
        assert (interpolated - expected).abs().max() > 1e-3
    fixed, moving = (prepared(i, native_spacing_mm=1.4) for i in pair()[::-1])
    io = replace(VELOCITY, optimised=kind, steps=1)
    found = register(network, example_plan(loss=DIFFUSION), fixed, moving, io)
    assert found.u_vox.shape == (3, *((n - 1) * 2 + 1 for n in SHAPE))
    linear = register(small_network(), example_plan(loss=DIFFUSION), fixed, moving, io)
    assert linear.u_vox.shape[1:] == SHAPE


def test_a_field_has_its_own_learning_rate_and_no_weight_decay():
    fixed, moving = map(prepared, pair()[::-1])
    plan, io = example_plan(loss=DIFFUSION), replace(VELOCITY, steps=4)
    found = register(small_network(), plan, fixed, moving, io)
    for same in (replace(io, weight_decay=1e6), replace(io, learning_rate=1e6)):
        again = register(small_network(), plan, fixed, moving, same)
        assert np.array_equal(found.u_vox, again.u_vox)
    slow = register(small_network(), plan, fixed, moving, replace(io, field_learning_rate=1e-3))
    assert slow.loss_after.total > found.loss_after.total
    with pytest.raises(AutoregError, match=r"field_learning_rate \(now 1e\+30\)"):
        register(small_network(), plan, fixed, moving, replace(io, field_learning_rate=1e30))
    with pytest.raises(PlanError, match="field_learning_rate must be positive"):
        replace(io, field_learning_rate=0.0)


def test_it_stops_when_the_loss_is_flat():
    fixed, moving = map(prepared, pair()[::-1])
    still = replace(
        VELOCITY, steps=20, field_learning_rate=1e-12, flat_window=3, flat_tolerance=1e-2
    )
    found = register(small_network(), example_plan(loss=DIFFUSION), fixed, moving, still)
    assert (len(found.trace.steps), found.trace.stopped) == (6, "flat")


@pytest.mark.parametrize("similarity", ["mind", "lncc"])
def test_channels_masks_and_other_similarities_count(similarity):
    """Two channels, of which one is noise outside the mask: there the field learns nothing."""
    shape = (20, 18, 16)
    noise = torch.Generator().manual_seed(0)
    mask = torch.zeros(1, 1, *shape, dtype=torch.bool)
    mask[..., 2:-2, 2:-2, 2:-2] = True
    two = [
        torch.cat([blobs(s), 1 - blobs(s)], dim=1)
        + ~mask * torch.rand(1, 2, *shape, generator=noise)
        for s in ((1.5, -1.0, 1.0), (0.0, 0.0, 0.0))
    ]
    images = [prepared(image, mask) for image in two]
    loss = replace(DIFFUSION, similarity=similarity, similarity_parameters={})
    plan = example_plan(
        loss=loss,
        grid=replace(example_plan().grid, shape=shape),
        fixed_modalities=("MR", "MR"),
        moving_modalities=("MR", "MR"),
    )
    found = register(Identity(), plan, images[1], images[0], replace(VELOCITY, steps=10))
    assert found.loss_after.total < 0.97 * found.loss_before.total
    bare = [prepared(image) for image in two]
    without = register(Identity(), plan, bare[1], bare[0], replace(VELOCITY, steps=1))
    assert without.loss_before.similarity != found.loss_before.similarity


def test_along_an_axis_of_one_voxel_nothing_moves():
    shape = (1, 12, 14)
    field = random_field(Identity(), "velocity", 1.0, shape)
    with torch.no_grad():
        found = field.result().fixed_to_moving
    u_vox = found.displacement_vox(shape)
    assert torch.isfinite(u_vox).all()
    assert found.dense(shape)[:, 0].abs().max() == 0
    assert u_vox[:, 1:].abs().max() > 0.5


def test_what_was_optimised_is_put_back():
    field = random_field(small_network(), "velocity", 0.5)
    before = field.control_points.detach().clone()
    objective = Objective.from_plan(example_plan(loss=DIFFUSION)).bind(*pair())
    with preserved(field):
        optimise(field, objective, VELOCITY)
        assert not torch.equal(before, field.control_points)
    assert torch.equal(before, field.control_points)
