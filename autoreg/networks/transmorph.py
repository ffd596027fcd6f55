"""TransMorph, in its three published variants, for any grid.

A Swin transformer sees both images; a convolutional decoder with skips turns its features into one
displacement field in voxels. The grid is padded with zeros at the high ends to multiples of 32, and
the field is cropped.

The published code of the variants "half" and "time_varying" mixes two grid conventions when it
warps: what it means to sample at c, it samples at c n/(n - 1) - 1/2, up to half a voxel off. A
network that was trained so has learned to make up for it. Under the plan's compatibility "upstream"
the map that is returned is therefore the one that the training saw, c n/(n - 1) - 1/2 with
c = p + u(p); the published evaluations take p + u(p). Under "own" all sampling is exact.

References:
    Chen et al., TransMorph: Transformer for unsupervised medical image registration, Medical Image
    Analysis 2022; TransMorphTVF: the baseline of the LUMIR challenge, Learn2Reg 2024.
"""

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoreg.network_plan import TransMorphPlan
from autoreg.networks.base import MapPair, RegistrationNetwork
from autoreg.networks.transmorph_decoder import (
    ConvolutionUnit,
    DecoderBlock,
    DisplacementHead,
    doubled,
    fast_layout,
)
from autoreg.networks.transmorph_encoder import SwinTransformer
from autoreg.numerics.coordinates import index_grid
from autoreg.numerics.maps import FieldChain
from autoreg.numerics.warp import sample_at_index

# Patches of 4 voxels, halved three times (in "time_varying": twice, after halving the images).
MULTIPLE = 32
# Channels of the last decoder block.
_HEAD_FEATURES = 16


class TransMorph(RegistrationNetwork):
    """What the variants share; their state-dict names are those of the published code.

    The published `spatial_trans.grid` buffers, which depend on the image size, are not kept.

    Args:
        plan: The network's values in the plan.
        channels: Of one image.
    """

    # Batch norms must see one direction at a time while training, as published.
    _batch_norms = False

    def __init__(self, plan: TransMorphPlan, channels: int) -> None:
        super().__init__()
        self._reversed = plan.axes == "whd"
        self._mixed = plan.compatibility == "upstream"
        self.transformer = SwinTransformer(
            2 * channels,
            plan.embedding,
            plan.depths,
            plan.heads,
            plan.window,
            plan.drop_path,
            checkpointing=plan.checkpointing,
        )

    def forward(self, moving: Tensor, fixed: Tensor) -> MapPair:
        """The maps of both directions; see the base class."""
        if self.training and self._batch_norms:
            return MapPair(self.one_direction(moving, fixed), self.one_direction(fixed, moving))
        both = self.one_direction(torch.cat([moving, fixed]), torch.cat([fixed, moving]))
        batch = moving.shape[0]
        return MapPair(both.select(slice(0, batch)), both.select(slice(batch, None)))

    def one_direction(self, moving: Tensor, fixed: Tensor) -> FieldChain:
        """The map from the fixed to the moving grid alone; see the base class."""
        shape = moving.shape[2:]
        images = torch.cat([moving, fixed], 1)
        if self._reversed:
            images = images.permute(0, 1, 4, 3, 2)
        d, h, w = images.shape[2:]
        images = functional.pad(images, (0, -w % MULTIPLE, 0, -h % MULTIPLE, 0, -d % MULTIPLE))
        u_vox = self.displacement(images.contiguous(memory_format=fast_layout(images)))
        if self._mixed:
            nodes = index_grid(u_vox.shape[2:], device=u_vox.device, dtype=u_vox.dtype)
            u_vox = _mixed_points(nodes + u_vox) - nodes
        u_vox = u_vox[:, :, :d, :h, :w]
        if self._reversed:
            u_vox = u_vox.permute(0, 1, 4, 3, 2).flip(1)
        return FieldChain((u_vox / _per_axis([max(n - 1, 1) for n in shape], u_vox),))

    @abstractmethod
    def displacement(self, images: Tensor) -> Tensor:
        """The displacement in voxels, as in the published code.

        Args:
            images: (B, 2C, D, H, W), moving channels first; each axis a multiple of `MULTIPLE`.

        Returns:
            (B, 3, D, H, W), channels (d, h, w) in the order of the axes.
        """


class _FourStageTransMorph(TransMorph):
    """What decodes four stages, the patches of 4 voxels being the finest."""

    def __init__(self, plan: TransMorphPlan, channels: int) -> None:
        super().__init__(plan, channels)
        c = plan.embedding
        self.up0 = DecoderBlock(8 * c, 4 * c, 4 * c)
        self.up1 = DecoderBlock(4 * c, 2 * c, 2 * c)
        self.up2 = DecoderBlock(2 * c, c, c)

    def _at_quarter(self, images: Tensor) -> Tensor:
        """The features decoded up to the patches."""
        quarter, eighth, sixteenth, coarsest = self.transformer(images)
        features: Tensor = self.up2(self.up1(self.up0(coarsest, sixteenth), eighth), quarter)
        return features


