"""Attention within windows of a grid of tokens, with relative positions (Swin, in 3-D).

Grids of tokens are (B, D, H, W, C); windows of them (B, windows, tokens per window, C).

References:
    Liu et al., Swin Transformer, ICCV 2021; Chen et al., TransMorph, Medical Image Analysis 2022.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoreg.network_plan import Shape

# Added to the attention between tokens that are neighbours by the cyclic shift alone.
MASKED = -100.0
_TABLE_DEVIATION = 0.02


class WindowAttention(nn.Module):
    """Multi-head attention among the tokens of each window.

    softmax(q k^T / sqrt(d) + bias(relative position) + mask) v, concatenated over the heads and
    projected. State-dict names are those of the published code, index buffer included.

    Args:
        channels: C.
        window: Tokens along (d, h, w).
        heads: Must divide C.
    """

    relative_position_index: Tensor

    def __init__(self, channels: int, window: Shape, heads: int) -> None:
        super().__init__()
        self._heads = heads
        rows = math.prod(2 * n - 1 for n in window)
        self.relative_position_bias_table = nn.Parameter(torch.empty(rows, heads))
        # The published truncation, at +-2, is 100 standard deviations away.
        nn.init.normal_(self.relative_position_bias_table, std=_TABLE_DEVIATION)
        self.register_buffer("relative_position_index", relative_position_index(window))
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.proj = nn.Linear(channels, channels)

    def forward(self, windows: Tensor, groups: "WindowGroups | None") -> Tensor:
        """Attend.

        Args:
            windows: (B, n, N, C).
            groups: Masks of shifted windows; None: nothing is masked.

        Returns:
            (B, n, N, C).
        """
        batch, count, tokens, channels = windows.shape
        qkv = self.qkv(windows).view(batch, count, tokens, 3, self._heads, -1)
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).unbind()
        bias = self._bias(tokens).to(q.dtype)
        if groups is None:
            mixed = _attended(q, k, v, bias)
        else:
            parts = [
                _attended(q[:, chosen], k[:, chosen], v[:, chosen], bias + mask.to(q.dtype))
                for chosen, mask in zip(groups.windows, groups.masks, strict=True)
            ]
            mixed = torch.cat(parts, 1)[:, groups.order]
        joined: Tensor = self.proj(mixed.transpose(2, 3).reshape(batch, count, tokens, channels))
        return joined

    def _bias(self, tokens: int) -> Tensor:
        """(heads, N, N)."""
        rows = self.relative_position_bias_table[self.relative_position_index.flatten()]
        return rows.view(tokens, tokens, self._heads).permute(2, 0, 1).contiguous()


def relative_position_index(window: Shape) -> Tensor:
    """The row of the bias table for each pair of tokens of a window.

    With delta = place of the query - place of the key, each component of which starts at -(w - 1),
    rows count the deltas with the last axis fastest.

    Args:
        window: Tokens along (d, h, w).

    Returns:
        (N, N) int64, queries x keys.
    """
    axes = [torch.arange(n) for n in window]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)
    index = torch.zeros(1, dtype=torch.int64)
    for place, n in zip(places, window, strict=True):
        index = index * (2 * n - 1) + place[:, None] - place[None] + n - 1
    return index


@dataclass(frozen=True, eq=False)
class WindowGroups:
    """Shifted windows by their masks, of which there are at most eight: far fewer than windows.

    Attributes:
        windows: Which windows each group has.
        masks: (N, N) of each group, `MASKED` between tokens that must not see each other, else 0.
        order: Takes the groups' windows, one group after the other, to the order of all windows.
    """

    windows: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]
    order: Tensor


def window_groups(grid: Shape, window: Shape, shift: Shape, like: Tensor) -> WindowGroups:
    """What keeps tokens apart that the cyclic shift has made neighbours.

    After the roll by -shift, the last window of each axis holds tokens from both ends of the grid;
    tokens of one window that come from different ends along any axis must not see each other.

    Args:
        grid: Tokens along (d, h, w), multiples of the window.
        window: Tokens along (d, h, w).
        shift: Tokens along (d, h, w).
        like: Gives type and device.

    Returns:
        The groups.
    """
    counts = [n // w for n, w in zip(grid, window, strict=True)]
    numbers = torch.arange(math.prod(counts), device=like.device).view(counts)
    windows, masks = [], []
    for last in itertools.product((False, True), repeat=3):
        ranges = [
            slice(c - 1, c) if e else slice(0, c - 1) for e, c in zip(last, counts, strict=True)
        ]
        chosen = numbers[tuple(ranges)].flatten()
        if chosen.numel() == 0:
            continue
        windows.append(chosen)
        masks.append(_mask(window, shift, last, like))
    return WindowGroups(tuple(windows), tuple(masks), torch.cat(windows).argsort())


def _mask(window: Shape, shift: Shape, last: Sequence[bool], like: Tensor) -> Tensor:
    """(N, N) of the windows that are the last ones along the given axes."""
    ends = torch.zeros(1, 1, 1, dtype=torch.int64, device=like.device)
    for axis, (n, s) in enumerate(zip(window, shift, strict=True)):
        wrapped = torch.arange(n, device=like.device) >= (n - s if last[axis] else n)
        ends = ends * 2 + wrapped.long().view([-1 if k == axis else 1 for k in range(3)])
    end = ends.flatten()
    return (end[:, None] != end[None]).to(like.dtype) * MASKED


def _attended(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v of (B, n, heads, N, d); `bias` is (heads, N, N)."""
    mixed = functional.scaled_dot_product_attention(
        q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), attn_mask=bias[None]
    )
    return mixed.view(*q.shape)


def partition(tokens: Tensor, window: Shape) -> Tensor:
    """Cut a grid of tokens into windows.

    Args:
        tokens: (B, D, H, W, C), each axis a multiple of the window's.
        window: Tokens along (d, h, w).

    Returns:
        (B, n, N, C), last axis of windows and tokens fastest.
    """
    batch, *grid, channels = tokens.shape
    d, h, w = (n // size for n, size in zip(grid, window, strict=True))
    cut = tokens.reshape(batch, d, window[0], h, window[1], w, window[2], channels)
    return cut.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(batch, d * h * w, -1, channels)


def assemble(windows: Tensor, grid: Shape, window: Shape) -> Tensor:
    """Undo `partition`.

    Args:
        windows: (B, n, N, C).
        grid: Tokens along (d, h, w).
        window: Tokens along (d, h, w).

    Returns:
        (B, D, H, W, C).
    """
    batch, channels = windows.shape[0], windows.shape[-1]
    d, h, w = (n // size for n, size in zip(grid, window, strict=True))
    cut = windows.reshape(batch, d, h, w, *window, channels)
    return cut.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(batch, *grid, channels)


def padded_to_multiple(tokens: Tensor, window: Shape) -> Tensor:
    """Zero tokens at the high ends until each axis is a multiple of the window's.

    Args:
        tokens: (B, D, H, W, C).
        window: Tokens along (d, h, w).

    Returns:
        (B, D', H', W', C).
    """
    missing = [-n % size for n, size in zip(tokens.shape[1:4], window, strict=True)]
    if not any(missing):
        return tokens
    return functional.pad(tokens, (0, 0, 0, missing[2], 0, missing[1], 0, missing[0]))
