"""The numbers that the organisers' own evaluators gave for fields that a formula describes."""

import numpy as np
import pytest
import torch
from referee_pair import unit_grid
from spaced_pair import spaced, write_case

from autoreg.evaluation.fields import ndv, sdlogj
from autoreg.evaluation.landmarks import tre_centroids, tre_learn2reg
from autoreg.evaluation.overlap import dice
from autoreg.evaluation.protocols import PROTOCOLS
from autoreg.evaluation.referee_case import score_case
from autoreg.evaluation.referee_field import nearest_sources, pulled
from autoreg.evaluation.surface import hd95, surfels

SHAPE, SPACING = (16, 18, 14), (1.75, 1.25, 2.0)
BLOBS = {
    "fixed": ((9, 6, 6), (9, 6, 3), (7, 11, 5), (5, 11, 3), (10, 4, 3)),
    "moving": ((8, 6, 7), (10, 5, 2), (6, 10, 6), (4, 11, 4), (10, 4, 4)),
}
# Coordinates along the three axes, in voxels.
POINTS = {
    "fixed": """
        4.286 10.316 5.71 4.952 14.035 10.339 2.005 14.246 8.29 3.265 4.462 2.803 2.926 2.841 5.854
        6.208 3.406 6.334 10.095 3.412 3.898 4.205 9.919 2.824 12.481 4.527 2.231 10.258 10.143
        9.173 11.954 6.57 3.383 5.064 5.012 3.641 12.236 10.817 4.664 12.962 9.504 6.283 11.039
        13.466 2.1 5.561 9.302 10.623 2.775 8.248 10.888 12.19 4.22 6.286 2.121 12.044 2.262 11.294
        3.94 10.513 9.297 12.799 4.368 9.534 5.492 5.33 6.091 3.717 9.89 10.167 8.996 7.843 7.29
        4.551 3.687""",
    "moving": """
        6.518 10.127 6.797 3.254 12.934 7.987 3.247 14.527 9.142 3.284 4.275 3.831 3.275 2.946 4.774
        8.074 3.655 6.324 9.292 4.791 5.546 3.556 9.108 1.461 13.797 4.564 0.685 7.766 10.132 8.432
        10.812 7.365 5.411 5.21 4.35 6.134 13.001 10.857 5.845 14.431 11.569 5.602 8.882 13.554 2.05
        5.655 8.335 9.164 2.582 7.858 11.585 10.826 3.091 4.831 2.512 12.334 1.013 9.9 2.977 9.423
        9.422 13.079 4.389 9.97 7.038 4.743 5.63 4.811 8.81 9.555 10.854 7.516 8.64 3.462 3.278""",
}
# TRE of the points in mm, TRE of the blobs in voxels, NDV in the ellipsoid below.
GOLDEN = {
    "identity": (3.2796190661937974, 1.5300581428464028, 0.0),
    "translation": (6.0141676108329, 2.336369654710645, 0.0),
    "scale": (4.357061346025946, 1.6012770730438386, 0.0),
    "shear": (3.934782607697562, 1.769272205688749, 0.0),
    "mirror": (11.561453359039092, 3.9849971279971528, 1.0),
    "alternating": (3.4515909857728877, 1.4660919872726104, 0.30000001192092896),
}
NDV_VOLUMES = {"mirror": 1632.0, "alternating": 489.60001945495605}


def field(name):
    """(3, D, H, W) float32 voxels."""
    a, b, c = (axis.astype(float) for axis in np.indices(SHAPE))
    zero = np.zeros(SHAPE)
    components = {
        "identity": (zero, zero, zero),
        "translation": (zero + 1.3, zero - 0.7, zero + 2.2),
        "scale": ((a - 7.5) / 4, (b - 8.5) / 4, (c - 6.5) / 4),
        "shear": (0.3 * (b - 8.5), 0.2 * (c - 6.5), zero),
        "mirror": (15 - 2 * a, zero, zero),
        "alternating": (np.where(a % 2, 0.8, -0.8), zero, zero),
    }
    return np.stack(components[name]).astype(np.float32)


def ellipsoid():
    """Where NDV counts: 1632 voxels off the border."""
    reach = [
        (place - (n - 1) / 2) / (n / 2) for place, n in zip(np.indices(SHAPE), SHAPE, strict=True)
    ]
    return sum(part**2 for part in reach) < 0.92**2


