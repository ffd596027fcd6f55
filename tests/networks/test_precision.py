"""Training in 16 bits: what is rounded and what is not."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from autoreg.network_plan import GradICONPlan, SITRegPlan, TransMorphPlan
from autoreg.networks.factory import build_network
from autoreg.networks.precision import HeavyPart, set_precision, strided_convolution
from autoreg.networks.transmorph_decoder import DisplacementHead

SHAPE = (32, 32, 32)
SITREG = SITRegPlan(
    features=(8, 8, 8),
    feature_convolutions=(1, 2, 2),
    deformation_features=(8, 8, 8),
    deformation_convolutions=2,
    groups=2,
    normalise_deformations=True,
    bound_share=0.99,
    affine=True,
)
NETWORKS = {
    "gradicon": GradICONPlan((0.5, 1.0), 0.125),
    "gradicon, checkpointing": GradICONPlan((0.5, 1.0), 0.125, checkpointing=True),
    "sitreg": SITREG,
    "sitreg, checkpointing": SITRegPlan(**{**vars(SITREG), "checkpointing": True}),
    "transmorph, half": TransMorphPlan(
        variant="half", embedding=8, depths=(2, 2, 2, 2), heads=(1, 1, 1, 1), window=(2, 2, 2),
        drop_path=0.0, checkpointing=False,
    ),
    "transmorph, time_varying": TransMorphPlan(
        variant="time_varying", embedding=8, depths=(2, 2, 2), heads=(1, 1, 1), window=(2, 2, 2),
        drop_path=0.0, time_steps=2,
    ),
}  # fmt: skip
all_networks = pytest.mark.parametrize("name", NETWORKS)


def images():
    """Smooth ones (moving, fixed)."""
    coarse = torch.rand(2, 1, 6, 6, 6, generator=torch.Generator().manual_seed(1))
    return functional.interpolate(coarse, size=SHAPE, mode="trilinear").split(1)


def fresh(name):
    """A network that displaces by a voxel or so."""
    torch.manual_seed(0)
    network = build_network(NETWORKS[name], 1)
    lasts = [m for key, m in network.named_modules() if key.endswith("lastConv")]
    lasts += [m[0] for m in network.modules() if isinstance(m, DisplacementHead)]
    for last in lasts:
        nn.init.normal_(last.weight, std=0.02)
    return network


def maps_and_gradient(network):
    moving, fixed = images()
    maps = network(moving, fixed)
    forth, back = (one.dense(SHAPE) for one in (maps.fixed_to_moving, maps.moving_to_fixed))
    loss = (forth * forth.detach().cos()).mean() + back.square().mean()
    parameters = list(network.parameters())
    # Twice, as gradient projection does.
    for retain in (True, False):
        gradient = torch.autograd.grad(loss, parameters, retain_graph=retain, allow_unused=True)
    return forth.detach(), torch.cat([g.flatten() for g in gradient if g is not None])


@all_networks
def test_maps_are_float32_and_near_those_of_float32(name):
    network = fresh(name)
    exact, slope = maps_and_gradient(network.train())
    network = fresh(name)
    set_precision(network, "bfloat16")
    rounded, its_slope = maps_and_gradient(network.train())
    assert rounded.dtype == its_slope.dtype == torch.float32
    off = (rounded - exact).abs().max() * (SHAPE[0] - 1)
    # Coordinates in bfloat16 would be off by up to 2^-9 of 31 voxels, at every composition.
    assert 1e-7 < off < 0.06, off
    assert torch.cosine_similarity(slope, its_slope, dim=0) > 0.9
    fine = (rounded - rounded.bfloat16().float()).abs().max()
    assert fine > 1e-4, "the map itself was rounded to bfloat16"


@all_networks
def test_eval_mode_is_float32_always(name):
    network = fresh(name).eval()
    moving, fixed = images()
    with torch.no_grad():
        before = network(moving, fixed).fixed_to_moving.dense(SHAPE)
        set_precision(network, "bfloat16")
        assert torch.equal(network(moving, fixed).fixed_to_moving.dense(SHAPE), before)


@all_networks
def test_float32_is_what_it_was(name):
    first, gradient = maps_and_gradient(fresh(name).train())
    network = fresh(name).train()
    for precision in ("bfloat16", "float32"):
        set_precision(network, precision)
    again, its_gradient = maps_and_gradient(network)
    assert torch.equal(first, again)
    assert torch.equal(gradient, its_gradient)
    assert all(p.dtype == torch.float32 for p in network.parameters())


@all_networks
def test_convolutions_are_computed_in_16_bits_but_the_last_is_not(name):
    network = fresh(name).train()
    set_precision(network, "bfloat16")
    seen = {}
    for key, module in network.named_modules():
        if isinstance(module, nn.Conv3d | nn.Linear | nn.BatchNorm3d | nn.GroupNorm):
            module.register_forward_hook(
                lambda module, given, result, key=key: seen.update({key: result.dtype})
            )
    moving, fixed = images()
    network(moving, fixed)
    last = {key for key in seen if "lastConv" in key or "reg_head" in key}
    assert all(seen[key] == torch.float32 for key in last)
    group_norms = {key for key, m in network.named_modules() if isinstance(m, nn.GroupNorm)}
    assert all(seen[key] == torch.float32 for key in group_norms & set(seen))
    if not name.startswith("sitreg"):  # which convolves without calling its layers
        assert torch.bfloat16 in seen.values()
    heavy = [m for m in network.modules() if isinstance(m, HeavyPart)]
    assert heavy


def test_swapped_images_swap_the_maps_in_16_bits_too():
    network = fresh("sitreg").train()
    set_precision(network, "bfloat16")
    moving, fixed = images()
    one, other = network(moving, fixed), network(fixed, moving)
    found, swapped = one.fixed_to_moving.dense(SHAPE), other.moving_to_fixed.dense(SHAPE)
    # Not to the bit: kernels for bfloat16 round differently where the items of a batch meet.
    assert (found - swapped).abs().max() * (SHAPE[0] - 1) < 0.01


def test_a_strided_convolution_that_leaves_one_voxel_is_float32():
    layer = nn.Conv3d(2, 3, 3, stride=2, padding=1)
    with torch.autocast("cpu", torch.bfloat16):
        found = [strided_convolution(layer, torch.ones(1, 2, n, n, n), 2) for n in (1, 2, 8)]
    assert [each.dtype for each in found] == [torch.float32, torch.float32, torch.bfloat16]
