from dataclasses import dataclass, field

import pytest
import torch
from small_pairs import VANILLA, example_plan, pair, small_network

from autoreg.errors import PlanError
from autoreg.losses.factory import REGULARITIES
from autoreg.losses.regularity import draw_gradicon_points, gradicon
from autoreg.losses.similarity import LNCC, MSE, Similarity
from autoreg.numerics import maps as maps_module
from autoreg.numerics.warp import sample_at_unit
from autoreg.plan import LossPlan
from autoreg.registration.instance_optimisation import optimise
from autoreg.registration.objective import Objective


def rng():
    return torch.Generator().manual_seed(5)


@torch.no_grad()
def test_it_is_both_similarities_plus_lambda_times_gradicon():
    moving, fixed = (image + 0.3 for image in pair())  # bright at the border, where zeros enter
    shape = moving.shape[2:]
    maps = small_network()(moving, fixed)
    found = Objective.from_plan(example_plan().loss).bind(moving, fixed)(maps, rng())

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
    objective = Objective.from_plan(LossPlan("mse", {}, name, 2.0)).bind(moving, fixed)
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
        Objective.from_plan(LossPlan("lnc", {}, "gradicon", 1.0))
    with pytest.raises(PlanError, match="gradicon"):
        Objective.from_plan(LossPlan("lncc", {}, "gradicom", 1.0))


@dataclass(frozen=True)
class CountedBinding(Similarity):
    bound: list = field(default_factory=list)

    def bind(self, fixed, mask=None):
        self.bound.append(1)
        return MSE().bind(fixed, mask)


def test_what_depends_on_the_images_alone_is_computed_once_per_pair():
    similarity = CountedBinding()
    objective = Objective(similarity, REGULARITIES["diffusion"], 1.0).bind(*pair())
    optimise(small_network(), objective, VANILLA)
    assert len(similarity.bound) == 2  # the fixed and the moving image
