import math
from dataclasses import dataclass, field, replace

import pytest
import torch
from small_pairs import SHAPE, VANILLA, example_plan, pair, small_network

from autoreg.errors import PlanError
from autoreg.losses.factory import REGULARITIES
from autoreg.losses.regularity import draw_gradicon_points, gradicon
from autoreg.losses.similarity import LNCC, MSE, Similarity
from autoreg.networks.base import MapPair
from autoreg.numerics import maps as maps_module
from autoreg.numerics.maps import FieldChain
from autoreg.numerics.warp import sample_at_unit
from autoreg.plan import GridPlan, LossPlan
from autoreg.registration.instance_optimisation import optimise
from autoreg.registration.objective import Objective


def rng():
    return torch.Generator().manual_seed(5)


def objective_of(loss):
    return Objective.from_plan(example_plan(loss=loss))


@torch.no_grad()
def test_it_is_both_similarities_plus_lambda_times_gradicon():
    moving, fixed = (image + 0.3 for image in pair())  # bright at the border, where zeros enter
    shape = moving.shape[2:]
    maps = small_network()(moving, fixed)
    found = Objective.from_plan(example_plan()).bind(moving, fixed)(maps, rng())

    forth, back = maps.fixed_to_moving, maps.moving_to_fixed
    lncc = LNCC(2.0)
    similarity = lncc(sample_at_unit(moving, forth.dense(shape), "zeros"), fixed)
    similarity = similarity + lncc(sample_at_unit(fixed, back.dense(shape), "zeros"), moving)
    regularity = gradicon(forth, back, draw_gradicon_points(shape, rng()))
    torch.testing.assert_close(found.similarity, similarity)
    torch.testing.assert_close(found.regularity, regularity)
    torch.testing.assert_close(found.total, similarity + 1.5 * regularity)
    torch.testing.assert_close(found.weighted_regularity, 1.5 * regularity)
    assert found.values().total == pytest.approx(float(found.total))


@torch.no_grad()
def test_masks_belong_to_the_target_image():
    """What lies outside the fixed mask in the fixed image has no say over the warped moving one."""
    moving, fixed = pair()
    maps = small_network()(moving, moving)
    inside = torch.ones_like(fixed)
    inside[..., :5] = 0
    spoilt = torch.where(inside > 0, fixed, torch.rand_like(fixed))
    objective = Objective(MSE(), lambda *_: torch.zeros(()), 0.0)

    def to_fixed(image, mask):
        bound = objective.bind(moving, image, None, mask)
        return float(bound.to_fixed(moving)), float(bound(maps, rng()).similarity)

    assert to_fixed(fixed, inside)[0] == to_fixed(spoilt, inside)[0]
    assert to_fixed(fixed, None)[0] != to_fixed(spoilt, None)[0]
    swapped = objective.bind(spoilt, moving, inside)
    assert float(swapped.to_moving(moving)) == to_fixed(fixed, inside)[0]
    assert to_fixed(fixed, inside)[1] != to_fixed(fixed, None)[1]


@pytest.mark.parametrize("name", sorted(REGULARITIES))
def test_every_regularity_has_gradients_and_samples_each_map_once(name, monkeypatch):
    moving, fixed = pair()
    network = small_network()
    objective = objective_of(LossPlan("mse", {}, name, 2.0)).bind(moving, fixed)
    maps = network(moving, fixed)
    calls = []
    sample = maps_module.sample_at_unit
    monkeypatch.setattr(maps_module, "sample_at_unit", lambda *a: calls.append(1) or sample(*a))
    loss = objective(maps, rng())
    # Two levels: the fine field is added at its nodes, the coarse one sampled, per direction;
    # GradICON sends its points through all four fields.
    assert len(calls) == (6 if name == "gradicon" else 2)
    assert loss.values().regularity > 0
    gradients = torch.autograd.grad(loss.weighted_regularity, list(network.parameters()))
    assert all(torch.isfinite(g).all() for g in gradients)
    assert any(g.abs().max() > 0 for g in gradients)


def test_an_unknown_loss_is_refused():
    with pytest.raises(PlanError, match="lncc"):
        objective_of(LossPlan("lnc", {}, "gradicon", 1.0))
    with pytest.raises(PlanError, match="gradicon"):
        objective_of(LossPlan("lncc", {}, "gradicom", 1.0))


@dataclass(frozen=True)
class CountedBinding(Similarity):
    bound: list = field(default_factory=list)

    def bind(self, fixed, mask=None):
        self.bound.append(1)
        return MSE().bind(fixed, mask)


def test_what_depends_on_the_images_alone_is_computed_once_per_pair():
    similarity = CountedBinding()
    objective = Objective(similarity, REGULARITIES["diffusion"]((1.0, 1.0, 1.0)), 1.0).bind(*pair())
    optimise(small_network(), objective, VANILLA)
    assert len(similarity.bound) == 2  # the fixed and the moving image


def folded_maps():
    """One turns a volume of one voxel per voxel inside out, the other one half a voxel."""
    chains = []
    for slope in (-2.0, -1.5):
        u = torch.zeros(1, 3, *SHAPE)
        u[:, 0] = slope * torch.linspace(0, 1, SHAPE[0]).view(-1, 1, 1)
        chains.append(FieldChain((u,)))
    return MapPair(*chains)


def test_folds_of_both_maps_join_the_regularity():
    moving, fixed = pair()
    plain = LossPlan("mse", {}, "diffusion", 2.0)
    without, found = (
        objective_of(loss).bind(moving, fixed)(folded_maps(), rng())
        for loss in (plain, replace(plain, folding_weight=0.25))
    )
    folded = 1.5 * math.prod(n - 2 for n in SHAPE)
    assert found.values().folding == pytest.approx(folded, rel=1e-5)
    assert without.values().folding is None
    added = 0.25 * folded
    assert float(found.weighted_regularity - without.weighted_regularity) == pytest.approx(added)
    assert float(found.total - without.total) == pytest.approx(added)
    assert float(found.regularity) == float(without.regularity)


def test_the_spacing_of_the_plans_grid_counts():
    moving, fixed = pair()
    sheared = torch.zeros(1, 3, *SHAPE)
    sheared[:, 1] = torch.linspace(0, 1, SHAPE[0]).view(-1, 1, 1)
    maps = MapPair(FieldChain((sheared,)), FieldChain((sheared,)))
    values = []
    for spacing in ((2.0, 2.5, 3.0), (1.0, 1.0, 1.0)):
        loss, grid = LossPlan("mse", {}, "diffusion", 2.0), GridPlan(SHAPE, spacing, False)
        bound = Objective.from_plan(example_plan(loss=loss, grid=grid)).bind(moving, fixed)
        values.append(float(bound(maps, rng()).regularity))
    assert values[0] / values[1] == pytest.approx((2.5 / 2.0) ** 2, rel=1e-5)
