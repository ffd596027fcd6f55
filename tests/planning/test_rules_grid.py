import dataclasses
import math

import numpy as np
import pytest
from fingerprints import case, fingerprint

from autoreg.errors import PlanError
from autoreg.plan import AlignmentPlan
from autoreg.planning.recipes import GridWishes
from autoreg.planning.rules_grid import (
    choose_antialias,
    choose_levels,
    choose_shape,
    grid_spacing,
)
from autoreg.planning.rules_view import (
    FieldOfView,
    alignment_plan,
    choose_alignment,
    displacement_mm,
    field_of_view,
)

CUBE = (175, 175, 175)
PLENTY = 10**12


def bytes_per_voxel(count):
    return lambda shape: count * math.prod(shape)


def shape_of(extent, spacing, voxels=175**3, limit=PLENTY, *, cube=True, multiple=4):
    view = FieldOfView(extent, spacing, (0.0, 0.0, 0.0))
    wishes = GridWishes(cube, multiple, 175**3).limited(voxels)
    return choose_shape(view, wishes, bytes_per_voxel(1000), limit).value


# alignment


def test_aligned_images_stay_where_they_are():
    choice = choose_alignment(fingerprint(displacement=7.8, world_displacement=8.0))
    assert choice.value == "world"
    assert "overlap of foreground boxes 90%" in choice.reason


@pytest.mark.parametrize(
    "facts",
    [
        {"overlap": 0.4},
        {"displacement": 8.0, "world_displacement": 30.0},
        {"cases": [case(str(i), centre=(80.0 * i, 0.0, 0.0)) for i in range(4)]},
    ],
)
def test_images_that_lie_apart_are_centred(facts):
    assert choose_alignment(fingerprint(**facts)).value == "centres"


def test_one_astray_case_is_enough_to_centre():
    cases = [case(str(i)) for i in range(9)] + [case("far", centre=(0.0, 200.0, 0.0))]
    assert choose_alignment(fingerprint(cases)).value == "centres"


def test_a_fingerprint_without_cases_is_refused():
    empty = fingerprint()
    empty = type(empty)(**{**empty.__dict__, "cases": ()})
    with pytest.raises(PlanError, match="Dataset001_X: the fingerprint has no cases"):
        choose_alignment(empty)


# field of view


@pytest.mark.parametrize("orientation", ["SPL", "IAR", "LPS", "AIL"])
def test_the_view_follows_the_world_not_the_image_axes(orientation):
    axes = {letter: i for i, pair in enumerate(("SI", "PA", "LR")) for letter in pair}
    sizes, steps = (100, 120, 80), (1.5, 1.0, 2.0)  # along S, P, L
    shape = tuple(sizes[axes[letter]] for letter in orientation)
    spacing = tuple(steps[axes[letter]] for letter in orientation)
    cases = [case(str(i), shape, spacing, orientation) for i in range(3)]
    view = field_of_view(fingerprint(cases), "world")
    assert view.spacing_mm == pytest.approx(steps)
    np.testing.assert_allclose(view.extent_mm, 0.99 * np.multiply(sizes, steps), rtol=1e-6)


def test_the_view_covers_foregrounds_that_lie_apart():
    cases = [case(str(i), (100,) * 3, centre=(20.0 * i, 0.0, 0.0)) for i in range(2)]
    view = field_of_view(fingerprint(cases), "world")
    assert view.extent_mm[2] == pytest.approx(90 + 0.9 * 20)  # of both sides 5 % are cut
    assert view.centre_mm[0] == pytest.approx(10.0)


def test_the_centred_view_reaches_the_far_side_of_the_foreground():
    one = case("a", (100,) * 3)
    moved = type(one)(**{**one.__dict__, "foreground_centre_mm": (0.0, 0.0, 15.0)})
    view = field_of_view(fingerprint([moved, moved]), "centres")
    assert view.extent_mm[0] == pytest.approx(2 * (45 + 15))
    assert view.extent_mm[2] == pytest.approx(99.0)


def test_the_margin_never_leaves_the_images():
    whole = case("a", (100,) * 3, extent=(100.0, 100.0, 100.0))
    view = field_of_view(fingerprint([whole, whole]), "world")
    assert view.extent_mm == pytest.approx((100.0, 100.0, 100.0))


