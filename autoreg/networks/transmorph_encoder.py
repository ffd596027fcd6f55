"""The encoder of TransMorph: a Swin transformer on patches of 4x4x4 voxels.

Attribute names are those of the published code, so that its weights load. Tokens are kept as grids
(B, D, H, W, C) throughout.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from autoreg.network_plan import Shape
from autoreg.networks.precision import HeavyPart, normalised, widened
from autoreg.networks.transmorph_attention import (
    WindowAttention,
    WindowGroups,
    assemble,
    padded_to_multiple,
    partition,
    window_groups,
)

PATCH = 4
_MLP_RATIO = 4
# The order in which the published merging lines up the eight corners of a 2x2x2 cube.
_CORNERS = (
    (0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1), (1, 0, 1), (1, 1, 1),
)  # fmt: skip


class SwinTransformer(HeavyPart):
    """Features of the images at 1/4, 1/8, ... of their resolution.

    Args:
        channels: Of the input, both images together.
        embedding: Channels of the first stage; each further one has twice as many.
        depths: Blocks of each stage.
        heads: Attention heads of each stage.
        window: Tokens along (d, h, w), the same in all stages.
        drop_path: Rate of the last block's branches; it rises linearly from 0.
        checkpointing: Compute the blocks' activations again in the backward pass.
    """

    def __init__(
        self,
        channels: int,
        embedding: int,
        depths: Sequence[int],
        heads: Sequence[int],
        window: Shape,
        drop_path: float,
        *,
        checkpointing: bool = True,
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbedding(channels, embedding)
        steps = max(sum(depths) - 1, 1)
        rates = iter([drop_path * k / steps for k in range(sum(depths))])
        self.layers = nn.ModuleList()
        for i, (depth, count) in enumerate(zip(depths, heads, strict=True)):
            last = i + 1 == len(depths)
            width = embedding * 2**i
            self.layers.append(Stage(width, depth, count, window, rates, merging=not last))
        for i in range(len(depths)):
            self.add_module(f"norm{i}", nn.LayerNorm(embedding * 2**i))
        for module in self.modules():
            if isinstance(module, SwinBlock):
                module.checkpointing = checkpointing

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features of all stages.

        Args:
            images: (B, C, D, H, W); after the patches each axis must be divisible by
                2^(stages - 1).

        Returns:
            Finest first, (B, channels of the stage, d, h, w).
        """
        with self.reduced(images):
            return self._features(images)

    def _features(self, images: Tensor) -> list[Tensor]:
        features = []
        tokens = self.patch_embed(images)
        for i, stage in enumerate(self.layers):
            tokens = stage(tokens)
            features.append(normalised(self.get_submodule(f"norm{i}"), tokens).movedim(-1, 1))
            if i + 1 < len(self.layers):
                tokens = stage.get_submodule("downsample")(tokens)
        return features


class PatchEmbedding(nn.Module):
    """One token for each patch of the input.

    Args:
        channels: Of the input.
        embedding: Of the tokens.
    """

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(channels, embedding, PATCH, stride=PATCH)
        self.norm = nn.LayerNorm(embedding)

    def forward(self, images: Tensor) -> Tensor:
        """Embed (B, C, D, H, W), each axis a multiple of `PATCH`, as (B, d, h, w, embedding)."""
        # Tokens go on in float32: the branches of all blocks are added to them.
        return normalised(self.norm, widened(self.proj(images)).movedim(1, -1))


