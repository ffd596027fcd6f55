"""Planning rules for the network: which one, and how large."""

from collections.abc import Callable
from dataclasses import dataclass

from autoreg.network_plan import GradICONPlan, NetworkPlan
from autoreg.plan import GridPlan
from autoreg.planning.budget import Budget
from autoreg.planning.choice import Choice
from autoreg.planning.rules_grid import choose_levels
from autoreg.planning.rules_sitreg import choose_sitreg
from autoreg.planning.rules_transmorph import choose_transmorph

CUDA_ARCHITECTURE = "gradicon"
CPU_ARCHITECTURE = "sitreg"
CPU_WIDTH = 0.5


@dataclass(frozen=True)
class NetworkNeeds:
    """What decides the size of a network.

    Attributes:
        budget: Memory and time.
        grid: On which it works.
        displacement_mm: To be captured.
        frugal: Whether memory is to be saved at the cost of time, where the network can.
    """

    budget: Budget
    grid: GridPlan
    displacement_mm: float
    frugal: bool


def choose_architecture(budget: Budget, wanted: str | None = None) -> Choice[str]:
    """Rule `architecture`: what --architecture asks for, else by what there is to start from.

    On a GPU the GradICON cascade, whose published weights load. Networks of a CPU's size start from
    nothing, and of those SITReg came out best where all had been trained for a similar time
    (documentation/architectures.md).

    Args:
        budget: Decides where nobody asks.
        wanted: By the user.
    """
    if wanted is not None:
        return Choice(wanted, "asked for with --architecture")
    if budget.cuda:
        return Choice(
            CUDA_ARCHITECTURE,
            "rule architecture: the published weights of the GradICON cascade can be started from",
        )
    return Choice(
        CPU_ARCHITECTURE,
        "rule architecture: a CPU's small networks start from nothing, and of those SITReg came "
        "out best on brains after similar training times (documentation/architectures.md)",
    )


def choose_network(
    architecture: Choice[str], needs: NetworkNeeds
) -> tuple[NetworkPlan, dict[str, str]]:
    """The network and its reasons.

    Args:
        architecture: See `choose_architecture`.
        needs: Budget, grid and displacement.
    """
    network, reasons = _RULES[architecture.value](needs)
    return network, {"network.architecture": architecture.reason, **reasons}


def choose_width(budget: Budget) -> Choice[float]:
    """Rule `width`: 1 (published) on GPUs, 1/2 on the CPU.

    Measured at 64^3: a step of instance optimisation costs 6.3 CPU seconds at width 1, 2.9 at 1/2
    and 2.1 at 1/4, where the similarity and the sampling dominate; the weights fall from 283 to
    71 and 18 MB. Half the width is where the gain ends.
    """
    if budget.cuda:
        return Choice(1.0, "rule width: as published, so that published weights load")
    return Choice(
        CPU_WIDTH,
        "rule width: on a CPU half the channels make a step 2.2 times as fast (measured at 64^3) "
        "and need a quarter of the memory; a quarter of them gains only 1.4 times more",
    )


def _gradicon(needs: NetworkNeeds) -> tuple[NetworkPlan, dict[str, str]]:
    levels = choose_levels(needs.grid.shape, needs.grid.spacing_mm, needs.displacement_mm)
    width = choose_width(needs.budget)
    return GradICONPlan(levels.value, width.value, needs.frugal), {
        "network.level_factors": levels.reason,
        "network.width": width.reason,
        "network.checkpointing": "rule checkpointing: the U-Nets' activations "
        + ("exceed" if needs.frugal else "fit")
        + " the memory",
    }


def _sitreg(needs: NetworkNeeds) -> tuple[NetworkPlan, dict[str, str]]:
    return choose_sitreg(needs.budget, needs.grid, needs.displacement_mm, frugal=needs.frugal)


def _transmorph(needs: NetworkNeeds) -> tuple[NetworkPlan, dict[str, str]]:
    return choose_transmorph(needs.budget, needs.grid)


_RULES: dict[str, Callable[[NetworkNeeds], tuple[NetworkPlan, dict[str, str]]]] = {
    "gradicon": _gradicon,
    "sitreg": _sitreg,
    "transmorph": _transmorph,
}