def points(role):
    return np.array([float(number) for number in POINTS[role].split()]).reshape(-1, 3)


def blobs(role):
    """Cubes of three voxels; the later ones lie on top."""
    volume = np.zeros(SHAPE, np.int64)
    for number, centre in enumerate(BLOBS[role], 1):
        volume[tuple(slice(middle - 1, middle + 2) for middle in centre)] = number
    return volume


@pytest.mark.parametrize("name", GOLDEN)
def test_landmarks_and_folds_of_described_fields(name):
    u, (of_points, of_blobs, fraction) = field(name), GOLDEN[name]
    found = tre_learn2reg(u, points("fixed"), points("moving"), SPACING)
    assert found.mean() == pytest.approx(of_points, abs=1e-9)
    warped = pulled(blobs("moving"), nearest_sources(u, SHAPE))
    assert tre_centroids(blobs("fixed"), warped)[1].mean() == pytest.approx(of_blobs, abs=1e-9)
    folds = ndv(torch.from_numpy(u), torch.from_numpy(ellipsoid()))
    assert folds.voxels == 1632
    assert folds.fraction == pytest.approx(fraction, abs=1e-9)
    assert folds.volume_vox == pytest.approx(NDV_VOLUMES.get(name, 0.0), abs=1e-6)
    assert sdlogj(torch.from_numpy(u)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", GOLDEN)
def test_the_protocol_gives_them_from_files(tmp_path, name):
    unit = unit_grid(SHAPE)
    grids = unit, spaced(unit, SPACING)
    places = points("fixed"), points("moving")
    files = write_case(tmp_path, field(name), *grids, places, foreground=ellipsoid())
    scores = score_case(files, PROTOCOLS["learn2reg"], None, torch.device("cpu")).scores
    assert scores["tre_lm_mm"] == pytest.approx(GOLDEN[name][0], abs=1e-6)
    assert scores["ndv_moving_fraction"] == pytest.approx(GOLDEN[name][2], abs=1e-6)


# Two boxes, from and up to and including; HD95, HD100, Dice, numbers and areas of surface elements.
BOXES = {
    "the same": (((3,) * 3, (7,) * 3), ((3,) * 3, (7,) * 3), (0, 0, 1), (152, 152),
                 (131.67317630452317, 131.67317630452317)),
    "shifted": (((3,) * 3, (7,) * 3), ((5, 3, 3), (9, 7, 7)), (2, 2, 0.6), (152, 152),
                (131.67317630452317, 131.67317630452317)),
    "nested": (((2,) * 3, (9,) * 3), ((4,) * 3, (7,) * 3),
               (3, 3.4641016151377544, 0.2222222222222222), (386, 98),
               (355.12902042723886, 81.18789493028459)),
    "far voxels": (((1,) * 3, (1,) * 3), ((9,) * 3, (9,) * 3),
                   (13.856406460551018, 13.856406460551018, 0), (8, 8),
                   (1.7320508075688772, 1.7320508075688772)),
    "at the border": (((0, 0, 0), (11, 5, 11)), ((0, 0, 0), (11, 8, 11)), (3, 3, 0.8), (578, 722),
                      (540.099583175716, 680.5848645499545)),
}  # fmt: skip


def box(first, last):
    volume = np.zeros((12, 12, 12), np.int16)
    volume[tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))] = 1
    return volume


def compare(one, other, expected, counts, areas):
    found = (hd95(one, other, [1])[0], hd95(one, other, [1], percent=100)[0])
    overlap = dice(torch.from_numpy(one), torch.from_numpy(other), [1])[0]
    np.testing.assert_allclose([*found, float(overlap)], expected, atol=1e-12)
    surfaces = surfels(one, 1), surfels(other, 1)
    assert tuple(len(surface.corners) for surface in surfaces) == counts
    assert tuple(s.areas_mm2.sum() for s in surfaces) == pytest.approx(areas, abs=1e-9)


@pytest.mark.parametrize("name", BOXES)
def test_surfaces_of_boxes(name):
    one, other, *expected = BOXES[name]
    compare(box(*one), box(*other), *expected)


def test_one_voxel_far_away_is_below_the_95_percent():
    one = box((3,) * 3, (7,) * 3)
    other = one.copy()
    other[11, 11, 11] = 1
    areas = (131.67317630452317, 133.40522711209204)
    compare(one, other, (0, 6.928203230275509, 0.9960159362549801), (152, 160), areas)
