"""The commands that a comparison recommends, exact enough to be copied."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from autoreg.errors import AutoregError
from autoreg.io.cases import RawDataset
from autoreg.paths import Paths
from autoreg.plan import Plan
from autoreg.planning.plans_file import DEFAULT_CONFIGURATION, load_plan, plans_path
from autoreg.training.comparison import plan_differences
from autoreg.training.overrides import Overrides

# Values that explain, that weights do not depend on, or that flags of autoreg_train bring about.
_REPLACED = (
    "reasons", "memory", "instance_optimisation",
    *(f"training.{f.name}" for f in fields(Overrides)), "training.augmentation.from_epoch",
    "training.group_consistency.from_epoch", "training.group_consistency.ramp_epochs",
)  # fmt: skip

INPUT = "INPUT_FOLDER"  # stands for the user's pairs where the data set lists none


@dataclass(frozen=True)
class CommandContext:
    """How the printed commands name data set, folders and device.

    Attributes:
        dataset: As the user gave it, later its whole name.
        paths: The folders in use.
        given: Which of them the user gave as flags: "raw", "preprocessed", "results".
        device: The flag's value; "auto" is left out.
    """

    dataset: str
    paths: Paths
    given: tuple[str, ...] = ()
    device: str = "auto"

    def path_flags(self) -> list[str]:
        """The flags that find the same folders again."""
        return [
            part
            for name in self.given
            for part in (f"--{name}", str(Path(getattr(self.paths, name)).absolute()))
        ]

    def device_flags(self) -> list[str]:
        """The device, unless it is chosen automatically."""
        return [] if self.device == "auto" else ["--device", self.device]


def train_command(
    context: CommandContext, configuration: str, fold: str, overrides: Sequence[str] = ()
) -> str:
    """The command that trains one fold."""
    config = [] if configuration == DEFAULT_CONFIGURATION else ["--config", configuration]
    words = ["autoreg_train", context.dataset, *config, "--fold", fold, *overrides]
    return shlex.join([*words, *context.device_flags(), *context.path_flags()])


def predict_command(context: CommandContext, raw: RawDataset, flags: Sequence[str]) -> str:
    """The command that registers the pairs of the data set, or the user's, with these flags."""
    words = ["autoreg_predict", *_input(raw), "-o", f"{raw.name}_predictions", *flags]
    return shlex.join([*words, *context.device_flags()])


def _input(raw: RawDataset) -> list[str]:
    folder = str(raw.folder.absolute())
    if raw.test_pairs:
        return ["-i", folder]
    if raw.validation_pairs:
        return ["-i", folder, "--split", "validation"]
    return ["-i", INPUT]


def override_flags(trained: Plan, preprocessed: Path) -> tuple[tuple[str, ...], str]:
    """The flags by which autoreg_train makes the trained plan of the planned one.

    Args:
        trained: The plan beside the weights.
        preprocessed: Folder of prepared data, with plans.json.

    Returns:
        The flags, and what they cannot bring about, in words; empty if nothing.
    """
    try:
        planned = load_plan(plans_path(preprocessed, trained.dataset), trained.configuration)
    except AutoregError as error:
        return (), f"the plan of {trained.configuration} cannot be trained again: {error}"
    flags: list[str] = []
    before, after = _values(planned), _values(trained)
    # A new number of epochs would move these along.
    moved = ("shallow_epochs", "augmentation_from") if before["epochs"] != after["epochs"] else ()
    for name, value in after.items():
        if value != before[name] or name in moved:
            flags += [f"--{name.replace('_', '-')}", str(value)]
    problems = []
    if "pretrained" in trained.reasons.get("training.shallow_epochs", ""):
        problems.append(f"{trained.configuration} began with other weights: add --pretrained MODEL")
    different = plan_differences(trained, planned, ignored=_REPLACED)
    if different:
        problems.append(
            f"{trained.configuration} was trained by another plan than plans.json holds: "
            f"{'; '.join(different)}"
        )
    return tuple(flags), "; ".join(problems)


def _values(plan: Plan) -> dict[str, object]:
    """What flags of autoreg_train replace, by their names."""
    training = plan.training
    nested: dict[str, object] = {"augmentation_from": training.augmentation.from_epoch}
    names = (f.name for f in fields(Overrides) if f.name not in nested)
    return {**{name: getattr(training, name) for name in names}, **nested}
