"""Warping and sampling against known answers and scipy."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from autoreg.numerics.coordinates import index_grid, unit_grid
from autoreg.numerics.warp import sample_at_index, sample_at_unit, warp

SHAPE = (5, 6, 7)


@pytest.fixture
def volume():
    return torch.rand(2, 3, *SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("padding", ["border", "zeros"])
def test_zero_displacement_is_the_identity(volume, mode, padding):
    warped = warp(volume, torch.zeros(2, 3, *SHAPE), padding, mode)
    torch.testing.assert_close(warped, volume, atol=2e-6, rtol=0)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_a_shift_pulls_values_from_ahead(volume, axis, mode):
    """warped(p) = volume(p + u): a displacement of +2 brings what lies two voxels further."""
    u_vox = torch.zeros(1, 3, *SHAPE)
    u_vox[:, axis] = 2
    warped = warp(volume, u_vox, "border", mode)
    n = SHAPE[axis]
    torch.testing.assert_close(
        warped.narrow(axis + 2, 0, n - 2), volume.narrow(axis + 2, 2, n - 2), atol=2e-6, rtol=0
    )
    edge = volume.narrow(axis + 2, n - 1, 1)
    torch.testing.assert_close(warped.narrow(axis + 2, n - 1, 1), edge, atol=2e-6, rtol=0)


def test_linear_sampling_equals_scipy(volume):
    points = (torch.rand(1, 3, 4, 4, 4, dtype=torch.float64) * 1.4 - 0.2) * 6
    ours = sample_at_index(volume.double(), points, "border")
    theirs = ndimage.map_coordinates(
        volume[1, 2].numpy(), points[0].numpy(), order=1, mode="nearest"
    )
    np.testing.assert_allclose(ours[1, 2].numpy(), theirs, atol=1e-6)


@pytest.mark.parametrize("padding", ["border", "zeros"])
def test_nearest_sampling_equals_scipy_with_ties_and_outside(padding):
    labels = torch.randint(1, 1000, (1, 1, *SHAPE), generator=torch.Generator().manual_seed(2))
    points = torch.stack(
        torch.meshgrid(*[torch.arange(-2, n + 2, 0.5) for n in SHAPE], indexing="ij")
    )[None]
    ours = sample_at_index(labels, points, padding, "nearest")
    theirs = ndimage.map_coordinates(
        labels[0, 0].numpy(),
        np.maximum(points[0].numpy(), 0) if padding == "border" else points[0].numpy(),
        order=0,
        mode="nearest" if padding == "border" else "constant",
    )
    assert ours.dtype == torch.int64
    np.testing.assert_array_equal(ours[0, 0].numpy(), theirs)


def test_zeros_fade_linearly_over_one_voxel_and_border_holds():
    ramp = torch.full((1, 1, 4, 4, 4), 8.0)
    points = torch.full((1, 3, 1, 1, 3), 1.0)
    points[0, 0, 0, 0] = torch.tensor([-0.25, -1.0, 3.5])
    torch.testing.assert_close(
        sample_at_index(ramp, points, "zeros").flatten(), torch.tensor([6.0, 0.0, 4.0])
    )
    assert sample_at_index(ramp, points, "border").flatten().tolist() == [8, 8, 8]


def test_unit_and_index_coordinates_mean_the_same_points(volume):
    torch.testing.assert_close(
        sample_at_unit(volume, unit_grid((9, 11, 13))),
        sample_at_index(
            volume, unit_grid((9, 11, 13)) * torch.tensor([4.0, 5, 6]).view(1, 3, 1, 1, 1)
        ),
        atol=1e-6,
        rtol=0,
    )


def test_a_single_slice_can_be_left(volume):
    one = volume[:, :, :1]
    points = index_grid((1, 6, 7)).clone()
    points[:, 0] = 2.0
    assert sample_at_index(one, points, "zeros").abs().max() == 0
    torch.testing.assert_close(sample_at_index(one, points, "border"), one, atol=2e-6, rtol=0)


@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_a_batch_of_one_serves_the_other_argument(volume, mode):
    points = index_grid(SHAPE)
    assert sample_at_index(volume, points, mode=mode).shape == volume.shape
    two = sample_at_index(volume[:1], points.expand(2, -1, -1, -1, -1), mode=mode)
    assert torch.equal(two[0], two[1])


def test_gradients_with_respect_to_volume_and_displacement():
    generator = torch.Generator().manual_seed(3)
    volume = torch.rand(1, 1, 4, 4, 4, generator=generator, dtype=torch.float64)
    u_vox = torch.rand(1, 3, 4, 4, 4, generator=generator, dtype=torch.float64) * 0.8 + 0.1
    volume.requires_grad_()
    u_vox.requires_grad_()
    assert torch.autograd.gradcheck(lambda v, u: warp(v, u, "border"), (volume, u_vox))


def test_many_threads_give_the_same_values(monkeypatch):
    generator = torch.Generator().manual_seed(4)
    volume = torch.rand(1, 2, 6, 7, 8, generator=generator)
    points = torch.rand(1, 3, 41, 41, 43, generator=generator) * 9 - 1
    assert points[0, 0].numel() % 4 != 0  # the pieces do not fit exactly
    expected = sample_at_index(volume.requires_grad_(), points).detach()  # never cut
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert torch.equal(sample_at_index(volume.detach(), points), expected)