def test_only_world_alignment_has_a_place():
    view = FieldOfView((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (1.23, 0.0, -4.0))
    assert alignment_plan("world", view) == AlignmentPlan("world", (1.2, 0.0, -4.0))
    assert alignment_plan("centres", view) == AlignmentPlan("centres")


# shape and spacing


@pytest.mark.parametrize(
    ("extent", "spacing", "expected"),
    [
        ((160.0, 224.0, 192.0), (1.0, 1.0, 1.0), CUBE),  # LUMIR
        ((300.0, 300.0, 400.0), (1.5, 1.0, 1.0), CUBE),  # lung CT
        ((60.0, 60.0, 60.0), (1.0, 1.0, 1.0), (60, 60, 60)),  # hippocampus: nothing is invented
        ((140.0, 256.0, 256.0), (5.0, 0.8, 0.8), (28, 320, 320)),  # thick slices stay thick
        ((600.0, 150.0, 150.0), (1.0, 1.0, 1.0), (440, 108, 108)),  # too long for a cube
    ],
)
def test_shape_of_known_kinds_of_data(extent, spacing, expected):
    shape = shape_of(extent, spacing)
    np.testing.assert_allclose(shape, expected, atol=4)
    assert (shape == CUBE) == (expected == CUBE)
    assert math.prod(shape) <= 175**3 * 1.05


def test_a_smaller_memory_gives_a_smaller_grid_of_equal_spacing():
    shape = shape_of((160.0, 224.0, 192.0), (1.0, 1.0, 1.0), limit=10**9)
    assert 0.7e6 < math.prod(shape) <= 1e6
    spacing = np.array((160.0, 224.0, 192.0)) / shape
    assert spacing.max() / spacing.min() < 1.1


@pytest.mark.parametrize("limit", [2 * 10**7, 10**8, 10**9, 5 * 10**9])
def test_memory_is_never_above_the_limit(limit):
    shape = shape_of((200.0, 300.0, 250.0), (3.0, 1.0, 1.0), limit=limit)
    assert bytes_per_voxel(1000)(shape) <= limit


def test_a_fixed_cost_does_not_lead_astray():
    view = FieldOfView((160.0, 224.0, 192.0), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    needed = lambda shape: 2 * 10**9 + 2000 * math.prod(shape)  # noqa: E731
    shape = choose_shape(view, GridWishes(True, 4, 175**3), needed, 4 * 10**9).value
    assert 3.3e9 < needed(shape) <= 4e9


def test_no_memory_at_all_is_an_error_that_says_so():
    with pytest.raises(PlanError, match=r"needs .* GiB \(memory limit 0.0 GiB\).*more memory"):
        shape_of((160.0, 224.0, 192.0), (1.0, 1.0, 1.0), limit=1000)


def test_a_time_limit_counts_like_memory():
    assert math.prod(shape_of((180.0,) * 3, (1.0, 1.0, 1.0), voxels=64**3)) <= 64**3


def test_sizes_halve_twice_without_rest():
    shape = shape_of((171.0, 213.0, 187.0), (1.0, 1.0, 1.0), voxels=10**5)
    assert all(n % 4 == 0 for n in shape)


def test_the_cube_is_only_for_the_network_that_was_published_with_it():
    shape = shape_of((160.0, 224.0, 192.0), (1.0, 1.0, 1.0), cube=False)
    assert shape == (144, 204, 176)


@pytest.mark.parametrize("limit", [PLENTY, 5 * 10**9, 10**9, 10**8])
@pytest.mark.parametrize("extent", [(158.0, 222.0, 190.0), (20.0, 200.0, 200.0)])
def test_coarse_multiples_are_the_nearest_within_the_limits(extent, limit):
    shape = shape_of(extent, (1.0, 1.0, 1.0), limit=limit, cube=False, multiple=32)
    assert all(n % 32 == 0 for n in shape)
    assert math.prod(shape) <= min(175**3, limit / 1000)
    even = shape_of(extent, (1.0, 1.0, 1.0), limit=limit, cube=False)
    assert math.prod(shape) > 0.4 * math.prod(even)


def test_spacing_times_shape_is_the_view():
    view = FieldOfView((160.0, 224.0, 192.0), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    spacing = grid_spacing(view, CUBE).value
    np.testing.assert_allclose(np.array(spacing) * 175, view.extent_mm, rtol=1e-3)


@pytest.mark.parametrize(("spacing", "expected"), [(1.0, False), (1.4, False), (2.7, True)])
def test_only_coarse_grids_blur(spacing, expected):
    view = FieldOfView((160.0,) * 3, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    assert choose_antialias(view, (1.0, 1.0, spacing)).value is expected


# levels


@pytest.mark.parametrize(
    ("shape", "displacement", "expected"),
    [
        (CUBE, 2.0, (0.25, 0.5, 1.0, 1.0)),  # published
        (CUBE, 10.0, (0.25, 0.5, 1.0, 1.0)),  # 15 voxels
        (CUBE, 20.0, (0.125, 0.25, 0.5, 1.0, 1.0)),  # 30 voxels
        ((64, 64, 64), 3.0, (0.5, 1.0, 1.0)),
        ((64, 64, 64), 9.0, (0.25, 0.5, 1.0, 1.0)),
        ((64, 64, 64), 500.0, (0.125, 0.25, 0.5, 1.0, 1.0)),  # no level under 8 voxels
        ((8, 12, 12), 500.0, (1.0, 1.0)),
    ],
)
def test_levels_by_displacement(shape, displacement, expected):
    assert choose_levels(shape, (1.0, 1.0, 1.0), displacement).value == expected


def test_levels_count_voxels_not_millimetres():
    few = choose_levels((64, 64, 64), (3.0, 3.0, 3.0), 12.0).value
    many = choose_levels((64, 64, 64), (1.0, 1.0, 1.0), 12.0).value
    assert len(many) > len(few)


def test_displacement_is_that_after_the_alignment():
    data = fingerprint(displacement=8.0, world_displacement=30.0)
    assert displacement_mm(data, "centres") == 8.0
    assert displacement_mm(data, "world") == 30.0


@pytest.mark.parametrize(("orientation", "side"), [("SPL", 1.0), ("IPL", -1.0)])
def test_an_off_centre_foreground_is_found_in_any_orientation(orientation, side):
    one = case("a", (100,) * 3, orientation=orientation, extent=(90.0, 90.0, 50.0))
    box = ((50, 99), *one.foreground_box[1:])
    shifted = dataclasses.replace(one, foreground_box=box)
    view = field_of_view(fingerprint([shifted, shifted]), "world")
    assert view.centre_mm == pytest.approx((0.0, 0.0, side * 25.0))
