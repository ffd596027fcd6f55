"""Folds are removed, by determinants that this file forms itself, and nothing else is touched."""

import itertools

import numpy as np
import pytest
import torch
from steep_splines import steep_field, worst_signs

from autoreg.evaluation.fields import ndv
from autoreg.numerics import unfold as module
from autoreg.numerics.coordinates import index_grid
from autoreg.numerics.folding import folded_cells
from autoreg.numerics.unfold import Sampling, folded_nodes, unfold
from autoreg.numerics.warp import sample_at_index

SHAPE = (26, 28, 30)
CORNERS = [np.diag(signs) for signs in itertools.product((-1, 1), repeat=3)]
STARS = [np.array([[1, 1, 0], [0, 1, 1], [1, 0, 1]]) * sign for sign in (-1, 1)]


def determinants(points):
    """The ten determinants at all inner nodes of mapped points (3, D, H, W), 1 for the identity."""
    points = np.asarray(points, dtype=np.float64)
    inner = points[:, 1:-1, 1:-1, 1:-1]
    found = []
    for offsets in (*CORNERS, *STARS):
        edges = []
        for offset in offsets:
            where = [slice(1 + o, n - 1 + o) for o, n in zip(offset, points.shape[1:], strict=True)]
            edges.append(points[(slice(None), *where)] - inner)
        matrices = np.moveaxis(np.stack(edges), (0, 1), (-2, -1))
        found.append(np.linalg.det(matrices) / np.linalg.det(offsets))
    return np.stack(found)


def mapped(u_vox):
    """Where a displacement (1, 3, D, H, W) takes the nodes, with a layer of held values around."""
    held = np.pad(u_vox[0].double().numpy(), [(0, 0), (1, 1), (1, 1), (1, 1)], mode="edge")
    return held + np.indices(held.shape[1:])


def folded_at(u_vox):
    return np.argwhere((determinants(mapped(u_vox)) <= 0).any(axis=0))


def waves(seed, shape=SHAPE, amplitude=1.0):
    """A smooth displacement that is far from folding."""
    generator = torch.Generator().manual_seed(seed)
    phases = torch.rand(3, 3, 1, 1, 1, generator=generator) * 6
    grid = index_grid(shape)[0]
    return amplitude * torch.sin(grid[None] / 4 + phases).prod(dim=1)[None]


def dented(seed, depth=1.6):
    """Waves in which two nodes are pushed past their neighbours."""
    u_vox = waves(seed)
    u_vox[0, seed % 3, 6, 8, 7] += depth
    u_vox[0, (seed + 1) % 3, 19, 18, 22] -= depth
    return u_vox


def too_steep():
    """A B-spline whose control points exceed the bound: one place folds in the middle."""
    u_vox = steep_field(worst_signs((6, 6, 6))[0], 6, share=1.005)
    return u_vox.float()


def at_the_border():
    u_vox = waves(3)
    u_vox[0, 1, 0, 9, 0] += 1.7
    return u_vox


def flat():
    """A two-dimensional image has one layer and no displacement out of it."""
    u_vox = waves(4, (1, 24, 26))
    u_vox[:, 0] = 0
    u_vox[0, 2, 0, 12, 12] += 1.8
    return u_vox


@pytest.mark.parametrize(
    "u_vox", [dented(0), dented(1, 4.0), dented(2), too_steep(), at_the_border(), flat()]
)
def test_isolated_folds_are_removed_and_only_their_surroundings_change(u_vox):
    given, folds = u_vox.clone(), folded_at(u_vox)
    assert 0 < len(folds) <= 27
    repaired, done = unfold(u_vox)
    assert done.outcome == "repaired"
    assert done.folded_nodes == len(folds)
    assert torch.equal(u_vox, given)  # the input is not written to

    assert determinants(mapped(repaired)).min() > 0.0099
    assert len(folded_cells(repaired).lower_vox) == 0
    assert ndv(repaired[0]).folded_tetrahedra == 0

    change = (repaired - given)[0].square().sum(0).sqrt().numpy()
    changed = np.argwhere(change > 0)
    distance = np.abs(changed[:, None] - folds[None]).max(axis=2).min(axis=1)
    assert distance.max() <= 3
    assert done.changed_nodes == len(changed) < 20 * len(folds)
    assert done.largest_vox == pytest.approx(change.max())
    assert done.mean_vox == pytest.approx(change[change > 0].mean())


def test_a_shallow_fold_is_moved_less_than_a_deep_one():
    largest = [unfold(dented(0, depth))[1].largest_vox for depth in (1.6, 2.5, 4.0)]
    assert largest == sorted(largest)
    assert largest[0] < 0.7 * 1.6


@pytest.mark.parametrize(
    "u_vox", [waves(0), torch.zeros(1, 3, 5, 4, 3), torch.zeros(1, 3, 1, 1, 1)]
)
def test_what_does_not_fold_comes_back_as_it_is(u_vox):
    repaired, done = unfold(u_vox)
    assert repaired is u_vox
    assert (done.outcome, done.folded_nodes, done.changed_nodes, done.rounds) == ("clean", 0, 0, 0)


def test_a_field_that_folds_in_many_places_is_left_alone():
    u_vox = waves(0)
    u_vox[0, 2] += 0.8 * (-1.0) ** torch.arange(SHAPE[2])
    given = u_vox.clone()
    repaired, done = unfold(u_vox)
    assert repaired is u_vox
    assert torch.equal(u_vox, given)
    assert (done.outcome, done.changed_nodes) == ("too_many", 0)
    assert done.folded_nodes > 1e-3 * u_vox[0, 0].numel()


