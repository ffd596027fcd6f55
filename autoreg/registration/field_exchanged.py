"""What a registration with exchanged images says, seen from the fixed image.

Interpolation and noise of the one image that is warped mislead a registration a little, in the
other direction elsewhere: the mean of both directions is nearer to the truth than either.
"""

import numpy as np
import torch
from torch import Tensor

from autoreg.geometry.grid import Geometry
from autoreg.geometry.transforms import Affine, DisplacementField
from autoreg.numerics.resample import resample

# Over so many millimetres from the moving image's faces its say grows from nothing to a half.
_FADE_MM = 10.0


def mean_of_both(
    u_vox: Tensor, exchanged: DisplacementField, fixed: Geometry, initial: Affine
) -> Tensor:
    """The mean of a displacement and of what the exchanged registration says in its place.

    Args:
        u_vox: (3, D, H, W) on the fixed image's grid, in its voxels, before `initial`.
        exchanged: On the moving image's grid: from a point of the moving image that `initial`
            reaches to where it belongs (the inverse of the exchanged registration's displacement).
        fixed: The fixed image's grid.
        initial: From fixed to moving points.

    Returns:
        (3, D, H, W); beyond the moving image the given displacement.
    """
    moving = exchanged.geometry
    matrix = moving.world_to_index @ initial.matrix @ fixed.index_to_world
    values = torch.from_numpy(exchanged.u_vox)[None].to(u_vox)
    here = resample(values, fixed.shape, matrix, "border")[0]
    linear = torch.from_numpy(np.linalg.inv(matrix[:3, :3])).to(u_vox)
    other = torch.einsum("ij,jdhw->idhw", linear, here)
    share = resample(_share(moving).to(u_vox)[None, None], fixed.shape, matrix, "zeros")[0]
    return u_vox + share * (other - u_vox)


def _share(moving: Geometry) -> Tensor:
    """(D, H, W): a half inside the image, falling to 0 at its faces; thin axes have none."""
    shares = []
    for size, spacing in zip(moving.shape, moving.spacing_mm, strict=True):
        fade = min(_FADE_MM, size * spacing / 4)
        from_face = np.minimum(np.arange(size), np.arange(size)[::-1]) * spacing
        shares.append(np.clip(from_face / fade, 0, 1) if size > 1 else np.ones(1))
    d, h, w = (torch.from_numpy(s).float() for s in shares)
    return 0.5 * d[:, None, None] * h[:, None] * w
