import pytest
import torch

from autoreg.errors import GeometryError
from autoreg.losses import soft_dice
from autoreg.losses.soft_dice import soft_dice_loss
from autoreg.numerics.coordinates import unit_grid
from autoreg.numerics.warp import sample_at_unit

SHAPE = (9, 8, 7)


@pytest.fixture(params=[2**18, 70], ids=["whole", "in pieces"], autouse=True)
def _pieces(request, monkeypatch):
    monkeypatch.setattr(soft_dice, "_SLAB_VOXELS", request.param)


def label_maps(values=(0, 3, 7, 300), shape=SHAPE, seed=0):
    """Blocks of labels, not noise, so that structures overlap."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(len(values), (2, 3, 3, 3), generator=generator)
    for axis, n in enumerate(shape):
        blocks = blocks.repeat_interleave(3, 1 + axis).narrow(1 + axis, 0, n)
    moving, fixed = torch.tensor(values)[blocks]
    return moving, fixed


def moved_points(scale=0.08, seed=1, dtype=torch.float64, shape=SHAPE):
    generator = torch.Generator().manual_seed(seed)
    shift = torch.randn(1, 3, *shape, generator=generator, dtype=dtype) * scale
    return (unit_grid(shape, dtype=dtype) + shift)[0]


def by_one_hot_maps(moving, fixed, points, labels):
    """The definition as it stands, with all one-hot maps."""
    overlaps = []
    for label in labels:
        f = (fixed == label).to(points.dtype)
        m = (moving == label).to(points.dtype)
        w = sample_at_unit(m[None, None], points[None], "zeros")[0, 0]
        if f.any() or m.any():
            overlaps.append(2 * (w * f).sum() / (w.sum() + f.sum()))
    return 1 - torch.stack(overlaps).mean()


@pytest.mark.parametrize("labels", [(3, 7, 300), (7,), (3, 5, 300), (0, 3)])
def test_value_and_gradient_are_those_of_one_hot_maps(labels):
    moving, fixed = label_maps()
    points = moved_points().requires_grad_()
    loss = soft_dice_loss(moving, fixed, points, labels)
    expected = by_one_hot_maps(moving, fixed, points, labels)
    assert 0.1 < expected.item() < 0.95
    torch.testing.assert_close(loss, expected)
    (gradient,), (expected,) = (torch.autograd.grad(v, points) for v in (loss, expected))
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(gradient, expected)


def test_the_gradient_is_that_of_finite_differences():
    moving, fixed = label_maps(shape=(4, 3, 5))
    points = moved_points(shape=(4, 3, 5)).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda p: soft_dice_loss(moving, fixed, p, (3, 7)), points, eps=1e-7, atol=1e-6
    )


def test_without_a_list_every_value_but_0_counts():
    moving, fixed = label_maps()
    points = moved_points()
    assert soft_dice_loss(moving, fixed, points) == soft_dice_loss(
        moving, fixed, points, (3, 7, 300)
    )
    for kind in (torch.uint8, torch.int16):
        small = (one.clamp(max=9).to(kind) for one in (moving, fixed))
        by_kind = soft_dice_loss(*small, points)
        assert by_kind == soft_dice_loss(moving.clamp(max=9), fixed.clamp(max=9), points)


def test_equal_maps_have_loss_0_and_disjoint_ones_1():
    moving, _ = label_maps()
    identity = unit_grid(SHAPE)[0]
    assert soft_dice_loss(moving, moving, identity).item() == pytest.approx(0, abs=1e-5)
    other = torch.where(moving == 3, 7, torch.where(moving == 7, 3, 0))
    assert soft_dice_loss(moving, other, identity, (3, 7)).item() == 1


def test_a_structure_in_one_map_alone_counts_as_lost():
    moving, fixed = label_maps()
    points = moved_points()
    without = torch.where(moving == 300, 0, moving)
    # Weighted by structures: two as before, the third without overlap.
    two = soft_dice_loss(moving, fixed, points, (3, 7))
    torch.testing.assert_close(
        soft_dice_loss(without, fixed, points, (3, 7, 300)), (2 * two + 1) / 3
    )
    absent = soft_dice_loss(without, torch.zeros_like(fixed), points, (300,))
    assert absent == 0


def test_nothing_comes_from_outside_the_grid():
    moving = torch.full(SHAPE, 3)
    far = (unit_grid(SHAPE, dtype=torch.float64) + 5)[0].requires_grad_()
    loss = soft_dice_loss(moving, moving, far)
    assert loss.item() == 1
    loss.backward()
    assert torch.equal(far.grad, torch.zeros_like(far))


def test_points_of_another_grid_are_refused():
    moving, fixed = label_maps()
    with pytest.raises(GeometryError, match=r"\(3, 9, 8, 7\) were expected .*found \(3, 9, 8, 6\)"):
        soft_dice_loss(moving, fixed, moved_points()[..., :6])
