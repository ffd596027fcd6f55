"""Folds and volume change: analytic fields, and a second implementation point by point."""

import itertools

import numpy as np
import plain_referee
import pytest
import torch
from scipy import ndimage

from autoreg.errors import GeometryError
from autoreg.evaluation.consistency import inverse_consistency
from autoreg.evaluation.fields import central_determinant, ndv, sdlogj, voxel_displacement
from autoreg.evaluation.overlap import dice
from autoreg.evaluation.surface import hd95
from autoreg.geometry.grid import Geometry

SHAPE = (16, 18, 14)


def zeros():
    return np.zeros((3, *SHAPE), np.float32)


def mirrored():
    u = zeros()
    index = np.arange(SHAPE[0], dtype=np.float32)
    u[0] = (SHAPE[0] - 1 - 2 * index)[:, None, None]
    return u


def alternating():
    u = zeros()
    u[0] = (0.8 * (-1.0) ** (np.arange(SHAPE[0]) + 1))[:, None, None]
    return u


def rough(seed=0, strength=4.0):
    noise = np.random.default_rng(seed).standard_normal((3, 9, 8, 7))
    return ndimage.gaussian_filter(noise, (0, 1, 1, 1)) * strength


def test_identity_and_translation_are_perfect():
    for u in (zeros(), zeros() + np.float32([1.3, -0.7, 2.2]).reshape(3, 1, 1, 1)):
        found = ndv(u)
        assert (found.fraction, found.folded_voxels, found.folded_tetrahedra) == (0, 0, 0)
        assert found.voxels == 14 * 16 * 12
        assert sdlogj(u) == pytest.approx(0, abs=1e-7)


def test_a_mirror_is_folded_everywhere():
    found = ndv(mirrored())
    assert found.fraction == pytest.approx(1.0, abs=1e-12)
    assert found.volume_vox == pytest.approx(2688.0, abs=1e-9)
    assert found.folded_voxels == 2688


def test_alternating_steps_fold_although_central_differences_do_not_see_it():
    found = ndv(alternating())
    assert 100 * found.fraction == pytest.approx(30.000001192092896, abs=1e-9)
    assert found.folded_tetrahedra == pytest.approx(1344)
    assert found.folded_voxels == 0
    assert float(central_determinant(alternating()).min()) == 1


def test_scaling_changes_volume_evenly():
    u = 0.25 * np.indices(SHAPE).astype(np.float32)
    np.testing.assert_allclose(central_determinant(u).numpy(), 1.25**3, rtol=1e-6)
    assert sdlogj(u) == pytest.approx(0, abs=1e-7)


def brute_force_ndv(u, mask):
    """The definition, voxel by voxel."""
    place = np.moveaxis(np.indices(u.shape[1:]) + u, 0, -1)
    unit = np.eye(3, dtype=int)
    stars = [
        [-unit[0] - unit[1], -unit[0] - unit[2], -unit[1] - unit[2]],
        [unit[0] + unit[1], unit[1] + unit[2], unit[0] + unit[2]],
    ]
    volume = count = 0
    for p in itertools.product(*(range(1, n - 1) for n in u.shape[1:])):
        if not mask[p]:
            continue
        count += 1
        frames = [
            [s * (place[tuple(p + s * e)] - place[p]) for s, e in zip(signs, unit, strict=True)]
            for signs in itertools.product((1, -1), repeat=3)
        ]
        frames += [[place[tuple(p + o)] - place[p] for o in star] for star in stars]
        volume += sum(max(0.0, -np.linalg.det(np.array(frame))) for frame in frames) / 12
    return volume, count


