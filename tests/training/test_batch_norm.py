"""Batch normalisation: over several processes as over one, and frozen."""

import copy
import dataclasses
import threading

import pytest
import torch
from torch import nn
from torch.multiprocessing.spawn import spawn

from autoreg.network_plan import GradICONPlan
from autoreg.networks.factory import build_network
from autoreg.training.batch_norm import prepare_batch_norm
from autoreg.training.processes import ALONE, Processes

CHANNELS = 3


class Exchange:
    """Sums over threads that stand for processes."""

    def __init__(self, count):
        self._barrier = threading.Barrier(count, timeout=60)
        self._given = [None] * count

    def sum_(self, rank, tensor):
        self._given[rank] = tensor.clone()
        self._barrier.wait()
        total = sum(self._given)
        self._barrier.wait()
        return tensor.copy_(total)


@dataclasses.dataclass(frozen=True)
class Threads(Processes):
    exchange: Exchange | None = None

    def sum_(self, tensor):
        return self.exchange.sum_(self.rank, tensor)


def network(dtype=torch.float32):
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv3d(2, CHANNELS, 3, padding=1),
        nn.BatchNorm3d(CHANNELS),
        nn.LeakyReLU(0.1, inplace=True),
        nn.Conv3d(CHANNELS, 2, 1),
        nn.BatchNorm3d(2),
    )
    for norm in (made[1], made[4]):
        nn.init.normal_(norm.weight, 1.0, 0.3)
        nn.init.normal_(norm.bias)
    return made.to(dtype).train()


def batch(offset=0.0, pairs=5):
    return offset + torch.randn(pairs, 2, 6, 5, 4, generator=torch.Generator().manual_seed(1))


def loss_of(result, images):
    """A sum over the pairs, so that shares add up."""
    return (result.square() * images.cos() + result.sin()).sum()


def step(made, images):
    """Two forward passes, as both directions of a pair, then gradients."""
    images = images.clone().requires_grad_()
    results = [made(images), made(images.flip(1))]
    loss = sum(loss_of(result, images.detach()) for result in results)
    parameters = [p for p in made.parameters() if p.requires_grad]
    *gradients, of_images = torch.autograd.grad(loss, [*parameters, images])
    return results[0].detach(), of_images, gradients


def on_threads(shares, images, made=network):
    """What every thread finds of its share of a batch."""
    exchange, found = Exchange(len(shares)), [None] * len(shares)
    pieces, models = images.split(list(shares)), [made() for _ in shares]

    def work(rank):
        processes = Threads(rank, len(shares), exchange=exchange)
        prepare_batch_norm(models[rank], "batch", processes)
        found[rank] = step(models[rank], pieces[rank])

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(len(shares))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found, models


@pytest.mark.parametrize("shares", [(4, 1), (2, 3), (5, 0), (1, 2, 2)])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_several_processes_are_one(shares, offset):
    def made():
        return network(torch.float64 if offset else torch.float32)

    images = batch(offset).to(torch.float64 if offset else torch.float32)
    alone = made()
    result, of_images, gradients = step(alone, images)
    found, models = on_threads(shares, images, made)
    close = {"rtol": 1e-4, "atol": 1e-5 if not offset else 1e-7}
    torch.testing.assert_close(torch.cat([f[0] for f in found]), result, **close)
    torch.testing.assert_close(torch.cat([f[1] for f in found]), of_images, **close)
    # A bias before a normalisation has no gradient but rounding.
    for k, expected in enumerate(gradients):
        summed = sum(f[2][k] for f in found)
        torch.testing.assert_close(summed, expected, rtol=1e-4, atol=2e-3)
    for model in models:
        for name, buffer in alone.named_buffers():
            torch.testing.assert_close(model.get_buffer(name), buffer, rtol=1e-5, atol=1e-6)


def test_a_large_mean_costs_no_digits():
    """In float32 a mean of squares minus a squared mean would lose all of them here."""
    norm = nn.BatchNorm3d(2).train()
    images = batch(3000.0)
    found, _ = on_threads((3, 2), images, lambda: copy.deepcopy(norm))[0]
    exact = nn.BatchNorm3d(2).double().train()(images.double()).float()
    torch.testing.assert_close(found[0], exact[:3], rtol=0, atol=2e-3)


