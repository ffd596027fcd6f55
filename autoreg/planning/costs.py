"""How much a network computes, and how long a CPU takes for it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autoreg.network_plan import GradICONPlan, NetworkPlan, Shape, SITRegPlan, TransMorphPlan

_KERNEL = 27
# Voxels of a token of TransMorph's first stage.
_TOKEN = 64


def macs_per_voxel(network: NetworkPlan, channels: int) -> float:
    """Multiply-adds of a network's layers, both directions, per voxel of the grid.

    Sampling and B-splines do not count, nor what TransMorph pads a grid with.

    Args:
        network: Architecture and channels decide.
        channels: Of one image.

    Example:
        >>> round(macs_per_voxel(GradICONPlan((0.25, 0.5, 1, 1), 1.0), 1))  # 60.5 thousand
        60529
    """
    return _COUNTS[type(network)](network, channels)


@dataclass(frozen=True)
class StepSeconds:
    """Conservative seconds of one core.

    Attributes:
        optimisation: Of a step of instance optimisation.
        training: Of training on one pair.
    """

    optimisation: float
    training: float


def cpu_step_seconds(network: NetworkPlan, channels: int, shape: Shape) -> StepSeconds:
    """How long a CPU takes for a pair.

    Args:
        network: What computes.
        channels: Of one image.
        shape: Of the grid.
    """
    cost = _COSTS[type(network)]
    per_voxel = cost.voxel_seconds + cost.mac_seconds * macs_per_voxel(network, channels)
    seconds = math.prod(shape) * per_voxel
    return StepSeconds(seconds, cost.training_share * seconds)


def _gradicon(network: GradICONPlan, channels: int) -> float:
    def scaled(counts: tuple[int, ...]) -> list[int]:
        return [max(1, round(count * network.width)) for count in counts]

    down = [2 * channels, *scaled((16, 32, 64, 256, 512))]
    up = [*scaled((16, 32, 64, 128, 256)), 0]
    unet: float = _KERNEL * (up[0] + down[0]) * 3
    for i in range(5):
        unet += _KERNEL * down[i] * down[i + 1] / 8 ** (i + 1)
        unet += 64 * (down[i + 1] + up[i + 1]) * up[i] / 8 ** (i + 1)
    return 2 * unet * sum(factor**3 for factor in network.level_factors)


def _sitreg(network: SITRegPlan, channels: int) -> float:
    """The features of both images; the first layer of a deformation serves both directions."""
    total = 0.0
    before = channels
    for k, (count, repeats, head) in enumerate(
        zip(
            network.features,
            network.feature_convolutions,
            network.deformation_features,
            strict=True,
        )
    ):
        # The image's projection; further down a strided convolution of 2^3 and a projection.
        macs = 2.0 * (before * count * (1 if k == 0 else 8 + 1) + _KERNEL * count**2 * repeats)
        if head is not None:
            again = network.deformation_convolutions - 1
            macs += _KERNEL * 2 * count * head + 2 * (_KERNEL * head**2 * again + 3 * head)
        total += macs / 8**k
        before = count
    return total


def _transmorph(network: TransMorphPlan, channels: int) -> float:
    """Encoder, decoder and head; the variant "time_varying" has an eighth of the voxels."""
    width, inputs = network.embedding, 2 * channels
    stages = len(network.depths)
    total: float = inputs * width  # patch embedding
    for i, depth in enumerate(network.depths):
        c, tokens = width * 2**i, 1 / (_TOKEN * 8**i)
        attention = 2 * math.prod(network.window) * c
        total += depth * tokens * (12 * c**2 + attention)
        if i < stages - 1:
            total += tokens / 8 * 16 * c**2  # merging of patches
    for i in range(stages - 1):
        c = width * 2**i
        total += _decoder(2 * c + c, c) / (_TOKEN * 8**i)
    half = width // 2
    last = 16 if network.variant == "half" else half
    total += (_decoder(width + half, last) + _KERNEL * inputs * half) / 8
    head = _KERNEL * 16 * 3
    if network.variant == "half":
        return 2 * (total + head / 8)
    if network.variant == "full":
        return 2 * (total + _decoder(half + 16, 16) + _KERNEL * inputs * 16 + head)
    step = _KERNEL * inputs * half + _decoder(2 * half, 16) + head
    return 2 * (total + network.time_steps * step) / 8


def _decoder(inputs: int, outputs: int) -> float:
    return _KERNEL * (inputs * outputs + outputs**2)


_COUNTS: dict[type, Callable[[Any, int], float]] = {
    GradICONPlan: _gradicon,
    SITRegPlan: _sitreg,
    TransMorphPlan: _transmorph,
}


@dataclass(frozen=True)
class _Cost:
    """CPU seconds of one core of a 2-core cloud machine under load.

    Attributes:
        voxel_seconds: Of a step of instance optimisation beside the layers, per voxel.
        mac_seconds: Of one forward and two backward passes, per multiply-add of the forward pass.
        training_share: Training, with one backward pass less, as a share of such a step.
    """

    voxel_seconds: float
    mac_seconds: float
    training_share: float


_COSTS: dict[type, _Cost] = {
    # At 64^3 and width 1, 0.5 and 0.25: 6.3, 2.9 and 2.1 s per step; training 2.2 s at 0.5.
    GradICONPlan: _Cost(6.5e-6, 0.3e-9, 0.75),
    # At 52 x 72 x 64 and 116, 36 and 9 thousand multiply-adds per voxel: 5.6, 4.4 and 3.7 s per
    # step; training 3.3, 2.5 and 2.1 s.
    SITRegPlan: _Cost(15.5e-6, 0.08e-9, 0.6),
    # At 64^3 and 89, 86 and 28 thousand multiply-adds per voxel: 4.0, 3.8 and 1.6 s per step;
    # training 1.8, 1.8 and 0.8 s.
    TransMorphPlan: _Cost(2e-6, 0.15e-9, 0.5),
}
