"""Coarser and finer copies of volumes for multi-resolution work."""

import torch
from torch import Tensor
from torch.nn import functional


def pooled(x: Tensor, factors: tuple[int, ...]) -> Tensor:
    """Means over boxes of voxels; what is left over at the ends is held and averaged, too.

    Args:
        x: (C, D, H, W).
        factors: Voxels of a box along (d, h, w).
    """
    if all(f == 1 for f in factors):
        return x
    missing = [-n % f for n, f in zip(x.shape[1:], factors, strict=True)]
    if any(missing):
        d, h, w = missing
        x = functional.pad(x[None], (0, w, 0, h, 0, d), mode="replicate")[0]
    return functional.avg_pool3d(x[None], factors)[0]


def doubled(x: Tensor) -> Tensor:
    """Cubic splines through (D, H, W), at every half sample: (2 D - 1, 2 H - 1, 2 W - 1)."""
    # The last axis first: the others, with more to do by then, work on whole rows.
    for axis in (2, 1, 0):
        x = _doubled_along(x, axis)
    return x


def _doubled_along(x: Tensor, axis: int) -> Tensor:
    size = x.shape[axis]
    if size == 1:
        return x
    # Mirrored at the ends, as often as a short axis needs it.
    period = 2 * (size - 1)
    inner = torch.arange(-_TAPS + 1, size + _TAPS - 1).remainder(period)
    held = x.index_select(axis, torch.minimum(inner, period - inner).to(x.device))
    shape = list(x.shape)
    shape[axis] = 2 * size - 1
    result = x.new_empty(shape)
    result.movedim(axis, 0)[0::2] = x.movedim(axis, 0)
    between = torch.zeros_like(x.narrow(axis, 0, size - 1))
    for tap, weight in enumerate(_HALFWAY):
        for start in (_TAPS - 1 - tap, _TAPS + tap):
            between.add_(held.narrow(axis, start, size - 1), alpha=weight)
    result.movedim(axis, 0)[1::2] = between.movedim(axis, 0)
    return result


def _halfway_weights() -> list[float]:
    """Of the samples 1/2, 3/2, 5/2, ... away, for a cubic spline halfway between two samples.

    References:
        Unser, Splines: a perfect fit for signal and image processing, IEEE Signal Processing
        Magazine 1999.
    """
    pole = 3**0.5 - 2

    def coefficient(distance: int) -> float:
        return float(3**0.5 * pole ** abs(distance))

    near, far = 23 / 48, 1 / 48
    return [
        near * (coefficient(k) + coefficient(k + 1))
        + far * (coefficient(k - 1) + coefficient(k + 2))
        for k in range(_TAPS)
    ]


# Weights fall by 3.7 from one to the next: the next one were 2e-6.
_TAPS = 10
_HALFWAY = _halfway_weights()
