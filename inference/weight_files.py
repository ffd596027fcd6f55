"""State dicts in files that others published: read without executing anything, and compared."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from autoreg.errors import AutoregError, CheckpointError
from autoreg.io.weights import read_torch_file
from autoreg.network_plan import NetworkPlan
from autoreg.networks.factory import build_network

_SHOWN = 5


def read_state_dict(file: Path, entry: str | None = None) -> dict[str, Tensor]:
    """The tensors of a file written by torch.save; nothing in it is executed.

    Args:
        file: A plain state dict, or a dictionary that holds one.
        entry: Under which name; None: the file is to be a plain one.

    Raises:
        CheckpointError: if it is neither.
    """
    content = read_torch_file(
        file, "if the file was copied or downloaded, fetch it again; else give the weights as saved"
    )
    if isinstance(content, dict) and {"format", "plan", "network"} <= set(content):
        raise CheckpointError(
            f"{file}: this is a checkpoint of autoreg already; use its model folder with "
            "autoreg_predict -m"
        )
    inner = content[entry] if isinstance(content, dict) and entry in content else content
    state = _named_tensors(inner)
    if not state:
        holding = "" if entry is None else f', or a dictionary with such a one as "{entry}"'
        raise CheckpointError(
            f"{file}: expected a plain state dict (names and tensors){holding}; found "
            f"{_describe(content)}"
        )
    return state


def _named_tensors(content: object) -> dict[str, Tensor]:
    """The content if it consists of names and tensors alone, else nothing."""
    items = content.items() if isinstance(content, dict) else ()
    found = {k: v for k, v in items if isinstance(k, str) and isinstance(v, Tensor)}
    return found if len(found) == len(items) else {}


def plain_state(
    state: Mapping[str, Tensor],
    is_dropped: Callable[[str], bool],
    wrappers: Sequence[str] = ("module.",),
) -> dict[str, Tensor]:
    """The entries under the names of the bare network, floating-point ones as float32.

    Args:
        state: As it was read.
        is_dropped: Whether the entry of this name follows from the plan and isn't kept.
        wrappers: Prefixes that are removed where all names carry them, outermost first.
    """
    for prefix in wrappers:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return {
        key: value.float() if value.is_floating_point() else value
        for key, value in state.items()
        if not is_dropped(key)
    }


def check_state(
    state: Mapping[str, Tensor], network: NetworkPlan, channels: int, file: Path, expected: str
) -> None:
    """Compare names and shapes with those of the network that a plan describes.

    Args:
        state: From `plain_state`.
        network: What the weights are thought to belong to.
        channels: Of one image.
        file: What messages name.
        expected: The same network in words.

    Raises:
        CheckpointError: listing missing and unexpected entries, wrong shapes, and values that
            are not finite.
    """
    try:
        with torch.device("meta"):
            template = build_network(network, channels).state_dict()
    except AutoregError as error:
        raise CheckpointError(f"{file}: {expected} cannot be built: {error}") from error
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
        raise CheckpointError("\n  ".join([f"{file}: does not fit {expected}:", *problems]))


def entries_text(state: Mapping[str, Tensor]) -> str:
    """What a state dict holds, in words."""
    return f"{len(state)} entries such as {', '.join(list(state)[:3])}"


def _entries(kind: str, found: Sequence[str]) -> list[str]:
    if not found:
        return []
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return [f"{len(found)} {kind}: {', '.join(found[:_SHOWN])}{more}"]


def _describe(content: object) -> str:
    if isinstance(content, dict):
        return f"a dictionary with {', '.join(map(str, list(content)[:5])) or 'nothing'}"
    return f"an object of type {type(content).__name__}"
