"""From the plan's words to a network."""

from collections.abc import Callable
from typing import Any

from autoreg.network_plan import GradICONPlan, NetworkPlan, SITRegPlan, TransMorphPlan
from autoreg.networks.base import RegistrationNetwork
from autoreg.networks.gradicon import GradICON
from autoreg.networks.sitreg import SITReg
from autoreg.networks.transmorph import build_transmorph


def _gradicon(network: GradICONPlan, channels: int) -> RegistrationNetwork:
    return GradICON(
        network.level_factors, channels, network.width, checkpointing=network.checkpointing
    )


_BUILDERS: dict[type, Callable[[Any, int], RegistrationNetwork]] = {
    GradICONPlan: _gradicon,
    SITRegPlan: SITReg,
    TransMorphPlan: build_transmorph,
}


def build_network(network: NetworkPlan, channels: int) -> RegistrationNetwork:
    """A fresh network; its initial values follow torch's global seed.

    Args:
        network: What the plan says of it.
        channels: Of one image.

    Returns:
        The network, in train mode, on the CPU.
    """
    return _BUILDERS[type(network)](network, channels)
