import pytest
import torch

from autoreg.losses.landmarks import landmark_distance
from autoreg.numerics.coordinates import index_to_unit_displacement
from autoreg.numerics.maps import FieldChain

SHAPE = (9, 8, 7)
SPACING = (3.0, 1.0, 2.0)


def constant_map(shift_vox, dtype=torch.float64):
    field = torch.tensor(shift_vox, dtype=dtype).view(1, 3, 1, 1, 1).expand(1, 3, *SHAPE)
    return FieldChain((index_to_unit_displacement(field, SHAPE),))


def landmarks(count=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 2 + 3 * torch.rand(count, 3, generator=generator, dtype=torch.float64)


def test_the_distance_is_in_millimetres_of_the_other_grid():
    start = landmarks()
    gap = torch.tensor([1.0, -2.0, 0.25], dtype=torch.float64)
    loss = landmark_distance(constant_map((0.5, 0, 0)), start, start + gap, SPACING, SHAPE)
    expected = ((0.5 * 3) ** 2 + 2**2 + (0.25 * 2) ** 2) ** 0.5
    assert loss.item() == pytest.approx(expected, abs=0.011)
    there = landmark_distance(constant_map((1, -2, 0.25)), start, start + gap, SPACING, SHAPE)
    assert there.item() == pytest.approx(0, abs=1e-9)


def test_the_gradient_is_that_of_finite_differences_and_0_at_no_distance():
    generator = torch.Generator().manual_seed(2)
    field = 0.02 * torch.randn(1, 3, *SHAPE, generator=generator, dtype=torch.float64)
    start, end = landmarks(), landmarks(seed=1)

    def loss(field):
        return landmark_distance(FieldChain((field,)), start, end, SPACING, SHAPE)

    assert torch.autograd.gradcheck(loss, field.requires_grad_())
    nothing = torch.zeros(1, 3, *SHAPE, dtype=torch.float64, requires_grad=True)
    landmark_distance(FieldChain((nothing,)), start, start, SPACING, SHAPE).backward()
    assert nothing.grad.abs().max() < 1e-9


def test_landmarks_outside_of_either_grid_are_left_out():
    start, end = landmarks(4), landmarks(4, seed=1)
    expected = landmark_distance(constant_map((0, 0, 0)), start[:2], end[:2], SPACING, SHAPE)
    start[2, 0], end[3, 2] = -0.1, 6.1
    phi = constant_map((0, 0, 0))
    assert landmark_distance(phi, start, end, SPACING, SHAPE) == expected
    assert landmark_distance(phi, start[2:], end[2:], SPACING, SHAPE) == 0


def test_a_grid_of_one_layer_can_be_measured():
    phi = FieldChain((torch.zeros(1, 3, 1, 8, 7),))
    start = torch.tensor([[0.0, 3.0, 2.0]])
    loss = landmark_distance(phi, start, start + torch.tensor([0.0, 2.0, 0.0]), SPACING, (1, 8, 7))
    assert loss.item() == pytest.approx(2, abs=0.011)
