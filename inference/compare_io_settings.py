"""The settings of instance optimisation that are compared, and the request behind each."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from autoreg.errors import UsageError
from autoreg.inference.choices import RefineChoice
from autoreg.inference.pairs import Split
from autoreg.inference.request import OptimisationChoice, PredictRequest
from autoreg.training.model_folder import Which

Mode = Literal["none", "vanilla", "gradient_projection"]
ProtocolChoice = Literal["plain", "lumir", "learn2reg"]

_SHORT = {"vanilla": "IO", "gradient_projection": "IO-GP"}


@dataclass(frozen=True)
class Setting:
    """One way to register every pair.

    Attributes:
        mode: Of instance optimisation.
        optimised: What it changes; None without it.
        steps: At most so many; 0 without it.
        refine: The field optimisation after the network, or "off".
    """

    mode: Mode = "none"
    optimised: str | None = None
    steps: int = 0
    refine: RefineChoice = "off"

    @property
    def name(self) -> str:
        """Name of its folder."""
        refined = "" if self.refine == "off" else f"refine_{self.refine}"
        if self.mode != "none":
            return "_".join(filter(None, [self.mode, self.optimised, str(self.steps), refined]))
        return refined or "none"

    @property
    def title(self) -> str:
        """For tables."""
        io = "no IO"
        if self.mode != "none":
            io = f"{_SHORT[self.mode]}, {self.steps} steps, {self.optimised}"
        return io if self.refine == "off" else f"{io}, refine {self.refine}"

    @property
    def flags(self) -> tuple[str, ...]:
        """What asks autoreg_predict for it."""
        io = ["--io", self.mode]
        if self.mode != "none":
            io += ["--io-optimised", str(self.optimised), "--io-steps", str(self.steps)]
        return (*io, "--refine", self.refine)


NO_IO = Setting()


@dataclass(frozen=True)
class CompareRequest:
    """What to compare; see the flags of autoreg_compare_io.

    Attributes:
        source: Folder or file of pairs, or a raw data set.
        output: Folder for the settings' folders and the reports.
        model: Model folder.
        settings: From `settings_of`.
        fold: Of the model; None: the only one.
        checkpoint: Of the fold; None: final, else best, else latest.
        split: Of a raw data set; None: test.
        seed: Of instance optimisation; None: the plan's.
        protocol: By whose rules pairs are scored.
        labels: The labels of Dice and HD95 as the user listed them; None: the protocol's.
        skip_complete: Whether pairs that are predicted and scored are kept (`--continue`).
        discard_fields: Whether images and displacements go as soon as their pair is scored.
    """

    source: Path
    output: Path
    model: Path
    settings: tuple[Setting, ...]
    fold: str | None = None
    checkpoint: Which | None = None
    split: Split | None = None
    seed: int | None = None
    protocol: ProtocolChoice = "plain"
    labels: str | None = None
    skip_complete: bool = False
    discard_fields: bool = False

    def folder(self, setting: Setting) -> Path:
        """Where a setting's predictions lie."""
        return self.output / setting.name


def settings_of(
    steps: Sequence[int], optimised: Sequence[str], refine: Sequence[RefineChoice] = ()
) -> tuple[Setting, ...]:
    """No instance optimisation, and both modes for each number of steps and what they optimise.

    Args:
        steps: Numbers of steps, each 1 or more.
        optimised: "network", "velocity", "displacements".
        refine: Presets of the field optimisation, each by itself after the network.

    Raises:
        UsageError: if a value stands twice.
    """
    for flag, values in (("--steps", steps), ("--optimised", optimised), ("--refine", refine)):
        twice = sorted({str(value) for value in values if list(values).count(value) > 1})
        if twice:
            raise UsageError(f"{flag}: {', '.join(twice)} stands there twice; give each value once")
    modes: tuple[Mode, ...] = ("vanilla", "gradient_projection")
    return (
        NO_IO,
        *(Setting(refine=preset) for preset in refine),
        *(Setting(mode, what, n) for what in optimised for n in sorted(steps) for mode in modes),
    )


def predict_request(request: CompareRequest, setting: Setting) -> PredictRequest:
    """What autoreg_predict is asked for in one setting."""
    choice = OptimisationChoice(mode=setting.mode)
    if setting.mode != "none":
        choice = replace(
            choice, steps=setting.steps, optimised=setting.optimised, seed=request.seed
        )
    return PredictRequest(
        source=request.source,
        output=request.folder(setting),
        model=request.model,
        fold=request.fold,
        checkpoint=request.checkpoint,
        split=request.split,
        optimisation=choice,
        refine=setting.refine,
        skip_complete=request.skip_complete,
    )


def commands_by_hand(request: CompareRequest, setting: Setting, device: str) -> tuple[str, str]:
    """The two commands that give the numbers of one setting: predict and evaluate."""
    out = str(request.folder(setting))
    predict = ["autoreg_predict", "-i", str(request.source), "-o", out, "-m", str(request.model)]
    predict += setting.flags
    optional = {
        "--fold": request.fold,
        "--checkpoint": request.checkpoint,
        "--split": request.split,
        "--seed": None if setting.mode == "none" else request.seed,
    }
    for flag, value in optional.items():
        predict += [] if value is None else [flag, str(value)]
    evaluate = ["autoreg_evaluate", "-i", out, "--protocol", request.protocol]
    evaluate += ["--no-figures"] if request.protocol == "plain" else []
    evaluate += [] if request.labels is None else ["--labels", request.labels]
    return (
        shlex.join([*predict, "--device", device, "--continue"]),
        shlex.join([*evaluate, "--device", device]),
    )
