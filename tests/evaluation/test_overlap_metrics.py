"""Dice by its definition, and the labels that have no value."""

import numpy as np
import pytest
import torch

from autoreg.errors import DataError, GeometryError
from autoreg.evaluation.overlap import dice, mean_over_labels, present_labels


def box(shape, *ranges, value=1):
    array = np.zeros(shape, np.int16)
    array[tuple(slice(*r) for r in ranges)] = value
    return array


def test_dice_of_shifted_boxes():
    first = box((12, 12, 12), (3, 8), (3, 8), (3, 8))
    second = box((12, 12, 12), (5, 10), (3, 8), (3, 8))
    assert dice(first, second, [1])[0] == 0.6
    assert dice(first, first, [1])[0] == 1.0


def test_dice_scores_background_like_any_label():
    first = box((10, 10, 10), (0, 5), (0, 10), (0, 10))
    second = box((10, 10, 10), (0, 6), (0, 10), (0, 10))
    assert dice(first, second, [0])[0] == pytest.approx(2 * 400 / 900)


def test_a_label_absent_from_fixed_or_unwarped_moving_has_no_dice_but_a_lost_one_has_0():
    fixed = box((6, 6, 6), (0, 2), (0, 2), (0, 2)) + box((6, 6, 6), (4, 6), (4, 6), (4, 6), value=7)
    moving = box((6, 6, 6), (0, 2), (0, 2), (0, 2)) + box(
        (6, 6, 6), (3, 4), (3, 4), (3, 4), value=9
    )
    warped = np.zeros_like(fixed)
    scores = dice(fixed, warped, [1, 7, 9], moving=moving)
    assert scores[0] == 0  # in both, lost by the warp
    assert np.isnan(scores[1:]).all()
    assert mean_over_labels(scores) == 0
    assert dice(fixed, warped, [7])[0] == 0  # without the moving map it counts as lost


def test_dice_agrees_with_counting_for_every_array_type():
    random = np.random.default_rng(0)
    fixed, warped = random.integers(0, 6, (2, 7, 8, 9))
    labels = [5, 2, 1]
    expected = [
        2 * ((fixed == i) & (warped == i)).sum() / ((fixed == i).sum() + (warped == i).sum())
        for i in labels
    ]
    read_only = fixed.astype(">u2")
    read_only.setflags(write=False)
    for first in (fixed, read_only, fixed[::-1].copy()[::-1], torch.from_numpy(fixed)):
        np.testing.assert_allclose(dice(first, warped, labels), expected, rtol=1e-15)


def test_dice_refuses_what_it_cannot_compare():
    ones = np.ones((3, 3, 3), int)
    with pytest.raises(GeometryError, match=r"\(3, 3, 3\).*\(3, 3, 4\)"):
        dice(ones, np.ones((3, 3, 4), int), [1])
    with pytest.raises(DataError, match="-1"):
        dice(-ones, ones, [1])


def test_present_labels_leave_out_background():
    assert present_labels(np.array([[[0, 4, 4, 2]]])) == (2, 4)
    assert present_labels(np.zeros((2, 2, 2), int)) == ()


def test_no_labels_give_no_scores():
    assert dice(np.zeros((2, 2, 2), int), np.zeros((2, 2, 2), int), []).shape == (0,)
    assert np.isnan(mean_over_labels(np.zeros(0)))
