"""Small TransMorph networks with weights drawn from their names, and smooth pairs of images.

The results of the published code for these weights and images stand as literals in the tests.
Everything is drawn from NumPy's legacy stream, which NumPy has frozen.
"""

import zlib

import numpy as np
import torch

from autoreg.network_plan import TransMorphPlan
from autoreg.networks.factory import build_network

STAGES = {
    "full": ((2, 2, 4, 2), (4, 4, 8, 8)),
    "half": ((2, 2, 4, 2), (4, 4, 8, 8)),
    "time_varying": ((2, 2, 3), (8, 8, 8)),
}


def transmorph_plan(variant="full", window=(3, 4, 5), embedding=24, **changes):
    depths, heads = STAGES[variant]
    steps = {"time_steps": 3} if variant == "time_varying" else {}
    values = {"depths": depths, "heads": heads, "drop_path": 0.3, **steps, **changes}
    return TransMorphPlan(variant=variant, embedding=embedding, window=window, **values)


def tiny_plan(variant="full", **changes):
    """Two blocks per stage (one is shifted), few channels."""
    stages = 3 if variant == "time_varying" else 4
    values = {"depths": (2,) * stages, "heads": (2,) * stages, "window": (2, 2, 3), **changes}
    steps = {"time_steps": 2} if variant == "time_varying" else {}
    return transmorph_plan(variant, embedding=8, **{**steps, **values})


def displacing_network(plan, channels=1):
    """A network that displaces by voxels, in eval mode."""
    network = build_network(plan, channels)
    network.load_state_dict(keyed_weights(network.state_dict()))
    return network.eval()


def keyed_weights(template):
    return {key: _keyed(key, value) for key, value in template.items()}


def _keyed(key, template):
    if not template.is_floating_point():
        return template.clone()
    shape = tuple(template.shape)
    draw = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "relative_position_bias_table":
        values = 0.5 * draw
    elif leaf == "running_var":
        values = np.exp(0.1 * draw)
    elif leaf == "weight" and len(shape) == 1:
        values = 1 + 0.1 * draw
    elif leaf == "weight":
        values = draw / np.sqrt(np.prod(shape[1:]))
    else:
        values = 0.1 * draw
    return torch.from_numpy(np.asarray(values, np.float32)).to(template.dtype)


def blobs(shape, seed=7, count=14):
    """Moving and fixed image: the same blobs, displaced by up to a twentieth of the axis."""
    random = np.random.RandomState(seed)
    centre = random.uniform(0.15, 0.85, (count, 3))
    width = random.uniform(0.05, 0.16, count)
    amplitude = random.uniform(0.3, 1.0, count)
    moved = random.uniform(-0.05, 0.05, (count, 3))
    widened = random.uniform(0.9, 1.1, count)
    axes = [(np.arange(n) + 0.5) / n for n in shape]

    def draw(centres, widths):
        volume = np.zeros(shape)
        for place, sigma, height in zip(centres, widths, amplitude, strict=True):
            d, h, w = (
                np.exp(-0.5 * ((axis - c) / sigma) ** 2)
                for axis, c in zip(axes, place, strict=True)
            )
            volume += height * d[:, None, None] * h[:, None] * w
        return torch.from_numpy((volume / volume.max()).astype(np.float32))[None, None]

    return draw(centre, width), draw(centre + moved, width * widened)
