import math

import pytest
import torch

from autoreg.numerics.fixed_point import InverseSettings, solve_fixed_point


@pytest.mark.parametrize("plain", [0, 1])
def test_what_did_not_converge_tells_a_finite_change(plain):
    """The cube has no attracting fixed point in reach; without plain iterations, too."""
    settings = InverseSettings(1e-9, max_evaluations=2, memory=1, max_plain_evaluations=plain)
    start = torch.tensor([0.5, 1.2, -0.3])
    found = solve_fixed_point(lambda x: x**3 + 0.2, start, settings)
    assert not found.converged
    assert found.evaluations == 2 + plain
    assert math.isfinite(found.change)