def test_ndv_agrees_with_its_definition_in_a_mask():
    u, mask = rough(), np.random.default_rng(1).random((9, 8, 7)) < 0.6
    volume, count = brute_force_ndv(u, mask)
    found = ndv(u, mask)
    assert volume > 1  # there is something to find
    assert found.voxels == count
    assert found.volume_vox == pytest.approx(volume, rel=1e-12)
    assert found.fraction == pytest.approx(volume / count, rel=1e-12)


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("masked", [False, True])
def test_folds_are_found_in_float32_and_measured_in_float64(monkeypatch, share, masked):
    # 0: whole slabs as soon as one voxel may fold; 1: single voxels always
    monkeypatch.setattr("autoreg.evaluation.fields._MANY", share)
    monkeypatch.setattr("autoreg.evaluation.fields._SEARCH_VOXELS", 900)
    noise = np.random.default_rng(2).standard_normal((3, *SHAPE))
    u = (8 * ndimage.gaussian_filter(noise, (0, 1.5, 1.5, 1.5))).astype(np.float32)
    mask = np.ones(SHAPE, bool)
    if masked:
        mask = ndimage.gaussian_filter(noise[0], 2) > 0.02
        mask[:3], mask[:, -4:] = False, False
    expected = plain_referee.ndv_fraction(u, mask)
    assert 1e-4 < expected < 0.05
    found = ndv(u, mask)
    assert found.fraction == pytest.approx(expected, rel=1e-12)
    exact = ndv(u.astype(np.float64), mask)
    assert found.folded_voxels == exact.folded_voxels
    assert found.folded_tetrahedra == pytest.approx(exact.folded_tetrahedra, rel=1e-12)


def test_a_number_that_is_none_is_not_passed_over():
    u = zeros()
    u[0, 5, 5, 5] = np.nan
    assert np.isnan(ndv(u).fraction)


def test_slabs_do_not_show(monkeypatch):
    whole = ndv(rough()), central_determinant(rough())
    monkeypatch.setattr("autoreg.evaluation.fields._SLAB_VOXELS", 60)
    monkeypatch.setattr("autoreg.evaluation.fields._SEARCH_VOXELS", 60)
    assert ndv(rough()).volume_vox == pytest.approx(whole[0].volume_vox, rel=1e-13)
    assert torch.equal(central_determinant(rough()), whole[1])


def test_sdlogj_by_its_formula():
    u, mask = rough(strength=1.5), np.random.default_rng(1).random((9, 8, 7)) < 0.6
    gradients = np.stack([np.stack(np.gradient(c), -1) for c in u], -2)
    determinant = np.linalg.det(np.eye(3) + gradients)[2:-2, 2:-2, 2:-2]
    inner = mask[2:-2, 2:-2, 2:-2]
    assert sdlogj(u) == pytest.approx(np.log(determinant + 3).std(), rel=1e-12)
    assert sdlogj(u, mask) == pytest.approx(np.log(determinant[inner] + 3).std(), rel=1e-12)
    plain = np.log(np.clip(determinant, 1e-9, None)).std()
    assert sdlogj(u, plus3=False) == pytest.approx(plain, rel=1e-12)


def test_what_leaves_no_voxel_is_nan():
    thin = np.zeros((3, 2, 8, 8), np.float32)
    assert np.isnan(ndv(thin).fraction)
    assert np.isnan(sdlogj(thin))
    assert np.isnan(sdlogj(np.zeros((3, 4, 8, 8), np.float32)))
    empty = np.zeros(SHAPE, bool)
    assert np.isnan(ndv(zeros(), empty).fraction)
    assert np.isnan(sdlogj(zeros(), empty))


def test_a_mask_must_fit():
    with pytest.raises(GeometryError, match="mask"):
        ndv(zeros(), np.ones((3, 3, 3), bool))
    with pytest.raises(GeometryError, match="mask"):
        sdlogj(zeros(), np.ones((3, 3, 3), bool))


def turned(shape, spacing, angle):
    c, s = np.cos(angle), np.sin(angle)
    rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, c, -s], [0, s, c]]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = rotation[:, ::-1] * spacing
    matrix[:3, 3] = (-30, 12, 7)
    return Geometry(shape, matrix)


