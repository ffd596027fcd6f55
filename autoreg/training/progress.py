"""What a training has done so far: epoch records, progress.json and when to draw progress.png."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autoreg.io.records import save_record
from autoreg.training.progress_picture import draw_progress

PROGRESS_FORMAT = 1
PICTURE_SECONDS = 60.0


@dataclass(frozen=True)
class Measures:
    """What validation measures, of one pair or as means over pairs.

    Attributes:
        similarity: Similarity loss (both directions, as in training), without augmentation.
        regularity: Regularity loss, unweighted.
        total: Similarity + weight * regularity + folding weight * folding.
        dice: Mean over structures (and pairs), in [0, 1]; None without label maps.
        tre_mm: Mean distance of corresponding landmarks, millimetres; None without landmarks.
        ndv_percent: Share of non-diffeomorphic volume, percent.
        lncc: Mean local correlation of the warped moving image and the fixed one, in [-1, 1],
            whatever the plan's similarity; None where a mask leaves no voxel, and in records of
            versions that did not measure it.
    """

    similarity: float
    regularity: float
    total: float
    dice: float | None
    tre_mm: float | None
    ndv_percent: float
    lncc: float | None = None


@dataclass(frozen=True)
class ValidationSummary(Measures):
    """Means over the validation pairs that have the measure.

    Attributes:
        pairs: Number of pairs.
    """

    pairs: int = field(kw_only=True)


@dataclass(frozen=True)
class EpochRecord:
    """One epoch.

    Attributes:
        epoch: Counted from 0.
        levels: Levels of the cascade that were trained.
        augmented: Whether the images were augmented.
        similarity: Mean similarity loss of the training pairs.
        regularity: Mean regularity loss, unweighted.
        total: Mean of all that was minimised.
        seconds: Duration of the epoch without its validation.
        waiting_seconds: Part of it spent waiting for data.
        validation: Where the epoch ended with one.
        folding: Mean non-diffeomorphic volume of a pair (both maps), voxels; None where it has no
            weight.
        cycle: Mean cycle error (both directions), unweighted; None without group consistency.
        conflicts: Share of the steps in which the gradients of similarity and regularity
            conflicted, in [0, 1]; None without gradient projection.
        supervised: Mean weighted loss of labels and landmarks; None without supervision.
        learning_rate: Of the optimiser in this epoch; None in records of versions that did not
            write it.
    """

    epoch: int
    levels: int
    augmented: bool
    similarity: float
    regularity: float
    total: float
    seconds: float
    waiting_seconds: float
    validation: ValidationSummary | None
    folding: float | None = None
    cycle: float | None = None
    conflicts: float | None = None
    supervised: float | None = None
    learning_rate: float | None = None


class PictureClock:
    """Says when progress.png is due, since drawing it takes longer than a short epoch.

    Args:
        seconds: Between two pictures at least, wall time.
        clock: Gives the time, seconds.
    """

    def __init__(
        self, seconds: float = PICTURE_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        self._drawn: float | None = None

    def is_due(self, *, is_last: bool) -> bool:
        """Whether to draw now: the first time, after the wait, and at the end always.

        Args:
            is_last: Whether nothing follows.
        """
        now = self._clock()
        due = is_last or self._drawn is None or now - self._drawn >= self._seconds
        if due:
            self._drawn = now
        return due


def describe(record: EpochRecord, epochs: int) -> str:
    """An epoch in one line, for the log.

    Args:
        record: Of the epoch.
        epochs: Number of epochs in all.
    """
    parts = [f"similarity {record.similarity:.4f}", f"regularity {record.regularity:.4f}"]
    for value, text in (
        (record.supervised, "supervision {:.4f}"),
        (record.folding, "folding {:.4g} voxels"),
        (record.cycle, "cycle error {:.3g}"),
    ):
        parts += [] if value is None else [text.format(value)]
    text = f"epoch {record.epoch + 1}/{epochs}: loss {record.total:.4f} ({', '.join(parts)}), "
    if record.conflicts is not None:
        text += f"gradients in conflict in {100 * record.conflicts:.0f} % of the steps, "
    if record.learning_rate is not None:
        text += f"learning rate {record.learning_rate:.3g}, "
    waiting = 100 * record.waiting_seconds / max(record.seconds, 1e-9)
    text += f"{record.seconds:.1f} s, {waiting:.0f} % of it waiting for data"
    if record.validation is None:
        return text
    return f"{text}; {describe_validation(record.validation)}"


def describe_validation(summary: ValidationSummary) -> str:
    """A validation in one line, for the log."""
    parts = [f"loss {summary.total:.4f}"]
    for value, text in (
        (summary.dice, "Dice {:.4f}"),
        (summary.tre_mm, "TRE {:.2f} mm"),
        (summary.lncc, "LNCC {:.4f}"),
        (summary.ndv_percent, "NDV {:.4f} %"),
    ):
        parts += [] if value is None else [text.format(value)]
    return f"validation of {summary.pairs} pairs: {', '.join(parts)}"


def write_progress(
    records: Sequence[EpochRecord],
    initial: ValidationSummary,
    criterion: str,
    folder: Path,
    draw: bool = True,
) -> None:
    """Write progress.json (for machines) and, if asked to, progress.png (for people).

    Args:
        records: All epochs so far, at least one.
        initial: Validation before the first epoch.
        criterion: By what the best checkpoint is chosen.
        folder: Of the fold.
        draw: Whether to draw the picture, which takes half a second; see `PictureClock`.
    """
    content = {
        "format": PROGRESS_FORMAT,
        "best_by": criterion,
        "before_training": initial,
        "epochs": list(records),
    }
    save_record(content, folder / "progress.json")
    if draw:
        draw_progress(records, initial, folder / "progress.png")
