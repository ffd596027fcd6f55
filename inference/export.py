"""The files of one registered pair."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoreg.errors import UsageError
from autoreg.evaluation.fields import ndv, voxel_displacement
from autoreg.geometry.grid import Geometry
from autoreg.geometry.transforms import (
    Affine,
    Composite,
    DisplacementField,
    invert_on_grid,
    sample_displacement_mm,
)
from autoreg.geometry.volume import Volume
from autoreg.inference.pairs_file import PairFiles
from autoreg.inference.predictor import Prediction
from autoreg.io.atomic import write_text_atomic
from autoreg.io.images import read_on_grid, write_image
from autoreg.io.landmarks import read_landmarks, read_voxel_landmarks, write_landmarks
from autoreg.io.result import (
    DISPLACEMENT_FILE,
    INVERSE_FILE,
    RESULT_FILE,
    TRACE_FILE,
    UNFINISHED_FILE,
    WARPED_FILE,
    WARPED_LABELS_FILE,
    WARPED_LANDMARKS_FILE,
    FieldRecord,
    warped_files,
)
from autoreg.io.transforms import write_displacement
from autoreg.numerics.coordinates import index_grid
from autoreg.numerics.folding import folded_cells
from autoreg.numerics.jacobian import jacobian_determinant
from autoreg.registration.instance_optimisation import Trace

# result.json first: without it the folder is incomplete.
_FILES = (
    RESULT_FILE, DISPLACEMENT_FILE, INVERSE_FILE, WARPED_FILE, WARPED_LABELS_FILE,
    WARPED_LANDMARKS_FILE, TRACE_FILE,
)  # fmt: skip

_SHOWN = 5
_INTEGERS = {
    sitk.sitkUInt8: "uint8",
    sitk.sitkInt8: "int8",
    sitk.sitkUInt16: "uint16",
    sitk.sitkInt16: "int16",
    sitk.sitkUInt32: "uint32",
    sitk.sitkInt32: "int32",
}


def begin_case(folder: Path) -> None:
    """Make a pair's folder; until `mark_finished`, unfinished.txt says that its result is due.

    Raises:
        UsageError: if the folder cannot be made or written to.
    """
    write_text_atomic(folder / UNFINISHED_FILE, "it still runs, or was interrupted\n")


def clear_case(folder: Path) -> None:
    """Remove what an earlier prediction of a pair left in its folder, result.json first.

    Without that, an interrupted run would leave an old result.json beside new files, and labels
    warped by another transform. Files that autoreg does not write stay.
    """
    channels = folder.glob("warped_[0-9][0-9][0-9][0-9].nii.gz")
    for path in (*(folder / name for name in _FILES), *channels):
        path.unlink(missing_ok=True)


def mark_finished(folder: Path) -> None:
    """Say that a pair's folder is complete, after its result.json was written."""
    (folder / UNFINISHED_FILE).unlink(missing_ok=True)


def mark_failed(folder: Path, reason: str) -> None:
    """Leave the reason in a pair's folder, as far as it can be written to."""
    with suppress(UsageError):
        write_text_atomic(folder / UNFINISHED_FILE, f"{reason}\n")


@dataclass(frozen=True, eq=False)
class Carried:
    """What the transform carries over beside the image.

    Attributes:
        labels: Of the moving image, if it has some.
        points_mm: (N, 3) landmarks of the fixed image, xyz LPS mm, if it has some.
    """

    labels: Volume | None
    points_mm: NDArray[np.float64] | None


def read_carried(pair: PairFiles, fixed: Geometry, moving: Geometry) -> Carried:
    """Read labels and landmarks of a pair; before its registration, which may take minutes.

    Args:
        pair: The input files.
        fixed: Grid of the fixed image.
        moving: Grid of the moving image.

    Raises:
        DataError: if they cannot be read or lie elsewhere than their image.
    """
    file = pair.moving_labels
    labels = None if file is None else read_on_grid([file], "label", moving)
    return Carried(labels, fixed_landmarks_mm(pair, fixed))


def outside_note(carried: Carried, pair: PairFiles, fixed: Geometry) -> str | None:
    """Which fixed landmarks lie outside the fixed image, in words; None if all lie inside.

    Args:
        carried: From the files of `pair`.
        pair: The input files.
        fixed: Grid of the fixed image.
    """
    if carried.points_mm is None:
        return None
    numbers = np.flatnonzero(~fixed.contains(carried.points_mm)) + 1
    if not numbers.size:
        return None
    shown = ", ".join(map(str, numbers[:_SHOWN])) + (", ..." if numbers.size > _SHOWN else "")
    return (
        f"{pair.fixed_landmarks}: {numbers.size} of {len(carried.points_mm)} points lie outside "
        f"the fixed image (point {shown}, counted from 1)"
    )


def export_pair(
    prediction: Prediction, pair: PairFiles, carried: Carried, folder: Path
) -> tuple[FieldRecord, dict[str, int]]:
    """Write every file of a pair but result.json.

    Args:
        prediction: From the very images of `pair`.
        pair: The input files, whose number types are kept.
        carried: Their labels and landmarks.
        folder: `<out>/<case>`, made if it is missing.

    Returns:
        What there is to say of the field, and the size in bytes of each file written.

    Raises:
        UsageError: if the folder cannot be written to.
    """
    fixed, moving = prediction.fixed.geometry, prediction.moving.geometry
    labels, points_mm = carried.labels, carried.points_mm
    u_mm = sample_displacement_mm(prediction.transform, fixed)
    write_displacement(folder / DISPLACEMENT_FILE, u_mm, fixed)
    written = [DISPLACEMENT_FILE, INVERSE_FILE, *_write_warped(prediction.warped, pair, folder)]
    if labels is not None and pair.moving_labels is not None:
        dtype = integer_type(pair.moving_labels)
        write_image(folder / WARPED_LABELS_FILE, prediction.warp(labels), dtype)
        written.append(WARPED_LABELS_FILE)
    if points_mm is not None:
        write_landmarks(folder / WARPED_LANDMARKS_FILE, prediction.transform.map_points(points_mm))
        written.append(WARPED_LANDMARKS_FILE)
    if prediction.registration.trace is not None:
        write_trace(folder / TRACE_FILE, prediction.registration.trace)
        written.append(TRACE_FILE)
    inverse_mm, residual_mm = invert_on_grid(prediction.transform, moving)
    write_displacement(folder / INVERSE_FILE, inverse_mm, moving)
    record = field_record(u_mm, fixed, prediction.transform, residual_mm)
    return record, {name: (folder / name).stat().st_size for name in written}