@pytest.mark.parametrize("angle", [0.0, 0.6])
def test_the_determinant_is_that_of_the_physical_map(angle):
    geometry = turned((8, 9, 10), (3.0, 0.7, 1.2), angle)
    stretch = np.array([[1.2, 0.3, 0.0], [-0.1, 0.8, 0.2], [0.0, 0.4, 1.1]])
    points = geometry.to_world(np.moveaxis(np.indices(geometry.shape), 0, -1))
    u_mm = (points @ stretch.T - points).astype(np.float32)
    determinant = central_determinant(voxel_displacement(u_mm, geometry))
    np.testing.assert_allclose(determinant.numpy(), np.linalg.det(stretch), rtol=1e-4)


def test_voxel_displacement_is_signed_and_in_the_order_of_the_array():
    matrix = np.eye(4)
    matrix[:3, :3] = [[0, 0, -2.0], [0, 3.0, 0], [4.0, 0, 0]]  # d along z, w against x
    u_mm = np.zeros((2, 3, 4, 3), np.float32)
    u_mm[...] = (2.0, 6.0, 2.0)
    u_vox = voxel_displacement(u_mm, Geometry((2, 3, 4), matrix))
    assert u_vox[:, 0, 0, 0].tolist() == [0.5, 2.0, -1.0]
    with pytest.raises(GeometryError, match="displacement"):
        voxel_displacement(u_mm, Geometry((3, 3, 4), matrix))


def test_a_translation_and_its_inverse_are_consistent_where_the_grids_overlap():
    fixed, moving = turned((8, 9, 10), (2, 1, 1.5), 0.3), turned((9, 12, 11), (1.5, 1, 1), 0.3)
    shift = np.array([1.0, -2.0, 0.5], np.float32)
    u_mm = np.broadcast_to(shift, (*fixed.shape, 3))
    v_mm = np.broadcast_to(-shift, (*moving.shape, 3))
    found = inverse_consistency(u_mm, fixed, v_mm, moving)
    landing = moving.to_index(fixed.to_world(np.moveaxis(np.indices(fixed.shape), 0, -1)) + shift)
    inside = np.all((landing >= 0) & (landing <= np.array(moving.shape) - 1), axis=-1)
    assert found.p95_mm == pytest.approx(0, abs=1e-5)
    assert found.overlap_fraction == pytest.approx(inside.mean(), abs=0.01)
    off = inverse_consistency(u_mm, fixed, v_mm + np.float32([0.3, 0, 0.4]), moving)
    assert off.mean_mm == pytest.approx(0.5, rel=1e-4)
    assert off.p95_mm == pytest.approx(0.5, rel=1e-4)


def test_no_overlap_gives_nan():
    geometry = turned((4, 4, 4), (1, 1, 1), 0.0)
    u_mm = np.full((4, 4, 4, 3), 100, np.float32)
    found = inverse_consistency(u_mm, geometry, -u_mm, geometry)
    assert np.isnan(found.mean_mm)
    assert found.overlap_fraction == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_same_numbers():
    u, mask = torch.from_numpy(rough()), torch.rand(9, 8, 7) < 0.6
    on_gpu = ndv(u.cuda(), mask.cuda())
    assert on_gpu.volume_vox == pytest.approx(ndv(u, mask).volume_vox, rel=1e-12)
    assert on_gpu.folded_voxels == ndv(u, mask).folded_voxels
    assert sdlogj(u.cuda(), mask.cuda()) == pytest.approx(sdlogj(u, mask), rel=1e-12)
    first, second = torch.randint(0, 4, (2, 9, 8, 7))
    labels = [1, 2, 3]
    on_cpu = dice(first, second, labels), hd95(first, second, labels)
    first, second = first.cuda(), second.cuda()
    assert np.array_equal(on_cpu, (dice(first, second, labels), hd95(first, second, labels)))
