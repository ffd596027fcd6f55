import dataclasses

import numpy as np
import pytest
import torch

from autoreg.io.cases import Pair
from autoreg.numerics.warp import sample_at_index
from autoreg.plan import GridPlan
from autoreg.training.augmentation import (
    AffineDraw,
    PairAugmentation,
    apply_affine,
    draw_pair,
    index_affine,
    move_points,
)
from autoreg.training.batches import LandmarkPair, PairBatch
from autoreg.training_plan import AugmentationPlan

NOTHING = AugmentationPlan(
    from_epoch=0, affine_probability=0, rotation_deg=10, translation_mm=5, scaling=0.03,
    flip_probability=0, flip_axis=0, gamma_probability=0, gamma=0.2,
)  # fmt: skip
PAPER = dataclasses.replace(
    NOTHING, affine_probability=0.5, flip_probability=0.5, gamma_probability=0.1
)
ANISOTROPIC = GridPlan((20, 24, 16), (3.0, 1.0, 2.0), False)


def affine(rotation=(0, 0, 0), translation=(0, 0, 0), scaling=1.0):
    return AffineDraw(rotation, translation, scaling)


def make_batch(shape=(12, 10, 14), count=2, seed=0, **extra):
    generator = torch.Generator().manual_seed(seed)
    images = [torch.rand(count, 1, *shape, generator=generator) for _ in range(2)]
    keys = tuple((0, 0, i) for i in range(count))
    return PairBatch(*images, (Pair("a", "b"),) * count, **{"keys": keys, **extra})


def sampled(image, matrix, mode="linear"):
    return apply_affine(torch.from_numpy(image), matrix, mode).numpy()


def blob(grid, centre_mm, width_mm=4.0):
    """A Gaussian at a place given in mm from the grid's middle."""
    middle = (np.array(grid.shape) - 1) / 2
    places = np.moveaxis(np.indices(grid.shape), 0, -1) - middle
    distance = np.linalg.norm(places * grid.spacing_mm - centre_mm, axis=-1)
    return np.exp(-((distance / width_mm) ** 2)).astype(np.float32)[None]


def centre_of_mass_mm(image, grid):
    middle = (np.array(grid.shape) - 1) / 2
    places = np.indices(grid.shape).reshape(3, -1)
    return ((places * image[0].ravel()).sum(1) / image.sum() - middle) * grid.spacing_mm


def test_a_translation_is_in_millimetres_and_pulls_back():
    image = np.random.default_rng(0).random((1, *ANISOTROPIC.shape), np.float32)
    matrix = index_affine(affine(translation=(3.0, 4.0, 6.0)), ANISOTROPIC)
    moved = sampled(image, matrix)
    # 3 mm of 3 mm voxels, 4 of 1 mm, 6 of 2 mm: the result shows what lies there.
    np.testing.assert_allclose(moved[:, :-1, :-4, :-3], image[:, 1:, 4:, 3:], atol=1e-5)


