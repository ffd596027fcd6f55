"""A quick proof that a displacement does not fold."""

from torch import Tensor
from torch.nn import functional

from autoreg.numerics.coordinates import slabs
from autoreg.numerics.tetrahedra import tetrahedron_determinants

# Small enough for a processor's cache.
_SCAN_NODES = 2**16
# Above what rounding to float32 changes of a determinant.
_SURELY_POSITIVE = 1e-3


def surely_unfolded(u_vox: Tensor) -> bool:
    """Whether all ten determinants are clearly positive at every node, looked at in float32.

    The grid is continued by its edge values, so that what `folded_cells` and the non-diffeomorphic
    volume look at is among them: where this is true both are 0, at a quarter of their time. False
    says nothing.

    Args:
        u_vox: (1, 3, D, H, W).
    """
    padded = functional.pad(u_vox.float(), [1] * 6, mode="replicate")[0]
    for layers in slabs((u_vox.shape[2], *padded.shape[2:]), _SCAN_NODES):
        piece = padded[:, layers.start : layers.stop + 2]
        for _, determinant in tetrahedron_determinants(piece):
            # Not `<=`: a number that is none proves nothing.
            if not float(determinant.min()) > _SURELY_POSITIVE:
                return False
    return True
