"""From the plan's words to a network."""

from collections.abc import Callable

from autoreg.errors import PlanError, did_you_mean
from autoreg.networks.base import RegistrationNetwork
from autoreg.networks.gradicon import GradICON
from autoreg.plan import NetworkPlan


def _gradicon(network: NetworkPlan, channels: int) -> RegistrationNetwork:
    return GradICON(network.level_factors, channels, network.width)


ARCHITECTURES: dict[str, Callable[[NetworkPlan, int], RegistrationNetwork]] = {
    "gradicon": _gradicon,
}


def build_network(network: NetworkPlan, channels: int) -> RegistrationNetwork:
    """A fresh network; its initial values follow torch's global seed.

    Args:
        network: What the plan says of it.
        channels: Of one image.

    Returns:
        The network, in train mode, on the CPU.

    Raises:
        PlanError: if the architecture is unknown.
    """
    if network.architecture not in ARCHITECTURES:
        remedy = did_you_mean(network.architecture, ARCHITECTURES)
        raise PlanError(f'network.architecture "{network.architecture}" is unknown; {remedy}')
    return ARCHITECTURES[network.architecture](network, channels)
