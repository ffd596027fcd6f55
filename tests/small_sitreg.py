"""SITReg, small, with deformations as large as a test wants them."""

import torch

from autoreg.network_plan import SITRegPlan
from autoreg.networks.sitreg import SITReg


def small_plan(**changes):
    values = {
        "features": (4, 8, 8),
        "feature_convolutions": (2, 2, 2),
        "deformation_features": (8, 12, 12),
        "deformation_convolutions": 2,
        "groups": 2,
        "normalise_deformations": False,
        "bound_share": 0.99,
    }
    return SITRegPlan(**{**values, **changes})


def small_sitreg(scale=40.0, channels=1, seed=0, **changes):
    """In eval mode; torch's usual initial values, those of the heads' last layers times `scale`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SITReg(small_plan(**changes), channels)
        parts = network.parts()
        for head in parts.heads:
            if head is not None:
                _multiply(head.final_convolution.conv, scale)
    return network.eval()


@torch.no_grad()
def _multiply(layer, factor):
    for parameter in layer.parameters():
        parameter *= factor
