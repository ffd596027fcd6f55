"""What a training has done so far: epoch records, progress.json and progress.png."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from autoreg.io.atomic import atomic_path
from autoreg.io.records import save_record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PROGRESS_FORMAT = 1


@dataclass(frozen=True)
class ValidationSummary:
    """Means over the validation pairs.

    Attributes:
        pairs: Number of pairs.
        similarity: Similarity loss (both directions, as in training), without augmentation.
        regularity: Regularity loss, unweighted.
        total: Similarity + weight * regularity + folding weight * folding.
        dice: Mean over pairs and structures, in [0, 1]; None without label maps.
        tre_mm: Mean distance of corresponding landmarks, millimetres; None without landmarks.
        ndv_percent: Share of non-diffeomorphic volume, percent.
    """

    pairs: int
    similarity: float
    regularity: float
    total: float
    dice: float | None
    tre_mm: float | None
    ndv_percent: float


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


_Validated = tuple[int, ValidationSummary]  # with its epoch


def describe(record: EpochRecord, epochs: int) -> str:
    """An epoch in one line, for the log.

    Args:
        record: Of the epoch.
        epochs: Number of epochs in all.
    """
    parts = f"similarity {record.similarity:.4f}, regularity {record.regularity:.4f}"
    parts += "" if record.folding is None else f", folding {record.folding:.4g} voxels"
    parts += "" if record.cycle is None else f", cycle error {record.cycle:.3g}"
    text = (
        f"epoch {record.epoch + 1}/{epochs}: loss {record.total:.4f} ({parts}), "
        f"{record.seconds:.1f} s, "
        f"{100 * record.waiting_seconds / max(record.seconds, 1e-9):.0f} % of it waiting for data"
    )
    if record.validation is None:
        return text
    return f"{text}; {describe_validation(record.validation)}"


def describe_validation(summary: ValidationSummary) -> str:
    """A validation in one line, for the log."""
    parts = [f"loss {summary.total:.4f}"]
    if summary.dice is not None:
        parts.append(f"Dice {summary.dice:.4f}")
    if summary.tre_mm is not None:
        parts.append(f"TRE {summary.tre_mm:.2f} mm")
    parts.append(f"NDV {summary.ndv_percent:.4f} %")
    return f"validation of {summary.pairs} pairs: {', '.join(parts)}"


def write_progress(
    records: Sequence[EpochRecord], initial: ValidationSummary, criterion: str, folder: Path
) -> None:
    """Write progress.json (for machines) and progress.png (for people).

    Args:
        records: All epochs so far.
        initial: Validation before the first epoch.
        criterion: By what the best checkpoint is chosen.
        folder: Of the fold.
    """
    content = {
        "format": PROGRESS_FORMAT,
        "best_by": criterion,
        "before_training": initial,
        "epochs": list(records),
    }
    save_record(content, folder / "progress.json")
    draw_progress(records, initial, folder / "progress.png")


def draw_progress(records: Sequence[EpochRecord], initial: ValidationSummary, path: Path) -> None:
    """Draw losses, accuracy, folding and duration over the epochs.

    Args:
        records: All epochs so far, at least one.
        initial: Validation before the first epoch; it stands at 0, the first epoch at 1.
        path: The PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    FigureCanvasAgg(figure)  # no global state and no display
    (losses, regularity), (accuracy, duration) = figure.subplots(2, 2)
    validations = [(0, initial)]
    validations += [(r.epoch + 1, r.validation) for r in records if r.validation is not None]
    _draw_losses(losses, regularity, records, validations)
    _draw_accuracy(accuracy, validations)
    epochs = [record.epoch + 1 for record in records]
    duration.plot(epochs, [r.seconds for r in records], ".-", label="epoch")
    duration.plot(epochs, [r.waiting_seconds for r in records], ".-", label="waiting for data")
    duration.set_ylabel("seconds")
    duration.legend(fontsize="small")
    for axes in (losses, regularity, accuracy, duration):
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        _mark_stages(axes, records)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=90)


def _draw_losses(
    losses: "Axes",
    regularity: "Axes",
    records: Sequence[EpochRecord],
    validations: Sequence[_Validated],
) -> None:
    for axes, name, colour in (
        (losses, "total", "C0"),
        (losses, "similarity", "C1"),
        (regularity, "regularity", "C2"),
    ):
        epochs = [record.epoch + 1 for record in records]
        values = [getattr(record, name) for record in records]
        axes.plot(epochs, values, f"{colour}.-", label=f"training: {name}")
        axes.plot(*_curve(validations, name), f"{colour}o--", label=f"validation: {name}")
        axes.set_ylabel("loss")
        axes.legend(fontsize="small")


def _draw_accuracy(axes: "Axes", validations: Sequence[_Validated]) -> None:
    """Dice on the left, or the landmark error without labels; folding on the right."""
    has_labels = any(summary.dice is not None for _, summary in validations)
    has_landmarks = any(summary.tre_mm is not None for _, summary in validations)
    folding = axes.twinx() if has_labels or has_landmarks else axes
    folding.plot(*_curve(validations, "ndv_percent"), "C3x:", label="NDV (%)")
    folding.set_ylabel("NDV (%)")
    folding.set_ylim(bottom=0)
    folding.legend(loc="lower right", fontsize="small")
    axes.set_title("validation", fontsize="medium")
    if has_labels or has_landmarks:
        name, label = ("dice", "Dice") if has_labels else ("tre_mm", "TRE (mm)")
        axes.plot(*_curve(validations, name), "C4o-", label=label)
        axes.set_ylabel(label)
        axes.legend(loc="lower left", fontsize="small")


def _curve(validations: Sequence[_Validated], name: str) -> tuple[list[int], list[float]]:
    """Epochs and values of a measure, where it is known."""
    pairs = [(epoch, getattr(summary, name)) for epoch, summary in validations]
    known = [(epoch, value) for epoch, value in pairs if value is not None]
    return [epoch for epoch, _ in known], [value for _, value in known]


def _mark_stages(axes: "Axes", records: Sequence[EpochRecord]) -> None:
    """Dotted lines where the last level was added and where augmentation began."""
    for before, after in itertools.pairwise(records):
        if before.levels != after.levels or before.augmented != after.augmented:
            axes.axvline(after.epoch + 0.5, color="0.5", linestyle=":")
