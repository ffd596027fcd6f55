"""The affine stage of SITReg: half an affine map for each image, from the coarsest features.

Affine maps act on *centred* coordinates here: 0 in the middle of the grid, the longest side spans
[-1, 1], the other ones in proportion to their physical lengths.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoreg.errors import PlanError
from autoreg.networks.precision import widened

_PARAMETERS = 12


class AffineHead(nn.Module):
    """Twelve parameters per direction from the mean coarsest features of both images.

    The features enter as difference and sum, as in the deformation heads. Attribute names are
    those of the authors' code.

    Args:
        channels: Of the coarsest features of one image.
        chained: Whether a layer is fed by the one before. In the authors' code every hidden layer
            is fed the input, so that only the second one matters; their weights need that.
    """

    def __init__(self, channels: int, *, chained: bool) -> None:
        super().__init__()
        width = 2 * channels
        self.linears = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.final_linear = nn.Linear(width, _PARAMETERS)
        self._chained = chained

    def forward(self, features: Tensor) -> Tensor:
        """The parameters.

        Args:
            features: (2B, channels, d, h, w), those of the moving images first. Own form: the
                mean over all voxels is taken. With the authors' wiring it must be a single voxel.

        Returns:
            (2B, 12): both directions' parameters (see `affine_parts`), forward first.

        Raises:
            PlanError: for the authors' wiring with more than one voxel.
        """
        if not self._chained and features[0, 0].numel() != 1:
            raise PlanError(
                "network: the authors' affine stage reads one coarsest voxel, found "
                f"{tuple(features.shape[2:])}; the grid must be no longer than 2^(resolutions - 1)"
            )
        first, second = widened(features).flatten(2).mean(2).chunk(2)
        difference, total = first - second, first + second
        start = torch.cat(
            [torch.cat([difference, total], dim=1), torch.cat([-difference, total], dim=1)]
        )
        x = start
        for layer in self.linears:
            x = functional.relu(_each(layer, x if self._chained else start))
        return _each(self.final_linear, x)


def affine_parts(parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The affine map x -> L(x + t) of some parameters, with L = exp(S) exp(W).

    Args:
        parameters: (B, 12): three log-scales and three log-shears (01, 02, 12), which make the
            symmetric S; three rotations (01, 02, 12), above the diagonal of the skew W; t.

    Returns:
        L (B, 3, 3), its inverse (B, 3, 3), t (B, 3).
    """
    scales, shears, rotations, translation = torch.split(parameters, 3, dim=1)
    above = _above_diagonal(shears)
    symmetric = torch.diag_embed(scales) + above + above.mT
    above = _above_diagonal(rotations)
    skew = above - above.mT
    # One call for the four exponentials: it costs far more than what it computes.
    stretch, turn, shrink, back = torch.linalg.matrix_exp(
        torch.stack([symmetric, skew, -symmetric, -skew])
    )
    return stretch @ turn, back @ shrink, translation


def half_affine(parameters: Tensor) -> Tensor:
    """The half maps A = M_f M_r^-1 and A^-1 = M_r M_f^-1, as matrices on centred coordinates.

    Args:
        parameters: (2B, 12), forward first.

    Returns:
        (2B, 3, 4), those for the moving images first.
    """
    linear, inverse, translation = affine_parts(parameters)
    batch = parameters.shape[0] // 2
    other, difference = inverse.roll(batch, 0), translation - translation.roll(batch, 0)
    return torch.cat([linear @ other, linear @ difference[:, :, None]], dim=2)


def centred_to_index(matrices: Tensor, shape: Sequence[int], voxel_size: Sequence[float]) -> Tensor:
    """Affine maps on centred coordinates as maps on the index coordinates of a grid.

    Args:
        matrices: (B, 3, 4).
        shape: Of the grid.
        voxel_size: Of the grid, up to a common factor.

    Returns:
        (B, 3, 4).
    """
    longest = max(n * size for n, size in zip(shape, voxel_size, strict=True))
    scale = matrices.new_tensor([2 * size / longest for size in voxel_size])
    centre = matrices.new_tensor([(n - 1) / 2 for n in shape])
    linear = matrices[:, :, :3] * scale[None, :] / scale[:, None]
    offset = matrices[:, :, 3] / scale + centre - linear @ centre
    return torch.cat([linear, offset[:, :, None]], dim=2)


def _each(layer: nn.Module, x: Tensor) -> Tensor:
    """A linear layer, each row to the same bits whatever its place in the batch (B, channels)."""
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    return torch.baddbmm(bias, x[:, None], weight.T.expand(len(x), -1, -1))[:, 0]


def _above_diagonal(values: Tensor) -> Tensor:
    """(B, 3) values (01, 02, 12) in matrices (B, 3, 3) that are 0 elsewhere."""
    zero = torch.zeros_like(values[:, 0])
    a, b, c = values.unbind(1)
    rows = [[zero, a, b], [zero, zero, c], [zero, zero, zero]]
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