def test_a_cumulative_mean_is_one_too():
    def made():
        return nn.BatchNorm3d(2, momentum=None).train()

    alone = made()
    step(alone, batch())
    for model in on_threads((3, 2), batch(), made)[1]:
        torch.testing.assert_close(model.running_var, alone.running_var)


def test_frozen_statistics_stay_and_weights_are_trained():
    made = network()
    with torch.no_grad():
        made(batch(2.0))  # statistics worth keeping
    made.eval()
    images = batch()
    expected = made(images).detach()
    kept = {name: buffer.clone() for name, buffer in made.named_buffers()}
    prepare_batch_norm(made, "frozen", ALONE)
    made.train()
    result, _, gradients = step(made, images)
    torch.testing.assert_close(result, expected)
    assert all(torch.equal(kept[name], buffer) for name, buffer in made.named_buffers())
    assert len(gradients) == len(list(made.parameters()))
    assert all(gradient.abs().max() > 1e-6 for gradient in gradients)


@pytest.mark.parametrize("kind", ["batch", "frozen"])
@pytest.mark.parametrize("processes", [ALONE, Processes(0, 2)], ids=["alone", "two"])
def test_objects_and_names_stay(kind, processes):
    made = build_network(GradICONPlan((1.0,), 0.125), 1)
    names, objects = list(made.state_dict()), [*made.parameters(), *made.buffers()]
    prepare_batch_norm(made, kind, processes)
    assert list(made.state_dict()) == names
    assert all(a is b for a, b in zip(objects, [*made.parameters(), *made.buffers()], strict=True))
    plain = build_network(GradICONPlan((1.0,), 0.125), 1)
    plain.load_state_dict(made.state_dict())
    prepare_batch_norm(made, "batch", ALONE)
    assert {type(m) for m in made.modules()} == {type(m) for m in plain.modules()}


def test_one_process_is_torchs_own():
    one, other = network(), network()
    prepare_batch_norm(one, "batch", ALONE)
    for a, b in zip(step(one, batch())[2], step(other, batch())[2], strict=True):
        assert torch.equal(a, b)


def test_eval_mode_exchanges_nothing():
    made, expected = network().eval(), network().eval()
    prepare_batch_norm(made, "batch", Processes(0, 2))  # a sum would fail: nobody is connected
    assert torch.equal(made(batch()), expected(batch()))


def _gloo(rank, folder, images, shares):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=len(shares)
    )
    made = network()
    prepare_batch_norm(made, "batch", Processes(rank, len(shares)))
    found = step(made, images.split(list(shares))[rank])
    torch.save((*found, made.state_dict()), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_real_processes(tmp_path):
    images, shares = batch(), (4, 1)
    alone = network()
    result, of_images, gradients = step(alone, images)
    spawn(_gloo, (str(tmp_path), images, shares), nprocs=len(shares))
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    torch.testing.assert_close(torch.cat([f[0] for f in found]), result, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.cat([f[1] for f in found]), of_images, rtol=1e-4, atol=1e-5)
    for k, expected in enumerate(gradients):
        torch.testing.assert_close(found[0][2][k] + found[1][2][k], expected, rtol=1e-4, atol=2e-3)
    for name, value in alone.named_buffers():
        torch.testing.assert_close(found[1][3][name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["batch", "frozen"])
def test_a_checkpointed_network_keeps_the_same_statistics(kind):
    """Computed twice, counted once; several processes, too."""
    images = torch.rand(4, 1, 16, 16, 16, generator=torch.Generator().manual_seed(2)).split(2)
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        made = build_network(GradICONPlan((1.0,), 0.125, checkpointing), 1).train()
        nn.init.normal_(made.get_parameter("net.lastConv.weight"), std=0.02)
        prepare_batch_norm(made, kind, Threads(0, 2, exchange=Exchange(1)))
        loss = made(*images).fixed_to_moving.dense((16, 16, 16)).square().mean()
        loss.backward()
        found.append((made.state_dict(), [p.grad for p in made.parameters()]))
    for a, b in zip(found[0][0].values(), found[1][0].values(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(found[0][1], found[1][1], strict=True):
        assert torch.equal(a, b)
