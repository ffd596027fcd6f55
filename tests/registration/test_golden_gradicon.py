"""Numbers of the published uniGradICON (icon_registration 1.1.9, unigradicon 1.0.6, torch 2.13).

The full comparison is benchmarks/golden_gradicon.py; here stand those that take seconds. "32" is a
grid of 32^3, where the published code needs its pooling extended to axes of one voxel.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from golden_inputs import keyed_state_dict, noise, volume
from small_pairs import VANILLA, example_plan

from autoreg.geometry.grid import Geometry
from autoreg.geometry.volume import Volume
from autoreg.losses.regularity import gradicon, gradicon_points
from autoreg.losses.similarity import LNCC
from autoreg.networks.gradicon import GradICON
from autoreg.plan import GridPlan
from autoreg.registration.gradient_projection import project
from autoreg.registration.instance_optimisation import optimise, preserved
from autoreg.registration.objective import Objective
from autoreg.registration.prepare import prepare
from autoreg.registration.register import register

LEVELS = (0.25, 0.5, 1.0, 1.0)

# Voxel -> the map there, unit coordinates (d, h, w).
FORTH_32 = {
    (0, 0, 0): (-0.057603255, 0.0081360191, 0.052713931),
    (12, 16, 8): (0.34422335, 0.52778345, 0.31918797),
    (24, 4, 20): (0.71854806, 0.12990187, 0.69448519),
    (28, 24, 28): (0.85579073, 0.77528864, 0.95619738),
}
BACK_32 = {
    (0, 0, 0): (-0.057874948, 0.0083559602, 0.052573271),
    (12, 16, 8): (0.34234992, 0.52538699, 0.31425115),
    (24, 4, 20): (0.7257154, 0.1313042, 0.69672),
    (28, 24, 28): (0.8556568, 0.77538252, 0.95493102),
}
FORTH_66 = {
    (0, 0, 0): (-0.05432022, 0.0041139582, 0.051887337),
    (12, 16, 8): (0.13801128, 0.25038373, 0.17673872),
    (24, 4, 20): (0.31207535, 0.060357254, 0.36078188),
    (64, 60, 64): (0.93117744, 0.92428178, 1.0302467),
}
BACK_66 = {
    (0, 0, 0): (-0.054084964, 0.0046786489, 0.051274873),
    (12, 16, 8): (0.1371876, 0.25120792, 0.17759173),
    (24, 4, 20): (0.31995219, 0.060886558, 0.37115118),
    (64, 60, 64): (0.93158108, 0.92518502, 1.0314724),
}
# (total, similarity, regularity) before each of three steps of Adam and after the last one.
IO_PLAIN = (
    (1.3421623706817627, 1.231528401374817, 0.07375596463680267),
    (1.328122854232788, 1.2303075790405273, 0.06521014124155045),
    (1.315880298614502, 1.2287521362304688, 0.05808544158935547),
    (1.305327296257019, 1.2271089553833008, 0.0521455854177475),
)
IO_PROJECTION = (
    (1.3421623706817627, 1.231528401374817, 0.07375596463680267),
    (1.3279964923858643, 1.2291367053985596, 0.06590652465820312),
    (1.3156673908233643, 1.2269041538238525, 0.059175483882427216),
    (1.3051178455352783, 1.2247254848480225, 0.05359490588307381),
)
# World points inside the fixed image and where they lie in the moving one.
ITK_POINTS = {
    (-8.880370521997168, 34.18435003113874, 164.2628886902063):
        (-28.232139580929733, -28.18079913090264, 195.28003196808783),
    (8.663983624486526, 39.92426384893217, 153.1935362933388):
        (-41.22187360517118, -0.960382942356734, 184.0373771204786),
    (4.524961133665586, 33.42671544997505, 119.60751318936708):
        (-47.4251156192221, -8.825677475638702, 149.0393185872322),
    (-2.142667356824475, 21.284161333659696, 144.41499348859128):
        (-28.10346597673184, -19.552055737513935, 171.27719404503398),
}  # fmt: skip

# First value of some parameters after torch.manual_seed(0); with these the gradient of a fresh
# network's loss is the published one (benchmarks/golden_gradicon.py, zero_66).
INITIAL = {
    "netPhi.netPhi.net.netPhi.net.net.downConvs.0.weight": -0.0010188271990045905,
    "netPhi.netPhi.net.netPsi.net.upConvs.0.bias": -0.015084933489561081,
    "netPhi.netPsi.net.downConvs.3.weight": 0.021507173776626587,
    "netPsi.net.upConvs.4.bias": 0.0001628100872039795,
    "netPsi.net.lastConv.weight": 0.0,
}


@pytest.fixture(scope="module")
def network():
    network = GradICON(LEVELS, 1, 1.0)
    network.load_state_dict(keyed_state_dict(network.state_dict()))
    return network.eval()


@pytest.fixture(scope="module")
def images():
    return volume(11, (32, 32, 32)), volume(22, (32, 32, 32))


def objective(shape=(32, 32, 32)):
    points = gradicon_points(shape, noise(33, shape)[:, :, ::2, ::2, ::2])
    return Objective(LNCC(5.0), lambda f, m, _shape, _rng: gradicon(f, m, points), 1.5)


def values_at(dense, voxels):
    return np.array([dense[0, :, *voxel].tolist() for voxel in voxels])


def norm(tensors):
    return float(torch.sqrt(sum(t.double().square().sum() for t in tensors)))


def assert_maps(network, images, forth, back):
    with torch.no_grad():
        maps = network(*images)
        shape = images[0].shape[2:]
        for chain, expected in ((maps.fixed_to_moving, forth), (maps.moving_to_fixed, back)):
            found = values_at(chain.dense(shape), expected)
            assert np.abs(found - list(expected.values())).max() < 1e-5


def test_maps(network, images):
    assert_maps(network, images, FORTH_32, BACK_32)


def test_maps_at_66(network):
    assert_maps(network, (volume(11, (66,) * 3), volume(22, (66,) * 3)), FORTH_66, BACK_66)


def test_losses_gradients_and_their_projection(network, images):
    loss = objective().bind(*images)(network(*images), torch.Generator())
    values = loss.values()
    assert values.similarity == pytest.approx(1.2315284, abs=1e-5)
    assert values.regularity == pytest.approx(0.073755965, abs=1e-5)
    assert values.total == pytest.approx(1.3421624, abs=1e-5)

    parameters = list(network.parameters())
    g_s = list(torch.autograd.grad(loss.similarity, parameters, retain_graph=True))
    g_r = torch.autograd.grad(loss.weighted_regularity, parameters)
    assert norm(g_s) == pytest.approx(1.0339136, rel=1e-3)
    assert norm(g_r) == pytest.approx(3.8555453, rel=1e-3)
    assert norm(a + b for a, b in zip(g_s, g_r, strict=True)) == pytest.approx(3.6978699, rel=1e-3)
    joint = project(g_s, g_r, "both", torch.Generator())
    assert joint.cosine == pytest.approx(-0.28346664, rel=1e-3)
    assert norm(joint.gradient) == pytest.approx(4.0905025, rel=1e-3)


def test_training_mode(network, images):
    with preserved(network), torch.no_grad():
        maps = network.train()(*images)
        values = objective().bind(*images)(maps, torch.Generator()).values()
        buffers = {name: float(b.double().sum()) for name, b in network.named_buffers()}
    assert values.similarity == pytest.approx(1.2346272468566895, abs=1e-5)
    assert values.regularity == pytest.approx(0.7435528039932251, abs=1e-5)
    assert values.total == pytest.approx(2.349956512451172, abs=1e-5)
    for name, expected in {
        "netPhi.netPhi.net.netPhi.net.net.batchNorms.0.running_mean": 0.2547660246491432,
        "netPhi.netPhi.net.netPsi.net.batchNorms.1.running_var": 32.36213892698288,
        "netPhi.netPsi.net.batchNorms.3.running_mean": -0.48770707624498755,
        "netPsi.net.batchNorms.4.running_var": 214.59195691347122,
    }.items():
        assert buffers[name] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("mode", "golden", "map_after"),
    [
        ("vanilla", IO_PLAIN, (0.34477946, 0.52575493, 0.31788528)),
        ("gradient_projection", IO_PROJECTION, (0.34290567, 0.52674919, 0.31671292)),
    ],
)
def test_instance_optimisation(network, images, mode, golden, map_after):
    pair = objective().bind(*images)
    published = replace(VANILLA, mode=mode, projection="both", learning_rate=2e-5)
    with preserved(network):
        trace = optimise(network, pair, published)
        with torch.no_grad():
            maps = network(*images)
            last = pair(maps, torch.Generator()).values()
            found_map = values_at(maps.fixed_to_moving.dense((32, 32, 32)), [(12, 16, 8)])
    found = [(v.total, v.similarity, v.regularity) for v in (*(s.loss for s in trace.steps), last)]
    assert np.abs(np.array(found) - golden).max() < 2e-4
    assert np.abs(found_map - map_after).max() < 2e-4


def itk_image(seed, shape, spacing, origin, direction):
    geometry = Geometry.from_itk(shape[::-1], spacing, origin, direction)
    return Volume.intensity(volume(seed, shape)[0, 0].numpy(), geometry)


def test_the_transform_of_two_oblique_images(network):
    moving = itk_image(
        101, (40, 52, 61), (0.9, 1.1, 2.5), (-30.0, 12.5, 100.0),
        (-0.9362933635841992, 0.28962947762551555, 0.19866933079506122,
         -0.2750958473182437, -0.9564250858492325, 0.09784339500725571,
         0.21835066314633442, 0.036957013524625076, 0.975170327201816),
    )  # fmt: skip
    fixed = itk_image(
        202, (47, 45, 58), (1.2, 0.8, 2.0), (20.0, -7.0, 80.0),
        (-0.1984210458640611, -0.9788417498233436, 0.04997916927067833,
         0.9705453068710519, -0.18911857326287815, 0.14925137372094469,
         -0.1366414866312127, 0.07812166184732842, 0.9875353715596337),
    )  # fmt: skip
    plan = example_plan(grid=GridPlan((66, 66, 66), (1.0, 1.0, 1.0), False))
    prepared = [prepare(image, plan, ("MR",)) for image in (fixed, moving)]
    found = register(network, plan, *prepared, replace(VANILLA, mode="none"))
    mapped = found.transform.map_points(list(ITK_POINTS))
    assert np.abs(mapped - list(ITK_POINTS.values())).max() < 1e-3


def test_the_default_seed_gives_the_published_initial_values():
    torch.manual_seed(0)
    network = GradICON(LEVELS, 1, 1.0)
    for name, first in INITIAL.items():
        assert float(network.get_parameter(name).detach().flatten()[0]) == pytest.approx(first)
