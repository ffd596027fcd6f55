"""A field optimised from where a network left two images."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pair_phantom import displacement_mm, empty_image, filled, inner_points, intensity, points_of

from autoreg.errors import DataError
from autoreg.evaluation.fields import ndv
from autoreg.geometry.grid import Geometry
from autoreg.geometry.transforms import Affine, Composite, DisplacementField
from autoreg.geometry.volume import Volume
from autoreg.io.images import from_sitk
from autoreg.registration import field_from_network
from autoreg.registration import start as start_module
from autoreg.registration.field_from_network import register_from
from autoreg.registration.field_presets import preset_plan
from autoreg.registration.start import ImagePair, aligned_start, network_start

FAST = preset_plan("fast")
CPU = torch.device("cpu")
BEYOND_MM = np.array([30.0, -20.0, 10.0])
SHIFT_MM = np.array([6.0, 0.0, -5.0])


def images():
    """A fixed image, and the deformed moving one somewhere else in the world."""
    blank = empty_image((30, 28, 29), (2.8, 2.8, 2.8), "oblique")
    points = points_of(blank)
    fixed = filled(blank, intensity(points + displacement_mm(points)).astype(np.float32))
    other = empty_image((34, 32, 33), (2.5, 2.6, 2.7))
    moving = filled(other, intensity(points_of(other)).astype(np.float32))
    moving.SetOrigin((np.array(moving.GetOrigin()) + BEYOND_MM).tolist())
    return from_sitk(fixed, "intensity"), from_sitk(moving, "intensity")


def start():
    """Most of the truth and a shift on a network's coarse grid, and the way to the moving image.

    The shift, which the affine map takes back, tells in which order the parts are to be composed.
    """
    matrix = np.diag([8.0, 8.0, 8.0, 1.0])[[2, 1, 0, 3]]
    matrix[:3, 3] = -44
    grid = Geometry((12, 12, 12), matrix)
    nodes = grid.to_world(np.moveaxis(np.indices(grid.shape), 0, -1).reshape(-1, 3))
    u_mm = 0.6 * displacement_mm(nodes).reshape(*grid.shape, 3) + SHIFT_MM
    u_vox = np.einsum("ax,dhwx->adhw", grid.world_to_index[:3, :3], u_mm)
    beyond = np.eye(4)
    beyond[:3, 3] = BEYOND_MM - SHIFT_MM
    return Composite((DisplacementField(u_vox.astype(np.float32), grid), Affine(beyond)))


@pytest.fixture(scope="module")
def found():
    return register_from(start(), ImagePair.of(*images()), FAST, CPU)


def error_mm(transform):
    points = inner_points()
    truth = points + displacement_mm(points) + BEYOND_MM
    return float(np.linalg.norm(transform.map_points(points) - truth, axis=1).mean())


def test_what_the_network_left_is_found(found):
    assert error_mm(start()) > 1.0
    assert error_mm(found.field.transform) < 0.3
    field = start().transforms[0]
    lengths = np.linalg.norm(8.0 * field.u_vox, axis=0)  # of isotropic voxels
    assert found.network_mm == pytest.approx(lengths.mean(), rel=1e-5)
    assert 0.3 < found.refinement_mm < 3


def test_both_directions_agree_and_nothing_folds(found):
    forward, backward = found.field.transform, found.field.inverse
    points = inner_points(1000)
    there_and_back = backward.map_points(forward.map_points(points))
    error_vox = np.linalg.norm(there_and_back - points, axis=1) / 2.8
    assert error_vox.mean() < 0.02
    assert error_vox.max() < 0.1
    assert ndv(found.field.forward.u_vox).volume_vox == 0


def test_a_mask_of_the_moving_image_lies_on_that_image():
    """What the moving image shows well outside of it makes little difference."""
    fixed, moving = images()
    world = moving.geometry.to_world(np.moveaxis(np.indices(moving.geometry.shape), 0, -1))
    distance_mm = np.linalg.norm(world - BEYOND_MM - (28, 0, 0), axis=-1)
    mask = Volume((distance_mm > 20)[None], moving.geometry, "mask")
    values = np.where(distance_mm < 8, 400, moving.array).astype(np.float32)
    spoilt = Volume(values, moving.geometry, "intensity")
    points = inner_points()
    differences = []
    for masks in ((None, mask), (None, None)):
        one, other = (
            register_from(
                start(), ImagePair.of(fixed, m, *masks), FAST, CPU
            ).field.transform.map_points(points)
            for m in (moving, spoilt)
        )
        differences.append(np.abs(one - other).mean())
    assert differences[0] < 0.4 * differences[1]


def moved(by_mm):
    """A network's answer that is beside the images by so much."""
    field, _ = start().transforms
    away = np.eye(4)
    away[:3, 3] = BEYOND_MM - SHIFT_MM + by_mm
    return Composite((field, Affine(away)))