class Stage(nn.Module):
    """Blocks at one resolution; `downsample`, where there is one, leads to the next stage.

    Args:
        channels: Of the tokens.
        depth: Number of blocks; every second one is shifted.
        heads: Of the attention.
        window: Tokens along (d, h, w).
        rates: Drop rates; this stage takes as many as it has blocks.
        merging: Whether there is a next stage.
    """

    def __init__(
        self,
        channels: int,
        depth: int,
        heads: int,
        window: Shape,
        rates: Iterator[float],
        *,
        merging: bool,
    ) -> None:
        super().__init__()
        self._window = window
        half = (window[0] // 2, window[1] // 2, window[2] // 2)
        # As published: shifted along all axes or along none.
        self._shift = half if min(half) > 0 else None
        self.blocks = nn.ModuleList(
            SwinBlock(channels, heads, window, self._shift if j % 2 else None, next(rates))
            for j in range(depth)
        )
        if merging:
            self.downsample = PatchMerging(channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Apply the blocks to (B, D, H, W, C)."""
        groups = self._groups(tokens)
        for block in self.blocks:
            tokens = block(tokens, groups)
        return tokens

    def _groups(self, tokens: Tensor) -> WindowGroups | None:
        if self._shift is None or len(self.blocks) < 2:
            return None
        d, h, w = (
            -(-n // size) * size for n, size in zip(tokens.shape[1:4], self._window, strict=True)
        )
        return window_groups((d, h, w), self._window, self._shift, tokens)


class SwinBlock(nn.Module):
    """Attention within windows and a two-layer perceptron, both residual.

    Args:
        channels: Of the tokens.
        heads: Of the attention.
        window: Tokens along (d, h, w).
        shift: By which the windows are shifted; None: not at all.
        drop_rate: Probability that a branch is left out in training, for each sample and branch.

    Attributes:
        checkpointing: Whether activations are computed again in the backward pass.
    """

    def __init__(
        self, channels: int, heads: int, window: Shape, shift: Shape | None, drop_rate: float
    ) -> None:
        super().__init__()
        self._window, self._shift, self._drop_rate = window, shift, drop_rate
        self.checkpointing = True
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, window, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Perceptron(channels)

    def forward(self, tokens: Tensor, groups: WindowGroups | None) -> Tensor:
        """Apply the block.

        Args:
            tokens: (B, D, H, W, C).
            groups: Masks of the shifted windows; used if this block is shifted.

        Returns:
            (B, D, H, W, C).
        """
        kept = self._draw_kept(tokens)
        if not (self.checkpointing and torch.is_grad_enabled()):
            return self._applied(tokens, groups, kept)
        # A block keeps some twenty times its input for the backward pass, and has few of the
        # network's multiplications (the decoder has the others): computed twice, kept not at all.
        result: Tensor = checkpoint(
            self._applied, tokens, groups, kept, use_reentrant=False, preserve_rng_state=False
        )
        return result

    def _draw_kept(self, tokens: Tensor) -> Tensor | None:
        """Factors of both branches, (2, B, 1, 1, 1, 1); None where nothing is dropped."""
        if not self.training or self._drop_rate == 0:
            return None
        keep = 1 - self._drop_rate
        drawn = torch.rand(2, tokens.shape[0], 1, 1, 1, 1, device=tokens.device, dtype=tokens.dtype)
        return (drawn < keep).to(tokens.dtype) / keep

    def _applied(self, tokens: Tensor, groups: WindowGroups | None, kept: Tensor | None) -> Tensor:
        attended = self._attended(normalised(self.norm1, tokens), groups)
        tokens = tokens + (attended if kept is None else attended * kept[0])
        through: Tensor = self.mlp(normalised(self.norm2, tokens))
        return tokens + (through if kept is None else through * kept[1])

    def _attended(self, tokens: Tensor, groups: WindowGroups | None) -> Tensor:
        d, h, w = tokens.shape[1:4]
        # Tokens of zeros are not masked, as published: they take a share of the softmax.
        padded = padded_to_multiple(tokens, self._window)
        grid = (padded.shape[1], padded.shape[2], padded.shape[3])
        if self._shift is not None:
            padded = padded.roll([-s for s in self._shift], dims=(1, 2, 3))
        windows = partition(padded, self._window)
        windows = self.attn(windows, groups if self._shift is not None else None)
        padded = assemble(windows, grid, self._window)
        if self._shift is not None:
            padded = padded.roll(self._shift, dims=(1, 2, 3))
        return padded[:, :d, :h, :w]


class Perceptron(nn.Module):
    """Two linear layers with a GELU between them.

    Args:
        channels: In and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, _MLP_RATIO * channels)
        self.fc2 = nn.Linear(_MLP_RATIO * channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Apply to (..., C)."""
        through: Tensor = self.fc2(functional.gelu(self.fc1(tokens)))
        return through


class PatchMerging(nn.Module):
    """Cubes of 2x2x2 tokens become one token with twice the channels.

    Args:
        channels: Of the incoming tokens.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(8 * channels, 2 * channels, bias=False)
        self.norm = nn.LayerNorm(8 * channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Merge (B, D, H, W, C), each axis even, into (B, D/2, H/2, W/2, 2C)."""
        corners = [tokens[:, d::2, h::2, w::2] for d, h, w in _CORNERS]
        merged: Tensor = self.reduction(normalised(self.norm, torch.cat(corners, -1)))
        return widened(merged)
