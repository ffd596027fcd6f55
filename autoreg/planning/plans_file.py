"""plans.json: what the planner decided, written to be read and edited by people.

The file holds one configuration for each planning and any number that people add. A configuration
may inherit from another and override a few nested values:

    "mine": {"inherits_from": "default", "training": {"epochs": 200}}

Re-planning replaces the configuration that the planner wrote, and no other. Where a person edited
that one by hand, the edited version is kept as `<name>_edited_1` (and so on).
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoreg import __version__
from autoreg.errors import PlanError
from autoreg.io.atomic import locked_folder
from autoreg.io.names import folder_name_problem
from autoreg.io.records import from_plain, load_json, save_record, to_plain
from autoreg.plan import PLAN_FORMAT, Plan
from autoreg.planning.inheritance import resolve

PLANS_NAME = "plans.json"
DEFAULT_CONFIGURATION = "default"

# Facts of the data set stand once at the top of the file and are shared by all configurations.
_SHARED_KEYS = ("dataset", "fixed_modalities", "moving_modalities", "labels")
_IMPLIED_KEYS = ("format", "configuration", *_SHARED_KEYS)


@dataclass(frozen=True)
class PlansFile:
    """What plans.json holds.

    Attributes:
        format: Version of the plan record.
        autoreg_version: Of the planner that wrote the file last.
        dataset: Name of the data set.
        fingerprint_digest: Of the data set when it was planned last.
        fixed_modalities: Modality of each channel of fixed images.
        moving_modalities: The same of moving images.
        configurations: Name to content.
        written_by_planner: Name to the SHA-256 of what the planner wrote, by which edits by hand
            are noticed.
        labels: Structures of label maps; last, because there can be many.
    """

    format: int
    autoreg_version: str
    dataset: str
    fingerprint_digest: str
    fixed_modalities: tuple[str, ...]
    moving_modalities: tuple[str, ...]
    configurations: dict[str, Any]
    written_by_planner: dict[str, str]
    labels: dict[str, int]


def plans_path(preprocessed: Path, dataset: str) -> Path:
    """Where the plans of a data set live: `<preprocessed>/<dataset>/plans.json`."""
    return preprocessed / dataset / PLANS_NAME


def require_configuration_name(name: str) -> None:
    """Refuse a name that cannot be a folder's beside plans.json and among the results.

    Raises:
        PlanError: saying what is wrong with the name.
    """
    problem = folder_name_problem(name, "a configuration")
    if problem is None and name.lower().endswith(".json"):
        problem = "a configuration is no file: do not end its name in .json"
    if problem is not None:
        raise PlanError(f'the configuration name "{name}" (--config): {problem}')


def is_added_by_hand(path: Path, configuration: str) -> bool:
    """Whether plans.json has a configuration of that name which the planner didn't write."""
    if not path.exists():
        return False
    file = _read(path)
    return configuration in file.configurations and configuration not in file.written_by_planner


def load_plan(path: Path, configuration: str = DEFAULT_CONFIGURATION) -> Plan:
    """Read one configuration of a plans.json, inherited values filled in.

    Args:
        path: The plans.json.
        configuration: Its name.

    Returns:
        The plan. Reasons of values that a person overrode say so.

    Raises:
        PlanError: if the file is missing or malformed, or the configuration is unknown, cannot
            name a folder, inherits in a circle, names another architecture without the values
            that go with it, or has an unknown key or an impossible value.
    """
    require_configuration_name(configuration)
    file = _read(path)
    content = resolve(file.configurations, path, configuration)
    for key in _IMPLIED_KEYS:
        if key in content:
            raise PlanError(
                f'{path}: configurations: {configuration}: the key "{key}" does not stand here; '
                "it is the same for all configurations and stands at the top of the file"
            )
    shared = {key: getattr(file, key) for key in _SHARED_KEYS}
    data = {"format": file.format, "configuration": configuration, **shared, **content}
    return from_plain(Plan, to_plain(data), f"{path}: configurations: {configuration}")


def write_plans(path: Path, plan: Plan, fingerprint_digest: str) -> tuple[str, ...]:
    """Write a planned configuration into plans.json, keeping what people did there.

    Args:
        path: The plans.json; made if it is missing.
        plan: What the planner decided; `plan.configuration` names its place.
        fingerprint_digest: Of the fingerprint that it was decided from.

    Returns:
        One sentence for each thing that a person should know (an edited configuration kept, a
        new one added).

    Raises:
        PlanError: if an existing file is malformed, or holds a configuration of that name which
            the planner didn't write, or if the name cannot be a folder's. The file stays as it was.
    """
    require_configuration_name(plan.configuration)
    with locked_folder(path.parent):  # another command may plan another configuration
        return _write(path, plan, fingerprint_digest)


def _write(path: Path, plan: Plan, fingerprint_digest: str) -> tuple[str, ...]:
    name = plan.configuration
    content = {k: v for k, v in to_plain(plan).items() if k not in _IMPLIED_KEYS}
    configurations: dict[str, Any] = {}
    written: dict[str, str] = {}
    messages: tuple[str, ...] = ()
    if path.exists():
        old = _read(path)
        configurations, written = dict(old.configurations), dict(old.written_by_planner)
        messages = _keep_edited(path, configurations, written, name, content)
    configurations[name] = content
    written[name] = _digest(content)
    save_record(
        PlansFile(
            format=PLAN_FORMAT,
            autoreg_version=__version__,
            dataset=plan.dataset,
            fingerprint_digest=fingerprint_digest,
            fixed_modalities=plan.fixed_modalities,
            moving_modalities=plan.moving_modalities,
            labels=plan.labels,
            configurations=configurations,
            written_by_planner={k: v for k, v in written.items() if k in configurations},
        ),
        path,
    )
    return messages


def _keep_edited(
    path: Path,
    configurations: dict[str, Any],
    written: dict[str, str],
    name: str,
    content: dict[str, Any],
) -> tuple[str, ...]:
    """Copy a hand-edited configuration to a free name; changes `configurations` in place."""
    if name not in configurations:
        return (f'the configuration "{name}" is new, beside {", ".join(configurations)}',)
    present = configurations[name]
    if name not in written:
        raise PlanError(
            f'{path}: the configuration "{name}" was added by hand, the planner will not replace '
            "it; plan under another name with --config"
        )
    if _digest(present) in (written[name], _digest(content)):
        return ()
    others = {k: v for k, v in configurations.items() if k.startswith(f"{name}_edited_")}
    for other, value in others.items():
        if _digest(value) == _digest(present):
            return (f'your edited "{name}" is already kept as "{other}"',)
    number = 1
    while f"{name}_edited_{number}" in configurations:
        number += 1
    configurations[f"{name}_edited_{number}"] = present
    message = (
        f'the configuration "{name}" was edited by hand; your version is kept as '
        f'"{name}_edited_{number}" (use it with --config {name}_edited_{number})'
    )
    return (message,)


def _read(path: Path) -> PlansFile:
    if not path.exists():
        raise PlanError(f"{path}: no such file; run autoreg_plan first")
    data = load_json(path)
    if isinstance(data, dict) and data.get("format", PLAN_FORMAT) != PLAN_FORMAT:
        raise PlanError(
            f"{path}: plan format {data['format']} is not {PLAN_FORMAT}, the one this version "
            "reads; move the file away and plan again with autoreg_plan"
        )
    file = from_plain(PlansFile, data, str(path))
    for name, content in file.configurations.items():
        if not isinstance(content, dict):
            raise PlanError(
                f"{path}: configurations: {name}: expected an object, found {json.dumps(content)}"
            )
    return file


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
