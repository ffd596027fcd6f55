"""progress.png: a training in six panels."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autoreg.io.atomic import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from autoreg.training.progress import EpochRecord, ValidationSummary

_Curve = tuple[list[int], list[float]]  # epochs, counted from 1, and values


def draw_progress(
    records: "Sequence[EpochRecord]", initial: "ValidationSummary", path: Path
) -> None:
    """Draw losses, learning rate, accuracy, folding and duration over the epochs.

    Args:
        records: All epochs so far, at least one.
        initial: Validation before the first epoch; it stands at 0, the first epoch at 1.
        path: The PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 7), layout="constrained")
    FigureCanvasAgg(figure)  # no global state and no display
    (losses, regularity, steps), (accuracy, folding, duration) = figure.subplots(2, 3)
    validations = [(0, initial)]
    validations += [(r.epoch + 1, r.validation) for r in records if r.validation is not None]
    _draw_losses(losses, regularity, records, validations)
    _draw_steps(steps, records)
    _draw_accuracy(accuracy, validations)
    folding.plot(*_validated(validations, "ndv_percent"), "C3x:", label="validation: NDV")
    _label(folding, "NDV (%)")
    folding.set_ylim(bottom=0)
    duration.plot(*_trained(records, "seconds"), ".-", label="epoch")
    duration.plot(*_trained(records, "waiting_seconds"), ".-", label="waiting for data")
    _label(duration, "seconds")
    for axes in (losses, regularity, steps, accuracy, folding, duration):
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        _mark_stages(axes, records)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=90)


def _draw_losses(
    losses: "Axes",
    regularity: "Axes",
    records: "Sequence[EpochRecord]",
    validations: "Sequence[tuple[int, ValidationSummary]]",
) -> None:
    for axes, name, colour in (
        (losses, "total", "C0"),
        (losses, "similarity", "C1"),
        (regularity, "regularity", "C2"),
    ):
        axes.plot(*_trained(records, name), f"{colour}.-", label=f"training: {name}")
        axes.plot(*_validated(validations, name), f"{colour}o--", label=f"validation: {name}")
    supervised = _trained(records, "supervised")
    if supervised[0]:
        losses.plot(*supervised, "C5.-", label="training: supervision")
    for axes in (losses, regularity):
        _label(axes, "loss")


def _draw_steps(axes: "Axes", records: "Sequence[EpochRecord]") -> None:
    """The learning rate on the left; how often gradients conflicted on the right."""
    axes.plot(*_trained(records, "learning_rate"), "C6.-", label="learning rate")
    axes.set_ylim(bottom=0)
    _label(axes, "learning rate", "lower left")
    conflicts = _trained(records, "conflicts")
    if conflicts[0]:
        right = axes.twinx()
        right.plot(*conflicts, "C7.-", label="steps in conflict")
        right.set_ylim(0, 1)
        _label(right, "share of steps", "lower right")


def _draw_accuracy(axes: "Axes", validations: "Sequence[tuple[int, ValidationSummary]]") -> None:
    """LNCC on the right; Dice, or the landmark error without labels, on the left."""
    has_labels = any(summary.dice is not None for _, summary in validations)
    has_landmarks = any(summary.tre_mm is not None for _, summary in validations)
    lncc = _validated(validations, "lncc")
    if has_labels or has_landmarks:
        name, label = ("dice", "Dice") if has_labels else ("tre_mm", "TRE (mm)")
        axes.plot(*_validated(validations, name), "C4o-", label=f"validation: {label}")
        _label(axes, label, "lower left")
        axes = axes.twinx() if lncc[0] else axes
    if lncc[0]:
        axes.plot(*lncc, "C8s--", label="validation: LNCC")
        _label(axes, "LNCC", "lower right")


def _label(axes: "Axes", unit: str, legend: str = "best") -> None:
    axes.set_ylabel(unit)
    axes.legend(loc=legend, fontsize="small")


def _trained(records: "Sequence[EpochRecord]", name: str) -> _Curve:
    return _known([(record.epoch + 1, getattr(record, name)) for record in records])


def _validated(validations: "Sequence[tuple[int, ValidationSummary]]", name: str) -> _Curve:
    return _known([(epoch, getattr(summary, name)) for epoch, summary in validations])


def _known(points: list[tuple[int, float | None]]) -> _Curve:
    """Epochs and values where a value is known."""
    known = [(epoch, value) for epoch, value in points if value is not None]
    return [epoch for epoch, _ in known], [value for _, value in known]


def _mark_stages(axes: "Axes", records: "Sequence[EpochRecord]") -> None:
    """Dotted lines where the last level was added and where augmentation began."""
    for before, after in itertools.pairwise(records):
        if before.levels != after.levels or before.augmented != after.augmented:
            axes.axvline(after.epoch + 0.5, color="0.5", linestyle=":")
