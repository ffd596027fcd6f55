import pytest
import torch

from autoreg.errors import PlanError
from autoreg.losses.factory import REGULARITIES, SIMILARITIES, build_regularity, build_similarity
from autoreg.losses.regularity import diffusion
from autoreg.losses.similarity import LNCC, MIND
from autoreg.numerics.maps import FieldChain
from autoreg.plan import LossPlan

SHAPE = (6, 7, 8)
UNIT = (1.0, 1.0, 1.0)


def loss_plan(similarity="lncc", regularity="gradicon", **parameters):
    return LossPlan(similarity, parameters, regularity, 1.5)


def build_both(plan):
    return build_similarity(plan), build_regularity(plan, UNIT)


def random_chain(seed):
    generator = torch.Generator().manual_seed(seed)
    return FieldChain((0.05 * torch.randn(1, 3, *SHAPE, generator=generator),))


def test_parameters_of_the_plan_arrive_with_their_types():
    assert build_similarity(loss_plan(sigma=3)) == LNCC(sigma=3.0)
    mind = build_similarity(loss_plan("mind", radius=1.0))
    assert mind == MIND(radius=1, dilation=2)
    assert isinstance(mind, MIND)
    assert isinstance(mind.radius, int)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_every_similarity_can_be_built_and_used(name):
    image = torch.rand(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(build_similarity(loss_plan(name))(image, image))


@pytest.mark.parametrize("name", REGULARITIES)
def test_every_regularity_is_zero_for_the_identity_only_and_repeatable(name):
    regularity = build_regularity(loss_plan(regularity=name), UNIT)

    def value(there, back):
        return regularity(there, back, SHAPE, torch.Generator().manual_seed(0)).item()

    identity = FieldChain((torch.zeros(1, 3, *SHAPE),))
    assert value(identity, identity) == 0
    there, back = random_chain(1), random_chain(2)
    assert value(there, back) == value(there, back) > 0


def test_field_penalties_are_the_mean_of_both_directions_in_voxels():
    u_vox = [torch.randn(1, 3, *SHAPE, generator=torch.Generator().manual_seed(s)) for s in (1, 2)]
    nodes = torch.tensor(SHAPE).view(1, 3, 1, 1, 1)
    chains = [FieldChain((u / (nodes - 1),)) for u in u_vox]
    value = REGULARITIES["diffusion"](UNIT)(*chains, SHAPE, torch.Generator())
    expected = (diffusion(u_vox[0]) + diffusion(u_vox[1])) / 2
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (loss_plan("lnc"), 'loss.similarity "lnc" is unknown; did you mean "lncc"?'),
        (loss_plan(regularity="bendin"), 'did you mean "bending"?'),
        (loss_plan(sigm=2.0), 'unknown "sigm"; did you mean "sigma"?'),
        (loss_plan("mse", sigma=2.0), 'unknown "sigma"; known: none'),
        (loss_plan("mind", radius=1.5), "whole number, found 1.5"),
        (loss_plan(sigma=-1.0), "sigma must be a number of at least 0.5, found -1.0"),
    ],
)
def test_what_the_plan_must_not_say(plan, message):
    with pytest.raises(PlanError) as caught:
        build_both(plan)
    assert message in str(caught.value)
