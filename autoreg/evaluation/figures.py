"""One picture per pair: three orthogonal slices, before and after, with the deformation.

Rows: axial, coronal and sagittal slices (of an oblique image: those nearest to them) through the
centre of the fixed image's foreground, in radiological view and true proportions. Columns: fixed,
moving before and after; differences in one colour scale; a regular grid attached to the moving
image and warped with it; logarithm of the Jacobian determinant, folds in green. Intensities are
scaled to [0, 1] between the 1st and the 99th percentile, the moving image by the same numbers
before and after.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from autoreg.evaluation.fields import voxel_displacement
from autoreg.geometry.foreground import foreground_mask
from autoreg.geometry.volume import Volume
from autoreg.io.atomic import atomic_path
from autoreg.numerics.jacobian import jacobian_determinant

_COLUMNS = (
    "fixed",
    "moving (before)",
    "warped (after)",
    "moving − fixed, before",
    "warped − fixed, after",
    "deformation grid",
    "log2 Jacobian",
)
# Axial, coronal, sagittal as radiologists view them: (slice axis, (rows, columns), letters).
_VIEWS = ((0, (1, 2), "A P R L"), (1, (0, 2), "S I R L"), (2, (0, 1), "S I A P"))
_GRID_LINES = 24  # along the longest side of the box
_LOG2_RANGE = 1.5
_FOLD_COLOUR = "#39ff14"
_COLUMN_INCHES = 2.3
_HEADER_INCHES = 0.75
_MARGIN_INCHES = 1.2  # for the colour bars
_DPI = 110

Image = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class _View:
    """One slice through everything, rows downwards and columns rightwards as drawn.

    Attributes:
        images: Fixed, moving before, warped; scaled to [0, 1].
        rows_mm: (rows, columns) place in the moving image, along the picture's rows.
        columns_mm: The same along its columns.
        log2_jacobian: NaN where the displacement folds.
        spacing_mm: Of rows and columns.
        letters: Anatomical directions: top, bottom, left, right.
    """

    images: tuple[Image, Image, Image]
    rows_mm: Image
    columns_mm: Image
    log2_jacobian: Image
    spacing_mm: tuple[float, float]
    letters: tuple[str, str, str, str]

    @property
    def size_mm(self) -> tuple[float, float]:
        rows, columns = self.images[0].shape
        return rows * self.spacing_mm[0], columns * self.spacing_mm[1]


def pair_figure(
    fixed: Volume,
    moving_initial: Volume,
    warped: Volume,
    displacement_mm: NDArray[np.float32],
    path: Path,
    title: str,
) -> None:
    """Draw a registered pair into a PNG file.

    Args:
        fixed: The fixed image; the first channel is drawn.
        moving_initial: Moving image on the fixed grid before registration.
        warped: Moving image on the fixed grid after it.
        displacement_mm: (D, H, W, 3) pull-back, xyz LPS mm.
        path: The PNG file, written completely or not at all.
        title: Stands above.

    Raises:
        UsageError: if the file cannot be written.
    """
    views = _views(fixed, moving_initial, warped, displacement_mm)
    figure, axes = _panels(views)
    figure.suptitle(title, fontsize=13, y=1 - 0.12 / figure.get_figheight(), va="top")
    limit = max(float(np.quantile(np.abs(v.images[1] - v.images[0]), 0.995)) for v in views) or 1.0
    drawn = [_draw_row(row, view, limit) for row, view in zip(axes, views, strict=True)]
    _colour_bars(figure, axes, drawn[0])
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", facecolor="white")


def _panels(views: list[_View]) -> tuple[Figure, NDArray[Any]]:
    """A figure with one row of panels per slice, as high as the slice is in proportion."""
    heights = [view.size_mm[0] / view.size_mm[1] for view in views]
    # Very flat or tall slices (few thick slices, long limbs) still get a readable panel.
    heights = [min(max(height, 0.35), 2.5) for height in heights]
    width = _COLUMN_INCHES * len(_COLUMNS) + _MARGIN_INCHES
    figure = Figure((width, _COLUMN_INCHES * sum(heights) + _HEADER_INCHES), dpi=_DPI)
    FigureCanvasAgg(figure)
    axes = figure.subplots(
        len(views),
        len(_COLUMNS),
        squeeze=False,
        gridspec_kw={
            "height_ratios": heights, "left": 0.005, "right": 1 - _MARGIN_INCHES / width,
            "top": 1 - _HEADER_INCHES / figure.get_figheight(), "bottom": 0.01,
            "wspace": 0.03, "hspace": 0.03,
        },
    )  # fmt: skip
    for panel, name in zip(axes[0], _COLUMNS, strict=True):
        panel.set_title(name, fontsize=10)
    return figure, axes


def _draw_row(axes: NDArray[Any], view: _View, limit: float) -> tuple[Any, Any]:
    """Draw one slice; returns what the colour bars of difference and Jacobian need."""
    fixed, initial, warped = view.images
    for panel, image in zip(axes[:3], view.images, strict=True):
        _show(panel, image, view, "gray", 0, 1)
    _show(axes[3], initial - fixed, view, "RdBu_r", -limit, limit)
    difference = _show(axes[4], warped - fixed, view, "RdBu_r", -limit, limit)
    _show(axes[5], warped, view, "gray", 0, 1.4)
    _draw_grid(axes[5], view)
    jacobian = _show(axes[6], view.log2_jacobian, view, "PuOr_r", -_LOG2_RANGE, _LOG2_RANGE)
    folds = np.where(np.isnan(view.log2_jacobian), 1.0, np.nan)
    _show(axes[6], folds, view, ListedColormap([_FOLD_COLOUR]), 0, 1)
    _letters(axes[0], view)
    return difference, jacobian


def _show(panel: Axes, image: Image, view: _View, colours: Any, low: float, high: float) -> Any:  # noqa: ANN401
    """Draw an image with its true proportions; the axes are in millimetres from its corner."""
    height, width = view.size_mm
    panel.set_axis_off()
    return panel.imshow(
        image,
        cmap=colours,
        vmin=low,
        vmax=high,
        extent=(0, width, height, 0),
        interpolation="nearest",
    )


def _draw_grid(panel: Axes, view: _View) -> None:
    """Lines of equal row and equal column in the moving image.

    A contour of the pull-back coordinate is where a straight line of the moving image lies after
    warping, so that the lines belong to the warped image beneath them.
    """
    height, width = view.size_mm
    rows, columns = view.images[0].shape
    x = (np.arange(columns) + 0.5) * view.spacing_mm[1]
    y = (np.arange(rows) + 0.5) * view.spacing_mm[0]
    step = max(height, width) / _GRID_LINES
    for places in (view.rows_mm, view.columns_mm):
        first = math.ceil(float(places.min()) / step)
        levels = np.arange(first, float(places.max()) / step) * step
        if len(levels) and min(places.shape) > 1:
            panel.contour(x, y, places, levels=levels, colors="#ffd21f", linewidths=0.6)


def _letters(panel: Axes, view: _View) -> None:
    places = ((0.5, 0.97, "center", "top"), (0.5, 0.03, "center", "bottom"),
              (0.03, 0.5, "left", "center"), (0.97, 0.5, "right", "center"))  # fmt: skip
    for letter, (x, y, horizontal, vertical) in zip(view.letters, places, strict=True):
        panel.text(
            x, y, letter, color="#7fd4ff", fontsize=9, ha=horizontal, va=vertical,
            transform=panel.transAxes, path_effects=[withStroke(linewidth=2, foreground="black")],
        )  # fmt: skip


def _colour_bars(figure: Figure, axes: NDArray[Any], mappables: tuple[Any, Any]) -> None:
    """Two bars right of the last column: differences above, Jacobian below."""
    right = axes[0, -1].get_position().x1
    for mappable, bottom, label in zip(
        mappables, (0.55, 0.08), ("difference", "log2 Jacobian (green: fold)"), strict=True
    ):
        bar = figure.add_axes((right + 0.012, bottom, 0.008, 0.3))
        figure.colorbar(mappable, cax=bar, extend="both")
        bar.tick_params(labelsize=8)
        bar.set_ylabel(label, fontsize=8)


def _views(fixed: Volume, initial: Volume, warped: Volume, displacement_mm: Image) -> list[_View]:
    """The three slices, all of them turned to canonical directions: d to S, h to P, w to L.

    Of a single layer there is but one.
    """
    order, flips = _canonical(fixed.geometry.orientation)
    u_vox = voxel_displacement(displacement_mm, fixed.geometry)
    u_vox = u_vox[order] * torch.tensor([-1.0 if f else 1.0 for f in flips]).view(3, 1, 1, 1)
    field = torch.from_numpy(np.stack([_turned(u.numpy(), order, flips) for u in u_vox]))
    arrays = [_turned(volume.single, order, flips) for volume in (fixed, initial, warped)]
    spacing = [fixed.geometry.spacing_mm[axis] for axis in order]
    ranges = [_range(arrays[0]), _range(arrays[1]), _range(arrays[1])]
    mask = foreground_mask(arrays[0])
    centre = [round(float(places.mean())) for places in np.nonzero(mask)]
    views = []
    layers = [view for view in _VIEWS if field.shape[view[0] + 1] == 1]
    for axis, (down, right), letters in layers or _VIEWS:
        at = centre[axis]
        images = [
            _scaled(array.take(at, axis), span) for array, span in zip(arrays, ranges, strict=True)
        ]
        places = [
            (_index_along(field.shape[1:], along, axis) + field[along].select(axis, at).numpy())
            * spacing[along]
            for along in (down, right)
        ]
        log2 = _log2_jacobian(field, axis, at)
        rows = [*images, *places, log2]
        if axis != 0:  # S is up, but d grows to S
            rows = [row[::-1] for row in rows]
        top, bottom, left, right_letter = letters.split()
        views.append(
            _View(
                (rows[0], rows[1], rows[2]), rows[3], rows[4], rows[5],
                (spacing[down], spacing[right]), (top, bottom, left, right_letter),
            )
        )  # fmt: skip
    return views


def _canonical(orientation: str) -> tuple[list[int], list[bool]]:
    """Which array axes run along S, P and L (order), and which of them must be mirrored."""
    pairs = ("SI", "PA", "LR")
    order = [next(i for i, letter in enumerate(orientation) if letter in pair) for pair in pairs]
    return order, [orientation[i] != pair[0] for i, pair in zip(order, pairs, strict=True)]


def _turned(array: NDArray[Any], order: list[int], flips: list[bool]) -> NDArray[Any]:
    turned = array.transpose(order)
    return np.ascontiguousarray(np.flip(turned, tuple(axis for axis in range(3) if flips[axis])))


def _index_along(shape: torch.Size, along: int, dropped: int) -> Image:
    """Index along one axis for each pixel of a slice across another axis."""
    kept = [axis for axis in range(3) if axis != dropped]
    index: Image = np.indices([shape[axis] for axis in kept], dtype=np.float32)[kept.index(along)]
    return index


def _log2_jacobian(field: torch.Tensor, axis: int, at: int) -> Image:
    """Of one slice, by central differences with its neighbours; NaN where it is not positive."""
    first, last = max(at - 1, 0), min(at + 2, field.shape[axis + 1])
    slab = field.narrow(axis + 1, first, last - first)
    determinant = jacobian_determinant(slab[None])[0].select(axis, at - first).numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        log2: Image = np.where(determinant > 0, np.log2(determinant), np.nan).astype(np.float32)
    return log2


def _range(array: NDArray[Any]) -> tuple[float, float]:
    low, high = np.quantile(array, (0.01, 0.99))
    return float(low), float(high) if high > low else float(low) + 1.0


def _scaled(image: NDArray[Any], span: tuple[float, float]) -> Image:
    return np.clip((image - span[0]) / (span[1] - span[0]), 0, 1).astype(np.float32)
