"""What to predict, and what came of it."""

from dataclasses import dataclass, replace
from pathlib import Path

from autoreg.errors import UsageError
from autoreg.inference.choices import RefineChoice
from autoreg.inference.pairs import Split
from autoreg.plan import InstanceOptimisationPlan
from autoreg.training.model_folder import Which


@dataclass(frozen=True)
class OptimisationChoice:
    """What the user said about instance optimisation; None keeps the plan's value."""

    mode: str | None = None
    projection: str | None = None
    steps: int | None = None
    seed: int | None = None
    optimised: str | None = None

    def applied(self, plan: InstanceOptimisationPlan) -> InstanceOptimisationPlan:
        """The plan's instance optimisation with the user's values.

        Raises:
            UsageError: if values were given that would do nothing.
        """
        given = {key: value for key, value in vars(self).items() if value is not None}
        chosen = replace(plan, **given)
        idle = {"none": ("optimised", "projection", "steps", "seed"), "vanilla": ("projection",)}
        useless = [name for name in idle.get(chosen.mode, ()) if name in given]
        if useless:
            flags = ", ".join("--seed" if n == "seed" else f"--io-{n}" for n in useless)
            raise UsageError(f"{flags}: does nothing with --io {chosen.mode}; drop one of them")
        return chosen


@dataclass(frozen=True)
class PredictRequest:
    """What to predict; see the flags of autoreg_predict.

    Attributes:
        source: Folder or file of pairs.
        output: Folder for the results.
        model: Model folder.
        fold: Of the model; None: the only one.
        checkpoint: Of the fold; None: final, else best, else latest.
        split: Of a raw data set; None: test.
        optimisation: What the user said about instance optimisation.
        refine: What the user said about the refinement that follows.
        fixed_modalities: In place of the data set's or plan's.
        moving_modalities: Likewise.
        skip_complete: Whether complete results are kept (`--continue`).
        parts: Number of parts that the pairs are split into.
        part: Which of them, from 0.
    """

    source: Path
    output: Path
    model: Path
    fold: str | None = None
    checkpoint: Which | None = None
    split: Split | None = None
    optimisation: OptimisationChoice = OptimisationChoice()
    refine: RefineChoice = "auto"
    fixed_modalities: tuple[str, ...] | None = None
    moving_modalities: tuple[str, ...] | None = None
    skip_complete: bool = False
    parts: int = 1
    part: int = 0


@dataclass(frozen=True)
class Report:
    """What came of a run.

    Attributes:
        predicted: Cases that were predicted.
        skipped: Cases that were complete.
        failed: Cases that failed.
    """

    predicted: tuple[str, ...]
    skipped: tuple[str, ...]
    failed: tuple[str, ...]

    @property
    def exit_status(self) -> int:
        """0, or 2 if any case failed."""
        return 2 if self.failed else 0

    def text(self, output: Path) -> str:
        """A summary for people."""
        parts = [f"{len(self.predicted)} predicted"]
        if self.skipped:
            parts.append(f"{len(self.skipped)} complete already")
        if self.failed:
            parts.append(f"{len(self.failed)} failed: {', '.join(self.failed)}")
        return f"{output}: {'; '.join(parts)}"
