"""Weights trained with the code of TransMorph, such as the published ones (IXI, OASIS, LUMIR)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from autoreg.errors import CheckpointError, PlanError
from autoreg.inference.imported import ARRAYS_NOTE, Imported, ImportOptions
from autoreg.inference.published_plan import (
    TRANSMORPH_REASONS,
    Published,
    complete_plan,
    reversed_axes,
)
from autoreg.inference.weight_files import check_state, entries_text, plain_state, read_state_dict
from autoreg.network_plan import Shape, TransMorphPlan
from autoreg.networks.transmorph_attention import relative_position_index
from autoreg.plan import GridPlan, IntensityPlan, LossPlan

_ENTRY = "state_dict"  # of the authors' *.pth.tar
_FIRST = "transformer.patch_embed.proj.weight"
_ATTENTION = "transformer.layers.{}.blocks.{}.attn."
_DROP_PATH = 0.3  # of all published configurations; in the file are no traces of it
_LOSS = LossPlan("windowed_ncc", {"window": 9}, "diffusion", 2.0)

# Patches of 4 voxels, halved three times; the variant in time works on half the resolution and
# halves twice, but its window follows the rule of the others.
_COARSEST_TOKEN = {"full": 32, "half": 32, "time_varying": 64}
_INTENSITIES = {"full": (0.0, 1.0), "half": (0.0, 1.0), "time_varying": (0.0, 255.0)}


def import_transmorph(file: Path, options: ImportOptions) -> Imported:
    """Read published weights.

    Args:
        file: A `*.pth.tar` of the authors' training, or its state dict alone; the sampling grids
            `*.grid`, which follow from the image size, are dropped.
        options: Its grid and window count; by default they are the published ones.

    Raises:
        CheckpointError: if the file holds no such weights, saying what differs.
    """
    whole = plain_state(read_state_dict(file, _ENTRY), lambda key: False)
    state = plain_state(whole, lambda key: key.endswith(".grid"))
    if _FIRST not in state or state[_FIRST].dim() != 5:
        raise CheckpointError(
            f"{file}: not the weights of TransMorph: found {entries_text(state)}; expected {_FIRST}"
        )
    found = _Found(file, state, _grid(whole))
    network = found.network()
    state = with_position_bias(state, network)
    check_state(state, network, found.channels, file, f'TransMorph, variant "{network.variant}"')
    published = Published(
        dataset="transmorph",
        grid=GridPlan(options.grid or found.own_grid(), (1.0, 1.0, 1.0), antialias=False),
        intensity={
            "MR": IntensityPlan("window", *(options.window or _INTENSITIES[network.variant]))
        },
        modalities=("MR",) * found.channels,
        network=network,
        loss=_LOSS,
        reasons=TRANSMORPH_REASONS,
    )
    return Imported(
        complete_plan(published),
        state,
        f"TransMorph ({network.variant}), {network.embedding} channels, depths "
        f"{','.join(map(str, network.depths))}, window {','.join(map(str, network.window))}",
        (ARRAYS_NOTE,),
    )


def with_position_bias(state: Mapping[str, Tensor], network: TransMorphPlan) -> dict[str, Tensor]:
    """The weights of a network without relative positions as those of one with them.

    Trained with them switched off ("TransMorph-No-RelPosEmbed"), a file has no index, and holds
    the unused table with its initial values; a table of zeros does the same.

    Args:
        state: With all entries, or without the indices.
        network: Its depths and window count.
    """
    result = dict(state)
    index = relative_position_index(network.window)
    for stage, depth in enumerate(network.depths):
        for block in range(depth):
            prefix = _ATTENTION.format(stage, block)
            table = state.get(f"{prefix}relative_position_bias_table")
            if f"{prefix}relative_position_index" not in state and table is not None:
                result[f"{prefix}relative_position_index"] = index.clone()
                result[f"{prefix}relative_position_bias_table"] = torch.zeros_like(table)
    return result


@dataclass(frozen=True, eq=False)
class _Found:
    """What a state dict tells of its network.

    Attributes:
        file: What messages name.
        state: Without sampling grids.
        image: Size that the sampling grid of the file is for, axes as they enter the network.
    """

    file: Path
    state: Mapping[str, Tensor]
    image: Shape | None

    @property
    def channels(self) -> int:
        """Of one image; both enter side by side."""
        return max(1, self.state[_FIRST].shape[1] // 2)

    def network(self) -> TransMorphPlan:
        depths = self._depths()
        tables = [
            self.state.get(f"{_ATTENTION.format(i, 0)}relative_position_bias_table")
            for i in range(len(depths))
        ]
        steps = sum(key.startswith("reg_heads.") and key.endswith(".bias") for key in self.state)
        variant = self._variant(steps)
        try:
            plan = TransMorphPlan(
                variant=variant,
                embedding=self.state[_FIRST].shape[0],
                depths=depths,
                heads=tuple(1 if t is None or t.dim() != 2 else t.shape[1] for t in tables),
                window=self._window(variant),
                drop_path=_DROP_PATH,
                axes="whd",
                # The full network's own sampling was right from the start.
                compatibility="own" if variant == "full" else "upstream",
            )
            return replace(plan, time_steps=steps) if steps else plan
        except PlanError as error:
            raise CheckpointError(f"{self.file}: not a published TransMorph: {error}") from error

    def own_grid(self) -> Shape:
        """The grid that the weights were trained at, (d, h, w)."""
        if self.image is None:
            raise CheckpointError(
                f"{self.file}: the image size is not in the file (no spatial_trans.grid); give it "
                "with --grid"
            )
        return reversed_axes(self.image)

    def _variant(self, steps: int) -> Literal["full", "half", "time_varying"]:
        if steps:
            return "time_varying"
        return "full" if "up4.conv1.0.weight" in self.state else "half"

    def _depths(self) -> tuple[int, ...]:
        depths: list[int] = []
        while f"{_ATTENTION.format(len(depths), 0)}qkv.weight" in self.state:
            depth = 0
            while f"{_ATTENTION.format(len(depths), depth)}qkv.weight" in self.state:
                depth += 1
            depths.append(depth)
        return tuple(depths)

    def _window(self, variant: str) -> Shape:
        """The window whose index the file holds; without one, whose table has as many rows."""
        prefix = _ATTENTION.format(0, 0)
        index = self.state.get(f"{prefix}relative_position_index")
        table = self.state.get(f"{prefix}relative_position_bias_table")
        rows = 0 if table is None else table.shape[0]
        fitting = [
            w
            for w in _windows(rows)
            if index is None or torch.equal(relative_position_index(w), index)
        ]
        coarsest = _COARSEST_TOKEN[variant]
        usual = None if self.image is None else tuple(n // coarsest for n in self.image)
        if len(fitting) == 1 or usual in fitting:
            return next((w for w in fitting if w == usual), fitting[0])
        raise CheckpointError(
            f"{self.file}: the window of the attention is not known: {rows} relative positions "
            f"fit {len(fitting)} windows, none of which follows from the image size {self.image}"
        )


def _windows(rows: int) -> list[Shape]:
    """The windows w with (2 w0 - 1) (2 w1 - 1) (2 w2 - 1) = rows."""
    odd = [n for n in range(1, rows + 1, 2) if rows % n == 0]
    return [
        ((a + 1) // 2, (b + 1) // 2, (rows // (a * b) + 1) // 2)
        for a in odd
        for b in odd
        if rows % (a * b) == 0
    ]


def _grid(state: Mapping[str, Tensor]) -> Shape | None:
    """The size of the images that the sampling grid of a file is for."""
    grid = state.get("spatial_trans.grid")
    if grid is None or grid.dim() != 5:
        return None
    d, h, w = grid.shape[2:]
    return d, h, w