def test_a_fold_that_resists_is_left_as_it_was(monkeypatch):
    monkeypatch.setattr(module, "_ROUNDS", 1)
    u_vox = dented(1, 8.0)
    given = u_vox.clone()
    repaired, done = unfold(u_vox)
    assert repaired is u_vox
    assert torch.equal(u_vox, given)
    assert (done.outcome, done.rounds) == ("persistent", 1)


def grid_of(spacing, degrees=0.0, *, shift):
    """A grid inside SHAPE: 4x4 to the field's indices, and its nodes along each axis."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    matrix = np.eye(4)
    matrix[:3, :3] = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ np.diag(spacing)
    matrix[:3, 3] = shift
    shape = tuple(int((n - 4) / p) for n, p in zip(SHAPE, spacing, strict=True))
    return torch.from_numpy(matrix), shape


def samples(u_vox, matrix, shape):
    """The displacement (1, 3, *shape) at a grid, in indices of that grid."""
    nodes = index_grid(shape, dtype=torch.float64)[0].flatten(1)
    points = matrix[:3, :3] @ nodes + matrix[:3, 3:]
    values = sample_at_index(u_vox.double(), points[None, :, None, None])[0, :, 0, 0]
    return (torch.linalg.inv(matrix[:3, :3]) @ values).reshape(1, 3, *shape)


def swirl():
    """A turn by up to 140 degrees: its own grid resolves it, a grid three times coarser folds."""
    d, h, w = index_grid(SHAPE)[0] - torch.tensor([13.0, 13, 15]).view(3, 1, 1, 1)
    angle = 2.5 * torch.exp(-(d**2 + h**2 + w**2) / (2 * 4.5**2))
    u_vox = torch.zeros(1, 3, *SHAPE)
    u_vox[0, 1] = h * angle.cos() - w * angle.sin() - h
    u_vox[0, 2] = h * angle.sin() + w * angle.cos() - w
    return u_vox


@pytest.mark.parametrize(
    ("u_vox", "spacing", "degrees", "most_changed"),
    [
        (dented(1, 4.0), (1, 1, 1), 0, 50),
        (dented(1, 4.0), (1, 1, 1), 25, 150),
        (dented(1, 4.0), (-1, 1, 1), 0, 50),
        (dented(1, 4.0), (0.5, 0.5, 0.5), 10, 50),
        (swirl(), (1, 2, 2), 0, 500),
        (swirl(), (1, -3, 1), 0, 1500),
        (swirl(), (3, 3, 3), 0, 2500),
    ],
)
def test_folds_of_samples_on_another_grid_are_removed(u_vox, spacing, degrees, most_changed):
    matrix, shape = grid_of(np.abs(spacing), degrees, shift=1)
    for axis in np.flatnonzero(np.array(spacing) < 0):  # a grid that runs the other way
        matrix[axis, 3] += matrix[axis, axis] * (shape[axis] - 1)
        matrix[axis, axis] *= -1
    folds = folded_nodes(samples(u_vox, matrix, shape))
    assert len(folds) > 0
    repaired, done = unfold(u_vox, [Sampling(shape, matrix, folds)])
    assert done.outcome == "repaired"
    assert done.folded_nodes == len(folds) + len(folded_nodes(u_vox))
    assert determinants(mapped(repaired)).min() > 0.0099
    found = samples(repaired, matrix, shape)[0].numpy() + np.indices(shape)
    assert determinants(found).min() > 0.0099
    assert done.changed_nodes == (repaired != u_vox).any(1).sum() < most_changed


def test_changes_fall_off_towards_the_edge_of_the_neighbourhood():
    """One node of a grid six times coarser is said to fold: its surroundings are smoothed once."""
    noise = torch.rand(1, 3, *SHAPE, generator=torch.Generator().manual_seed(0)) * 0.01
    matrix = torch.diag(torch.tensor([6.0, 6, 6, 1], dtype=torch.float64))
    repaired, done = unfold(noise, [Sampling((4, 4, 4), matrix, torch.tensor([[2, 2, 2]]))])
    assert (done.outcome, done.rounds) == ("repaired", 1)
    change = (repaired - noise)[0].square().sum(0).sqrt()
    distance = (index_grid(SHAPE)[0] - 12).abs().amax(0)
    assert (change[distance > 5] == 0).all()
    mean = [float(change[distance == d].mean()) for d in (1, 3, 5)]
    assert mean[0] > 1.5 * mean[1] > 3 * mean[2] > 0


def test_samples_that_fold_in_many_places_are_left_alone():
    matrix, shape = grid_of((1, 3, 3), shift=1)
    folds = folded_nodes(samples(swirl(), matrix, shape))
    u_vox = swirl()
    repaired, done = unfold(u_vox, [Sampling(shape, matrix, folds)])
    assert repaired is u_vox
    assert done.outcome == "too_many"


def test_folded_nodes_are_those_of_independent_determinants():
    u_vox = dented(2, 3.0)
    assert np.array_equal(folded_nodes(u_vox).numpy(), folded_at(u_vox))


def test_slabs_find_the_same_nodes(monkeypatch):
    whole = folded_nodes(dented(2))
    monkeypatch.setattr(module, "_SCAN_NODES", 1)
    assert torch.equal(folded_nodes(dented(2)), whole)
