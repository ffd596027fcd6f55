"""What stays the same while training."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from autoreg.plan import Plan
from autoreg.training.batches import Transform
from autoreg.training.processes import ALONE, Processes
from autoreg.training.steps import StepLoss
from autoreg.training.stopping import StopRequest
from autoreg.training.validation import Validator


@dataclass(frozen=True, eq=False)
class TrainingSetup:
    """All that stays the same while training.

    Attributes:
        plan: Epochs, batches, stages.
        fold: "0", ... or "all".
        folder: Of the fold; checkpoints and progress go there.
        loss: What is minimised.
        validator: Measures the network.
        batches_in: Number of batches in an epoch of this number.
        device: Where to train.
        show_progress: Whether to draw a progress bar.
        processes: That train together.
        checkpoint_seconds: Wall time between checkpoints, besides those at validations.
        stop: Whether to end early.
        augment: Changes each batch on the device; None: they come augmented.
    """

    plan: Plan
    fold: str
    folder: Path
    loss: StepLoss
    validator: Validator
    batches_in: Callable[[int], int]
    device: torch.device
    show_progress: bool
    processes: Processes = ALONE
    checkpoint_seconds: float = 600.0
    stop: StopRequest = field(default_factory=StopRequest)
    augment: Transform | None = None
