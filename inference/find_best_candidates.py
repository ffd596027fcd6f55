"""What is compared: configurations with settings, and registration without any network."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from autoreg.errors import UsageError
from autoreg.field_plan import similarity_of
from autoreg.inference.choices import PRESETS, RefineChoice
from autoreg.inference.compare_io_settings import NO_IO, Mode, Setting
from autoreg.inference.find_best_contest import Contest, TrainedConfiguration, trained_fold
from autoreg.registration.field_presets import preset_plan
from autoreg.training.refinement_record import decision

REFINE: RefineChoice = (
    "balanced"  # what is compared unless the user says otherwise, and without a network
)
_WITHOUT = "without_network"
_UNREFINED: tuple[RefineChoice, ...] = ("off",)
# From what costs the least; between equals the one before is preferred.
ORDER = (
    "a network alone; no network (a displacement field is optimised); a network with refinement; "
    "with instance optimisation (IO), the fewer steps the simpler; with both. Among configurations "
    "of one kind the clearly faster one (1.5 times, and a second a pair), else the one named first"
)


@dataclass(frozen=True)
class SettingChoice:
    """What the user said about the settings; None: by default.

    Attributes:
        steps: Numbers of steps of instance optimisation; 0: none.
        optimised: What it changes.
        refine: "off" and presets.
    """

    steps: tuple[int, ...] | None = None
    optimised: tuple[str, ...] | None = None
    refine: tuple[RefineChoice, ...] | None = None

    def check(self) -> None:
        """Refuse values that stand twice or do nothing.

        Raises:
            UsageError: naming the flag.
        """
        given = {"--io-steps": self.steps, "--optimised": self.optimised, "--refine": self.refine}
        for flag, values in given.items():
            if values and len(set(values)) < len(values):
                raise UsageError(f"{flag}: a value stands there twice; give each once")
        if self.optimised and self.steps is not None and not any(self.steps):
            raise UsageError("--optimised: does nothing with --io-steps 0; drop one of them")


@dataclass(frozen=True)
class Candidate:
    """One way to register the pairs.

    Attributes:
        configuration: Whose weights; None: no network.
        setting: How they are used; without a network none is.
    """

    configuration: str | None
    setting: Setting = NO_IO

    @property
    def name(self) -> str:
        """For files: "default/none"."""
        return f"{self.configuration}/{self.setting.name}" if self.configuration else _WITHOUT

    @property
    def title(self) -> str:
        """For people: "default, no IO"."""
        if self.configuration is None:
            return f"no network, field optimisation ({REFINE})"
        return f"{self.configuration}, {self.setting.title}"

    @property
    def effort(self) -> tuple[int, int, int]:
        """Place in `ORDER`: kind, preset of the refinement, steps."""
        if self.configuration is None:
            return 1, PRESETS.index(REFINE), 0
        setting = self.setting
        refined, optimised = setting.refine != "off", setting.mode != "none"
        kind = 0 if not (refined or optimised) else 2 + 2 * optimised + (refined and optimised)
        preset = PRESETS.index(setting.refine) if setting.refine in PRESETS else len(PRESETS)
        return kind, preset if refined else 0, setting.steps


WITHOUT_NETWORK = Candidate(None)


def settings_of_model(
    model: TrainedConfiguration, contest: Contest, choice: SettingChoice
) -> tuple[Setting, ...]:
    """The settings that a configuration is compared in, each once.

    Without a choice: the network alone, refined with the preset "balanced", and what the plan says
    (instance optimisation, refinement where training found that it helps). With one: every
    combination of what was given; what was not given is off, or the plan's.
    """
    plan = model.plan.instance_optimisation
    mode: Mode = _mode(model)
    if choice == SettingChoice():
        planned = replace(NO_IO, refine=_planned_refinement(model, contest))
        if plan.mode != "none":
            planned = replace(planned, mode=mode, optimised=plan.optimised, steps=plan.steps)
        return tuple(dict.fromkeys((NO_IO, Setting(refine=REFINE), planned)))
    steps = choice.steps or ((0, plan.steps) if choice.optimised else (0,))
    return tuple(
        dict.fromkeys(
            Setting(mode, what, n, refine) if n else Setting(refine=refine)
            for refine in choice.refine or _UNREFINED
            for n in sorted(steps)
            for what in choice.optimised or (plan.optimised,)
        )
    )


def _mode(model: TrainedConfiguration) -> Mode:
    """The plan's mode of instance optimisation; with gradient projection where it has none."""
    mode = model.plan.instance_optimisation.mode
    return "gradient_projection" if mode == "none" else mode


def _planned_refinement(model: TrainedConfiguration, contest: Contest) -> RefineChoice:
    """What "auto" comes to: off, a preset by its name, else "auto" itself."""
    refine = model.plan.instance_optimisation.refine
    folders = [model.checkpoints[trained_fold(model, fold.name)].parent for fold in contest.folds]
    fields = {decision(refine, folder).field for folder in folders}
    if fields == {None}:
        return "off"
    similarity = similarity_of(model.plan.fixed_modalities, model.plan.moving_modalities)
    for preset in _presets():
        if fields == {replace(preset_plan(preset), similarity=similarity)}:
            return preset
    return "auto"


def _presets() -> Sequence[RefineChoice]:
    return ("fast", "balanced", "accurate")
