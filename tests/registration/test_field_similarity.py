"""The closed-form derivatives of the similarities of field optimisation."""

from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from autoreg.registration.field_similarity import (
    Criterion,
    LocalCorrelation,
    Response,
    SquaredDifference,
    windowed,
)

BLOCK_VOXELS = 8


def images(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two random images of two channels, correlated; (2, 8, 10, 12) float64."""
    generator = torch.Generator().manual_seed(seed)
    fixed = torch.rand(2, 8, 10, 12, generator=generator, dtype=torch.float64)
    other = torch.rand(2, 8, 10, 12, generator=generator, dtype=torch.float64)
    return fixed, 0.6 * fixed + 0.4 * other


def block_sums(x: Tensor) -> Tensor:
    """(C, D, H, W) to sums over blocks of two voxels per axis."""
    return functional.avg_pool3d(x[None], 2)[0] * BLOCK_VOXELS


def respond(criterion: Criterion, fixed: Tensor, warped: Tensor, weights: Tensor) -> Response:
    """What the criterion says of whole images."""
    of_fixed = torch.stack([block_sums(fixed), block_sums(fixed.square())])
    products = (warped, warped.square(), warped * fixed)
    of_warped = torch.stack([block_sums(x) for x in products])
    return criterion.respond(of_fixed, of_warped, weights, BLOCK_VOXELS)


def spread(blocks: Tensor) -> Tensor:
    """Each block's value at its voxels."""
    for axis in (-3, -2, -1):
        blocks = blocks.repeat_interleave(2, axis)
    return blocks


def weights_of(fixed: Tensor) -> Tensor:
    """Some blocks count, some count half, some don't."""
    generator = torch.Generator().manual_seed(5)
    shape = tuple(n // 2 for n in fixed.shape[1:])
    return torch.randint(0, 3, shape, generator=generator).double() / 2


@pytest.mark.parametrize(
    "criterion",
    [
        LocalCorrelation("signed", 0.1),
        LocalCorrelation("squared", 0.1),
        SquaredDifference(4.0),
    ],
)
def test_the_derivative_is_that_of_the_objective(criterion: Criterion) -> None:
    fixed, warped = images()
    weights = weights_of(fixed)
    response = respond(criterion, fixed, warped, weights)
    p, q, r, curvature = (spread(field) for field in response.fields)
    derivative = fixed * p - warped * q - r
    assert float(curvature.min()) >= 0
    generator = torch.Generator().manual_seed(7)
    for _ in range(5):
        step = 1e-5 * torch.randn(warped.shape, generator=generator, dtype=warped.dtype)
        ahead, behind = (
            respond(criterion, fixed, warped + sign * step, weights).value for sign in (1, -1)
        )
        expected = float((derivative * step).sum() / weights.sum())
        assert (ahead - behind) / 2 == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("kind", "sign"), [("signed", -1), ("squared", 1)])
def test_a_negative_image(kind: Literal["signed", "squared"], sign: int) -> None:
    fixed, _ = images()
    criterion = LocalCorrelation(kind, 1e-3)
    weights = torch.ones(4, 5, 6, dtype=torch.float64)
    assert respond(criterion, fixed, 3 * fixed + 1, weights).value == pytest.approx(1, abs=1e-3)
    assert respond(criterion, fixed, 1 - fixed, weights).value == pytest.approx(sign, abs=1e-3)


def test_a_window_sums_neighbours_and_nothing_beyond_the_ends() -> None:
    x = torch.zeros(1, 4, 5, 1)
    x[0, 2, 0, 0] = 1
    y = windowed(x)
    assert float(y[0, 2, 0, 0]) == 0.25
    assert float(y[0, 1, 1, 0]) == 0.0625
    assert float(y.sum()) == pytest.approx(0.75)