class FullTransMorph(_FourStageTransMorph):
    """The published TransMorph: decoded up to the full resolution."""

    def __init__(self, plan: TransMorphPlan, channels: int) -> None:
        super().__init__(plan, channels)
        c = plan.embedding
        self.up3 = DecoderBlock(c, c // 2, c // 2)
        self.up4 = DecoderBlock(c // 2, _HEAD_FEATURES, _HEAD_FEATURES)
        self.c1 = ConvolutionUnit(2 * channels, c // 2)
        self.c2 = ConvolutionUnit(2 * channels, _HEAD_FEATURES)
        self.reg_head = DisplacementHead(_HEAD_FEATURES)

    def displacement(self, images: Tensor) -> Tensor:
        """The displacement in voxels; see the base class."""
        x = self.up3(self._at_quarter(images), self.c1(_halved_smoothly(images)))
        u_vox: Tensor = self.reg_head(self.up4(x, self.c2(images)))
        return u_vox


class HalfTransMorph(_FourStageTransMorph):
    """The variant for OASIS: decoded up to half the resolution."""

    def __init__(self, plan: TransMorphPlan, channels: int) -> None:
        super().__init__(plan, channels)
        c = plan.embedding
        self.up3 = DecoderBlock(c, c // 2, _HEAD_FEATURES)
        self.c1 = ConvolutionUnit(2 * channels, c // 2)
        # Not used, here and in the published code, whose weights have it.
        self.c2 = ConvolutionUnit(2 * channels, _HEAD_FEATURES)
        self.reg_head = DisplacementHead(_HEAD_FEATURES)

    def displacement(self, images: Tensor) -> Tensor:
        """The displacement in voxels of the full resolution; see the base class."""
        x = self.up3(self._at_quarter(images), self.c1(_halved_smoothly(images)))
        return doubled(self.reg_head(x))


class TimeVaryingTransMorph(TransMorph):
    """TransMorphTVF for LUMIR: at half the resolution, the displacement grows in time steps.

    Each step predicts an increment f from the moving image warped so far and adds f(p + f(p)), as
    published; a composition would add f(p + u(p)) with the displacement u so far.
    """

    _batch_norms = True

    def __init__(self, plan: TransMorphPlan, channels: int) -> None:
        super().__init__(plan, channels)
        c, steps = plan.embedding, range(plan.time_steps)
        self.up0 = DecoderBlock(4 * c, 2 * c, 2 * c)
        self.up1 = DecoderBlock(2 * c, c, c)
        self.up2 = DecoderBlock(c, c // 2, c // 2)
        self.c1 = ConvolutionUnit(2 * channels, c // 2, batch_norm=True)
        self.reg_heads = nn.ModuleList(DisplacementHead(_HEAD_FEATURES) for _ in steps)
        self.up3s = nn.ModuleList(DecoderBlock(c // 2, c // 2, _HEAD_FEATURES) for _ in steps)
        self.cs = nn.ModuleList(
            ConvolutionUnit(2 * channels, c // 2, batch_norm=True) for _ in steps
        )
        # Not used, here and in the published code, whose weights have it.
        self.reg_head = DisplacementHead(_HEAD_FEATURES)

    def displacement(self, images: Tensor) -> Tensor:
        """The displacement in voxels; see the base class."""
        return 2 * doubled(self.half_displacement(functional.avg_pool3d(images, 2)))

    def half_displacement(self, images: Tensor) -> Tensor:
        """The displacement in voxels of the halved images.

        Args:
            images: (B, 2C, D/2, H/2, W/2).

        Returns:
            (B, 3, D/2, H/2, W/2), what the published model returns.
        """
        fine, middle, coarsest = self.transformer(images)
        x = self.up2(self.up1(self.up0(coarsest, middle), fine), self.c1(_halved_smoothly(images)))
        moving, fixed = images.chunk(2, 1)
        warped = moving
        u_vox = images.new_zeros(images.shape[0], 3, *images.shape[2:])
        steps = zip(self.cs, self.up3s, self.reg_heads, strict=True)
        for t, (encode, decode, head) in enumerate(steps):
            if t > 0:
                warped = self._warp(moving, u_vox)
            increment = head(decode(x, encode(torch.cat([warped, fixed], 1))))
            u_vox = u_vox + self._warp(increment, increment)
        return u_vox

    def _warp(self, volume: Tensor, u_vox: Tensor) -> Tensor:
        points = index_grid(u_vox.shape[2:], device=u_vox.device, dtype=u_vox.dtype) + u_vox
        points = _mixed_points(points) if self._mixed else points
        return sample_at_index(volume, points, "zeros")


_VARIANTS: dict[str, type[TransMorph]] = {
    "full": FullTransMorph,
    "half": HalfTransMorph,
    "time_varying": TimeVaryingTransMorph,
}


def build_transmorph(plan: TransMorphPlan, channels: int) -> TransMorph:
    """The variant that the plan names.

    Args:
        plan: The network's values in the plan.
        channels: Of one image.

    Returns:
        The network with fresh weights, in train mode.
    """
    return _VARIANTS[plan.variant](plan, channels)


def _halved_smoothly(images: Tensor) -> Tensor:
    return functional.avg_pool3d(images, 3, stride=2, padding=1)


def _mixed_points(points_vox: Tensor) -> Tensor:
    """Where the published code samples when it means `points_vox` (B, 3, D, H, W) of that grid."""
    n = _per_axis(list(points_vox.shape[2:]), points_vox)
    return points_vox * (n / (n - 1)) - 0.5


def _per_axis(values: list[int], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(1, 3, 1, 1, 1)
