"""A volume whose samples lie at known positions, looked at through a displacement."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autoreg.numerics.coordinates import sample_prepared, sampler_terms
from autoreg.numerics.warp import Padding

# Per axis (d, h, w), millimetres.
Positions = list[npt.NDArray[np.float64]]

# Points of a slab: on a CPU its dozen of intermediate fields fit into the processor's cache; on a
# GPU, where each slab costs waiting, they fit into some gigabytes.
_SLAB_POINTS, _SLAB_POINTS_GPU = 2**18, 2**24


@dataclass(frozen=True, eq=False)
class PlacedVolume:
    """Samples of an image, and where they lie.

    Attributes:
        volume: (1, C, d, h, w).
        index_of_mm: (3, 4) float64, from positions (d, h, w) in mm to index coordinates of the
            samples.
    """

    volume: Tensor
    index_of_mm: npt.NDArray[np.float64]

    def displaced(
        self, field: Tensor, matrices: list[Tensor], positions: Positions, padding: Padding
    ) -> Tensor:
        """The values at the points of a grid, each moved by a displacement.

        Args:
            field: (3, d, h, w), a displacement on some other grid, mm along the axes.
            matrices: Per axis, from that grid to the points.
            positions: Per axis, where the points lie.
            padding: Beyond the volume.

        Returns:
            (C, D, H, W).
        """
        linear, shift = self._sampler_terms()
        # In torch's coordinates before anything becomes large.
        scaled = torch.einsum("ij,jdhw->idhw", torch.from_numpy(linear).to(field), field)
        along_d, along_h, along_w = matrices
        planes = (along_h @ (scaled @ along_w.T)).permute(1, 2, 3, 0).contiguous()
        # An affine map of a grid is a sum of one vector for each axis.
        d, h, w = (
            torch.from_numpy(np.outer(p, linear[:, axis])).to(field)
            for axis, p in enumerate(positions)
        )
        still = h[:, None] + w + torch.from_numpy(shift).to(field)
        shape = tuple(len(p) for p in positions)
        result = torch.empty(self.volume.shape[1], *shape).to(field)
        for layers in slabs_of(shape, field.device):
            used = support(along_d[layers])
            rows = planes[used].flatten(1)
            points = (along_d[layers, used] @ rows).view(-1, *still.shape)
            points += still
            points += d[layers, None, None]
            result[:, layers] = sample_prepared(self.volume, points, padding)
        return result

    def _sampler_terms(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """From positions to torch's sampling coordinates (along w, h, d): (3, 3) and (3,)."""
        factors, shifts = np.array([sampler_terms(n) for n in self.volume.shape[2:]]).T
        linear = factors[:, None] * self.index_of_mm[:, :3]
        shift = factors * self.index_of_mm[:, 3] + shifts
        return linear[::-1].copy(), shift[::-1].copy()


def slabs_of(shape: tuple[int, ...], device: torch.device) -> list[slice]:
    """Layers (d) of a grid (d, h, w) to be worked on at a time; an even number of them."""
    points = _SLAB_POINTS if device.type == "cpu" else _SLAB_POINTS_GPU
    layers = max(2, points // (shape[1] * shape[2]) // 2 * 2)
    return [slice(a, min(a + layers, shape[0])) for a in range(0, shape[0], layers)]


def support(matrix: Tensor) -> slice:
    """The columns of a matrix between its first and its last one that is not 0."""
    used = torch.nonzero(matrix.abs().sum(0)).flatten()
    return slice(int(used[0]), int(used[-1]) + 1)
