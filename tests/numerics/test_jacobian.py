"""The Jacobian determinant."""

import numpy as np
import pytest
import torch

from autoreg.numerics import jacobian
from autoreg.numerics.coordinates import index_grid, slabs
from autoreg.numerics.jacobian import jacobian_determinant


def test_zero_field_has_determinant_one():
    assert torch.equal(jacobian_determinant(torch.zeros(2, 3, 4, 5, 6)), torch.ones(2, 4, 5, 6))


def test_linear_field_has_the_determinant_of_its_matrix_everywhere():
    matrix = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u_vox = torch.einsum("ab,zbdhw->zadhw", matrix, index_grid((4, 5, 6), dtype=torch.float64))
    expected = torch.linalg.det(torch.eye(3, dtype=torch.float64) + matrix)
    torch.testing.assert_close(
        jacobian_determinant(u_vox), expected.expand(1, 4, 5, 6), atol=1e-9, rtol=0
    )


def test_equals_numpy_differences(smooth_field):
    u_vox = smooth_field((7, 8, 9), 2.0)
    slopes = np.stack([np.stack(np.gradient(c)) for c in u_vox[0].double().numpy()])
    matrices = np.moveaxis(slopes, (0, 1), (-2, -1)) + np.eye(3)
    np.testing.assert_allclose(
        jacobian_determinant(u_vox)[0].numpy(), np.linalg.det(matrices), atol=1e-4
    )


def test_a_reflection_is_negative_and_an_axis_of_one_voxel_is_flat():
    u_vox = torch.zeros(1, 3, 1, 5, 5)
    u_vox[:, 1] = -2 * index_grid((1, 5, 5))[:, 1]
    assert torch.equal(jacobian_determinant(u_vox), -torch.ones(1, 1, 5, 5))


@pytest.mark.parametrize("voxels", [1, 100, 200])
def test_slabs_change_nothing(smooth_field, monkeypatch, voxels):
    u_vox = smooth_field((7, 8, 9), 2.0)
    whole = jacobian_determinant(u_vox)
    monkeypatch.setattr(jacobian, "slabs", lambda shape: slabs(shape, voxels))
    assert torch.equal(jacobian_determinant(u_vox), whole)


def test_gradient():
    u_vox = torch.randn(1, 3, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    u_vox = u_vox.double().requires_grad_()
    assert torch.autograd.gradcheck(jacobian_determinant, (u_vox,))
