"""Pictures of a comparison: accuracy against steps, conflicts of the gradients against steps."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from autoreg.evaluation.paired import FEWEST
from autoreg.evaluation.report import counted
from autoreg.inference.compare_io import Comparison
from autoreg.inference.compare_io_settings import NO_IO, Setting
from autoreg.inference.compare_io_table import (
    Column,
    difference_of,
    mean_of,
    shown_columns,
    values_of,
)
from autoreg.io.atomic import atomic_path
from autoreg.io.result import TRACE_FILE

_DPI = 110
_PANEL_INCHES = (4.2, 3.6)
_MOST_COLUMNS = 3
_STYLES = {"vanilla": "--", "gradient_projection": "-"}
_FACES = {"vanilla": "white", "gradient_projection": None}  # None: the line's colour
_COLOURS = {"network": "C0", "displacements": "C1", "velocity": "C2"}
_TITLES = {"vanilla": "IO", "gradient_projection": "IO-GP"}


def accuracy_figure(comparison: Comparison, path: Path) -> bool:
    """Draw the mean of each metric against the number of steps; 0 steps is the network's answer.

    Bars are 95 % confidence intervals of the mean difference to no IO over the same pairs, which
    is what the settings are compared by: the spread between pairs is far larger. Below 6 pairs
    there are none.

    Returns:
        Whether there was something to draw.
    """
    columns = shown_columns(comparison)
    if not columns:
        return False
    across = min(len(columns), _MOST_COLUMNS)
    down = math.ceil(len(columns) / across)
    figure = _figure(across, down)
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for axes, column in zip(panels, columns, strict=False):
        _draw_metric(axes, comparison, column)
    for axes in panels[len(columns) :]:
        axes.set_axis_off()
    panels[0].legend(fontsize="x-small")
    count = counted(len(comparison.common), "pair")
    figure.suptitle(f"mean over {count}; bars: 95 % interval of the difference to no IO")
    _save(figure, path)
    return True


def _draw_metric(axes: Any, comparison: Comparison, column: Column) -> None:  # noqa: ANN401
    curves = _curves(comparison.settings)
    most = max((setting.steps for setting in comparison.settings), default=0)
    for number, ((mode, optimised), settings) in enumerate(curves.items()):
        # Bars at the same steps would hide each other.
        shift = 0.02 * most * (number - (len(curves) - 1) / 2)
        points = [_point(comparison, setting, column) for setting in settings]
        axes.errorbar(
            [setting.steps + shift for setting in settings],
            [point[0] for point in points],
            np.abs([point[1] for point in points]).T,
            fmt=f"{_COLOURS[optimised]}o{_STYLES[mode]}",
            label=f"{_TITLES[mode]}, {optimised}",
            capsize=3, markersize=5, markerfacecolor=_FACES[mode],
        )  # fmt: skip
    for setting in comparison.settings:
        level = _point(comparison, setting, column)[0]
        if setting.mode == "none" and math.isfinite(level):
            line = ":" if setting == NO_IO else "-."
            axes.axhline(level, color="0.4", linestyle=line, label=setting.title)
    counts = {_finite(comparison, setting, column) for setting in comparison.settings}
    fewer = f" (n = {min(counts)})" if counts != {len(comparison.common)} else ""
    axes.set_ylabel(f"{column.title}{fewer}")
    _steps_axis(axes)


def _finite(comparison: Comparison, setting: Setting, column: Column) -> int:
    values = values_of(comparison, setting, column.key)
    return sum(value is not None and math.isfinite(value) for value in values)


def _curves(settings: Sequence[Setting]) -> dict[tuple[str, str], list[Setting]]:
    """Settings with steps by mode and by what is optimised."""
    curves: dict[tuple[str, str], list[Setting]] = {}
    for setting in settings:
        if setting.optimised is not None:
            curves.setdefault((setting.mode, setting.optimised), []).append(setting)
    return curves


def _point(
    comparison: Comparison, setting: Setting, column: Column
) -> tuple[float, tuple[float, float]]:
    """The mean as shown, and how far its bar reaches down and up."""
    values = values_of(comparison, setting, column.key)
    mean = mean_of(comparison.request.protocol, column.key, values)
    level = float("nan") if mean is None else column.scale * mean.mean
    if not math.isfinite(level):  # lost labels, by a referee's rules
        return float("nan"), (0.0, 0.0)
    if NO_IO not in comparison.settings:
        return level, (0.0, 0.0)
    found = difference_of(comparison, setting, NO_IO, column.key)
    if found.pairs < FEWEST:  # an interval of two pairs would say nothing and dwarf the curves
        return level, (0.0, 0.0)
    reach = column.scale * (found.high - found.low) / 2
    return level, (reach, reach)


def conflict_figure(comparison: Comparison, path: Path) -> bool:
    """Draw the share of pairs whose gradients are in conflict, step by step, from the traces.

    Of each parametrisation the run with the most steps is drawn: shorter ones are its beginning.
    Dots are single steps, lines their mean over a tenth of the steps around.

    Returns:
        Whether there was something to draw.
    """
    longest = {
        optimised: max(settings, key=lambda setting: setting.steps)
        for (mode, optimised), settings in _curves(comparison.settings).items()
        if mode == "gradient_projection"
    }
    if not longest:
        return False
    figure = _figure(1, 1)
    axes = figure.subplots()
    for optimised, setting in longest.items():
        share = 100 * conflict_share(comparison, setting)
        steps = np.arange(1, len(share) + 1)
        axes.plot(steps, share, f"{_COLOURS[optimised]}.", markersize=3, alpha=0.4)
        among = 2 * _reach(share) + 1
        label = f"IO-GP, {optimised} (mean of {among} steps)"
        axes.plot(steps, _smooth(share), _COLOURS[optimised], label=label)
    axes.set_ylim(-3, 103)
    axes.set_ylabel("pairs with a conflict [%]")
    axes.legend(fontsize="small")
    axes.set_title(counted(len(comparison.common), "pair"), fontsize="medium")
    _steps_axis(axes)
    _save(figure, path)
    return True


def conflict_share(comparison: Comparison, setting: Setting) -> NDArray[np.float64]:
    """For each step the share, 0 to 1, of conflicts among the common pairs that still ran."""
    courses = [_conflicts(comparison.scored[setting.name][c].folder) for c in comparison.common]
    length = max(map(len, courses))
    return np.array(
        [
            np.mean([course[step] for course in courses if step < len(course)])
            for step in range(length)
        ]
    )


def _conflicts(folder: Path) -> list[int]:
    with (folder / TRACE_FILE).open(encoding="utf-8", newline="") as file:
        return [int(row["conflict"]) for row in csv.DictReader(file)]


def _reach(values: NDArray[np.float64]) -> int:
    return len(values) // 20


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over a tenth of the values around each; fewer at both ends."""
    reach = _reach(values)
    return np.array([values[max(0, i - reach) : i + reach + 1].mean() for i in range(len(values))])


def _figure(across: int, down: int) -> Figure:
    width, height = _PANEL_INCHES
    figure = Figure(figsize=(max(1.4, across) * width, down * height + 0.4), layout="constrained")
    FigureCanvasAgg(figure)  # no global state and no display
    return figure


def _steps_axis(axes: Any) -> None:  # noqa: ANN401
    axes.set_xlabel("steps")
    axes.set_xlim(left=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)


def _save(figure: Figure, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI, facecolor="white")
