"""The fingerprint of one case."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoreg.errors import DataError
from autoreg.fingerprint import CaseFingerprint, IntensityStatistics
from autoreg.geometry.foreground import coarse_foreground
from autoreg.geometry.grid import FloatArray, Geometry
from autoreg.geometry.volume import Volume
from autoreg.io.cases import Case
from autoreg.io.images import read_image
from autoreg.network_plan import Triple
from autoreg.planning.coarse import CoarseImage, make_coarse


@dataclass(frozen=True)
class CaseTask:
    """One case; `in_pair`: of the sampled ones; `list_labels`: dataset.json doesn't name them."""

    case: Case
    in_pair: bool
    list_labels: bool


@dataclass(frozen=True, eq=False)
class CaseResult:
    """What is kept of a case; the last two only for cases of sampled pairs."""

    record: CaseFingerprint
    label_values: tuple[int, ...]
    coarse: CoarseImage | None
    centroids_mm: dict[int, FloatArray]


def measure_case(task: CaseTask) -> CaseResult:
    """Open a case and measure it.

    Raises:
        DataError: if a file cannot be read or holds NaN or infinite intensities.
    """
    case = task.case
    volume = read_image(case.images, "intensity")
    if not np.isfinite(volume.array).all():
        raise DataError(f"{case.images[0]}: NaN or infinite voxels; repair or exclude the case")
    mask, steps = coarse_foreground(volume.single)
    centre, box = _foreground_place(mask, steps, volume.geometry)
    coarse_array = volume.array[:, :: steps[0], :: steps[1], :: steps[2]]
    statistics = tuple(
        _statistics(full, small[mask])
        for full, small in zip(volume.array, coarse_array, strict=True)
    )
    values: tuple[int, ...] = ()
    centroids: dict[int, FloatArray] = {}
    if case.labels is not None and (task.list_labels or task.in_pair):
        centroids = _centroids(read_image([case.labels], "label"))
        values = tuple(centroids)
    tissue = (statistics[0].quantile_005, statistics[0].quantile_995)
    return CaseResult(
        record=_record(case, volume.geometry, mask, steps, centre, box, statistics),
        label_values=values,
        coarse=make_coarse(volume, tissue, centre, box) if task.in_pair else None,
        centroids_mm=centroids if task.in_pair else {},
    )


def _foreground_place(
    mask: NDArray[np.bool_], steps: tuple[int, int, int], geometry: Geometry
) -> tuple[FloatArray, FloatArray]:
    """World centre (3,) and box (2, 3) of a foreground that was found on every n-th voxel."""
    points = geometry.to_world(np.argwhere(mask) * np.array(steps))
    # Points are voxel centres; the voxels reach half a step further.
    half = np.abs(geometry.index_to_world[:3, :3]) @ (np.array(steps) / 2)
    return points.mean(axis=0), np.stack([points.min(axis=0) - half, points.max(axis=0) + half])


def _statistics(full: NDArray[np.float32], foreground: NDArray[np.float32]) -> IntensityStatistics:
    low, middle, high = np.quantile(foreground, (0.005, 0.5, 0.995))
    return IntensityStatistics(
        minimum=float(full.min()),
        maximum=float(full.max()),
        mean=float(full.mean(dtype=np.float64)),
        foreground_mean=float(foreground.mean(dtype=np.float64)),
        foreground_std=float(foreground.std(dtype=np.float64)),
        quantile_005=float(low),
        quantile_50=float(middle),
        quantile_995=float(high),
    )


def _record(
    case: Case,
    geometry: Geometry,
    mask: NDArray[np.bool_],
    steps: tuple[int, int, int],
    centre_mm: FloatArray,
    box_mm: FloatArray,
    statistics: tuple[IntensityStatistics, ...],
) -> CaseFingerprint:
    depth, height, width = (
        _index_range(mask, axis, step, size)
        for axis, (step, size) in enumerate(zip(steps, geometry.shape, strict=True))
    )
    return CaseFingerprint(
        case=case.name,
        shape=geometry.shape,
        spacing_mm=geometry.spacing_mm,
        orientation=geometry.orientation,
        box_centre_mm=_triple(geometry.centre_mm),
        foreground_centre_mm=_triple(centre_mm),
        foreground_extent_mm=_triple(np.ptp(box_mm, axis=0)),
        foreground_box=(depth, height, width),
        modalities=case.modalities,
        intensity=statistics,
        has_labels=case.labels is not None,
        has_mask=case.mask is not None,
        has_landmarks=case.landmarks is not None,
    )


def _index_range(mask: NDArray[np.bool_], axis: int, step: int, size: int) -> tuple[int, int]:
    others = tuple(other for other in range(3) if other != axis)
    index = np.flatnonzero(mask.any(axis=others))
    return int(index[0]) * step, min(int(index[-1]) * step + step - 1, size - 1)


def _centroids(labels: Volume) -> dict[int, FloatArray]:
    """World centroid of each structure of a label map, by value."""
    array = labels.single
    values = np.unique(array)
    rows, columns = (axis.ravel() for axis in np.indices(array.shape[1:]))
    counts, sums = np.zeros(len(values)), np.zeros((len(values), 3))
    for layer, slab in enumerate(array):  # by layers, which keeps the index arrays small
        index = np.searchsorted(values, slab.ravel())
        here = np.bincount(index, minlength=len(values))
        counts += here
        sums[:, 0] += layer * here
        sums[:, 1] += np.bincount(index, rows, minlength=len(values))
        sums[:, 2] += np.bincount(index, columns, minlength=len(values))
    centres = labels.geometry.to_world(sums / counts[:, None])
    return {int(v): centre for v, centre in zip(values, centres, strict=True) if v != 0}


def _triple(values: FloatArray) -> Triple:
    x, y, z = (float(value) for value in values)
    return x, y, z
