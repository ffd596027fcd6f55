"""Group consistency: what is taken one pair after the other is the gradient of the joint loss."""

import dataclasses

import pytest
import torch
from golden_inputs import volume

from autoreg.io.cases import Pair
from autoreg.losses.cycle import cycle_error
from autoreg.network_plan import GradICONPlan
from autoreg.networks.base import MapPair, RegistrationNetwork
from autoreg.networks.factory import build_network
from autoreg.numerics.maps import FieldChain
from autoreg.plan import LossPlan
from autoreg.registration.objective import Objective
from autoreg.training.batches import PairBatch
from autoreg.training.gradients import GradientRule, GradientSum
from autoreg.training.schedule import seed_layers
from autoreg.training.step_values import StepValues, weighted_mean
from autoreg.training.steps import Cycles, StepDraws, StepLoss, backward_cycle, backward_pairs

SHAPE = (10, 8, 9)
SPACING = (2.0, 3.0, 2.5)
WEIGHT = 40.0


class Drawing(RegistrationNetwork):
    """Drops channels at random, keeps statistics, and has a parameter that nothing uses."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv3d(2, 8, 3, padding=1),
            torch.nn.BatchNorm3d(8),
            torch.nn.Tanh(),
            torch.nn.Dropout3d(0.5),
            torch.nn.Conv3d(8, 3, 3, padding=1),
        )
        self.unused = torch.nn.Parameter(torch.zeros(2))

    def forward(self, moving, fixed):
        return MapPair(self.one_direction(moving, fixed), self.one_direction(fixed, moving))

    def one_direction(self, moving, fixed):
        return FieldChain((0.2 * self.layers(torch.cat([moving, fixed], 1)),))


def drawing():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Drawing().double().train()


def cascade():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = build_network(GradICONPlan((0.5, 1.0), 0.125), 1).double().train()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01)
    return network


def cycle_batch(masked):
    fixed = torch.cat([volume(i, SHAPE) for i in (1, 2, 3)]).double()
    masks = None
    if masked:
        masks = torch.ones(3, 1, *SHAPE, dtype=torch.bool)
        for i in range(3):
            masks[i, :, i : i + 2] = False
    pairs = (Pair("a", "b"), Pair("b", "c"), Pair("c", "a"))
    rolled = None if masks is None else masks.roll(-1, 0)
    return PairBatch(fixed, fixed.roll(-1, 0), pairs, masks, rolled, is_cycle=True)


def objective(plan, folding=0.0):
    loss = LossPlan("windowed_ncc", {"window": 5}, "diffusion", 2.0, folding)
    return Objective.from_plan(dataclasses.replace(plan, loss=loss))


def cycles(weight=WEIGHT):
    return Cycles(weight, SPACING)


def draws():
    return StepDraws(
        lambda number: seed_layers(1, 2, number), lambda: torch.Generator().manual_seed(0)
    )


def on_pairs(network, plan, target, batch, parts=1, loss=None):
    """Values of a step on pairs; its gradients are in `.grad` afterwards."""
    gradients = GradientSum(network, GradientRule(plan.training))
    loss = StepLoss(target) if loss is None else loss
    values = backward_pairs(network, loss, batch.parts(parts), draws(), gradients)
    gradients.finish(torch.Generator().manual_seed(0))
    return values


def on_cycle(network, plan, target, batch, weight=WEIGHT):
    gradients = GradientSum(network, GradientRule(plan.training))
    values = backward_cycle(network, StepLoss(target), batch, draws(), gradients, cycles(weight))
    gradients.finish(torch.Generator().manual_seed(0))
    return values


def joint_loss(network, bound_to, batch):
    """Everything at once, in the words of the definition."""
    losses, there, back, generator = [], [], [], torch.Generator().manual_seed(0)
    for i in range(3):
        seed_layers(1, 2, i)
        pair = batch.one(i)
        maps = network(pair.moving, pair.fixed)
        bound = bound_to.bind(pair.moving, pair.fixed, pair.moving_mask, pair.fixed_mask)
        losses.append(bound(maps, generator).total)
        there.append(maps.fixed_to_moving.displacement_vox(SHAPE))
        back.append(maps.moving_to_fixed.displacement_vox(SHAPE))
    masks = [batch.one(i).fixed_mask for i in range(3)]
    a, b, c = masks
    # there: a -> b -> c -> a; back[2] leads from a to c, back[1] from c to b, back[0] from b to a.
    error = cycle_error(there, (a, b, c), SPACING)
    error = error + cycle_error([back[2], back[1], back[0]], (a, c, b), SPACING)
    return sum(losses) / 3 + WEIGHT * error, error


@pytest.mark.parametrize(("make", "masked"), [(drawing, False), (drawing, True), (cascade, True)])
def test_pair_by_pair_is_the_gradient_of_the_joint_loss(plan, make, masked):
    batch, target = cycle_batch(masked), objective(plan)
    whole = make()
    total, error = joint_loss(whole, target, batch)
    parameters = list(whole.parameters())
    expected = torch.autograd.grad(total, parameters, allow_unused=True)
    network = make()
    values = on_cycle(network, plan, target, batch)
    assert values.cycle == pytest.approx(error.item(), rel=1e-9)
    assert values.total == pytest.approx(total.item(), rel=1e-9)
    assert values.cycle * WEIGHT > 0.01 * values.total
    for found, wanted in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(found.grad, wanted, rtol=1e-7, atol=1e-10)
    # Running statistics: as if each pair had been computed once.
    for found, wanted in zip(network.buffers(), whole.buffers(), strict=True):
        torch.testing.assert_close(found, wanted)


def test_without_weight_it_is_the_mean_of_the_pairs(plan):
    batch, target, network = cycle_batch(masked=True), objective(plan), drawing().eval()
    values = on_cycle(network, plan, target, batch, weight=0.0)
    gradients = [p.grad.clone() for p in network.layers.parameters()]
    assert values.cycle > 0
    other = drawing().eval()
    pairs = dataclasses.replace(batch, is_cycle=False)
    wanted = on_pairs(other, plan, target, pairs)
    assert values.total == pytest.approx(wanted.total)
    for gradient, parameter in zip(gradients, other.layers.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-7, atol=1e-10)


def test_descending_closes_the_circle(plan):
    batch, target, network = cycle_batch(masked=False), objective(plan), drawing()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    errors = []
    for _ in range(12):
        optimiser.zero_grad()
        step = on_cycle(network, plan, target, batch)
        errors.append(step.cycle)
        optimiser.step()
    assert errors[-1] < 0.5 * errors[0]


def test_folding_is_told_and_counts_in_the_total(plan):
    batch, network = cycle_batch(masked=False), drawing().eval()
    with torch.no_grad():
        network.layers[-1].weight.mul_(20)
    plain, folding = (
        on_pairs(network, plan, objective(plan, weight), dataclasses.replace(batch, is_cycle=False))
        for weight in (0.0, 0.25)
    )
    assert plain.folding is None
    assert folding.folding > 0
    assert folding.total == pytest.approx(plain.total + 0.25 * folding.folding)


def test_means_of_steps_are_weighted_and_leave_out_what_is_unknown():
    steps = [(2, StepValues(1.0, 2.0, 3.0)), (1, StepValues(4.0, 5.0, 6.0, 7.0, 8.0))]
    assert weighted_mean(steps) == StepValues(2.0, 3.0, 4.0, 7.0, 8.0)
    assert weighted_mean(steps[:1]) == StepValues(1.0, 2.0, 3.0)


def projecting(plan, rule="both"):
    training = dataclasses.replace(plan.training, gradients="gradient_projection", projection=rule)
    return dataclasses.replace(plan, training=training)


def gradient_of(network, loss):
    parameters = list(network.layers.parameters())
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
    return torch.cat([gradient.flatten() for gradient in gradients])


def displaced():
    """In eval mode, where parts of a batch have no effect on each other."""
    return drawing().eval()


def test_parts_of_a_batch_add_up_to_its_gradient(plan):
    target = objective(plan, folding=0.25)
    batch = dataclasses.replace(cycle_batch(masked=True), is_cycle=False)
    for settings in (plan, projecting(plan)):
        whole, parted = displaced(), displaced()
        one = on_pairs(whole, settings, target, batch)
        two = on_pairs(parted, settings, target, batch, parts=2)
        assert dataclasses.astuple(one)[:4] == pytest.approx(dataclasses.astuple(two)[:4])
        for wanted, found in zip(whole.parameters(), parted.parameters(), strict=True):
            if wanted.grad is not None:
                torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-7, atol=1e-10)


def test_conflicting_gradients_of_the_whole_batch_are_projected(plan):
    target = objective(plan)
    batch = dataclasses.replace(cycle_batch(masked=False), is_cycle=False)
    network = displaced()
    loss = target.bind(batch.moving, batch.fixed)(
        network(batch.moving, batch.fixed), draws().points()
    )
    g = gradient_of(network, loss.similarity)
    h = gradient_of(network, loss.weighted_regularity)
    assert g @ h < 0
    expected = g - (g @ h) / (h @ h) * h + h - (g @ h) / (g @ g) * g
    gradients = GradientSum(network, GradientRule(projecting(plan).training))
    backward_pairs(network, StepLoss(target), batch.parts(3), draws(), gradients)
    projection = gradients.finish(torch.Generator())
    found = torch.cat([p.grad.flatten() for p in network.layers.parameters()])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    assert projection.conflict
    assert projection.cosine == pytest.approx(float(g @ h / g.norm() / h.norm()))


def test_what_supervises_counts_with_the_similarity(plan):
    target = objective(plan)
    batch = dataclasses.replace(cycle_batch(masked=False), is_cycle=False)

    def supervision(maps, part):
        shape = part.fixed.shape[2:]
        return 3 * maps.fixed_to_moving.displacement_vox(shape).square().mean()

    plain = on_pairs(displaced(), plan, target, batch)
    network = displaced()
    values = on_pairs(network, plan, target, batch, parts=2, loss=StepLoss(target, supervision))
    assert values.supervised > 0
    assert values.total == pytest.approx(plain.total + values.supervised)
    other = displaced()
    maps = other(batch.moving, batch.fixed)
    loss = target.bind(batch.moving, batch.fixed)(maps, draws().points())
    expected = gradient_of(other, loss.total + supervision(maps, batch))
    found = torch.cat([p.grad.flatten() for p in network.layers.parameters()])
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-10)
