"""By which rule one candidate is preferred to another."""

import numpy as np
import pytest

from autoreg.inference.compare_io_settings import NO_IO, Setting
from autoreg.inference.find_best_candidates import WITHOUT_NETWORK, Candidate, SettingChoice
from autoreg.inference.find_best_choice import NDV_TOLERANCE, Entry, choose, in_order

ALONE, OTHER = Candidate("default"), Candidate("smooth")
REFINED = Candidate("default", Setting(refine="balanced"))
OPTIMISED = Candidate("default", Setting("gradient_projection", "network", 20))
LONGER = Candidate("default", Setting("gradient_projection", "network", 50))
BOTH = Candidate("default", Setting("gradient_projection", "network", 20, "balanced"))
COUNT = 12
NOISE = np.random.default_rng(0).normal(0, 0.01, (4, COUNT))


def entry(candidate, accuracy=0.7, ndv=0.0, seconds=1.0, failures=0, noise=0, count=COUNT):
    values = np.broadcast_to(accuracy, COUNT) + NOISE[noise]
    folds = ndv * (1 + 10 * NOISE[noise])
    return Entry(
        candidate, tuple(values[:count].tolist()), tuple(folds[:count].tolist()), seconds, failures
    )


def best_of(*entries, better="higher"):
    return choose(entries, better).best


def test_from_simple_to_complex():
    found = [BOTH, LONGER, OPTIMISED, REFINED, WITHOUT_NETWORK, ALONE]
    assert [e.candidate for e in in_order([entry(c) for c in found])] == found[::-1]


def test_of_one_kind_the_faster_is_simpler_unless_times_are_alike_or_unknown():
    for seconds, first in (
        ((5.0, 1.0), OTHER), ((12.0, 10.0), ALONE), ((0.5, 0.1), ALONE), ((None, 1.0), ALONE),
    ):  # fmt: skip
        entries = [entry(c, seconds=s) for c, s in zip((ALONE, OTHER), seconds, strict=True)]
        entries.append(entry(REFINED, seconds=0.01))  # of another kind
        assert in_order(entries)[0].candidate == first


def test_a_gain_beyond_chance_wins_and_one_within_does_not():
    assert best_of(entry(ALONE), entry(REFINED, 0.75, noise=1)) == REFINED
    assert best_of(entry(ALONE), entry(REFINED, 0.701, noise=1)) == ALONE
    assert best_of(entry(ALONE), entry(REFINED, 0.65, noise=1)) == ALONE


def test_errors_are_better_where_they_are_lower():
    assert best_of(entry(ALONE, 3.0), entry(REFINED, 2.0, noise=1), better="lower") == REFINED
    assert best_of(entry(ALONE, 2.0), entry(REFINED, 3.0, noise=1), better="lower") == ALONE


def test_what_is_told_is_what_decided():
    found = choose(
        [entry(ALONE), entry(REFINED, 0.75, noise=1), entry(OPTIMISED, 0.751, noise=2)], "higher"
    )
    assert found.best == REFINED
    told = [(d.challenger, d.champion, d.verdict) for d in found.duels]
    assert told == [
        (OPTIMISED.name, ALONE.name, "better beyond chance"),
        (OPTIMISED.name, REFINED.name, "no difference beyond chance"),
    ]


def test_a_complex_one_does_not_pass_a_simpler_one_with_a_better_mean():
    """The second varies too much to beat the first, which the third does with a lower mean."""
    wide = Entry(REFINED, tuple((0.78 + 15 * NOISE[1]).tolist()), (0.0,) * COUNT, 1.0)
    slight = entry(OPTIMISED, 0.72)
    assert not choose([entry(ALONE), wide], "higher").best == REFINED
    assert best_of(entry(ALONE), slight) == OPTIMISED
    assert wide.mean > slight.mean
    assert best_of(entry(ALONE), wide, slight) == REFINED


def test_a_gain_with_clearly_more_folds_does_not_win():
    more = entry(REFINED, 0.8, ndv=3 * NDV_TOLERANCE, noise=1)
    assert best_of(entry(ALONE), more) == ALONE
    assert "folds more" in choose([entry(ALONE), more], "higher").duels[0].verdict
    # nor where the simplest folds as much
    folding = entry(ALONE, 0.5, ndv=3 * NDV_TOLERANCE)
    smooth = entry(WITHOUT_NETWORK, 0.7, noise=2)
    assert best_of(folding, smooth, more) == WITHOUT_NETWORK
    assert best_of(entry(ALONE), entry(REFINED, 0.8, ndv=NDV_TOLERANCE / 2, noise=1)) == REFINED


