"""Published weights to a model folder: official uniGradICON and multiGradICON checkpoints.

The plan that goes with the weights reproduces the published preprocessing and geometry, so that
`autoreg_predict --io none` gives the transform that the published code gives.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from autoreg.errors import CheckpointError, UsageError
from autoreg.inference.published_plan import PUBLISHED_GRID, published_plan
from autoreg.io.records import save_record
from autoreg.io.weights import read_torch_file
from autoreg.networks.factory import build_network
from autoreg.networks.gradicon import level_prefixes
from autoreg.plan import NetworkPlan, Shape
from autoreg.training.checkpoint import Checkpoint, save_checkpoint
from autoreg.training.model_folder import PLAN_FILE, checkpoint_path

FULL_CASCADE = (0.25, 0.5, 1.0, 1.0)
_DEEPEST_CHANNELS = 512  # of the published width
_WRAPPERS = ("module.", "regis_net.")  # DataParallel's and GradientICONSparse's
_SHOWN = 5
_SMALLEST_GRID = 8


@dataclass(frozen=True)
class ImportOptions:
    """What the file cannot tell.

    Attributes:
        grid: Nodes of the network's grid, (d, h, w).
        modality: Of both images, unless a prediction says otherwise.
        overwrite: Whether a model that is there already may be replaced.
    """

    grid: Shape = PUBLISHED_GRID
    modality: Literal["MR", "CT"] = "MR"
    overwrite: bool = False

    def __post_init__(self) -> None:
        if min(self.grid) < _SMALLEST_GRID:
            raise UsageError(
                f"--grid {' '.join(map(str, self.grid))}: expected at least {_SMALLEST_GRID} nodes "
                "along each axis; the weights were trained at 175 175 175"
            )


def import_unigradicon(file: Path, model: Path, options: ImportOptions) -> str:
    """Make a model folder from an official checkpoint.

    Args:
        file: A state dict saved by torch, such as `Step_2_final.trch`; prefixes of wrappers and
            `identity_map` entries of older releases are dropped.
        model: Folder to write plan.json and fold_all/checkpoint_final.pt into.
        options: What the file cannot tell.

    Returns:
        What was written, in a sentence for people.

    Raises:
        CheckpointError: if the file is no such checkpoint, saying what differs.
        UsageError: if the model is there already.
    """
    if (model / PLAN_FILE).exists() and not options.overwrite:
        raise UsageError(f"{model}: holds a model already; choose another folder or --overwrite")
    state = official_state(read_state_dict(file))
    network = deduce_network(state, file)
    channels = _channels(state, network)
    check_state(state, network, channels, file)
    plan = published_plan(network, channels, options.grid, options.modality)
    path = checkpoint_path(model, "all", "final")
    save_checkpoint(
        path,
        Checkpoint(plan, fold="all", levels=len(network.level_factors), epoch=0, network=state),
    )
    save_record(plan, model / PLAN_FILE)
    values = sum(t.numel() for t in state.values() if t.is_floating_point())
    last = "with" if network.level_factors == FULL_CASCADE else "without"
    return (
        f"{file}: {len(network.level_factors)} levels ({last} the last step), {values:,} "
        f"values -> {model}\npredict with: autoreg_predict -m {model} -i IN -o OUT"
    )


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """The tensors of a file written by torch.save; nothing in it is executed.

    Raises:
        CheckpointError: if it is not a plain state dict.
    """
    content = read_torch_file(file, "download it again")
    if isinstance(content, dict) and {"format", "plan", "network"} <= set(content):
        raise CheckpointError(
            f"{file}: this is a checkpoint of autoreg already; use its model folder with "
            "autoreg_predict -m"
        )
    state = _named_tensors(content)
    if not state:
        raise CheckpointError(
            f"{file}: expected a plain state dict (names and tensors), found {_describe(content)}"
        )
    return state


def _named_tensors(content: object) -> dict[str, Tensor]:
    """The content if it consists of names and tensors alone, else nothing."""
    items = content.items() if isinstance(content, dict) else ()
    found = {k: v for k, v in items if isinstance(k, str) and isinstance(v, Tensor)}
    return found if len(found) == len(items) else {}


def official_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries under their official names, floating-point ones as float32.

    Prefixes of wrappers are removed where all names carry them; `identity_map` entries, which
    older releases stored and which follow from the grid, are dropped.
    """
    for prefix in _WRAPPERS:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return {
        key: value.float() if value.is_floating_point() else value
        for key, value in state.items()
        if key.rpartition(".")[2] != "identity_map"
    }


def deduce_network(state: Mapping[str, Tensor], file: Path) -> NetworkPlan:
    """The network whose weights these are: with or without the last step, and its width.

    Args:
        state: From `official_state`.
        file: What messages name.

    Raises:
        CheckpointError: if the names are not those of a GradICON cascade.
    """
    for factors in (FULL_CASCADE, FULL_CASCADE[:-1]):
        deepest = state.get(f"{level_prefixes(factors)[0]}downConvs.4.weight")
        if deepest is not None and deepest.dim() == 5:
            return NetworkPlan("gradicon", factors, deepest.shape[0] / _DEEPEST_CHANNELS)
    expected = [
        f"{level_prefixes(f)[0]}downConvs.4.weight" for f in (FULL_CASCADE, FULL_CASCADE[:-1])
    ]
    raise CheckpointError(
        f"{file}: not the weights of a GradICON cascade: found {len(state)} entries such as "
        f"{', '.join(list(state)[:3])}; expected {expected[0]} (with the last step) or "
        f"{expected[1]} (without)"
    )


def check_state(
    state: Mapping[str, Tensor], network: NetworkPlan, channels: int, file: Path
) -> None:
    """Compare names and shapes with those of the published network.

    Raises:
        CheckpointError: listing missing and unexpected entries and wrong shapes.
    """
    with torch.device("meta"):
        template = build_network(network, channels).state_dict()
    problems = _entries("missing", [key for key in template if key not in state])
    problems += _entries("unexpected", [key for key in state if key not in template])
    problems += _entries(
        "of another shape",
        [
            f"{key} {tuple(state[key].shape)}, expected {tuple(tensor.shape)}"
            for key, tensor in template.items()
            if key in state and state[key].shape != tensor.shape
        ],
    )
    problems += _entries(
        "not finite", [key for key, tensor in state.items() if not bool(tensor.isfinite().all())]
    )
    if problems:
        levels = len(network.level_factors)
        raise CheckpointError(
            "\n  ".join(
                [f"{file}: does not fit the published cascade of {levels} levels:", *problems]
            )
        )


def _channels(state: Mapping[str, Tensor], network: NetworkPlan) -> int:
    first = state.get(f"{level_prefixes(network.level_factors)[0]}downConvs.0.weight")
    return 1 if first is None or first.dim() != 5 else max(1, first.shape[1] // 2)


def _entries(kind: str, found: Sequence[str]) -> list[str]:
    if not found:
        return []
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return [f"{len(found)} {kind}: {', '.join(found[:_SHOWN])}{more}"]


def _describe(content: object) -> str:
    if isinstance(content, dict):
        return f"a dictionary with {', '.join(map(str, list(content)[:5])) or 'nothing'}"
    return f"an object of type {type(content).__name__}"
