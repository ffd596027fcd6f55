"""Planning rules for TransMorph: channels and window from budget and grid."""

from dataclasses import dataclass
from typing import Literal, cast

from autoreg.network_plan import Shape, TransMorphPlan
from autoreg.networks.transmorph import MULTIPLE
from autoreg.plan import GridPlan
from autoreg.planning.budget import Budget
from autoreg.planning.choice import Choice

DEPTHS = (2, 2, 4, 2)
DROP_PATH = 0.3
# Windows are shifted by half of their size, which is nothing along an axis with a single token.
SMALLEST_WINDOW = 2


@dataclass(frozen=True)
class Size:
    """A published network, or one like it.

    Attributes:
        embedding: Channels of the first stage.
        heads: Attention heads of the stages.
        variant: At which resolution its decoder ends.
        reason: Where it comes from.
    """

    embedding: int
    heads: tuple[int, ...]
    variant: Literal["full", "half"]
    reason: str


BASE = Size(96, (4, 4, 8, 8), "full", "rule embedding: the published TransMorph")
OASIS = Size(96, (4, 4, 8, 8), "half", "rule embedding: the published TransMorph")
CPU = Size(
    48,
    (4, 4, 4, 4),
    "half",
    "rule embedding: on a CPU that of the published TransMorph-Small",
)
_SIZES = {"cpu": CPU, "8gb": OASIS, "24gb": BASE, "80gb": BASE}

_VARIANT_REASONS = {
    "full": "rule variant: published; the displacement has the grid's own resolution",
    "half": "rule variant: as published for OASIS; the convolutions at full resolution would need "
    "more time and memory than the rest of the network",
}


def choose_transmorph(budget: Budget, grid: GridPlan) -> tuple[TransMorphPlan, dict[str, str]]:
    """The network and its reasons (rules `embedding`, `variant`, `window`).

    Args:
        budget: Decides the channels.
        grid: Its shape decides the window.
    """
    size, window = _SIZES[budget.name], choose_window(grid.shape)
    network = build_transmorph(size, window.value)
    return network, {
        "network.variant": _VARIANT_REASONS[size.variant],
        "network.embedding": size.reason,
        "network.depths": "published: 2, 2, 4, 2",
        "network.heads": "published with these channels",
        "network.window": window.reason,
        "network.drop_path": "published: 0.3",
        "network.time_steps": "of the variant time_varying alone",
        "network.axes": "as in the arrays; published weights alone ask for others",
        "network.compatibility": "correct sampling; published weights alone ask for the other",
        "network.checkpointing": "a block keeps some twenty times its input, for few of the "
        "network's multiplications",
    }


def build_transmorph(size: Size, window: Shape) -> TransMorphPlan:
    """The network.

    Args:
        size: Its channels.
        window: Of the attention, tokens along (d, h, w).
    """
    return TransMorphPlan(
        variant=size.variant,
        embedding=size.embedding,
        depths=DEPTHS,
        heads=size.heads,
        window=window,
        drop_path=DROP_PATH,
    )


def choose_window(shape: Shape) -> Choice[Shape]:
    """Rule `window`: size / 32 along each axis, at least 2.

    With the authors' rule the deepest stage is one window and nothing is padded.
    """
    window = tuple(max(SMALLEST_WINDOW, -(-n // MULTIPLE)) for n in shape)
    return Choice(
        cast(Shape, window),
        f"rule window: size / {MULTIPLE} as published, so that the deepest stage is one window; at "
        f"least {SMALLEST_WINDOW}, so that windows can be shifted",
    )
