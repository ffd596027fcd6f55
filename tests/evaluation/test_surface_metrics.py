"""HD95 as the Learn2Reg evaluators compute it; literals are the numbers of their code."""

import numpy as np
import pytest
from scipy import ndimage

from autoreg.errors import GeometryError
from autoreg.evaluation.surface import hd95, surfel_areas, surfels


def box(*ranges):
    array = np.zeros((12, 12, 12), np.int16)
    array[tuple(slice(*r) for r in ranges)] = 1
    return array


CUBE = box((3, 8), (3, 8), (3, 8))
OUTLIER = CUBE + box((11, 12), (11, 12), (11, 12))
REFEREE = {
    "same": (CUBE, CUBE, 0.0, 0.0),
    "shifted": (CUBE, box((5, 10), (3, 8), (3, 8)), 2.0, 2.0),
    "nested": (box(*[(2, 10)] * 3), box(*[(4, 8)] * 3), 3.0, 3.4641016151377544),
    "far voxels": (box(*[(1, 2)] * 3), box(*[(9, 10)] * 3), 13.856406460551018, 13.856406460551018),
    "at the border": (box((0, 12), (0, 6), (0, 12)), box((0, 12), (0, 9), (0, 12)), 3.0, 3.0),
    "one outlier": (CUBE, OUTLIER, 0.0, 6.928203230275509),
}


@pytest.mark.parametrize("name", REFEREE)
def test_boxes_match_the_referee(name):
    first, second, distance, largest = REFEREE[name]
    assert hd95(first, second, [1])[0] == distance
    assert hd95(second, first, [1])[0] == distance
    assert hd95(first, second, [1], percent=100)[0] == pytest.approx(largest, abs=1e-14)


def test_surfel_counts_and_areas_match_the_referee():
    expected = {1: (152, 131.67317630452317), 2: (160, 133.40522711209204)}
    for array, (count, area) in zip((CUBE, OUTLIER), expected.values(), strict=True):
        found = surfels(array, 1)
        assert len(found.corners) == count
        assert found.areas_mm2.sum() == pytest.approx(area, rel=1e-14)


def test_the_table_of_areas_has_13_values_and_all_symmetries_of_the_cube():
    areas = surfel_areas()
    assert len(np.unique(areas.round(9))) == 13
    cubes = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).reshape(256, 2, 2, 2)
    for turned in (
        cubes.transpose(0, 2, 3, 1),
        cubes.transpose(0, 2, 1, 3),
        cubes[:, ::-1],
        1 - cubes,
    ):
        codes = np.packbits(turned.reshape(256, 8), axis=1)[:, 0]
        np.testing.assert_allclose(areas[codes], areas, rtol=1e-14)


@pytest.mark.parametrize(
    ("code", "area"),
    # bits 128 ... 1 are the corners (0,0,0), (0,0,1), ... (1,1,1)
    [
        (0b00000001, np.sqrt(3) / 8),
        (0b00000011, np.sqrt(0.5)),
        (0b00001111, 1.0),
        (0b00010111, 3 * np.sqrt(3) / 4),
        (0b00000111, 0.5 + 3 * np.sqrt(3) / 8),
        (0b00011011, np.sqrt(0.5) + np.sqrt(3) / 2),
        (0b01101001, np.sqrt(3) / 2),
    ],
)
def test_areas_of_typical_neighbourhoods(code, area):
    assert surfel_areas()[code] == pytest.approx(area, rel=1e-14)


def test_a_plane_has_its_true_area_at_any_spacing():
    spacing = (3.0, 0.5, 2.0)
    half = np.zeros((6, 7, 8), int)
    half[:3] = 1
    found = surfels(half, 1, spacing_mm=spacing)
    inner = np.all((found.corners > 0) & (found.corners < half.shape), axis=1)
    assert set(found.corners[inner, 0]) == {3}
    np.testing.assert_allclose(found.areas_mm2[inner], spacing[1] * spacing[2])


def test_distances_are_in_millimetres_along_the_right_axis():
    shifted = [np.roll(CUBE, 2, axis) for axis in range(3)]
    found = [hd95(CUBE, other, [1], spacing_mm=(3.0, 1.0, 0.5))[0] for other in shifted]
    np.testing.assert_allclose(found, [6.0, 2.0, 1.0])


def test_missing_and_lost_labels():
    fixed, warped = CUBE.copy(), np.zeros_like(CUBE)
    fixed[0, 0, 0] = 5
    found = hd95(fixed, warped, [1, 5, 9], moving=CUBE)
    assert found[0] == np.inf  # lost by the warp
    assert np.isnan(found[1:]).all()  # 5 not in moving, 9 nowhere


def test_hd95_agrees_with_a_distance_transform_on_rough_labels():
    random = np.random.default_rng(3)
    noise = ndimage.gaussian_filter(random.standard_normal((2, 16, 18, 20)), (0, 2, 2, 2))
    first, second = (noise > 0.01).astype(int)
    spacing = (1.5, 1.0, 2.0)
    directed = []
    for a, b in ((first, second), (second, first)):
        start, goal = (surfels(x, 1, spacing_mm=spacing) for x in (a, b))
        background = np.ones([n + 1 for n in a.shape])
        background[tuple(goal.corners.T)] = 0
        away = ndimage.distance_transform_edt(background, sampling=spacing)[tuple(start.corners.T)]
        order = np.argsort(away)
        share = np.cumsum(start.areas_mm2[order]) / start.areas_mm2.sum()
        directed.append(away[order][np.argmax(share >= 0.95)])
    assert hd95(first, second, [1], spacing_mm=spacing)[0] == pytest.approx(
        max(directed), abs=1e-12
    )


@pytest.mark.parametrize("percent", [50, 95, 100])
@pytest.mark.parametrize("spacing", [(1, 1, 1), (2.5, 0.5, 1), (0.7, 1, 3)])
def test_far_and_near_elements_agree_with_all_distances(spacing, percent):
    first, second = np.zeros((2, 30, 34, 32), int)
    first[3:12, 4:20, 5:14] = 1
    second[4:12, 4:9, 3:14] = 1
    second[24:28, 26:31, 22:31] = 1  # beyond the lines that are looked at
    directed = []
    for a, b in ((first, second), (second, first)):
        start, goal = (surfels(x, 1, spacing_mm=spacing) for x in (a, b))
        gaps = (start.corners[:, None] - goal.corners) * np.array(spacing)
        away = np.sqrt((gaps**2).sum(-1)).min(1)
        order = np.lexsort((start.areas_mm2, away))
        share = np.cumsum(start.areas_mm2[order]) / start.areas_mm2.sum()
        at = np.searchsorted(share, percent / 100)
        directed.append(away[order][min(at, len(order) - 1)])
    found = hd95(first, second, [1], spacing_mm=spacing, percent=percent)[0]
    assert found == pytest.approx(max(directed), rel=1e-12)


def test_background_may_be_scored():
    assert hd95(CUBE, np.roll(CUBE, 1, 0), [0, 1])[0] <= 1.0


def test_shapes_must_agree():
    with pytest.raises(GeometryError, match="HD95"):
        hd95(CUBE, CUBE[:-1], [1])
