"""Official uniGradICON and multiGradICON checkpoints.

The plan that goes with the weights reproduces the published preprocessing and geometry, so that
`autoreg_predict --io none` gives the transform that the published code gives.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from autoreg.errors import CheckpointError
from autoreg.inference.imported import Imported, ImportOptions
from autoreg.inference.published_plan import PUBLISHED_GRID, published_plan
from autoreg.inference.weight_files import check_state, entries_text, plain_state, read_state_dict
from autoreg.network_plan import GradICONPlan
from autoreg.networks.gradicon import level_prefixes

FULL_CASCADE = (0.25, 0.5, 1.0, 1.0)
_DEEPEST_CHANNELS = 512  # of the published width
_WRAPPERS = ("module.", "regis_net.")  # DataParallel's and GradientICONSparse's


def import_unigradicon(file: Path, options: ImportOptions) -> Imported:
    """Read an official checkpoint.

    Args:
        file: A state dict saved by torch, such as `Step_2_final.trch`; prefixes of wrappers and
            `identity_map` entries of older releases are dropped.
        options: Its grid (by default the published one) and modality count.

    Raises:
        CheckpointError: if the file is no such checkpoint, saying what differs.
    """
    state = plain_state(read_state_dict(file), _is_identity_map, _WRAPPERS)
    network = deduce_network(state, file)
    channels = _channels(state, network)
    expected = f"the published cascade of {network.levels} levels"
    check_state(state, network, channels, file, expected)
    plan = published_plan(
        network, channels, options.grid or PUBLISHED_GRID, options.modality or "MR"
    )
    last = "with" if network.level_factors == FULL_CASCADE else "without"
    return Imported(plan, state, f"{network.levels} levels ({last} the last step)")


def _is_identity_map(key: str) -> bool:
    """Older releases stored these, which follow from the grid."""
    return key.rpartition(".")[2] == "identity_map"


def deduce_network(state: Mapping[str, Tensor], file: Path) -> GradICONPlan:
    """The network whose weights these are: with or without the last step, and its width.

    Args:
        state: Under the names of the bare network.
        file: What messages name.

    Raises:
        CheckpointError: if the names are not those of a GradICON cascade.
    """
    for factors in (FULL_CASCADE, FULL_CASCADE[:-1]):
        deepest = state.get(f"{level_prefixes(factors)[0]}downConvs.4.weight")
        if deepest is not None and deepest.dim() == 5:
            return GradICONPlan(factors, deepest.shape[0] / _DEEPEST_CHANNELS)
    expected = [
        f"{level_prefixes(f)[0]}downConvs.4.weight" for f in (FULL_CASCADE, FULL_CASCADE[:-1])
    ]
    raise CheckpointError(
        f"{file}: not the weights of a GradICON cascade: found {entries_text(state)}; expected "
        f"{expected[0]} (with the last step) or {expected[1]} (without)"
    )


def _channels(state: Mapping[str, Tensor], network: GradICONPlan) -> int:
    first = state.get(f"{level_prefixes(network.level_factors)[0]}downConvs.0.weight")
    return 1 if first is None or first.dim() != 5 else max(1, first.shape[1] // 2)
