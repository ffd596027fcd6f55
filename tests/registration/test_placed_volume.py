"""Volumes at known positions, looked at through a displacement; scipy is the judge."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from autoreg.registration import placed_volume
from autoreg.registration.placed_volume import PlacedVolume, slabs_of, support

# Positions in mm to indices of the samples: turned, stretched and shifted.
INDEX_OF_MM = np.array([[0.45, 0.1, -0.05, 2.0], [-0.1, 0.5, 0.02, 3.0], [0.05, 0.0, 0.6, 1.5]])
POINTS = [9, 8, 7]


def interpolation(points, nodes):
    """(points, nodes): linear between nodes that cover the points from end to end."""
    where = np.linspace(0, nodes - 1, points)
    return torch.from_numpy(np.maximum(0, 1 - np.abs(where[:, None] - np.arange(nodes))))


@pytest.fixture
def example():
    random = np.random.default_rng(0)
    volume = torch.from_numpy(random.random((1, 2, 12, 11, 10)))
    field = torch.from_numpy(random.normal(size=(3, 4, 3, 5)))
    matrices = [interpolation(n, k) for n, k in zip(POINTS, field.shape[1:], strict=True)]
    positions = [2.3 * np.arange(n) - 2 for n in POINTS]
    return PlacedVolume(volume, INDEX_OF_MM), field, matrices, positions


def expected(volume, field, matrices, positions, mode):
    """The same by interpolating everything at each point."""
    dense = np.einsum("cdhw,id,jh,kw->cijk", field.numpy(), *(m.numpy() for m in matrices))
    nodes = np.stack(np.meshgrid(*positions, indexing="ij"))
    points = (nodes + dense).reshape(3, -1)
    index = INDEX_OF_MM[:, :3] @ points + INDEX_OF_MM[:, 3:]
    values = [
        ndimage.map_coordinates(channel, index, order=1, mode=mode) for channel in volume[0].numpy()
    ]
    return np.stack(values).reshape(2, *POINTS), index.reshape(3, *POINTS)


@pytest.mark.parametrize("slab_points", [2**18, 100])
def test_the_values_are_those_at_the_moved_points(example, monkeypatch, slab_points):
    monkeypatch.setattr(placed_volume, "_SLAB_POINTS", slab_points)
    placed, field, matrices, positions = example
    found = placed.displaced(field, matrices, positions, "border")
    truth, index = expected(placed.volume, field, matrices, positions, "nearest")
    size = np.array(placed.volume.shape[2:])[:, None, None, None]
    inside = ((index > 0) & (index < size - 1)).all(0)
    assert 0.3 < inside.mean() < 1
    np.testing.assert_allclose(found.numpy(), truth, atol=1e-9)


def test_beyond_the_volume_zeros_or_its_border(example):
    placed, field, matrices, positions = example
    far = [p + 100 for p in positions]
    assert not placed.displaced(field, matrices, far, "zeros").any()
    ends = placed.displaced(field, matrices, far, "border")
    corner = placed.volume[0, :, -1, -1, -1].view(2, 1, 1, 1)
    np.testing.assert_allclose(ends.numpy(), corner.expand_as(ends).numpy(), atol=1e-9)


def test_slabs_cover_the_grid_once():
    for shape in ((7, 5, 5), (1, 40, 40), (64, 512, 512), (65, 300, 300)):
        layers = [n for part in slabs_of(shape, torch.device("cpu")) for n in range(shape[0])[part]]
        assert layers == list(range(shape[0]))
    assert len(slabs_of((64, 512, 512), torch.device("cpu"))) == 32


def test_the_support_is_what_is_not_zero():
    matrix = torch.zeros(4, 9)
    matrix[0, 3], matrix[2, 6] = 1.0, -2.0
    assert support(matrix) == slice(3, 7)
    assert support(matrix[:1]) == slice(3, 4)