def fixed_landmarks_mm(pair: PairFiles, fixed: Geometry) -> NDArray[np.float64] | None:
    """The fixed landmarks, (N, 3) xyz LPS mm, or None if the pair has none."""
    if pair.fixed_landmarks is None:
        return None
    if pair.landmark_frame == "voxels":
        return read_voxel_landmarks(pair.fixed_landmarks, fixed)
    return read_landmarks(pair.fixed_landmarks)


def integer_type(path: Path) -> np.dtype[Any] | None:
    """The integer type that an image file holds; None if it holds real numbers."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:  # a format that only nibabel reads: real numbers hold everything
        return None
    name = _INTEGERS.get(reader.GetPixelID())
    return None if name is None else np.dtype(name)


def write_trace(path: Path, trace: Trace) -> None:
    """Write the course of an instance optimisation, one line for each step."""
    lines = ["step,similarity,regularity,total,cosine,conflict,seconds"]
    for step in trace.steps:
        loss = step.loss
        cosine = "" if step.cosine is None else f"{step.cosine:.6g}"
        lines.append(
            f"{step.step},{loss.similarity:.8g},{loss.regularity:.8g},{loss.total:.8g},{cosine},"
            f"{int(step.conflict)},{step.seconds:.4g}"
        )
    write_text_atomic(path, "\n".join(lines) + "\n")


def field_record(
    u_mm: NDArray[np.float32],
    geometry: Geometry,
    transform: Composite,
    residual_mm: NDArray[np.float32],
) -> FieldRecord:
    """Describe an exported displacement.

    Args:
        u_mm: (D, H, W, 3) xyz mm, on `geometry`.
        geometry: The fixed image's.
        transform: Its affine part is the initial alignment, to which Jacobian and NDV of the
            exported displacement are relative; its displacement fields are searched for folds on
            their own grids.
        residual_mm: (D, H, W) of the inverse on the moving grid, infinite where there is none.
    """
    length_mm = np.sqrt(np.einsum("dhwc,dhwc->dhw", u_mm, u_mm))
    u_vox = _relative_to_alignment(voxel_displacement(u_mm, geometry), geometry, transform)
    jacobian = jacobian_determinant(u_vox[None]).numpy()
    volume = ndv(u_vox)
    fields = [t for t in transform.transforms if isinstance(t, DisplacementField)]
    folds = sum(len(folded_cells(torch.from_numpy(f.u_vox)[None]).lower_vox) for f in fields)
    cells = sum(int(np.prod([n + 1 for n in f.geometry.shape])) for f in fields)
    known = residual_mm[np.isfinite(residual_mm)]
    return FieldRecord(
        mean_mm=float(length_mm.mean()),
        maximum_mm=float(length_mm.max()),
        jacobian_minimum=float(jacobian.min()),
        folded_percent=100 * folds / max(1, cells),
        ndv_percent=100 * volume.volume_vox / max(1, volume.voxels),
        ndv_vox=volume.volume_vox,
        inverse_residual_mean_mm=float(known.mean()) if known.size else None,
        inverse_residual_maximum_mm=float(known.max()) if known.size else None,
        inverse_missing_percent=float(100 * (1 - known.size / residual_mm.size)),
    )


def _relative_to_alignment(u_vox: Tensor, geometry: Geometry, transform: Composite) -> Tensor:
    """What is left of a displacement once the initial alignment is undone; offsets are left out.

    With T(x) = x + u(x) in indices of the grid and L the alignment's linear part in them, this is
    L^-1 T - id: its folds are those of the deformation, also where the alignment mirrors.

    Args:
        u_vox: (3, D, H, W).
        geometry: The grid.
        transform: Its affine parts are the alignment.
    """
    linear = np.eye(3)
    for part in transform.transforms:
        if isinstance(part, Affine):
            linear = part.matrix[:3, :3] @ linear
    to_index, to_world = geometry.world_to_index[:3, :3], geometry.index_to_world[:3, :3]
    undo = torch.from_numpy(np.linalg.inv(to_index @ linear @ to_world)).to(u_vox)
    left = torch.einsum("ij,jdhw->idhw", undo, u_vox)
    if torch.equal(undo, torch.eye(3).to(undo)):
        return left
    nodes = index_grid(u_vox.shape[1:], dtype=u_vox.dtype)[0]
    return left + torch.einsum("ij,jdhw->idhw", undo - torch.eye(3).to(undo), nodes)


def _write_warped(warped: Volume, pair: PairFiles, folder: Path) -> list[str]:
    """One file for one channel, numbered files for several."""
    names = warped_files(len(pair.moving))
    for name, channel, source in zip(names, warped.array, pair.moving, strict=True):
        volume = Volume(channel[None], warped.geometry, "intensity")
        write_image(folder / name, volume, integer_type(source))
    return list(names)
