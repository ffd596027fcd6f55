from dataclasses import replace

import pytest
import torch
from small_pairs import VANILLA, example_plan, pair, same_tensors, small_network

from autoreg.errors import AutoregError
from autoreg.plan import LossPlan
from autoreg.registration.instance_optimisation import optimise, preserved
from autoreg.registration.objective import Objective

PROJECTION = replace(VANILLA, mode="gradient_projection", projection="random_one")


def objective(loss=None, images=None):
    plan = example_plan() if loss is None else example_plan(loss=loss)
    return Objective.from_plan(plan).bind(*(images or pair()))


def tensors(network):
    return [t.detach().clone() for t in (*network.parameters(), *network.buffers())]


def weights_after(plan, loss=None):
    network = small_network()
    trace = optimise(network, objective(loss), plan)
    return tensors(network), trace


def test_weights_flags_modes_and_gradients_come_back_bit_by_bit():
    network = small_network().train()
    network.get_submodule("netPsi").eval()
    frozen = network.get_parameter("netPsi.net.lastConv.bias").requires_grad_(False)
    weight = network.get_parameter("netPsi.net.lastConv.weight")
    weight.grad = gradient = torch.ones_like(weight)
    before, modes = tensors(network), [m.training for m in network.modules()]

    def fail_halfway():
        with preserved(network):
            optimise(network, objective(), PROJECTION)
            network.train()(*pair())  # the running statistics move as well
            assert not same_tensors(before, tensors(network))
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        fail_halfway()
    assert same_tensors(before, tensors(network))
    assert modes == [m.training for m in network.modules()]
    assert not frozen.requires_grad
    assert weight.requires_grad
    assert weight.grad is gradient
    assert frozen.grad is None


@pytest.mark.parametrize("plan", [VANILLA, PROJECTION, replace(PROJECTION, projection="both")])
def test_the_loss_falls(plan):
    _, trace = weights_after(replace(plan, steps=8, learning_rate=1e-3))
    assert [step.step for step in trace.steps] == list(range(1, 9))
    assert trace.stopped == "steps"
    assert trace.steps[-1].loss.total < 0.98 * trace.steps[0].loss.total
    assert trace.conflicts == sum(step.conflict for step in trace.steps)


def test_all_weights_change_and_running_statistics_stay():
    network = small_network().requires_grad_(False).train()
    buffers = [b.clone() for b in network.buffers()]
    weights = [p.detach().clone() for p in network.parameters()]
    optimise(network, objective(), PROJECTION)
    assert same_tensors(buffers, list(network.buffers()))
    changed = [not torch.equal(a, b) for a, b in zip(weights, network.parameters(), strict=True)]
    assert all(changed)


def test_it_works_where_gradients_are_switched_off():
    with torch.no_grad():
        _, trace = weights_after(VANILLA)
    assert trace.steps[-1].loss.total < trace.steps[0].loss.total


def gradients_seen_by_adam(monkeypatch, plan, loss):
    seen = []

    def record(optimiser):
        seen.append([p.grad.clone() for group in optimiser.param_groups for p in group["params"]])

    monkeypatch.setattr(torch.optim.Adam, "step", record)
    _, trace = weights_after(replace(plan, steps=1), loss)
    return flat(seen[0]), trace.steps[0]


def flat(parts):
    return torch.cat([part.double().flatten() for part in parts])


def both_gradients(loss):
    """Those of the similarity and of the regularity without lambda, each from its own forward."""
    gradients = []
    for name in ("similarity", "regularity"):
        network, bound = small_network(), objective(loss)
        value = getattr(bound(network(*pair()), torch.Generator()), name)
        gradients.append(flat(torch.autograd.grad(value, list(network.parameters()))))
    return gradients


