"""Local correlation of intensities."""

import numpy as np
import pytest

from autoreg.evaluation.appearance import local_correlation


def test_local_correlation_ignores_scale_and_knows_sign_and_shift():
    random = np.random.default_rng(0)
    image = random.random((1, 32, 32, 32)).astype(np.float32)
    inner = np.zeros((32, 32, 32), bool)
    inner[11:21, 11:21, 11:21] = True  # windows that do not reach beyond the border
    same, inverted, shifted = (
        local_correlation(image, [other], inner)[0]
        for other in (3 * image + 5, -image, np.roll(image, 4, 2))
    )
    assert same == pytest.approx(1, abs=1e-3)
    assert inverted == pytest.approx(-1, abs=1e-3)
    assert abs(shifted) < 0.1


def test_candidates_are_scaled_by_the_first_and_an_empty_mask_has_no_value():
    image = np.random.default_rng(0).random((2, 12, 12, 12)).astype(np.float32)
    dimmed = local_correlation(image, [image, 1e-3 * image])
    assert dimmed[0] > 0.99 > dimmed[1]  # on the first one's scale the second is nearly flat
    assert np.isnan(local_correlation(image, [image], np.zeros((12, 12, 12), bool))).all()
