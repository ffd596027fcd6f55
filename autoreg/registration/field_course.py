"""The course of an optimisation of a field: how many steps, and when they no longer pay."""

from collections.abc import Callable
from dataclasses import dataclass, field

from autoreg.field_plan import StageName


@dataclass(frozen=True)
class FieldStep:
    """One look at the images; a step follows, unless the resolution ends with it.

    Attributes:
        step: Counted from 1 over all stages.
        stage: Which one.
        voxel_mm: Size of the voxels at this resolution.
        similarity: Mean over the images before the step: the local correlation, its square, or
            minus the mean squared difference of the descriptors.
    """

    step: int
    stage: StageName
    voxel_mm: float
    similarity: float


# So much less similarity than at the best look at a resolution, and the steps lead astray.
_ASTRAY = 0.01


@dataclass
class Course:
    """All steps so far.

    Attributes:
        flat_tolerance: A resolution is finished when two steps together brought less than this
            share of what all its steps brought.
        on_step: Hears of every step, for a progress bar.
    """

    flat_tolerance: float
    on_step: Callable[[FieldStep], None] | None = None
    steps: list[FieldStep] = field(default_factory=list)
    _begin: int = 0

    def begin(self) -> None:
        """Another resolution."""
        self._begin = len(self.steps)

    def goes_on(self, stage: StageName, voxel_mm: float, similarity: float) -> bool:
        """Take down the value before a step; whether that step is worth taking."""
        step = FieldStep(len(self.steps) + 1, stage, voxel_mm, similarity)
        self.steps.append(step)
        if self.on_step is not None:
            self.on_step(step)
        values = [s.similarity for s in self.steps[self._begin :]]
        if self.astray:
            return False
        if len(values) < 4:
            return True
        recent = max(values[-2:]) - max(values[:-2])
        return recent > self.flat_tolerance * (max(values) - values[0])

    @property
    def astray(self) -> bool:
        """Whether the steps at this resolution have made the images clearly less similar."""
        values = [s.similarity for s in self.steps[self._begin :]]
        return max(values) - values[-1] > _ASTRAY * abs(max(values))

    @property
    def is_best(self) -> bool:
        """Whether the images have not been more similar at this resolution."""
        values = [s.similarity for s in self.steps[self._begin :]]
        return values[-1] == max(values)
