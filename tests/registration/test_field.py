"""Registration by optimising a displacement field, on phantoms with known deformations."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from autoreg.errors import DataError
from autoreg.field_plan import FieldSimilarity
from autoreg.geometry.grid import Geometry
from autoreg.geometry.resampling import resample_volume
from autoreg.geometry.transforms import Affine, Composite, DisplacementField
from autoreg.geometry.volume import Volume
from autoreg.numerics.jacobian import jacobian_determinant
from autoreg.registration import field_spline, placed_volume
from autoreg.registration.field import FieldRegistration, register_field
from autoreg.registration.field_images import make_images
from autoreg.registration.field_presets import PRESETS

BALANCED = PRESETS["balanced"]
IDENTITY = Affine(np.eye(4))
SHAPE = (36, 40, 44)


def geometry_of(shape: tuple[int, int, int], spacing_mm: float = 2.0) -> Geometry:
    """An oblique grid, as scanners give it."""
    turn = np.array([[0.9, -0.1, 0.42], [0.2, 0.96, -0.2], [-0.38, 0.26, 0.89]])
    matrix = np.eye(4)
    matrix[:3, :3] = np.linalg.qr(turn)[0] * spacing_mm
    matrix[:3, 3] = (5, -7, 11)
    return Geometry(shape, matrix)


def phantom(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """An ellipsoid with structure of a few voxels inside, 0 around it."""
    random = np.random.default_rng(seed)
    texture = ndimage.gaussian_filter(random.standard_normal(shape), [min(2, n - 1) for n in shape])
    axes = np.meshgrid(*[np.linspace(-1, 1, n) if n > 1 else [0.0] for n in shape], indexing="ij")
    inside = sum(a**2 for a in axes) < 0.64
    values = (1 + texture / texture.std() / 3) * inside
    return np.clip(ndimage.gaussian_filter(values, [0.5 * (n > 1) for n in shape]), 0, None)


def smooth_field(geometry: Geometry, largest_vox: float, seed: int) -> DisplacementField:
    """A smooth random displacement that vanishes at the faces."""
    random = np.random.default_rng(seed)
    shape = geometry.shape
    sigma = [6.0 * (n > 1) for n in shape]
    u = np.stack([ndimage.gaussian_filter(random.standard_normal(shape), sigma) for _ in shape])
    for axis, n in enumerate(shape):
        ramp = np.clip(np.minimum(np.arange(n), np.arange(n)[::-1]) / 8, 0, 1) if n > 1 else [0.0]
        u *= np.asarray(ramp).reshape([-1 if a == axis else 1 for a in range(3)]) if n > 1 else 1
        if n == 1:
            u[axis] = 0
    return DisplacementField((u * largest_vox / np.abs(u).max()).astype(np.float32), geometry)


def pair(
    shape: tuple[int, int, int] = SHAPE, largest_vox: float = 3.0, seed: int = 0
) -> tuple[Volume, Volume, DisplacementField]:
    """Fixed, moving, and the truth: the fixed image is the moving one pulled back by it."""
    geometry = geometry_of(shape)
    moving = Volume.intensity(phantom(shape, seed), geometry)
    truth = smooth_field(geometry, largest_vox, seed + 100)
    return resample_volume(moving, truth, geometry), moving, truth


def error_vox(found: DisplacementField, truth: DisplacementField, fixed: Volume) -> float:
    """Mean end-point error in the foreground, voxels."""
    inside = fixed.single > 0.2
    length = np.linalg.norm(found.u_vox - truth.u_vox, axis=0)
    return float(length[inside].mean())


def largest_inverse_error_vox(result: FieldRegistration, fixed: Volume) -> tuple[float, float]:
    """Mean distance of backward(forward(p)) and forward(backward(p)) from p in the foreground."""
    geometry = fixed.geometry
    points = geometry.to_world(np.argwhere(fixed.single > 0.2))
    there = Composite((result.forward, result.backward)).map_points(points)
    back = Composite((result.backward, result.forward)).map_points(points)
    spacing = min(geometry.spacing_mm)
    one, other = (float(np.linalg.norm(p - points, axis=1).mean()) / spacing for p in (there, back))
    return one, other


def test_a_known_deformation_is_found_in_both_directions() -> None:
    fixed, moving, truth = pair()
    before = float(np.linalg.norm(truth.u_vox, axis=0)[fixed.single > 0.2].mean())
    result = register_field(fixed, moving, IDENTITY, BALANCED)
    assert before > 0.8
    assert error_vox(result.forward, truth, fixed) < 0.1 * before
    assert max(largest_inverse_error_vox(result, fixed)) < 0.05
    assert not result.refined


def test_what_lies_before_the_field_is_the_initial_alignment() -> None:
    fixed, moving, truth = pair(seed=1)
    turn = np.eye(4)
    angle = np.deg2rad(25)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    turn[:3, 3] = (12, -5, 3)
    moved = Volume(
        moving.array, Geometry(SHAPE, turn @ moving.geometry.index_to_world), "intensity"
    )
    result = register_field(fixed, moved, Affine(turn), BALANCED)
    straight = register_field(fixed, moving, IDENTITY, BALANCED)
    assert np.abs(result.forward.u_vox - straight.forward.u_vox).max() < 0.02
    points = fixed.geometry.to_world(np.argwhere(fixed.single > 0.2)[::50])
    expected = Affine(turn).map_points(truth.map_points(points))
    distance = np.linalg.norm(result.transform.map_points(points) - expected, axis=1)
    assert distance.mean() < 0.3  # mm, at 2 mm voxels
    back = np.linalg.norm(result.inverse.map_points(expected) - points, axis=1)
    assert back.mean() < 0.3


def test_grids_of_the_two_images_may_differ() -> None:
    fixed, moving, truth = pair(seed=2)
    other = Geometry.from_itk((60, 50, 30), (1.7, 1.9, 3.1), (-60, -55, -40), np.eye(3).ravel())
    centre = other.index_to_world.copy()
    centre[:3, 3] += fixed.geometry.centre_mm - other.centre_mm
    elsewhere = resample_volume(moving, None, Geometry(other.shape, centre))
    result = register_field(fixed, elsewhere, IDENTITY, BALANCED)
    assert error_vox(result.forward, truth, fixed) < 0.25


@pytest.mark.parametrize(("similarity", "share"), [("squared_lncc", 0.1), ("mind", 0.45)])
def test_another_contrast(similarity: FieldSimilarity, share: float) -> None:
    fixed, moving, truth = pair(seed=3)
    before = float(np.linalg.norm(truth.u_vox, axis=0)[fixed.single > 0.2].mean())
    negative = Volume.intensity(2.5 - moving.single, moving.geometry)
    plan = replace(BALANCED, similarity=similarity, dense=None)
    result = register_field(fixed, negative, IDENTITY, plan)
    assert error_vox(result.forward, truth, fixed) < share * before


def test_two_dimensions() -> None:
    fixed, moving, truth = pair((1, 96, 104), largest_vox=4.0, seed=4)
    result = register_field(fixed, moving, IDENTITY, BALANCED)
    assert result.forward.u_vox.shape == (3, 1, 96, 104)
    assert np.abs(result.forward.u_vox[0]).max() == 0
    assert np.abs(result.backward.u_vox[0]).max() == 0
    assert error_vox(result.forward, truth, fixed) < 0.2


def test_only_what_the_masks_show_counts() -> None:
    fixed, moving, truth = pair(seed=5)
    spoilt = moving.array.copy()
    spoilt[:, :, :, 30:] = np.random.default_rng(0).random(spoilt[:, :, :, 30:].shape)
    noisy = Volume(spoilt, moving.geometry, "intensity")
    seen = np.zeros((1, *SHAPE), dtype=bool)
    seen[..., :28] = True
    masks = [Volume(seen, v.geometry, "mask") for v in (fixed, moving)]
    result = register_field(
        fixed, noisy, IDENTITY, BALANCED, fixed_mask=masks[0], moving_mask=masks[1]
    )
    inside = (fixed.single > 0.2) & (np.arange(SHAPE[2]) < 22)
    length = np.linalg.norm(result.forward.u_vox - truth.u_vox, axis=0)
    assert length[inside].mean() < 0.25


def test_a_bright_tool_outside_the_mask_does_not_squeeze_what_counts() -> None:
    fixed, moving, truth = pair(seed=22)
    spoilt = moving.array.copy()
    spoilt[:, 2:12, 2:12, :8] = 200.0
    tool = Volume(spoilt, moving.geometry, "intensity")
    seen = np.ones((1, *SHAPE), dtype=bool)
    seen[:, :16, :16, :12] = False
    mask = Volume(seen, moving.geometry, "mask")
    result = register_field(fixed, tool, IDENTITY, BALANCED, moving_mask=mask)
    inside = (fixed.single > 0.2) & (np.arange(SHAPE[2]) > 18)
    length = np.linalg.norm(result.forward.u_vox - truth.u_vox, axis=0)
    assert length[inside].mean() < 0.2


def test_what_any_channel_shows_counts() -> None:
    fixed, moving, truth = pair(seed=23)
    half = np.where(np.arange(SHAPE[0]) < SHAPE[0] // 2, 1.0, 0.0)[:, None, None]
    channels = [
        Volume.intensity(np.stack([v.single * half, v.single * (1 - half)]), v.geometry)
        for v in (fixed, moving)
    ]
    result = register_field(*channels, IDENTITY, BALANCED)
    length = np.linalg.norm(result.forward.u_vox - truth.u_vox, axis=0)
    for part in (slice(0, SHAPE[0] // 2 - 4), slice(SHAPE[0] // 2 + 4, None)):
        assert length[part][fixed.single[part] > 0.2].mean() < 0.2


def test_different_anatomy_is_refined_without_folds() -> None:
    geometry = geometry_of(SHAPE)
    fixed = Volume.intensity(phantom(SHAPE, 6), geometry)
    moving = Volume.intensity(phantom(SHAPE, 7), geometry)
    result = register_field(fixed, moving, IDENTITY, BALANCED)
    assert result.refined
    assert result.residual.unexplained > 0.08
    assert float(jacobian_determinant(torch.from_numpy(result.forward.u_vox)[None]).min()) > 0
    finest = [s.similarity for s in result.steps if (s.stage, s.voxel_mm < 3) == ("dense", True)]
    assert finest[-1] > finest[0] + 0.03


def test_noise_alone_does_not_call_for_refinement() -> None:
    fixed, moving, _ = pair(seed=8)
    random = np.random.default_rng(9)
    noisy = [
        Volume.intensity(v.single + 0.2 * random.standard_normal(SHAPE), v.geometry)
        for v in (fixed, moving)
    ]
    result = register_field(noisy[0], noisy[1], IDENTITY, BALANCED)
    assert result.residual.correlation < 0.99
    assert not result.refined


def test_steps_end_when_they_no_longer_pay() -> None:
    fixed, moving, _ = pair(seed=10)
    patient = replace(BALANCED, flat_tolerance=0.0)
    few = register_field(fixed, moving, IDENTITY, replace(BALANCED, flat_tolerance=0.2))
    many = register_field(fixed, moving, IDENTITY, patient)
    assert len(few.steps) < len(many.steps)
    for stage in {(s.stage, s.voxel_mm) for s in many.steps}:
        values = [s.similarity for s in many.steps if (s.stage, s.voxel_mm) == stage]
        assert values[-1] >= values[0]


def test_the_same_twice() -> None:
    fixed, moving, _ = pair(seed=11)
    one, other = (register_field(fixed, moving, IDENTITY, BALANCED) for _ in range(2))
    assert np.array_equal(one.forward.u_vox, other.forward.u_vox)


def test_input_of_which_nothing_can_be_compared() -> None:
    fixed, moving, _ = pair()
    constant = Volume.intensity(np.full(SHAPE, 3.0), fixed.geometry)
    with pytest.raises(DataError, match=r"fixed image is constant \(3\)"):
        register_field(constant, moving, IDENTITY, BALANCED)
    empty = Volume(np.zeros((1, *SHAPE), bool), fixed.geometry, "mask")
    with pytest.raises(DataError, match="fixed image's mask is empty"):
        register_field(fixed, moving, IDENTITY, BALANCED, fixed_mask=empty)
    two = Volume.intensity(np.stack([moving.single] * 2), moving.geometry)
    with pytest.raises(DataError, match="1 channels and the moving image 2"):
        register_field(fixed, two, IDENTITY, BALANCED)


def test_slower_presets_are_more_accurate() -> None:
    """Over a few pairs: a single one may fall the other way.

    The fixed image comes from cubic interpolation: made by the linear one that registration uses,
    it would favour the one direction in which the model is exact.
    """
    errors: dict[str, list[float]] = {name: [] for name in PRESETS}
    steps: dict[str, int] = dict.fromkeys(PRESETS, 0)
    for seed in (1, 2):
        _, moving, truth = pair(seed=seed, largest_vox=4.0)
        fixed = resample_volume(moving, truth, moving.geometry, interpolation="cubic")
        for name, plan in PRESETS.items():
            found = register_field(fixed, moving, IDENTITY, plan)
            errors[name].append(error_vox(found.forward, truth, fixed))
            steps[name] += len(found.steps)
    fast, balanced, accurate = (np.mean(errors[name]) for name in PRESETS)
    assert fast > 1.05 * balanced > 1.05 * accurate, errors
    assert steps["fast"] < steps["balanced"] < steps["accurate"]
    assert PRESETS["fast"].dense is None
    assert PRESETS["accurate"].dense is not None


def test_axes_of_the_moving_image_do_not_matter_to_descriptors() -> None:
    """MIND looks along axes; those of the moving file are its own affair."""
    fixed, moving, _ = pair(seed=12)
    matrix = moving.geometry.index_to_world @ np.array(
        [[0, 0, 1, 0], [0, -1, 0, SHAPE[1] - 1], [1, 0, 0, 0], [0, 0, 0, 1]]
    )
    turned = moving.array.transpose(0, 3, 2, 1)[:, :, ::-1].copy()
    stored = Volume(turned, Geometry((SHAPE[2], SHAPE[1], SHAPE[0]), matrix), "intensity")
    plan = replace(BALANCED, similarity="mind")
    one, other = (register_field(fixed, m, IDENTITY, plan) for m in (moving, stored))
    assert np.abs(one.forward.u_vox - other.forward.u_vox).max() < 0.02


def test_noise_of_coarser_moving_voxels_is_not_taken_for_anatomy() -> None:
    fixed, moving, _ = pair(seed=13)
    random = np.random.default_rng(14)
    coarse = moving.geometry.resized([n // 2 for n in SHAPE])
    blurred = resample_volume(moving, None, coarse)
    noisy = Volume.intensity(blurred.single + 0.15 * random.standard_normal(coarse.shape), coarse)
    result = register_field(fixed, noisy, IDENTITY, BALANCED)
    assert not result.refined


def test_small_objects_are_registered_like_large_ones() -> None:
    fixed, moving, truth = pair(seed=15)
    small = Geometry(SHAPE, np.diag([0.1, 0.1, 0.1, 1.0]) @ fixed.geometry.index_to_world)
    found = register_field(
        Volume(fixed.array, small, "intensity"),
        Volume(moving.array, small, "intensity"),
        IDENTITY,
        BALANCED,
    )
    assert error_vox(found.forward, truth, fixed) < 0.15


def test_both_directions_are_nearer_to_the_truth_than_one() -> None:
    _, moving, truth = pair(seed=16)
    fixed = resample_volume(moving, truth, moving.geometry, interpolation="cubic")
    random = np.random.default_rng(17)
    noisy = [
        Volume.intensity(v.single + 0.04 * random.standard_normal(SHAPE), v.geometry)
        for v in (fixed, moving)
    ]
    both = replace(BALANCED, both_directions=True)
    one, mean = (register_field(*noisy, IDENTITY, p) for p in (BALANCED, both))
    assert error_vox(mean.forward, truth, fixed) < 0.95 * error_vox(one.forward, truth, fixed)
    assert max(largest_inverse_error_vox(mean, fixed)) < 0.05
    stages = [s.stage for s in mean.steps]
    assert stages == sorted(stages, key=["spline", "exchanged"].index)
    assert "exchanged" in stages
    assert "exchanged" not in [s.stage for s in one.steps]


def test_exchanging_the_images_inverts_the_result_of_both_directions() -> None:
    fixed, moving, _ = pair(seed=18)
    plan = replace(BALANCED, both_directions=True)
    there = register_field(fixed, moving, IDENTITY, plan)
    back = register_field(moving, fixed, IDENTITY, plan)
    points = fixed.geometry.to_world(np.argwhere(fixed.single > 0.2))
    around = Composite((there.forward, back.forward)).map_points(points)
    assert np.linalg.norm(around - points, axis=1).mean() < 0.03 * min(fixed.geometry.spacing_mm)


def test_both_directions_of_images_on_different_grids_and_initially_apart() -> None:
    fixed, moving, truth = pair(seed=1)
    turn = np.eye(4)
    angle = np.deg2rad(25)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    turn[:3, 3] = (12, -5, 3)
    placed = Geometry(SHAPE, turn @ moving.geometry.index_to_world)
    part = Geometry((SHAPE[0] - 8, *SHAPE[1:]), placed.index_to_world)
    moved = Volume(moving.array[:, : part.shape[0]], part, "intensity")
    plan = replace(BALANCED, both_directions=True)
    result = register_field(fixed, moved, Affine(turn), plan)
    seen = (fixed.single > 0.2) & (np.arange(SHAPE[0]) < part.shape[0] - 4)[:, None, None]
    length = np.linalg.norm(result.forward.u_vox - truth.u_vox, axis=0)
    assert length[seen].mean() < 0.12
    # No crease where the moving image ends.
    assert float(jacobian_determinant(torch.from_numpy(result.forward.u_vox)[None]).min()) > 0.2


@pytest.mark.parametrize("iterations", [BALANCED.spline.iterations, (1,)])
def test_steps_that_lead_astray_are_taken_back(
    monkeypatch: pytest.MonkeyPatch, iterations: tuple[int, ...]
) -> None:
    """Steps in the wrong direction, as of a curvature that is wrong: no worse than none."""
    fixed, moving, _ = pair(seed=19)
    monkeypatch.setattr(field_spline, "_RELAXATION", -1.4)
    spline = replace(BALANCED.spline, iterations=iterations)
    result = register_field(fixed, moving, IDENTITY, replace(BALANCED, spline=spline, dense=None))
    assert len(result.steps) <= 3 * len({s.voxel_mm for s in result.steps})
    assert np.abs(result.forward.u_vox).max() < 0.01


def test_a_channel_that_says_nothing_inside_the_mask_is_left_out() -> None:
    fixed, moving, truth = pair(seed=24)
    lesion = np.zeros(SHAPE)
    lesion[2:4, 2:4, 2:4] = 5
    two = [Volume.intensity(np.stack([v.single, lesion]), v.geometry) for v in (fixed, moving)]
    seen = np.ones((1, *SHAPE), dtype=bool)
    seen[:, :6, :6, :6] = False
    mask = Volume(seen, fixed.geometry, "mask")
    result = register_field(*two, IDENTITY, BALANCED, fixed_mask=mask)
    assert error_vox(result.forward, truth, fixed) < 0.2


def test_a_mask_does_not_make_the_deformation_freer() -> None:
    """Lengths of the plan shrink with what is imaged, not with the part that is looked at."""
    geometry = geometry_of((60, 64, 60), 2.0)
    image = Volume.intensity(phantom((60, 64, 60), 25), geometry)
    seen = np.zeros((1, 60, 64, 60), dtype=bool)
    seen[:, 20:34, 20:34, 20:34] = True
    mask = Volume(seen, geometry, "mask")
    whole, part = (
        make_images(image, image, IDENTITY, (m, None), torch.device("cpu")) for m in (None, mask)
    )
    assert max(part.box.lengths_mm) < 0.6 * max(whole.box.lengths_mm)
    assert part.object_mm == whole.object_mm


@pytest.mark.parametrize("size", [64, 128])
def test_the_range_of_intensities_is_that_of_the_whole_image(size: int) -> None:
    """A stride that divides the rows would look at a few columns: here the object's are missed."""
    random = np.random.default_rng(26)
    values = 0.02 * random.random((size, size, size), dtype=np.float32)
    values[8:-8, 8:-8, 27 * size // 64 : 30 * size // 64] += 1 + random.random(
        (size - 16, size - 16, 30 * size // 64 - 27 * size // 64), dtype=np.float32
    )
    image = Volume.intensity(values, Geometry((size,) * 3, np.eye(4)))
    images = make_images(image, image, IDENTITY, (None, None), torch.device("cpu"))
    assert float((images.moving > 0.999).float().mean()) < 0.005
    assert float(images.moving[images.moving > 0.3].std()) > 0.1


def test_slabs_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are cut by what fits into a cache, of which the result must not know."""
    fixed, moving, _ = pair(seed=3)
    one = register_field(fixed, moving, IDENTITY, PRESETS["fast"])
    monkeypatch.setattr(placed_volume, "_SLAB_POINTS", 2**12)
    other = register_field(fixed, moving, IDENTITY, PRESETS["fast"])
    assert np.abs(one.forward.u_vox - other.forward.u_vox).max() < 1e-3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("similarity", ["lncc", "mind"])
def test_a_gpu_finds_what_the_cpu_finds(similarity: FieldSimilarity) -> None:
    fixed, moving, _ = pair(seed=3)
    plan = replace(PRESETS["accurate"], similarity=similarity)
    one, other = (
        register_field(fixed, moving, IDENTITY, plan, device=device) for device in ("cpu", "cuda")
    )
    for a, b in ((one.forward, other.forward), (one.backward, other.backward)):
        assert np.abs(a.u_vox - b.u_vox).mean() < 0.01