@pytest.mark.parametrize("weight", [1e-3, 3.0])
def test_adam_sees_the_projected_sum_with_lambda_inside(monkeypatch, weight):
    loss = LossPlan("mse", {}, "diffusion", weight)
    g, h = both_gradients(loss)
    h = weight * h
    plain, step = gradients_seen_by_adam(monkeypatch, VANILLA, loss)
    torch.testing.assert_close(plain, g + h, rtol=1e-4, atol=1e-7)
    assert step.cosine is None

    joint, step = gradients_seen_by_adam(monkeypatch, replace(PROJECTION, projection="both"), loss)
    assert step.conflict
    assert step.cosine == pytest.approx(float(g @ h / (g.norm() * h.norm())), rel=1e-4)
    expected = g - (g @ h) / (h @ h) * h + h - (g @ h) / (g @ g) * g
    torch.testing.assert_close(joint, expected, rtol=1e-4, atol=1e-7)
    assert (joint - plain).norm() > 0.01 * plain.norm()


def test_weight_decay_is_coupled_and_joins_after_projection():
    # Coupled: it dominates the gradient, and Adam makes a step of lr out of it whatever its size.
    plan = replace(PROJECTION, steps=1, weight_decay=1e6, learning_rate=1e-3)
    start = list(small_network().parameters())
    after, trace = weights_after(plan)
    without, plain_trace = weights_after(replace(plan, weight_decay=0.0))
    for a, s in zip(after, start, strict=False):
        torch.testing.assert_close(a, s.detach() - 1e-3 * torch.sign(s.detach()), atol=1e-6, rtol=0)
    # Not part of what is projected: the gradients' angle doesn't know of it.
    assert trace.steps[0].cosine == plain_trace.steps[0].cosine
    assert not same_tensors(after, without)


def test_the_optimiser_is_the_plans():
    adam, _ = weights_after(replace(VANILLA, steps=6, learning_rate=5e-3))
    amsgrad, _ = weights_after(replace(VANILLA, steps=6, learning_rate=5e-3, optimiser="amsgrad"))
    assert not same_tensors(adam, amsgrad)


def test_seeds_decide_and_nothing_else():
    torch.manual_seed(1)
    first, trace = weights_after(PROJECTION)
    torch.manual_seed(2)
    again, again_trace = weights_after(PROJECTION)
    other, _ = weights_after(replace(PROJECTION, seed=1))
    assert same_tensors(first, again)
    assert [s.loss for s in trace.steps] == [s.loss for s in again_trace.steps]
    assert not same_tensors(first, other)


def test_a_flat_loss_stops_early():
    still = replace(VANILLA, steps=20, learning_rate=1e-12, flat_window=3, flat_tolerance=1e-2)
    loss = LossPlan("mse", {}, "diffusion", 1.0)  # nothing random in it
    _, trace = weights_after(still, loss)
    assert (len(trace.steps), trace.stopped) == (6, "flat")
    _, trace = weights_after(replace(still, flat_window=0, steps=8), loss)
    assert (len(trace.steps), trace.stopped) == (8, "steps")
    _, trace = weights_after(replace(still, learning_rate=1e-3, steps=8), loss)
    assert trace.stopped == "steps"  # it still falls


def test_a_loss_that_is_not_a_number_stops_with_a_remedy():
    network = small_network()
    before = tensors(network)
    with pytest.raises(AutoregError, match=r"step 2.*learning_rate"), preserved(network):
        optimise(network, objective(), replace(VANILLA, learning_rate=1e30))
    assert same_tensors(before, tensors(network))
    with torch.no_grad():
        network.get_parameter("netPsi.net.lastConv.bias").fill_(float("nan"))
    with pytest.raises(AutoregError, match=r"step 1.*check the model"):
        optimise(network, objective(), VANILLA)


class WithUnused(torch.nn.Module):
    """A network with a parameter that its maps don't depend on."""

    def __init__(self):
        super().__init__()
        self.inner = small_network()
        self.unused = torch.nn.Parameter(torch.full((3,), 2.0))

    def forward(self, moving, fixed):
        return self.inner(moving, fixed)


@pytest.mark.parametrize("plan", [VANILLA, PROJECTION])
def test_unused_parameters_do_no_harm(plan):
    network, plain = WithUnused(), small_network()
    traces = [optimise(n, objective(), plan) for n in (network, plain)]
    assert same_tensors(tensors(network.inner), tensors(plain))
    assert [s.loss for s in traces[0].steps] == [s.loss for s in traces[1].steps]
    assert torch.equal(network.unused, torch.full((3,), 2.0))
