"""Inputs and weights whose results in the published uniGradICON stand as literals in the tests.

Everything is drawn from NumPy's legacy Mersenne Twister stream, which NumPy has frozen, so that
the tests need no stored arrays. Volumes are (1, 1, D, H, W) float32 in [0, 1].
"""

import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def volume(seed: int, shape: tuple[int, int, int]) -> Tensor:
    """Eight Gaussian blobs and two hard-edged balls in unit coordinates, with 2 % noise."""
    random = np.random.RandomState(seed)
    axes = np.meshgrid(*(np.linspace(0.0, 1.0, n) for n in shape), indexing="ij")

    def squared_distance(centre):
        return sum((axis - c) ** 2 for axis, c in zip(axes, centre, strict=True))

    image = np.zeros(shape)
    for _ in range(8):
        centre = random.uniform(0.2, 0.8, 3)
        width, amplitude = random.uniform(0.06, 0.18), random.uniform(0.2, 1.0)
        image += amplitude * np.exp(-squared_distance(centre) / (2 * width * width))
    for _ in range(2):
        centre = random.uniform(0.3, 0.7, 3)
        radius, amplitude = random.uniform(0.1, 0.2), random.uniform(0.3, 0.8)
        image += amplitude * (squared_distance(centre) < radius * radius)
    image = np.maximum(image + 0.02 * random.standard_normal(shape), 0)
    return torch.from_numpy((image / image.max()).astype(np.float32))[None, None]


def noise(seed: int, shape: tuple[int, int, int]) -> Tensor:
    """Standard normal noise (1, 3, D, H, W), the draw behind GradICON's random points."""
    random = np.random.RandomState(seed)
    return torch.from_numpy(random.standard_normal((1, 3, *shape)).astype(np.float32))


def keyed_state_dict(template: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the names and shapes in `template`, each tensor drawn from its own name."""
    return {key: _keyed_tensor(key, tuple(t.shape)) for key, t in template.items()}


def _keyed_tensor(key: str, shape: tuple[int, ...]) -> Tensor:
    if key.endswith("num_batches_tracked"):
        return torch.tensor(0, dtype=torch.int64)
    seed = zlib.crc32(key.encode("ascii")) & 0xFFFFFFFF
    draw = np.random.RandomState(seed).standard_normal(shape)
    return torch.from_numpy(np.ascontiguousarray(_scaled(key, draw), dtype=np.float32))


def _scaled(key: str, draw: np.ndarray) -> np.ndarray:
    if key.endswith("running_mean"):
        return 0.1 * draw
    if key.endswith("running_var"):
        return np.exp(0.2 * draw)
    if "batchNorms" in key:
        return float(key.endswith("weight")) + 0.1 * draw
    if key.endswith("lastConv.weight"):
        return 0.006 * draw
    if key.endswith("bias"):
        return (0.15 if key.endswith("lastConv.bias") else 0.05) * draw
    if "upConvs" in key:  # (in, out, 4, 4, 4), stride 2: eight taps reach each output voxel
        return draw / np.sqrt(8.0 * draw.shape[0])
    return draw / np.sqrt(27.0 * draw.shape[1])  # (out, in, 3, 3, 3)