def test_the_motion_is_rigid_in_millimetres_whatever_the_spacing():
    matrix = index_affine(affine((7, -4, 9), (1, 2, 3)), ANISOTROPIC)
    scale = np.diag(ANISOTROPIC.spacing_mm)
    in_mm = scale @ matrix[:3, :3] @ np.linalg.inv(scale)
    np.testing.assert_allclose(in_mm @ in_mm.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(in_mm) == pytest.approx(1)
    assert abs(matrix[:3, :3] @ matrix[:3, :3].T - np.eye(3)).max() > 0.1


def test_a_rotation_turns_about_the_middle_by_the_angle():
    grid = GridPlan((31, 41, 25), (1.5, 1.0, 2.0), False)
    start = np.array([0.0, 10.0, 0.0])
    moved = sampled(blob(grid, start), index_affine(affine((0, 0, 10)), grid))
    # result(R^-1 p) = image(p): about the axis w, d turns towards h.
    angle = np.deg2rad(10)
    expected = 10 * np.array([np.sin(angle), np.cos(angle), 0])
    np.testing.assert_allclose(centre_of_mass_mm(moved, grid), expected, atol=0.05)


def test_scaling_is_about_the_middle():
    grid = GridPlan((31, 31, 31), (1.0, 1.0, 1.0), False)
    matrix = index_affine(affine(scaling=1.25), grid)
    moved = sampled(blob(grid, (5.0, 0, -5.0)), matrix)
    np.testing.assert_allclose(centre_of_mass_mm(moved, grid), (4.0, 0, -4.0), atol=0.02)
    np.testing.assert_allclose(matrix @ [15, 15, 15, 1], [15, 15, 15, 1])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_flip_turns_both_images_along_the_axis(axis):
    plan = dataclasses.replace(NOTHING, flip_probability=1, flip_axis=axis)
    batch = make_batch()
    result = PairAugmentation(ANISOTROPIC, plan)(batch)
    assert torch.equal(result.fixed, batch.fixed.flip(2 + axis))
    assert torch.equal(result.moving, batch.moving.flip(2 + axis))


def test_gates_open_as_often_as_the_paper_says():
    draws = [draw_pair(np.random.default_rng((0, 0, i)), PAPER) for i in range(4000)]
    fixed = np.array([d.fixed.affine is not None for d in draws])
    moving = np.array([d.moving.affine is not None for d in draws])
    gamma = np.array([[d.fixed.gamma is not None, d.moving.gamma is not None] for d in draws])
    assert np.mean([d.flip for d in draws]) == pytest.approx(0.5, abs=0.03)
    assert fixed.mean() == pytest.approx(0.5, abs=0.03)
    assert moving.mean() == pytest.approx(0.5, abs=0.03)
    assert (fixed & moving).mean() == pytest.approx(0.25, abs=0.03)  # a gate per image
    assert gamma.mean(0) == pytest.approx([0.1, 0.1], abs=0.015)
    assert (gamma[:, 0] & ~fixed).mean() == pytest.approx(0.05, abs=0.012)  # and not inside it


def test_draws_fill_their_ranges_evenly():
    plan = dataclasses.replace(PAPER, affine_probability=1, gamma_probability=1)
    draws = [draw_pair(np.random.default_rng((1, 0, i)), plan).moving for i in range(2000)]
    rotation = np.array([d.affine.rotation_deg for d in draws])
    translation = np.array([d.affine.translation_mm for d in draws])
    scaling = np.array([d.affine.scaling for d in draws])
    gamma = np.array([d.gamma for d in draws])
    for values, middle, reach in (
        (rotation, 0, 10), (translation, 0, 5), (scaling, 1, 0.03), (gamma, 1, 0.2),
    ):  # fmt: skip
        assert abs(values - middle).max() <= reach
        assert values.mean() == pytest.approx(middle, abs=0.07 * reach)
        assert values.std() == pytest.approx(reach / np.sqrt(3), rel=0.05)


def test_gamma_is_a_power_of_the_intensity_and_stays_in_range():
    plan = dataclasses.replace(NOTHING, gamma_probability=1)
    batch = make_batch(count=1)
    batch.fixed[0, 0, 0, 0, 0] = -1e-7
    result = PairAugmentation(ANISOTROPIC, plan)(batch)
    draw = draw_pair(np.random.default_rng(batch.keys[0]), plan)
    for role in ("fixed", "moving"):
        exponent, found = getattr(draw, role).gamma, getattr(result, role)
        expected = getattr(batch, role).clamp(0, 1).double() ** exponent
        torch.testing.assert_close(found, expected.float(), atol=1e-6, rtol=0)


def test_labels_and_masks_go_along_and_stay_what_they_are():
    plan = dataclasses.replace(NOTHING, affine_probability=1, rotation_deg=20)
    grid = GridPlan((24, 24, 24), (1.0, 1.0, 1.0), False)
    image = torch.from_numpy(blob(grid, (3, -4, 2), 6.0)[None])
    labels = torch.where(image > 0.5, 7, 0).to(torch.uint8)
    batch = PairBatch(
        image, image, (Pair("a", "b"),), fixed_labels=labels, fixed_mask=labels > 0,
        keys=((0, 0, 5),),
    )  # fmt: skip
    result = PairAugmentation(grid, plan)(batch)
    assert result.fixed_labels.dtype == torch.uint8
    assert result.fixed_labels.unique().tolist() == [0, 7]
    assert result.fixed_mask.dtype == torch.bool
    agree = (result.fixed_labels > 0) == (result.fixed > 0.5)
    assert agree.float().mean() > 0.99
    assert torch.equal(result.fixed_mask, result.fixed_labels > 0)
    assert not torch.equal(result.fixed_labels, labels)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_landmarks_stay_on_what_they_mark(axis):
    plan = dataclasses.replace(
        NOTHING, affine_probability=1, rotation_deg=20, flip_probability=0.5, flip_axis=axis
    )
    # Images that are their own indices: at a landmark they say where it was.
    ramps = torch.from_numpy(np.indices(ANISOTROPIC.shape).astype(np.float32))[None]
    middle = torch.tensor(ANISOTROPIC.shape) / 2
    before = middle + torch.tensor([[1.0, -2.5, 0.5], [-2.0, 3.0, 1.5]])
    flips = set()
    for number in range(6):
        landmarks = LandmarkPair(before, before + 1, (3.0, 1.0, 2.0), (3.0, 1.0, 2.0))
        batch = PairBatch(
            ramps, ramps, (Pair("a", "b"),), keys=((0, 0, number),), landmarks=(landmarks,)
        )
        result = PairAugmentation(ANISOTROPIC, plan)(batch)
        (after,) = result.landmarks
        for points, image, expected in (
            (after.fixed_vox, result.fixed, before),
            (after.moving_vox, result.moving, before + 1),
        ):
            assert points.dtype == torch.float32
            found = sample_at_index(image, points.T[None, :, :, None, None])[0, :, :, 0, 0].T
            torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
        flips.add(draw_pair(np.random.default_rng(batch.keys[0]), plan).flip)
        assert not torch.allclose(after.fixed_vox, before, atol=0.1)
        assert after.moving_spacing_mm == (3.0, 1.0, 2.0)
    assert flips == {False, True}


def test_points_go_where_the_inverse_takes_them():
    matrix = index_affine(affine((7, -4, 9), (1, 2, 3)), ANISOTROPIC)
    points = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    moved = move_points(points, matrix, ANISOTROPIC.shape, None)
    back = matrix @ [*moved[0].tolist(), 1]
    np.testing.assert_allclose(back[:3], points[0])
    flipped = move_points(points, None, ANISOTROPIC.shape, 1)
    assert flipped.tolist() == [[1.0, 21.0, 3.0]]
    assert points.tolist() == [[1.0, 2.0, 3.0]]


def test_nothing_happens_before_the_first_augmented_epoch():
    augmentation = PairAugmentation(ANISOTROPIC, dataclasses.replace(PAPER, from_epoch=50))
    batch = make_batch(count=8)
    assert augmentation(dataclasses.replace(batch, epoch=49)).fixed is batch.fixed
    assert not torch.equal(augmentation(dataclasses.replace(batch, epoch=50)).fixed, batch.fixed)


def test_the_batch_itself_stays_as_it_is():
    plan = dataclasses.replace(PAPER, affine_probability=1, gamma_probability=1)
    batch = make_batch(count=3)
    before = batch.fixed.clone(), batch.moving.clone()
    PairAugmentation(GridPlan((12, 10, 14), (2.0, 2.0, 2.0), False), plan)(batch)
    assert torch.equal(batch.fixed, before[0])
    assert torch.equal(batch.moving, before[1])


def test_the_key_alone_decides():
    grid = GridPlan((12, 10, 14), (2.0, 2.0, 2.0), False)
    plan = dataclasses.replace(NOTHING, affine_probability=1)
    augmentation = PairAugmentation(grid, plan)
    batch = make_batch(count=2)
    both = augmentation(batch)
    np.random.seed(123)  # noqa: NPY002 - batchgenerators' shared state must not matter
    torch.manual_seed(123)
    second = batch.one(1)
    assert torch.equal(augmentation(second).moving, both.moving[1:])
    other = augmentation(dataclasses.replace(second, keys=((0, 1, 1),)))
    assert not torch.equal(other.moving, both.moving[1:])


@pytest.mark.gpu
def test_the_device_gives_what_a_worker_gives():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    grid = GridPlan((24, 20, 22), (2.0, 1.0, 3.0), False)
    plan = dataclasses.replace(PAPER, affine_probability=0.7, gamma_probability=0.5)
    labels = torch.randint(9, (8, 1, *grid.shape), dtype=torch.int32)
    batch = make_batch(grid.shape, 8, fixed_labels=labels, moving_labels=labels)
    augmentation = PairAugmentation(grid, plan)
    on_cpu, on_device = augmentation(batch), augmentation(batch.to(torch.device("cuda")))
    for name, expected in on_cpu.tensors().items():
        found = on_device.tensors()[name]
        assert found.device.type == "cuda"
        if name.endswith("labels"):  # a point midway between two voxels may go to either
            assert (found.cpu() == expected).float().mean() > 0.9999
        else:
            torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=0)
