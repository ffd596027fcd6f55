"""Configurations of plans.json that inherit from others and override a few nested values."""

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoreg.errors import PlanError, did_you_mean
from autoreg.network_plan import ARCHITECTURES

INHERITS = "inherits_from"

# What the planner takes from an architecture's recipe.
_RECIPE = (
    ("loss", "similarity"),
    ("loss", "regularity"),
    ("loss", "regularity_weight"),
    ("training", "shallow_epochs"),
    ("training", "learning_rate"),
    ("training", "optimiser"),
    ("training", "schedule"),
    ("instance_optimisation", "learning_rate"),
)


def resolve(configurations: dict[str, Any], path: Path, name: str) -> dict[str, Any]:
    """The content of a configuration with everything that it inherits.

    Args:
        configurations: Name to content, each an object.
        path: Of the plans.json, for messages.
        name: Of the configuration.

    Raises:
        PlanError: if it or one that it inherits from is unknown, if they inherit in a circle, or
            if it names another architecture without the values that go with it.
    """
    return _resolve(_Place(configurations, path), name, ())


@dataclass(frozen=True)
class _Place:
    """Where configurations are looked for."""

    configurations: dict[str, Any]
    path: Path


def _resolve(place: _Place, name: str, children: tuple[str, ...]) -> dict[str, Any]:
    configurations, path = place.configurations, place.path
    if name not in configurations:
        by = f' (inherited by "{children[-1]}")' if children else ""
        hint = did_you_mean(name, configurations)
        known = "" if hint.startswith("known") else f" Known: {', '.join(configurations)}"
        remedy = "" if children else "; name one with --config"
        raise PlanError(f'{path}: no configuration "{name}"{by}; {hint}{known}{remedy}')
    if name in children:
        circle = " -> ".join((*children, name))
        raise PlanError(f"{path}: configurations inherit in a circle: {circle}")
    content: dict[str, Any] = copy.deepcopy(configurations[name])
    if INHERITS not in content:
        return content
    parent = content.pop(INHERITS)
    if not isinstance(parent, str):
        raise PlanError(
            f"{path}: configurations: {name}: {INHERITS}: expected the name of a configuration, "
            f"found {json.dumps(parent)}"
        )
    inherited = _resolve(place, parent, (*children, name))
    _require_recipe(inherited, content, f"{path}: configurations: {name}")
    return _override(inherited, content, name)


def _override(parent: dict[str, Any], child: dict[str, Any], name: str) -> dict[str, Any]:
    """Nested overrides; values that go together are replaced together.

    Another similarity has other parameters, another alignment another centre, another architecture
    other keys: what the parent said about them must not leak into the child.
    """
    parent = copy.deepcopy(parent)
    loss, alignment = child.get("loss"), child.get("alignment")
    inherited = parent.get("loss")
    if isinstance(loss, dict) and isinstance(inherited, dict):
        similarity = inherited.get("similarity")
        if "similarity_parameters" in loss or loss.get("similarity", similarity) != similarity:
            inherited["similarity_parameters"] = {}
    if isinstance(alignment, dict) and "kind" in alignment:
        parent["alignment"] = {}
    network = child.get("network")
    if isinstance(network, dict) and "architecture" in network:
        _replace_network(parent, network["architecture"])
    reasons = {
        key: f'overridden in configuration "{name}"'
        for key in _leaves(child)
        if not key.startswith("reasons.")
    }
    merged = _merge(parent, child)
    merged["reasons"] = {**parent.get("reasons", {}), **reasons, **child.get("reasons", {})}
    return merged


def _require_recipe(parent: dict[str, Any], child: dict[str, Any], where: str) -> None:
    """Another architecture than the parent's must come with what it is trained with.

    Raises:
        PlanError: naming all values that were chosen for the parent's architecture and are not
            given anew.
    """
    old, new = (_value(content, ("network", "architecture")) for content in (parent, child))
    if new is None or new == old or new not in ARCHITECTURES:  # an unknown one is refused later
        return
    missing = [".".join(key) for key in _RECIPE if _value(child, key) is None]
    if missing:
        raise PlanError(
            f'{where}: {INHERITS}: the parent\'s network is "{old}", and these values were chosen '
            f'for it: {", ".join(missing)}; give them for "{new}" too, or plan it with '
            f"autoreg_plan --architecture {new} and inherit from that"
        )


def _value(content: dict[str, Any], key: tuple[str, str]) -> object:
    """One of the configuration's nested values, or None."""
    part = content.get(key[0])
    return part.get(key[1]) if isinstance(part, dict) else None


def _replace_network(parent: dict[str, Any], architecture: object) -> None:
    """Empty the network of a copied parent, if it is another one; its reasons go with it."""
    network = parent.get("network")
    if not isinstance(network, dict) or network.get("architecture") == architecture:
        return
    parent["network"] = {}
    reasons = parent.get("reasons", {})
    parent["reasons"] = {k: v for k, v in reasons.items() if not k.startswith("network.")}


def _merge(parent: dict[str, Any], child: dict[str, Any]) -> dict[str, Any]:
    merged = dict(parent)
    for key, value in child.items():
        present = merged.get(key)
        if isinstance(value, dict) and isinstance(present, dict):
            merged[key] = _merge(present, value)
        else:
            merged[key] = value
    return merged


def _leaves(value: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, item in value.items():
        place = f"{prefix}{key}"
        found += _leaves(item, place + ".") if isinstance(item, dict) else [place]
    return found