@pytest.mark.parametrize("beside_mm", [18.0, 1000.0])
def test_a_network_that_is_worse_than_an_alignment_is_not_believed(beside_mm):
    network = moved((beside_mm, 0, 0))
    found = register_from(network, ImagePair.of(*images()), FAST, CPU)
    assert error_mm(found.field.transform) < 0.3
    assert found.start.alignment is not None
    assert "network's answer was dropped" in found.start.warnings[0]


def test_a_network_that_is_better_than_an_alignment_is_believed(found):
    assert found.start.alignment is None
    assert not found.start.warnings


def test_images_that_nothing_brings_together_are_refused():
    fixed, moving = images()
    nowhere = Volume(np.zeros(fixed.geometry.shape, bool)[None], fixed.geometry, "mask")
    with pytest.raises(DataError, match=r"without overlap.*could not be aligned"):
        network_start(moved((1000, 0, 0)), ImagePair.of(fixed, moving, nowhere))


def test_the_affine_part_of_a_network_becomes_the_alignment():
    """As an affine network's, which leaves nothing to the velocity; its frame counts alike."""
    turn = 0.2
    linear = np.array(
        [[np.cos(turn), -np.sin(turn), 0.05], [np.sin(turn), np.cos(turn), 0], [0, 0.03, 1.1]]
    )
    field, rest = start().transforms
    grid = field.geometry
    nodes = grid.to_world(np.moveaxis(np.indices(grid.shape), 0, -1).reshape(-1, 3))
    u_mm = (nodes @ linear.T + SHIFT_MM - nodes).reshape(*grid.shape, 3)
    u_vox = np.einsum("ax,dhwx->adhw", grid.world_to_index[:3, :3], u_mm).astype(np.float32)
    network = Composite((DisplacementField(u_vox, grid), rest))
    fixed, moving = images()
    world = fixed.geometry.to_world(np.moveaxis(np.indices(fixed.geometry.shape), 0, -1))
    mask = Volume((np.linalg.norm(world, axis=-1) < 25)[None], fixed.geometry, "mask")
    for given in (None, mask):
        pair = ImagePair.of(fixed, moving, given)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(start_module, "clearly_better", lambda *_: False)
            found = network_start(network, pair)
        points = inner_points()
        expected = network.map_points(points)
        np.testing.assert_allclose(found.initial.map_points(points), expected, atol=0.3)
        left = found.displacement.map_points(points) - points
        assert np.linalg.norm(left, axis=1).max() < 0.3


def test_a_network_that_turns_inside_out_leaves_its_shift_alone():
    field, rest = start().transforms
    grid = field.geometry
    index = np.indices(grid.shape).astype(np.float32)
    middle = index.mean(axis=(1, 2, 3), keepdims=True)
    mirrored = Composite((DisplacementField(-2 * (index - middle), grid), rest))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(start_module, "clearly_better", lambda *_: False)
        found = network_start(mirrored, ImagePair.of(*images()))
    np.testing.assert_allclose(found.initial.matrix[:3, :3], np.eye(3))


