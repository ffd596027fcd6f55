"""Sampling by rows is torch's sampling, as are its gradients."""

import pytest
import torch

from autoreg.numerics import cells
from autoreg.numerics.feature_sampling import sample_features
from autoreg.numerics.row_sampling import sample_rows, slopes_times, transposed_sampling
from autoreg.numerics.warp import sample_at_index

_SHAPES = [(5, 6, 7), (1, 5, 7), (6, 1, 7), (6, 5, 1), (1, 1, 1), (2, 2, 2)]


def _features_and_points(shape, channels=5, batch=2):
    """Random features, and random points of their grid, a fifth of them outside along each axis."""
    generator = torch.Generator().manual_seed(0)
    volume = torch.randn(batch, channels, *shape, generator=generator)
    points = torch.rand(batch, 3, 9, 8, 5, generator=generator) * 1.4 - 0.2
    return volume, points * torch.tensor(shape).view(3, 1, 1, 1)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("shape", _SHAPES)
def test_values_and_gradients_are_those_of_torch(shape, layout, monkeypatch):
    monkeypatch.setattr(cells, "POINTS", 100)  # several parts, the last one shorter
    volume, points = _features_and_points(shape)
    cotangent = torch.randn(2, 5, 9, 8, 5, generator=torch.Generator().manual_seed(1))
    found = []
    for sample, dtype in ((sample_at_index, torch.float64), (sample_features, torch.float32)):
        leaves = [volume.to(dtype).to(memory_format=layout), points.to(dtype)]
        values = sample(*[leaf.requires_grad_() for leaf in leaves])
        found.append((values, *torch.autograd.grad(values, leaves, cotangent.to(dtype))))
    for expected, result in zip(*found, strict=True):
        torch.testing.assert_close(result, expected.float(), atol=1e-4, rtol=1e-4)
    for result in found[1][:2]:
        assert result.is_contiguous(memory_format=torch.channels_last_3d)


def test_other_types_are_sampled_by_torch():
    volume, points = (tensor.double() for tensor in _features_and_points((5, 6, 7)))
    expected = sample_at_index(volume, points)
    assert torch.equal(sample_features(volume, points), expected)


def test_gradients_are_computed_for_what_needs_them():
    volume, points = _features_and_points((5, 6, 7))
    for leaf, other in ((volume, points), (points, volume)):
        leaf.requires_grad_()
        sample_features(volume, points).sum().backward()
        assert leaf.grad is not None
        assert other.grad is None
        leaf.requires_grad_(False)
        leaf.grad = None


def test_points_far_apart_and_without_number():
    volume = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    points = torch.tensor([[1e9, -1e9, torch.nan], [3.0, -5.0, 1.0], [torch.inf, 0.0, 2.0]])
    values = torch.empty(3, 2)
    sample_rows(volume, points, values)
    torch.testing.assert_close(values[0], volume[:, 3, 3, 3])
    torch.testing.assert_close(values[1], volume[:, 0, 0, 0])
    assert values[2].isnan().all()
    sums = transposed_sampling(torch.ones(2, 1), points[:, :2].contiguous(), (4, 4, 4))
    assert sums.view(-1).nonzero().flatten().tolist() == [0, 63]
    assert (
        float(slopes_times(torch.ones(2, 2), volume, points[:, :2].contiguous()).abs().max()) == 0
    )
