"""Every architecture: trained by the command, loaded again, optimised on a pair, put back."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from training_runs import interrupt_in_epoch, progress_of, run, weights_of

from autoreg.errors import CheckpointError
from autoreg.io.records import save_record
from autoreg.network_plan import GradICONPlan, SITRegPlan, TransMorphPlan
from autoreg.networks.base import eval_mode
from autoreg.networks.factory import build_network
from autoreg.numerics.precision import float32_exactly
from autoreg.plan import InstanceOptimisationPlan, LossPlan
from autoreg.planning.plans_file import plans_path, write_plans
from autoreg.planning.prepared import load_prepared
from autoreg.registration.objective import Objective
from autoreg.registration.prepare import Prepared
from autoreg.registration.register import register
from autoreg.training import checkpoint
from autoreg.training.checkpoint import Checkpoint, save_checkpoint
from autoreg.training.comparison import plan_differences
from autoreg.training.model_folder import PLAN_FILE, checkpoint_path, load_network
from autoreg.training.state import load_pretrained, pretrained_state
from autoreg.training_plan import GroupConsistencyPlan

GRADICON = GradICONPlan((0.5, 1.0), 0.125)
SITREG = SITRegPlan(
    features=(4, 8, 8), feature_convolutions=(1, 1, 1), deformation_features=(4, 8, 8),
    deformation_convolutions=1, groups=2, normalise_deformations=False, bound_share=0.99,
    checkpointing=True,
)  # fmt: skip
# One of its published parameters has no part in the result.
TRANSMORPH = TransMorphPlan(
    variant="half", embedding=8, depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), window=(2, 2, 2),
    drop_path=0.3,
)  # fmt: skip
NETWORKS = {"gradicon": GRADICON, "sitreg": SITREG, "transmorph": TRANSMORPH}
PROJECTION = InstanceOptimisationPlan(
    "gradient_projection", "both", 5, "amsgrad", 2e-4, 1e-3, 0, 0.0, 0
)


@pytest.fixture
def make_model(make_blobs):
    def make(network, **training):
        blobs = make_blobs(shallow_epochs=0, batch_size=1, **training)
        regularity = "gradicon" if isinstance(network, GradICONPlan) else "diffusion"
        loss = LossPlan("windowed_ncc", {"window": 5}, regularity, 0.5, folding_weight=1e-3)
        blobs.plan = replace(blobs.plan, network=network, loss=loss)
        write_plans(plans_path(blobs.preprocessed, blobs.plan.dataset), blobs.plan, "digest")
        return blobs

    return make


@pytest.mark.parametrize("name", NETWORKS)
def test_it_trains_loads_and_is_optimised_on_a_pair(make_model, name):
    blobs = make_model(
        NETWORKS[name], epochs=4, pairs_per_epoch=6, learning_rate=3e-3, validation_every=4
    )
    assert run(blobs, "--augmentation-from", "99") == 0
    epochs = progress_of(blobs)["epochs"]
    assert epochs[-1]["total"] < 0.95 * epochs[0]["total"]
    assert all(epoch["folding"] >= 0 for epoch in epochs)

    network, plan, _ = load_network(blobs.model)
    assert all(torch.equal(t, network.state_dict()[k]) for k, t in weights_of(blobs).items())
    cases = [load_prepared(blobs.folder, f"case{i}") for i in (0, 1)]
    images = [torch.from_numpy(np.array(case.image))[None] for case in cases]
    fixed, moving = (Prepared(i, None, c.geometry) for i, c in zip(images, cases, strict=True))
    weights = {k: t.clone() for k, t in network.state_dict().items()}
    found = register(network, plan, fixed, moving, PROJECTION)
    assert found.loss_after.total < found.loss_before.total
    assert found.loss_after.folding is not None
    assert all(step.cosine is not None for step in found.trace.steps)
    assert all(torch.equal(t, weights[k]) for k, t in network.state_dict().items())
    with eval_mode(network), torch.no_grad():
        one = network.one_direction(moving.image, fixed.image).displacement_vox((16, 16, 16))
    plain = register(network, plan, fixed, moving, replace(PROJECTION, mode="none"))
    np.testing.assert_allclose(plain.u_vox, one[0].numpy(), atol=1e-5)
    assert np.abs(plain.u_vox - found.u_vox).max() > 1e-3


def saved_model(folder, plan):
    weights = build_network(plan.network, 1).state_dict()
    path = checkpoint_path(folder, "all", "final")
    save_checkpoint(path, Checkpoint(plan, "all", plan.network.levels, 0, weights))
    return folder


@pytest.mark.parametrize(
    ("network", "free", "fixed"),
    [
        (SITREG, {"checkpointing": False, "voxel_size": (1.0, 2.0, 3.0)}, {"bound_share": 0.9}),
        (replace(SITREG, affine=True), {}, {"voxel_size": (1.0, 2.0, 3.0)}),
        (TRANSMORPH, {"drop_path": 0.0}, {"window": (1, 2, 2)}),
    ],
)
def test_weights_fit_plans_that_differ_in_what_they_do_not_depend_on(
    tmp_path, plan, monkeypatch, network, free, fixed
):
    built = []

    def record(described, channels):
        built.append(described)
        return build_network(described, channels)

    monkeypatch.setattr(checkpoint, "build_network", record)
    loss = LossPlan("windowed_ncc", {"window": 5}, "diffusion", 2.0)
    plan = replace(plan, network=network, loss=loss)
    folder = saved_model(tmp_path, plan)
    same = replace(plan, network=replace(network, **free))
    pretrained_state(same, load_pretrained(same, folder), torch.device("cpu"))
    assert built[-1] == same.network
    built.clear()
    save_record(same, folder / PLAN_FILE)
    load_network(folder)
    assert built == [same.network]
    # The plan of an affine stage has the voxel size of its grid.
    grid = replace(plan.grid, spacing_mm=fixed.get("voxel_size", plan.grid.spacing_mm))
    other = replace(plan, grid=grid, network=replace(network, **fixed))
    with pytest.raises(CheckpointError, match=next(iter(fixed))):
        load_pretrained(other, folder)
    save_record(other, folder / PLAN_FILE)
    with pytest.raises(CheckpointError, match=next(iter(fixed))):
        load_network(folder)


def test_another_architecture_is_told_by_its_name_alone(plan):
    loss = LossPlan("windowed_ncc", {"window": 5}, "diffusion", 2.0)
    other = replace(plan, network=SITREG, loss=loss)
    assert plan_differences(plan, other, only=("network",)) == [
        'network.architecture was "gradicon" and is now "sitreg"'
    ]


@pytest.mark.parametrize("name", ["sitreg", "transmorph"])
def test_it_trains_on_cycles_and_goes_on_bit_by_bit(make_model, monkeypatch, name):
    """With layers that draw: dropped paths follow the place in the training alone."""
    group = GroupConsistencyPlan(weight=1.0, from_epoch=1)
    blobs = make_model(
        NETWORKS[name], epochs=2, pairs_per_epoch=3, learning_rate=1e-3, validation_every=1,
        group_consistency=group, schedule="polynomial",
    )  # fmt: skip
    flags = ("--fold", "all")
    assert run(blobs, *flags) == 0
    first = progress_of(blobs, "all")["epochs"]
    assert [epoch["cycle"] is None for epoch in first] == [True, False]
    weights = weights_of(blobs, fold="all")
    torch.rand(3)  # whatever the process has drawn meanwhile
    with monkeypatch.context() as patch:
        interrupt_in_epoch(patch, 1)
        assert run(blobs, "--overwrite", *flags) == 130
    assert run(blobs, "--continue", *flags) == 0
    again = weights_of(blobs, fold="all")
    assert all(torch.equal(tensor, again[key]) for key, tensor in weights.items())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("network", [SITREG, TRANSMORPH], ids=["sitreg", "transmorph"])
def test_maps_gradients_step_and_prediction_on_cuda_are_those_of_the_cpu(make_model, network):
    """Without dropped paths, whose draws differ between the devices."""
    if isinstance(network, TransMorphPlan):
        network = replace(network, drop_path=0.0)
    blobs = make_model(network)
    cases = [load_prepared(blobs.folder, f"case{i}") for i in (0, 1)]
    images = [torch.from_numpy(np.array(case.image))[None] for case in cases]
    fixed, moving = (Prepared(i, None, c.geometry) for i, c in zip(images, cases, strict=True))
    start = build_network(network, 1).state_dict()
    found = {}
    with float32_exactly():
        for device in ("cpu", "cuda"):
            there = build_network(network, 1).to(device)
            there.load_state_dict(start)
            maps, loss, gradients = _step(there, blobs.plan, *(i.to(device) for i in images))
            weights = [p.detach().cpu() for p in there.parameters()]
            onto = [Prepared(p.image.to(device), None, p.geometry) for p in (fixed, moving)]
            predicted = register(there, blobs.plan, *onto, PROJECTION)
            found[device] = (maps, loss, gradients, weights, torch.from_numpy(predicted.u_vox))
    for tolerance, on_cpu, on_cuda in zip(
        (1e-4, 1e-4, 1e-3, 1e-3, 2e-2), found["cpu"], found["cuda"], strict=True
    ):
        torch.testing.assert_close(on_cuda, on_cpu, rtol=tolerance, atol=tolerance)


def _step(network, plan, fixed, moving):
    """Maps, loss, gradients (as a share of the largest) of a training step, on the CPU."""
    network.train()
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-3)
    maps = network(moving, fixed)
    shape = fixed.shape[2:]
    fields = [
        maps.fixed_to_moving.displacement_vox(shape),
        maps.moving_to_fixed.displacement_vox(shape),
    ]
    loss = Objective.from_plan(plan).bind(moving, fixed)(maps, torch.Generator().manual_seed(0))
    loss.total.backward()
    gradients = [p.grad.cpu() for p in network.parameters() if p.grad is not None]
    largest = max(float(g.abs().max()) for g in gradients)
    optimiser.step()
    return [f.detach().cpu() for f in fields], loss.total.item(), [g / largest for g in gradients]
