"""What an import has to be told, and what it gives."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from autoreg.errors import UsageError
from autoreg.network_plan import Shape
from autoreg.plan import Plan

_SMALLEST_GRID = 8

ARRAYS_NOTE = (
    "the network's arrays are those of the image files as nibabel gives them: bring your images to "
    "the orientation, cropping and preprocessing of its training data"
)


@dataclass(frozen=True)
class ImportOptions:
    """What the file of weights cannot tell; None where nothing was said.

    Attributes:
        grid: Nodes of the network's grid, (d, h, w).
        modality: Of both images, unless a prediction says otherwise (uniGradICON).
        window: Intensities that become 0 and 1 (SITReg, TransMorph).
        settings: The authors' JSON configuration (SITReg).
        overwrite: Whether a model that is there already may be replaced.
    """

    grid: Shape | None = None
    modality: Literal["MR", "CT"] | None = None
    window: tuple[float, float] | None = None
    settings: Path | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.grid is not None and min(self.grid) < _SMALLEST_GRID:
            raise UsageError(
                f"--grid {' '.join(map(str, self.grid))}: expected at least {_SMALLEST_GRID} nodes "
                "along each axis; leave it out for the grid that the weights were trained at"
            )
        if self.window is not None and not self.window[0] < self.window[1]:
            raise UsageError(
                f"--window {self.window[0]:g} {self.window[1]:g}: expected the lower end first"
            )


@dataclass(frozen=True, eq=False)
class Imported:
    """Weights with the plan that goes with them.

    Attributes:
        plan: Does what the published code does.
        state: State dict of the plan's network.
        description: What was found, for people.
        notes: What a user has to see to himself.
    """

    plan: Plan
    state: Mapping[str, Tensor]
    description: str
    notes: tuple[str, ...] = ()