def test_small_rises_of_folds_do_not_add_up():
    rising = [
        entry(ALONE),
        entry(REFINED, 0.75, ndv=0.7 * NDV_TOLERANCE, noise=1),
        entry(OPTIMISED, 0.8, ndv=1.4 * NDV_TOLERANCE, noise=2),
    ]
    found = choose(rising, "higher")
    assert found.best == REFINED
    assert found.duels[-1].verdict.startswith("folds more: NDV + 0.0")


def test_what_folds_clearly_less_wins_unless_it_is_less_accurate():
    folding = entry(ALONE, 0.7, ndv=10 * NDV_TOLERANCE)
    assert best_of(folding, entry(REFINED, 0.7)) == REFINED
    assert best_of(folding, entry(REFINED, 0.69, noise=1)) == ALONE


def test_what_failed_is_never_taken():
    assert best_of(entry(ALONE, failures=1), entry(REFINED, 0.5, noise=1)) == REFINED
    assert best_of(entry(ALONE), entry(REFINED, 0.9, failures=1, noise=1)) == ALONE
    assert choose([entry(ALONE, failures=1)], "higher") is None


def test_a_value_that_got_lost_does_not_make_a_mean_better():
    values = list(entry(REFINED, 0.8, noise=1).accuracy)
    values[3] = float("nan")
    lost = Entry(REFINED, tuple(values), (0.0,) * COUNT, 1.0)
    assert best_of(entry(ALONE), lost) == ALONE


def test_more_candidates_need_a_smaller_p():
    """p lies between the level of one test and that of several."""
    gains = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, -0.25])

    def plain(candidate, values):
        return Entry(candidate, tuple(values.tolist()), (0.0,) * len(gains), 1.0)

    flat, gain = plain(ALONE, 0 * gains), plain(REFINED, gains)
    alone = choose([flat, gain], "higher")
    assert 0.05 / 3 < alone.duels[0].difference.p < 0.05
    assert alone.best == REFINED
    assert best_of(flat, gain, plain(OPTIMISED, 0 * gains), plain(LONGER, 0 * gains)) == ALONE


@pytest.mark.parametrize(("values", "taken"), [((0.8, 0.701), True), ((0.9, 0.699), False)])
def test_few_pairs_are_judged_by_every_single_one(values, taken):
    first = Entry(ALONE, (0.7, 0.7), (0.0, 0.0), 1.0)
    assert (best_of(first, Entry(REFINED, values, (0.0, 0.0), 1.0)) is REFINED) is taken
    six = entry(ALONE, count=6), entry(REFINED, 0.71, count=6)
    assert best_of(*six) == REFINED  # p = 0.031 of one test; of three it cannot be low enough
    assert best_of(*six, entry(OPTIMISED, 0.5, count=6), entry(LONGER, 0.5, count=6)) == REFINED


def test_settings_name_and_flag_themselves():
    assert BOTH.setting.name == "gradient_projection_network_20_refine_balanced"
    assert BOTH.setting.flags == (
        "--io", "gradient_projection", "--io-optimised", "network", "--io-steps", "20",
        "--refine", "balanced",
    )  # fmt: skip
    assert NO_IO.flags == ("--io", "none", "--refine", "off")
    assert len({c.name for c in (ALONE, OTHER, REFINED, OPTIMISED, LONGER, BOTH)}) == 6
    SettingChoice((0, 1), ("network",), ("off",)).check()


def test_ranks_alone_do_not_make_a_mean_better():
    """Eleven pairs a little worse and one far better: p is low, and the mean is above by chance."""
    values = (*(0.7 - 0.01 * np.arange(1, 12)).tolist(), 5.7)
    outlier = Entry(REFINED, values, (0.0,) * COUNT, 1.0)
    flat = Entry(ALONE, (0.7,) * COUNT, (0.0,) * COUNT, 1.0)
    (duel,) = choose([flat, outlier], "higher").duels
    assert duel.difference.p < 0.05
    assert duel.difference.mean > 0
    assert not duel.beaten


def test_a_verdict_on_few_pairs_does_not_speak_of_chance():
    (duel,) = choose([entry(ALONE, count=3), entry(REFINED, 0.8, count=3)], "higher").duels
    assert duel.verdict == "better on every pair"
