"""Smooth fields with a known character."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from autoreg.numerics.compose import compose
from autoreg.numerics.resample import gaussian_blur


def _smooth_field(shape, amplitude_vox, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 3, 5, 5, 5, generator=generator) * amplitude_vox
    fine = functional.interpolate(coarse, size=shape, mode="trilinear", align_corners=True)
    return gaussian_blur(fine, (2.0, 2.0, 2.0))


@pytest.fixture
def smooth_field():
    """Build a smooth random displacement (1, 3, *shape) in voxels."""
    return _smooth_field


@pytest.fixture
def diffeomorphism():
    """Build a strong displacement that does not fold: the flow of a smooth velocity."""

    def build(shape, amplitude_vox, seed=0) -> Tensor:
        u_vox = _smooth_field(shape, amplitude_vox, seed) / 2**7
        for _ in range(7):
            u_vox = compose(u_vox, u_vox)
        return u_vox

    return build