def test_images_without_contrast_inside_are_aligned_nevertheless():
    """Of a segmentation nothing is known by correlation, which speaks against nothing."""
    blank = empty_image((30, 28, 29), (2.8, 2.8, 2.8))
    other = empty_image((34, 32, 33), (2.5, 2.6, 2.7))
    shift = np.array([12.0, -9.0, 5.0])
    volumes = []
    for image, centre in ((blank, np.zeros(3)), (other, shift)):
        inside = (((points_of(image) - centre) / (22, 16, 12)) ** 2).sum(-1) < 1
        volumes.append(from_sitk(filled(image, inside.astype(np.float32)), "intensity"))
    found = aligned_start(ImagePair.of(*volumes))
    assert not found.warnings
    np.testing.assert_allclose(found.initial.map_points([[0.0, 0, 0]])[0], shift, atol=1.0)


def test_what_ends_worse_than_it_began_is_tried_without_the_network(monkeypatch):
    """A rough answer fits better than anything regularised, and may lead astray."""
    genuine = field_from_network.register_field

    def misled(fixed, moving, initial, plan, *, start, **flags):
        found = genuine(fixed, moving, initial, plan, start=start, **flags)
        if start is None:
            return found
        shifted = replace(found.forward, u_vox=found.forward.u_vox + np.float32(4))
        return replace(found, forward=shifted)

    monkeypatch.setattr(field_from_network, "register_field", misled)
    found = register_from(start(), ImagePair.of(*images()), FAST, CPU)
    assert found.start.alignment is not None
    assert "could not hold" in found.start.warnings[0]
    assert error_mm(found.field.transform) < 0.3


def test_errors_of_the_network_do_not_outlast_it():
    """What is regularised is the whole: roughness that the network left does not stay."""
    field, rest = start().transforms
    noise = np.random.default_rng(0).normal(0, 0.1, field.u_vox.shape)
    rough = Composite((replace(field, u_vox=(field.u_vox + noise).astype(np.float32)), rest))
    assert error_mm(rough) > 1.3
    found = register_from(rough, ImagePair.of(*images()), preset_plan("balanced"), CPU)
    assert found.start.alignment is None
    assert error_mm(found.field.transform) < 0.3


def test_both_directions_begin_with_the_network(monkeypatch):
    """The exchanged images, too, begin where the network left them, seen from the other side."""
    monkeypatch.setattr(
        "autoreg.registration.field.optimise_spline", lambda level, begin, *_: begin
    )
    plan = replace(FAST, both_directions=True)
    found = register_from(start(), ImagePair.of(*images()), plan, CPU)
    assert found.start.alignment is None
    points = inner_points()
    apart = found.field.transform.map_points(points) - start().map_points(points)
    assert np.linalg.norm(apart, axis=1).mean() < 0.15


def test_noise_of_finer_moving_voxels_is_averaged():
    """As without a network: the moving image is looked at in voxels of the fixed one's size."""
    blank = empty_image((30, 28, 29), (2.8, 2.8, 2.8))
    points = points_of(blank)
    fixed = filled(blank, intensity(points + displacement_mm(points)).astype(np.float32))
    fine = empty_image((116, 112, 112), (0.7, 0.7, 0.7))
    values = intensity(points_of(fine))
    noise = 0.35 * values.std() * np.random.default_rng(0).standard_normal(values.shape)
    noisy = filled(fine, (values + noise).astype(np.float32))
    grid = from_sitk(fixed, "intensity").geometry
    nothing = DisplacementField(np.zeros((3, *grid.shape), np.float32), grid)
    found = register_from(
        Composite((nothing, Affine(np.eye(4)))),
        ImagePair.of(from_sitk(fixed, "intensity"), from_sitk(noisy, "intensity")),
        FAST,
        CPU,
    )
    inner = inner_points()
    length = np.linalg.norm(
        found.field.transform.map_points(inner) - inner - displacement_mm(inner), axis=1
    )
    assert length.mean() < 0.5
