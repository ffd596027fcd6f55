"""Splines on control points, their exponential, and matrices that act on one axis."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from autoreg.numerics.axis_matrices import cubic_convolution_matrix, gaussian_matrix, separable
from autoreg.numerics.coarse_inverse import coarse_inverse
from autoreg.numerics.control_grid import ControlGrid
from autoreg.numerics.coordinates import index_grid, sample_index_linear
from autoreg.numerics.pyramid import doubled, pooled

GRID = ControlGrid((30.0, 40.0, 24.0), 5.0)
POSITIONS = [np.linspace(0, length, 13) for length in GRID.lengths_mm]


def smooth(shape: tuple[int, ...], size: float, seed: int = 0) -> torch.Tensor:
    """Random numbers, blurred."""
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(seed))
    x = separable(x, [gaussian_matrix(n, 2.0) for n in shape])
    return x * size / x.abs().max()


def test_control_points_reproduce_straight_lines() -> None:
    d, h, w = np.meshgrid(*GRID.nodes_mm(), indexing="ij")
    coefficients = torch.from_numpy(np.stack([d + 2 * h - w + 3])).float()
    d, h, w = np.meshgrid(*POSITIONS, indexing="ij")
    found = GRID.evaluate(coefficients, POSITIONS)[0].numpy()
    assert np.abs(found - (d + 2 * h - w + 3)).max() < 1e-4


def test_values_and_coefficients_are_inverse_to_each_other() -> None:
    coefficients = smooth(GRID.shape, 3.0)
    assert torch.allclose(GRID.coefficients(GRID.values(coefficients)), coefficients, atol=1e-5)
    inner = [nodes[2:-2] for nodes in GRID.nodes_mm()]
    values = GRID.values(coefficients)[:, 2:-2, 2:-2, 2:-2]
    assert torch.allclose(GRID.evaluate(coefficients, inner), values, atol=1e-5)


def test_an_axis_of_one_voxel_has_one_control_point() -> None:
    grid = ControlGrid((0.0, 40.0, 24.0), 5.0)
    assert grid.shape[0] == 1
    values = grid.evaluate(torch.ones(3, *grid.shape), [np.zeros(1), *POSITIONS[1:]])
    assert torch.allclose(values, torch.ones_like(values), atol=1e-6)


def test_the_exponentials_of_a_velocity_and_its_negative_are_inverse() -> None:
    velocity = smooth(GRID.shape, 6.0)
    there, back = (GRID.exponential(sign * velocity) for sign in (1, -1))
    fine = [np.arange(1 + int(length)) * 1.0 for length in GRID.lengths_mm]
    u, v = (GRID.evaluate(field, fine)[None] for field in (there, back))
    nodes = index_grid(u.shape[2:])
    left = (u + sample_index_linear(v, nodes + u, "border"))[0, :, 8:-8, 8:-8, 8:-8]
    assert float(u.abs().max()) > 2
    assert float(left.square().sum(0).sqrt().mean()) < 0.1
    assert torch.allclose(GRID.exponential(velocity * 0), velocity * 0, atol=1e-6)


def test_the_logarithm_undoes_the_exponential() -> None:
    velocity = smooth(GRID.shape, 6.0)
    there = GRID.exponential(velocity)
    found = GRID.logarithm(GRID.values(there))
    assert float(GRID.values(there - velocity).abs().max()) > 0.5
    assert float(GRID.values(GRID.exponential(found) - there).abs().max()) < 0.01
    assert float(GRID.values(found - velocity).abs().mean()) < 0.02


def test_a_displacement_that_folds_has_a_nearest_velocity() -> None:
    folding = 12 * torch.randn(3, *GRID.shape, generator=torch.Generator().manual_seed(0))
    found = GRID.logarithm(folding)
    left = folding - GRID.values(GRID.exponential(found))
    assert bool(found.isfinite().all())
    assert float(left.square().sum()) <= float(folding.square().sum())


def test_interpolation_passes_through_the_samples_and_holds_the_ends() -> None:
    values = torch.tensor([1.0, 4.0, 9.0, 16.0, 25.0, 36.0])
    matrix = cubic_convolution_matrix(np.array([-3.0, 0.0, 2.0, 2.5, 5.0, 9.0]), 6)
    assert (matrix @ values).tolist() == pytest.approx([1, 1, 9, 12.25, 36, 36])
    assert torch.allclose(gaussian_matrix(6, 1.5).sum(1), torch.ones(6))


def test_doubling_keeps_the_samples_and_is_cubic_between_them() -> None:
    x = torch.linspace(0, 6.28, 40).sin().view(1, 1, 40).expand(6, 5, 40).contiguous()
    y = doubled(x)
    assert y.shape == (11, 9, 79)
    assert torch.allclose(y[::2, ::2, ::2], x, atol=1e-5)
    middle = torch.linspace(0, 6.28, 79).sin()
    assert float((y[3, 3, 12:-12] - middle[12:-12]).abs().max()) < 1e-4
    assert doubled(torch.ones(1, 5, 6)).shape == (1, 9, 11)


def test_doubling_is_the_interpolating_spline_mirrored_at_its_ends() -> None:
    x = torch.randn(3, 2, 14, generator=torch.Generator().manual_seed(0))
    at = np.stack(np.meshgrid(*[np.arange(2 * n - 1) / 2 for n in x.shape], indexing="ij"))
    expected = ndimage.map_coordinates(x.numpy().astype(np.float64), at, order=3, mode="mirror")
    assert np.abs(doubled(x).numpy() - expected).max() < 2e-5


def test_pooling_holds_what_is_left_over() -> None:
    x = torch.arange(5.0).view(1, 1, 1, 5)
    assert pooled(x, (1, 1, 2)).flatten().tolist() == [0.5, 2.5, 4]


@pytest.mark.parametrize("shape", [(24, 30, 26), (1, 40, 36), (25, 31, 27)])
def test_the_coarse_inverse_undoes_a_displacement(shape: tuple[int, ...]) -> None:
    u = smooth(shape, 4.0, seed=3)
    for axis, n in enumerate(shape):
        u[axis] *= n > 1
        ramp = torch.minimum(torch.arange(n), torch.arange(n).flip(0)).clamp(max=6) / 6
        u *= ramp.view([-1 if a == axis else 1 for a in range(3)]) if n > 1 else 1
    v = coarse_inverse(u)
    nodes = index_grid(shape)
    left = (v + sample_index_linear(u[None], nodes + v, "border")[0]).square().sum(0).sqrt()
    assert float(u.abs().max()) > 0.7
    assert float(left.mean()) < 0.005
    assert float(left.max()) < 0.2
