from dataclasses import replace

import numpy as np
import pytest
import torch
from small_pairs import SHAPE, example_plan

from autoreg.errors import DataError
from autoreg.geometry.grid import Geometry
from autoreg.geometry.volume import Volume
from autoreg.plan import AlignmentPlan, GridPlan, IntensityPlan
from autoreg.registration.prepare import normalise, prepare, prepared_geometry

RNG = np.random.default_rng(0)
ANGLES = (0.3, -0.5)


def oblique_geometry(shape=(30, 26, 34), spacing=(1.0, 1.4, 0.8), origin=(-14.0, 20.0, 7.0)):
    (c, s), (d, t) = ((np.cos(a), np.sin(a)) for a in ANGLES)
    rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, d, -t], [0, t, d]]
    )
    return Geometry.from_itk(shape[::-1], spacing, origin, rotation.ravel())


def image_of(function, geometry):
    """An image whose value at a voxel is a function of the voxel's world point."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in geometry.shape), indexing="ij"), -1)
    return Volume.intensity(function(geometry.to_world(index)), geometry)


def world_plan(centre, shape=(7, 8, 9), spacing=(1.5, 2.0, 1.0), kind="world"):
    return example_plan(
        grid=GridPlan(shape, spacing, False),
        alignment=AlignmentPlan(kind, tuple(centre) if kind == "world" else None),
    )


def test_a_window_is_clamped_and_scaled():
    array = np.array([[[-3000.0, -1000, -500, 0, 1000, 2500]]], dtype=np.float32)
    found = normalise(array, IntensityPlan("window", -1000.0, 1000.0))
    assert found.dtype == np.float32
    assert found.ravel().tolist() == [0.0, 0.0, 0.25, 0.5, 1.0, 1.0]


@pytest.mark.parametrize("size", [(3, 4, 5), (1, 1, 7), (10, 11, 13)])
def test_quantiles_are_the_published_order_statistics(size):
    array = RNG.normal(size=size).astype(np.float32)
    ordered = np.sort(array.ravel()).astype(np.float64)
    low, high = ordered[0], ordered[max(1, int(0.99 * array.size)) - 1]
    expected = (np.clip(array.astype(np.float64), low, high) - low) * (1 / (high - low))
    found = normalise(array, IntensityPlan("quantiles", 0.0, 0.99))
    assert np.array_equal(found, expected.astype(np.float32))
    assert (found.min(), found.max()) == (0, 1)


def test_other_quantiles_clip_both_ends():
    array = np.arange(1000, dtype=np.float32).reshape(10, 10, 10)
    found = normalise(array, IntensityPlan("quantiles", 0.1, 0.9))
    # The 100th and the 900th smallest of 0..999 are 99 and 899.
    assert found.ravel()[99] == 0
    assert found.ravel()[100] == pytest.approx(1 / 800)
    assert found.ravel()[899] == 1


@pytest.mark.parametrize(
    ("value", "scheme"),
    [
        (5.0, IntensityPlan("quantiles", 0.0, 0.99)),
        (5.0, IntensityPlan("window", -1000.0, 1000.0)),
        (2000.0, IntensityPlan("window", -1000.0, 1000.0)),
    ],
)
def test_a_constant_image_is_refused(value, scheme):
    array = np.full((4, 4, 4), value, dtype=np.float32)
    with pytest.raises(DataError, match="constant"):
        normalise(array, scheme)
    if value > scheme.upper:  # not constant itself, but nothing is left of it in the window
        array[0, 0, 0] = 3000
        with pytest.raises(DataError, match="constant"):
            normalise(array, scheme)


def test_an_image_that_is_not_finite_is_refused():
    array = np.ones((3, 3, 3), dtype=np.float32)
    array[0, 0, 0] = np.nan
    with pytest.raises(DataError, match="NaN"):
        normalise(array, IntensityPlan("window", 0.0, 2.0))


@pytest.mark.parametrize("shape", [(30, 26, 34), (6, 7, 5)])
def test_boxes_stretch_the_grid_over_the_image_as_published(shape):
    geometry = oblique_geometry(shape)
    array = RNG.random(geometry.shape).astype(np.float32)
    volume = Volume.intensity(array, geometry)
    plan = example_plan()
    prepared = prepare(volume, plan, ("MR",))
    scaled = torch.from_numpy(normalise(array, plan.intensity["MR"]))[None, None]
    expected = torch.nn.functional.interpolate(scaled, SHAPE, mode="trilinear", align_corners=False)
    torch.testing.assert_close(prepared.image, expected, rtol=0, atol=1e-5)
    corner = (-0.5, -0.5, -0.5)
    assert np.allclose(prepared.geometry.to_world(corner), geometry.to_world(corner))
    last = np.array(geometry.shape) - 0.5
    assert np.allclose(prepared.geometry.to_world(np.array(SHAPE) - 0.5), geometry.to_world(last))


@pytest.mark.parametrize("kind", ["world", "centres"])
def test_the_grid_points_to_s_p_and_l_around_its_centre(kind):
    plan = world_plan((1.0, -2.0, 3.0), kind=kind)
    geometry = prepared_geometry(oblique_geometry(), plan, np.array([1.0, -2.0, 3.0]))
    assert geometry.orientation == "SPL"
    assert geometry.shape == plan.grid.shape
    assert np.allclose(geometry.spacing_mm, plan.grid.spacing_mm)
    assert np.allclose(geometry.centre_mm, (1.0, -2.0, 3.0))
    first, second = geometry.to_world((0, 0, 0)), geometry.to_world((1, 0, 0))
    assert np.allclose(second - first, (0, 0, 1.5))  # d goes up by its spacing


def test_centres_need_the_foreground_centre():
    with pytest.raises(DataError, match="foreground centre"):
        prepared_geometry(oblique_geometry(), world_plan((), kind="centres"), None)


def test_values_stay_at_their_place_in_the_world():
    geometry = oblique_geometry()
    slope = np.array([0.01, -0.02, 0.015])
    volume = image_of(lambda p: p @ slope, geometry)
    low, high = float(volume.array.min()), float(volume.array.max())
    scheme = {"MR": IntensityPlan("quantiles", 0.0, 1.0)}
    plan = replace(world_plan(geometry.centre_mm), intensity=scheme)
    prepared = prepare(volume, plan, ("MR",))
    expected = image_of(lambda p: (p @ slope - low) / (high - low), prepared.geometry)
    assert np.allclose(prepared.image[0].numpy(), expected.array, atol=1e-5)


def test_centres_lay_the_foreground_in_the_middle():
    geometry = oblique_geometry()
    place = geometry.to_world((17.0, 12.0, 20.0))
    volume = image_of(lambda p: np.exp(-((p - place) ** 2).sum(-1) / 30), geometry)
    plan = world_plan((), (11, 11, 11), (1.0, 1.0, 1.0), kind="centres")
    prepared = prepare(volume, plan, ("MR",))
    weights = prepared.image[0, 0].numpy()
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        mean = np.average(np.arange(11), weights=weights.sum(others))
        assert abs(mean - 5) < 0.5
    assert np.linalg.norm(prepared.geometry.centre_mm - place) < 0.5


def test_outside_the_image_lies_the_low_end_except_with_boxes():
    geometry = oblique_geometry()
    volume = Volume.intensity(RNG.uniform(10, 11, geometry.shape), geometry)
    wide = prepare(volume, world_plan(geometry.centre_mm, (41, 41, 41), (4.0, 4.0, 4.0)), ("MR",))
    assert (wide.image[0, 0, (0, -1)] == 0).all()
    assert wide.image[0, 0, 20, 20, 20] > 0
    rim = prepare(volume, example_plan(), ("MR",)).image
    assert rim[0, 0, 0].mean() > 0.2  # the outermost nodes keep the level of the image


def test_masks_follow_their_image_by_the_nearest_voxel():
    geometry = oblique_geometry()
    array = RNG.random(geometry.shape) > 0.5
    volume = Volume.intensity(RNG.random(geometry.shape), geometry)
    mask = Volume(array[None], geometry, "mask")
    prepared = prepare(volume, world_plan(geometry.centre_mm), ("MR",), mask=mask)
    assert prepared.mask.dtype == torch.bool
    nodes = np.stack(np.meshgrid(*(np.arange(n) for n in (7, 8, 9)), indexing="ij"), -1)
    nearest = np.floor(geometry.to_index(prepared.geometry.to_world(nodes)) + 0.5).astype(int)
    assert np.array_equal(prepared.mask[0, 0].numpy(), array[tuple(np.moveaxis(nearest, -1, 0))])


@pytest.mark.parametrize("kept", ["nothing", "a corner outside the grid"])
def test_a_mask_that_would_leave_nothing_to_compare_is_refused(kept):
    geometry = oblique_geometry()
    array = np.zeros((1, *geometry.shape), dtype=bool)
    array[0, 0, 0, 0] = kept != "nothing"
    volume = Volume.intensity(RNG.random(geometry.shape), geometry)
    mask = Volume(array, geometry, "mask")
    with pytest.raises(DataError, match="mask has no voxel inside on the plan's grid"):
        prepare(volume, world_plan(geometry.centre_mm), ("MR",), mask=mask)


def test_an_image_beside_the_grid_is_refused_with_both_places():
    geometry = oblique_geometry()
    volume = Volume.intensity(RNG.random(geometry.shape), geometry)
    with pytest.raises(DataError, match=r"middle at .* misses the image, whose middle lies at"):
        prepare(volume, world_plan(geometry.centre_mm + 200), ("MR",))


def test_antialiasing_is_the_plans_choice():
    geometry = Geometry((40, 40, 40), np.eye(4))
    volume = Volume.intensity(RNG.random(geometry.shape), geometry)
    grid = GridPlan((10, 10, 10), (4.0, 4.0, 4.0), True)
    rough = prepare(volume, example_plan(grid=replace(grid, antialias=False)), ("MR",)).image
    smooth = prepare(volume, example_plan(grid=grid), ("MR",)).image
    assert smooth.std() < 0.5 * rough.std()
    assert float(smooth.mean()) == pytest.approx(float(rough.mean()), abs=0.05)


def test_each_channel_has_its_modality():
    geometry = oblique_geometry()
    arrays = RNG.random((2, *geometry.shape)) * 400
    prepared = prepare(Volume.intensity(arrays, geometry), example_plan(), ("CT", "MR"))
    assert prepared.image.shape == (1, 2, *SHAPE)
    assert prepared.image[0, 0].min() >= 0.5  # 0 HU
    assert prepared.image[0, 1].min() < 0.3
    with pytest.raises(DataError, match="2 channels"):
        prepare(Volume.intensity(arrays, geometry), example_plan(), ("MR",))


def test_a_mask_of_another_geometry_is_refused():
    geometry = oblique_geometry()
    moved = oblique_geometry(origin=(0.0, 0.0, 0.0))
    mask = Volume(np.ones((1, *geometry.shape), dtype=bool), moved, "mask")
    volume = Volume.intensity(RNG.random(geometry.shape), geometry)
    with pytest.raises(DataError, match="mask"):
        prepare(volume, example_plan(), ("MR",), mask=mask)
