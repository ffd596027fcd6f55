"""Paired comparisons: known answers, and honesty where there is too little to test."""

import itertools
import math

import numpy as np
import pytest

from autoreg.evaluation.paired import holm, paired_difference

ZEROS = [0.0] * 10


def exact_wilcoxon(differences):
    """Two-sided p by going through all signs of the ranks."""
    ranks = np.argsort(np.argsort(np.abs(differences))) + 1
    seen = ranks[np.array(differences) > 0].sum()
    sums = [
        sum(r for r, sign in zip(ranks, signs, strict=True) if sign)
        for signs in itertools.product((0, 1), repeat=len(ranks))
    ]
    low = np.mean([s <= seen for s in sums])
    high = np.mean([s >= seen for s in sums])
    return min(1.0, 2 * min(low, high))


def test_six_gains_of_six_have_the_smallest_p_value():
    found = paired_difference([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], ZEROS[:6])
    assert found.p == pytest.approx(2 / 2**6)
    assert (found.pairs, found.left_out, found.untested) == (6, 0, "")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_p_is_that_of_all_signs_gone_through(seed):
    differences = np.random.default_rng(seed).normal(0.4, 1, 9)
    reference = np.random.default_rng(9).normal(0, 50, 9)
    found = paired_difference([*(reference + differences)], [*reference])
    assert found.p == pytest.approx(exact_wilcoxon(differences))


def test_the_interval_is_students():
    # s = 1 (ddof 1), n = 3: half width t(0.975, 2) / sqrt(3) = 4.302653 / 1.732051
    found = paired_difference([1.0, 2.0, 3.0], ZEROS[:3])
    assert found.mean == 2
    assert found.high - 2 == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert found.low == pytest.approx(4 - found.high)


def test_swapping_the_methods_turns_the_sign_alone():
    values = np.random.default_rng(0).normal(size=(2, 8))
    there, back = paired_difference(*values), paired_difference(*values[::-1])
    assert there.mean == pytest.approx(-back.mean)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    assert there.p == pytest.approx(back.p)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ([1.0, 2, 3, 4, 5], "5 of at least 6 pairs"),
        ([], "0 of at least 6 pairs"),
        ([0.0] * 7, "no pair differs"),
        ([1.0, 2, 3, 4, 5, 0, 0], "5 of at least 6 differing pairs"),
    ],
)
def test_too_little_is_not_tested(values, why):
    found = paired_difference(values, ZEROS[: len(values)])
    assert found.p is None
    assert found.untested == why


def test_pairs_without_a_number_are_left_out_and_counted():
    values = [1.0, 2, 3, 4, 5, 6, math.inf, None, 9]
    found = paired_difference(values, [*ZEROS[:8], math.nan])
    assert (found.pairs, found.left_out) == (6, 3)
    assert found.mean == 3.5


def test_one_pair_has_no_interval_and_none_has_no_mean():
    one, none = paired_difference([2.0], [1.0]), paired_difference([None], [1.0])
    assert one.mean == 1
    assert math.isnan(one.low)
    assert math.isnan(none.mean)


def test_holm_against_the_textbook():
    # Holm: 4 x 0.005, 3 x 0.01, then 2 x 0.03, and never below a smaller one's value.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.6, 0.7]) == (1.0, 1.0)


def test_holm_counts_only_what_was_tested():
    assert holm([0.01, None, 0.04]) == (pytest.approx(0.02), None, pytest.approx(0.04))
    assert holm([]) == ()
