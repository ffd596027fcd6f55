"""Resampling onto another grid."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional

from autoreg.numerics import resample as module
from autoreg.numerics.coordinates import slabs
from autoreg.numerics.resample import antialias_sigmas_vox, gaussian_blur, resample


def _box_on_box(shape_in, shape_out):
    ratio = np.array(shape_in) / np.array(shape_out)
    matrix = np.diag([*ratio, 1.0])
    matrix[:3, 3] = (ratio - 1) / 2
    return matrix


@pytest.fixture
def volume():
    return torch.rand(2, 2, 9, 10, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(18, 20, 24), (5, 5, 4), (7, 13, 12), (1, 3, 30)])
def test_box_on_box_equals_torch_interpolate(volume, shape):
    ours = resample(volume, shape, _box_on_box(volume.shape[2:], shape))
    theirs = functional.interpolate(volume, size=shape, mode="trilinear", align_corners=False)
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=0)


def test_identity_matrix_copies(volume):
    torch.testing.assert_close(resample(volume, (9, 10, 12), np.eye(4)), volume, atol=2e-6, rtol=0)


def test_rotation_equals_scipy(volume):
    angle = 0.3
    matrix = np.eye(4)
    matrix[1:3, 1:3] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    matrix[:3, 3] = [0.3, 1.0, -2.0]
    ours = resample(volume.double(), (8, 9, 10), matrix)
    theirs = ndimage.affine_transform(
        volume[1, 0].double().numpy(), matrix, output_shape=(8, 9, 10), order=1, mode="nearest"
    )
    np.testing.assert_allclose(ours[1, 0].numpy(), theirs, atol=1e-9)


def test_labels_stay_integers():
    labels = torch.randint(0, 30000, (1, 1, 5, 6, 7), generator=torch.Generator().manual_seed(1))
    out = resample(labels, (10, 12, 14), _box_on_box((5, 6, 7), (10, 12, 14)), mode="nearest")
    assert out.dtype == labels.dtype
    expected = labels.repeat_interleave(2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)
    assert torch.equal(out, expected)


def test_zeros_are_zero_outside(volume):
    matrix = np.eye(4)
    matrix[0, 3] = 20
    assert resample(volume, (3, 10, 12), matrix, "zeros").abs().max() == 0


@pytest.mark.parametrize("voxels", [1, 500])
def test_slabs_change_nothing(volume, monkeypatch, voxels):
    matrix = _box_on_box((9, 10, 12), (11, 8, 9))
    whole = resample(volume, (11, 8, 9), matrix)
    monkeypatch.setattr(module, "slabs", lambda shape: slabs(shape, voxels))
    assert torch.equal(resample(volume, (11, 8, 9), matrix), whole)


def test_blur_equals_scipy(volume):
    ours = gaussian_blur(volume.double(), (1.3, 0.0, 0.7))
    theirs = ndimage.gaussian_filter(
        volume[1, 1].double().numpy(), (1.3, 0, 0.7), mode="nearest", truncate=4
    )
    np.testing.assert_allclose(ours[1, 1].numpy(), theirs, atol=1e-9)


def test_antialiasing_acts_only_on_undersampled_axes():
    sigmas = antialias_sigmas_vox(np.diag([3.0, 1.0, 0.5, 1.0]))
    assert sigmas == pytest.approx((math.sqrt(8) / 2.3548, 0, 0), rel=1e-4)
    # Turned by 90 degrees the coarse output axis runs along another input axis.
    turned = np.array([[0.0, 1, 0, 0], [3, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    assert antialias_sigmas_vox(turned) == pytest.approx((0, math.sqrt(8) / 2.3548, 0), rel=1e-4)


def test_antialiasing_removes_what_the_coarse_grid_cannot_hold():
    pattern = torch.zeros(1, 1, 32, 4, 4)
    pattern[:, :, ::2] = 1.0
    matrix = np.diag([4.0, 1, 1, 1])
    assert resample(pattern, (8, 4, 4), matrix).std() == 0  # samples only ones: an alias
    assert resample(pattern, (8, 4, 4), matrix).mean() == 1
    smooth = resample(pattern, (8, 4, 4), matrix, antialias=True)[:, :, 2:-2]
    torch.testing.assert_close(smooth, torch.full_like(smooth, 0.5), atol=0.02, rtol=0)
