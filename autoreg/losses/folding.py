"""Folds of a displacement as a loss."""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from autoreg.numerics.coordinates import slabs
from autoreg.numerics.tetrahedra import tetrahedron_determinants

# Voxels per slab: its graph of ten determinants takes some 200 MB and is built anew in the
# backward pass, instead of gigabytes for a whole volume.
_SLAB_VOXELS = 2**19


def folded_volume(u_vox: Tensor) -> Tensor:
    """Non-diffeomorphic volume: that of the folded tetrahedra, averaged over two triangulations.

    V = sum over the voxels off the border of 1/12 sum over ten determinants J of max(-J, 0); see
    `tetrahedron_determinants`. It has a gradient where something folds, and is 0 elsewhere.

    Args:
        u_vox: (B, 3, D, H, W), voxels.

    Returns:
        Scalar, voxels: the mean over the batch. 0 where an axis is shorter than 3.

    References:
        Liu et al., On Finite Difference Jacobian Computation in Deformable Image Registration,
        IJCV 2024.
    """
    batch, _, *shape = u_vox.shape
    if min(shape) < 3:
        return u_vox[:, :, :0].sum()
    volumes = [
        checkpoint(
            _folded_volume,
            u_vox[:, :, layers.start : layers.stop + 2],
            use_reentrant=False,
            preserve_rng_state=False,
        )
        for layers in slabs((shape[0] - 2, *shape[1:]), _SLAB_VOXELS)
    ]
    return torch.stack(volumes).sum() / batch


def _folded_volume(u_vox: Tensor) -> Tensor:
    return torch.stack([(-j).relu().sum() for _, j in tetrahedron_determinants(u_vox)]).sum() / 12
