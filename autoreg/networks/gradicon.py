"""The GradICON cascade: U-Nets at rising resolution, each on top of the map so far.

u_0 = net_0(moving, fixed) on the coarsest grid; level i sees the moving image warped by the whole
map so far and adds its own displacement u_i in front of it, so that the final map is
x -> S(u_n, x) -> ... -> S(u_0, .), finest first. Each level warps the image itself, pooled to its
resolution, never an image warped before.

References:
    Greer et al., ICON, ICCV 2021; Tian et al., GradICON, CVPR 2023; uniGradICON, MICCAI 2024.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from autoreg.errors import CheckpointError, PlanError
from autoreg.networks.base import MapPair, RegistrationNetwork
from autoreg.networks.unet import TallUNet, UntrackedStatistics, pool
from autoreg.numerics.maps import FieldChain
from autoreg.numerics.warp import sample_at_unit


class GradICON(RegistrationNetwork):
    """The cascade, with the state-dict names and order of the published `regis_net`.

    In eval mode both directions run as one batch (the norms use running statistics, so that
    samples do not see each other); in train mode one after the other, fixed-to-moving first, each
    with its own batch statistics, as published.

    Args:
        level_factors: Resolution of each U-Net as a fraction of the grid, coarse to fine, powers
            of 1/2; the published ones are (1/4, 1/2, 1, 1).
        channels: Of one image.
        width: Multiplies the published channel counts.
        checkpointing: Compute each U-Net's activations again in each backward pass, in eval mode as
            well: the largest grids leave no room for them in instance optimisation either.
    """

    def __init__(
        self,
        level_factors: Sequence[float],
        channels: int,
        width: float,
        *,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self._checkpointing = checkpointing
        self._prefixes = level_prefixes(level_factors)
        self._shallow_prefixes = level_prefixes(level_factors[:-1])
        self._halvings = tuple(_halvings(factor) for factor in level_factors)
        for prefix in self._prefixes:
            _put(self, prefix, TallUNet(channels, width))

    def forward(self, moving: Tensor, fixed: Tensor) -> MapPair:
        """The maps of both directions; see the base class."""
        ours, theirs = self._pyramid(moving), self._pyramid(fixed)
        if self.training:
            return MapPair(self._chain(ours, theirs), self._chain(theirs, ours))
        both = [torch.cat([a, b]) for a, b in zip(ours, theirs, strict=True)]
        swapped = [torch.cat([b, a]) for a, b in zip(ours, theirs, strict=True)]
        chain = self._chain(both, swapped)
        batch = moving.shape[0]
        return MapPair(chain.select(slice(0, batch)), chain.select(slice(batch, None)))

    def one_direction(self, moving: Tensor, fixed: Tensor) -> FieldChain:
        """The map from the fixed to the moving grid alone; see the base class."""
        return self._chain(self._pyramid(moving), self._pyramid(fixed))

    def load_without_last_level(self, state: Mapping[str, Tensor]) -> None:
        """Load the weights of the cascade without its last level; see the base class."""
        levels = list(zip(self._shallow_prefixes, self._prefixes[:-1], strict=True))
        renamed = {
            full + key.removeprefix(shallow): value
            for shallow, full in levels
            for key, value in state.items()
            if key.startswith(shallow)
        }
        own = {k for k in self.state_dict() if not k.startswith(self._prefixes[-1])}
        if len(renamed) != len(state) or set(renamed) != own:
            raise CheckpointError(
                f"these weights are not those of the cascade without its last level: found "
                f"{len(state)} entries, of which {len(own & set(renamed))} fit, expected "
                f"{len(own)}; train or import a network with level_factors shorter by one"
            )
        try:
            self.load_state_dict(renamed, strict=False)
        except RuntimeError as error:  # torch lists every tensor whose shape differs
            raise CheckpointError(f"weights of another width or channel count: {error}") from error

    def _pyramid(self, image: Tensor) -> list[Tensor]:
        """The image at full, half, ... resolution, as far down as the coarsest level needs."""
        images = [image]
        for _ in range(max(self._halvings)):
            images.append(pool(images[-1]))
        return images

    def _chain(self, moving: Sequence[Tensor], fixed: Sequence[Tensor]) -> FieldChain:
        chain = FieldChain(())
        for prefix, halvings in zip(self._prefixes, self._halvings, strict=True):
            warped, onto = moving[halvings], fixed[halvings]
            if chain.fields:
                warped = sample_at_unit(warped, chain.dense(warped.shape[2:]), "border")
            chain = chain.prepended(self._displacement(prefix, warped, onto))
        return chain

    def _displacement(self, prefix: str, warped: Tensor, onto: Tensor) -> Tensor:
        unet = self.get_submodule(prefix.removesuffix("."))
        if not (self._checkpointing and torch.is_grad_enabled()):
            displacement: Tensor = unet(warped, onto)
            return displacement
        again: Tensor = checkpoint(
            unet,
            warped,
            onto,
            use_reentrant=False,
            preserve_rng_state=False,  # there is no randomness
            context_fn=lambda: (nullcontext(), UntrackedStatistics(unet)),
        )
        return again


def level_prefixes(level_factors: Sequence[float]) -> tuple[str, ...]:
    """The state-dict prefix of each U-Net, coarse to fine.

    The published code nests modules: a field-to-map wrapper (child `net`), a wrapper that halves
    both images (child `net`), and pairs of a coarser part and a finer step (children `netPhi`,
    `netPsi`).

    Args:
        level_factors: Coarse to fine, powers of 1/2.

    Returns:
        E.g. ("net.netPhi.net.net.", "net.netPsi.net.") for (1/4, 1/2).

    Raises:
        PlanError: if the factors are not powers of 1/2 that never fall.
    """
    prefixes: list[str] = []
    halvings = [_halvings(factor) for factor in level_factors]
    for level, count in enumerate(halvings):
        following = halvings[level + 1] if level + 1 < len(halvings) else 0
        if following > count:
            raise PlanError(f"level_factors must rise from coarse to fine: {list(level_factors)}")
        prefixes = [f"netPhi.{p}" for p in prefixes]
        prefixes.append("netPsi.net." if prefixes else "net.")
        prefixes = ["net." * (count - following) + p for p in prefixes]
    return tuple(prefixes)


def _halvings(factor: float) -> int:
    for count in range(8):
        if factor == 2.0**-count:
            return count
    raise PlanError(f"a level factor must be 1, 1/2, ..., 1/128, found {factor}")


def _put(root: nn.Module, prefix: str, unet: TallUNet) -> None:
    """Hang a U-Net under `root` at the dotted place `prefix`, making containers on the way."""
    *path, last = prefix.removesuffix(".").split(".")
    for name in path:
        if name not in dict(root.named_children()):
            root.add_module(name, nn.Module())
        root = root.get_submodule(name)
    root.add_module(last, unet)
