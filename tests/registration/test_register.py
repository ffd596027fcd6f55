import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_pairs import LEVELS, SHAPE, VANILLA, example_plan, pair, same_tensors, small_network
from small_sitreg import small_sitreg

from autoreg.errors import AutoregError, GeometryError
from autoreg.geometry.grid import Geometry
from autoreg.networks.gradicon import GradICON
from autoreg.registration.objective import Objective
from autoreg.registration.prepare import Prepared
from autoreg.registration.register import register

NONE = replace(VANILLA, mode="none")


def geometry(spacing, origin, flips=(1, 1, 1)):
    return Geometry.from_itk(SHAPE[::-1], spacing, origin, np.diag(flips).ravel())


def prepared_pair():
    moving, fixed = pair()
    return (
        Prepared(fixed, None, geometry((1.0, 2.0, 3.0), (5, 6, 7))),
        Prepared(moving, None, geometry((1.5, 1.0, 2.5), (-50, 10, 0), (-1, -1, 1))),
    )


def shifting_network(u_unit):
    """Only its last level moves, everything by the same displacement."""
    network = GradICON(LEVELS, 1, 0.125)
    with torch.no_grad():
        network.get_parameter("netPsi.net.lastConv.bias").copy_(10 * torch.tensor(u_unit))
    return network


def test_the_transform_pulls_back_from_the_fixed_to_the_moving_world():
    fixed, moving = prepared_pair()
    u_unit = (0.05, -0.02, 0.1)
    found = register(shifting_network(u_unit), example_plan(), fixed, moving, NONE)
    u_vox = np.array(u_unit) * (np.array(SHAPE) - 1)
    assert np.allclose(found.u_vox, u_vox.reshape(3, 1, 1, 1), atol=1e-4)
    index = np.array([[3.0, 4.0, 5.0], [7.2, 6.1, 2.9]])
    mapped = found.transform.map_points(fixed.geometry.to_world(index))
    assert np.allclose(mapped, moving.geometry.to_world(index + u_vox), atol=1e-4)


def test_the_transform_is_the_networks_map():
    fixed, moving = prepared_pair()
    network = small_network()
    found = register(network, example_plan(), fixed, moving, NONE)
    with torch.no_grad():
        points = network(moving.image, fixed.image).fixed_to_moving.dense(SHAPE)[0]
    index = np.array([(2, 3, 4), (9, 9, 1), (13, 0, 12)])
    unit = points.permute(1, 2, 3, 0).numpy()[tuple(index.T)]
    expected = moving.geometry.to_world(unit * (np.array(SHAPE) - 1))
    mapped = found.transform.map_points(fixed.geometry.to_world(index))
    assert np.allclose(mapped, expected, atol=1e-4)
    assert np.abs(found.u_vox).max() > 0.5
    assert (found.trace, found.loss_before, found.loss_after) == (None, None, None)


@pytest.mark.parametrize("mode", ["vanilla", "gradient_projection", "none"])
def test_the_network_is_afterwards_what_it_was(mode):
    fixed, moving = prepared_pair()
    network = small_network().train()
    network.get_parameter("netPsi.net.lastConv.bias").requires_grad_(False)
    before = [t.detach().clone() for t in network.state_dict().values()]
    first = register(network, example_plan(), fixed, moving, replace(VANILLA, mode=mode))
    assert same_tensors(before, list(network.state_dict().values()))
    assert all(module.training for module in network.modules())
    assert not network.get_parameter("netPsi.net.lastConv.bias").requires_grad
    assert all(p.grad is None for p in network.parameters())
    # Hence the next pair starts from the same weights, and so does this one again.
    again = register(network, example_plan(), fixed, moving, replace(VANILLA, mode=mode))
    assert np.array_equal(first.u_vox, again.u_vox)


def test_instance_optimisation_lowers_the_loss_and_changes_the_result():
    fixed, moving = prepared_pair()
    network = small_network()
    plain = register(network, example_plan(), fixed, moving, NONE)
    plan = example_plan(instance_optimisation=replace(VANILLA, steps=6))
    found = register(network, plan, fixed, moving)
    assert len(found.trace.steps) == 6
    assert found.loss_before == found.trace.steps[0].loss
    assert found.loss_after.total < found.loss_before.total
    assert np.abs(found.u_vox - plain.u_vox).max() > 1e-2
    assert found.seconds > sum(step.seconds for step in found.trace.steps) * 0.9


