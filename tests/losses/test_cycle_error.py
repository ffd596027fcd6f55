import pytest
import torch

from autoreg.losses.cycle import cycle_error
from autoreg.numerics.coordinates import index_grid

SHAPE = (5, 6, 8)
SPACING = (3.0, 2.0, 1.0)  # 15, 12 and 8 mm: the first axis is the longest
NOBODY = (None, None, None)


def shifts(*vectors):
    return [torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1, 1).expand(1, 3, *SHAPE)
            for v in vectors]  # fmt: skip


def test_maps_that_lead_back_have_no_error():
    there = shifts((1, 0, -1), (0.5, 1, 0), (-1.5, -1, 1))
    assert cycle_error(there, NOBODY, SPACING).item() == pytest.approx(0, abs=1e-30)


def test_the_error_is_measured_in_halves_of_the_longest_side():
    # Nothing is sampled outside; the third field ends one step of each axis off.
    still = shifts((0, 0, 0), (0, 0, 0), (1, 1, 1))
    half_mm = 15 / 2
    expected = sum((spacing / half_mm) ** 2 for spacing in SPACING)
    assert cycle_error(still, NOBODY, SPACING).item() == pytest.approx(expected)
    scaled = tuple(7 * spacing for spacing in SPACING)
    assert cycle_error(still, NOBODY, scaled).item() == pytest.approx(expected)


def test_points_outside_a_grid_or_mask_count_as_no_error():
    # The first field takes the last layer of the first axis out of the second image's grid.
    out = shifts((1, 0, 0), (0, 0, 0), (0, 0, 0))
    squared = (3 / 7.5) ** 2
    assert cycle_error(out, NOBODY, SPACING).item() == pytest.approx(4 / 5 * squared)
    # The last field may lead out: where it ends it is not evaluated.
    last = shifts((0, 0, 0), (0, 0, 0), (1, 0, 0))
    assert cycle_error(last, NOBODY, SPACING).item() == pytest.approx(squared)
    mask = torch.ones(1, 1, *SHAPE, dtype=torch.bool)
    mask[:, :, 0] = False
    assert cycle_error(last, (mask, None, None), SPACING).item() == pytest.approx(4 / 5 * squared)
    # Moved by one, the mask of the second image hides what comes from outside of it: nothing here.
    assert cycle_error(out, (None, mask, None), SPACING).item() == pytest.approx(4 / 5 * squared)
    assert cycle_error(out, (None, ~mask, None), SPACING).item() == 0


def test_fields_are_applied_in_their_order():
    grid = index_grid(SHAPE, dtype=torch.float64)
    squeeze, shift = -0.5 * grid, shifts((2, 0, 0))[0]
    zero = torch.zeros_like(shift)
    ends = (0.5 * (grid + shift), 0.5 * grid + shift)
    for fields, end in zip(((shift, squeeze, zero), (squeeze, shift, zero)), ends, strict=True):
        inside = torch.ones(1, 1, *SHAPE, dtype=torch.float64)
        if fields[0] is shift:
            inside[:, :, 3:] = 0  # beyond the grid after the first step
        scale = torch.tensor(SPACING, dtype=torch.float64).view(1, 3, 1, 1, 1) / 7.5
        error = (((end - grid) * scale).square().sum(1, keepdim=True) * inside).mean()
        assert cycle_error(fields, NOBODY, SPACING).item() == pytest.approx(error.item())


def test_gradients_are_right():
    generator = torch.Generator().manual_seed(0)
    fields = [
        (0.2 * torch.randn(1, 3, 3, 4, 3, generator=generator, dtype=torch.float64) + 0.1)
        .requires_grad_()
        for _ in range(3)
    ]  # fmt: skip
    mask = torch.ones(1, 1, 3, 4, 3, dtype=torch.bool)
    assert torch.autograd.gradcheck(lambda *f: cycle_error(f, (mask, None, mask), SPACING), fields)
