"""What a training is asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from autoreg.planning.plans_file import DEFAULT_CONFIGURATION
from autoreg.training.overrides import Overrides
from autoreg.training.processes import ALONE, Processes

AugmentOn = Literal["auto", "workers", "device"]


@dataclass(frozen=True)
class TrainingRequest:
    """What to train.

    Attributes:
        dataset: Id or name of a prepared data set.
        preprocessed: Folder of preprocessed data.
        results: Folder of trained models.
        configuration: A configuration of its plans.json.
        fold: A number or "all"; None: see `splits.fold_pairs`.
        overrides: Values in place of the plan's.
        pretrained: A model folder, or a fold's folder in it, to start from.
        resume: Go on with an interrupted training.
        overwrite: Replace a trained fold.
        workers: Loading processes; None: one fewer than processors, at most 8; 0: none.
        device: Where to train.
        show_progress: Whether to draw a progress bar.
        raw: Folder of raw data sets, where the original images for `refinement_check` lie.
        refinement_check: Whether to measure in the end if refinement helps, where the plan leaves
            it to that.
        checkpoint_minutes: Wall time between checkpoints, besides those at validations.
        augment_on: Where images are augmented.
        processes: That train together.
    """

    dataset: str
    preprocessed: Path
    results: Path
    configuration: str = DEFAULT_CONFIGURATION
    fold: str | None = None
    overrides: Overrides = Overrides()  # noqa: RUF009 - frozen
    pretrained: Path | None = None
    resume: bool = False
    overwrite: bool = False
    workers: int | None = None
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable
    show_progress: bool = True
    raw: Path | None = None
    refinement_check: bool = True
    checkpoint_minutes: float = 10.0
    augment_on: AugmentOn = "auto"
    processes: Processes = ALONE

    @property
    def augments_on_device(self) -> bool:
        """Whether images are augmented on the training's device instead of by the workers."""
        if self.augment_on == "auto":
            return self.device.type == "cuda"
        return self.augment_on == "device"