@pytest.mark.parametrize("masked", ["fixed", "moving"])
def test_each_mask_counts_for_its_image(masked):
    fixed, moving = prepared_pair()
    mask = torch.zeros(1, 1, *SHAPE, dtype=torch.bool)
    mask[..., 4:9, 4:9, 4:9] = True
    masks = {"fixed_mask": None, "moving_mask": None, f"{masked}_mask": mask}
    network, plan = small_network(), example_plan()
    with torch.no_grad():
        maps = network(moving.image, fixed.image)
        pair_loss = Objective.from_plan(plan).bind(moving.image, fixed.image, **masks)
        expected = pair_loss(maps, torch.Generator()).values().similarity
    fixed = replace(fixed, mask=masks["fixed_mask"])
    moving = replace(moving, mask=masks["moving_mask"])
    found = register(network, plan, fixed, moving)
    assert found.loss_before.similarity == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("mode", ["vanilla", "none"])
def test_registration_is_float32_whoever_asks(mode):
    fixed, moving = prepared_pair()
    network = small_network()
    seen = []

    def look(*_):
        seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))

    network.get_submodule("netPsi.net.lastConv").register_forward_pre_hook(look)
    before = torch.backends.cudnn.allow_tf32
    assert before  # torch's default
    register(network, example_plan(), fixed, moving, replace(VANILLA, mode=mode))
    assert set(seen) == {(False, False)}
    assert torch.backends.cudnn.allow_tf32 == before


def test_images_prepared_on_different_grids_are_refused():
    fixed, moving = prepared_pair()
    with pytest.raises(GeometryError, match="prepared differently"):
        register(
            small_network(), example_plan(), fixed, replace(moving, image=moving.image[..., 1:])
        )


def test_broken_weights_are_named():
    fixed, moving = prepared_pair()
    with pytest.raises(AutoregError, match="not finite"):
        register(shifting_network((float("nan"), 0.0, 0.0)), example_plan(), fixed, moving, NONE)


class Complaining(torch.nn.Module):
    """Warns about an inverse each time it is evaluated."""

    def __init__(self):
        super().__init__()
        self.inner = small_network()

    def forward(self, moving, fixed):
        logging.getLogger("autoreg.numerics.inverse_layer").warning("did not converge")
        return self.inner(moving, fixed)


def test_the_same_warning_does_not_come_in_every_step(caplog):
    fixed, moving = prepared_pair()
    register(Complaining(), example_plan(), fixed, moving, replace(VANILLA, steps=4))
    assert [r.getMessage() for r in caplog.records] == [
        "did not converge",
        "the last warning about inverses came 4 more times",
    ]
    caplog.clear()
    logging.getLogger("autoreg.numerics.inverse_layer").warning("outside")
    assert caplog.messages == ["outside"]


@pytest.mark.parametrize(("native_spacing_mm", "times"), [(None, 1), (2.9, 1), (1.4, 2), (0.1, 4)])
def test_an_exact_map_is_sampled_as_finely_as_the_fixed_image(native_spacing_mm, times):
    fixed, moving = prepared_pair()
    fixed = replace(fixed, native_spacing_mm=native_spacing_mm)
    network = small_sitreg(200.0)
    found = register(network, example_plan(), fixed, moving, NONE)
    assert found.u_vox.shape == (3, *((n - 1) * times + 1 for n in SHAPE))
    with torch.no_grad():
        exact = network.one_direction(moving.image, fixed.image)
        halves = torch.rand(1, 3, 1, 1, 2000, generator=torch.Generator().manual_seed(0))
        expected = exact(halves)[0, :, 0, 0].T.double().numpy() * (np.array(SHAPE) - 1)
    index = halves[0, :, 0, 0].T.double().numpy() * (np.array(SHAPE) - 1)
    mapped = found.transform.map_points(fixed.geometry.to_world(index))
    error_vox = np.abs(moving.geometry.to_index(mapped) - expected)
    assert error_vox.mean() < 0.05 / times
    nodes = np.array([(2, 3, 4), (9, 9, 1)])
    unit = torch.from_numpy(nodes / (np.array(SHAPE) - 1)).float().T.reshape(1, 3, 1, 1, 2)
    with torch.no_grad():
        at_nodes = exact(unit)[0, :, 0, 0].T.double().numpy() * (np.array(SHAPE) - 1)
    mapped = found.transform.map_points(fixed.geometry.to_world(nodes))
    assert np.allclose(moving.geometry.to_index(mapped), at_nodes, atol=5e-3)


def test_a_map_that_is_linear_between_nodes_is_sampled_at_the_nodes():
    fixed, moving = prepared_pair()
    fixed = replace(fixed, native_spacing_mm=0.5)
    assert register(small_network(), example_plan(), fixed, moving, NONE).u_vox.shape[1:] == SHAPE
