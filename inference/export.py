"""The files of one registered pair."""

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from autoreg.errors import DataError
from autoreg.geometry.grid import Geometry
from autoreg.geometry.transforms import (
    Affine,
    Composite,
    DisplacementField,
    invert_on_grid,
    sample_displacement_mm,
)
from autoreg.geometry.volume import Kind, Volume
from autoreg.inference.pairs_file import PairFiles
from autoreg.inference.predictor import Prediction
from autoreg.inference.result import RESULT_FILE, FieldRecord
from autoreg.io.atomic import write_text_atomic
from autoreg.io.images import read_image, write_image
from autoreg.io.landmarks import read_landmarks, read_voxel_landmarks, write_landmarks
from autoreg.io.transforms import write_displacement
from autoreg.numerics.folding import folded_cells
from autoreg.numerics.jacobian import jacobian_determinant
from autoreg.registration.instance_optimisation import Trace

DISPLACEMENT = "displacement.nii.gz"
INVERSE = "inverse_displacement.nii.gz"
WARPED = "warped.nii.gz"
WARPED_CHANNEL = "warped_{:04d}.nii.gz"
WARPED_LABELS = "warped_labels.nii.gz"
WARPED_LANDMARKS = "warped_landmarks.csv"
TRACE = "trace.csv"

_INTEGERS = {
    sitk.sitkUInt8: "uint8",
    sitk.sitkInt8: "int8",
    sitk.sitkUInt16: "uint16",
    sitk.sitkInt16: "int16",
    sitk.sitkUInt32: "uint32",
    sitk.sitkInt32: "int32",
}


def clear_case(folder: Path) -> None:
    """Remove what an earlier prediction left in a pair's folder, result.json first.

    Without that, an interrupted run would leave an old result.json beside new files, and labels
    warped by another transform. Files that autoreg does not write stay.
    """
    names = (RESULT_FILE, DISPLACEMENT, INVERSE, WARPED, WARPED_LABELS, WARPED_LANDMARKS, TRACE)
    channels = folder.glob("warped_[0-9][0-9][0-9][0-9].nii.gz")
    for path in (*(folder / name for name in names), *channels):
        path.unlink(missing_ok=True)


def export_pair(
    prediction: Prediction, pair: PairFiles, folder: Path
) -> tuple[FieldRecord, dict[str, int]]:
    """Write every file of a pair but result.json.

    Args:
        prediction: From the very images of `pair`.
        pair: The input files: their labels and landmarks are carried over, their number types kept.
        folder: `<out>/<case>`, made if it is missing.

    Returns:
        What there is to say of the field, and the size in bytes of each file written.

    Raises:
        DataError: if labels or landmarks cannot be read or lie elsewhere than their image.
        UsageError: if the folder cannot be written to.
    """
    fixed, moving = prediction.fixed.geometry, prediction.moving.geometry
    labels = None
    if pair.moving_labels is not None:
        labels = read_on_grid(pair.moving_labels, "label", moving)
    points_mm = fixed_landmarks_mm(pair, fixed)
    u_mm = sample_displacement_mm(prediction.transform, fixed)
    write_displacement(folder / DISPLACEMENT, u_mm, fixed)
    written = [DISPLACEMENT, INVERSE, *_write_warped(prediction.warped, pair, folder)]
    if labels is not None and pair.moving_labels is not None:
        dtype = integer_type(pair.moving_labels)
        write_image(folder / WARPED_LABELS, prediction.warp(labels), dtype)
        written.append(WARPED_LABELS)
    if points_mm is not None:
        write_landmarks(folder / WARPED_LANDMARKS, prediction.transform.map_points(points_mm))
        written.append(WARPED_LANDMARKS)
    if prediction.registration.trace is not None:
        write_trace(folder / TRACE, prediction.registration.trace)
        written.append(TRACE)
    inverse_mm, residual_mm = invert_on_grid(prediction.transform, moving)
    write_displacement(folder / INVERSE, inverse_mm, moving)
    record = field_record(u_mm, fixed, prediction.transform, residual_mm)
    return record, {name: (folder / name).stat().st_size for name in written}


def read_on_grid(path: Path, kind: Kind, geometry: Geometry) -> Volume:
    """Read a label map or mask that must lie on its image's grid.

    Args:
        path: The file.
        kind: "label" or "mask".
        geometry: The image's.

    Raises:
        DataError: if it cannot be read or lies elsewhere.
    """
    volume = read_image([path], kind)
    difference = geometry.difference(volume.geometry)
    if difference is not None:
        raise DataError(
            f"{path}: this {kind} lies elsewhere than its image: {difference}; resample it to the "
            "image's grid"
        )
    return volume


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
        transform: Its affine part is the initial alignment, which the Jacobian is relative to;
            its displacement fields are searched for folds on their own grids.
        residual_mm: (D, H, W) of the inverse on the moving grid, infinite where there is none.
    """
    length_mm = np.sqrt(np.einsum("dhwc,dhwc->dhw", u_mm, u_mm))
    to_index = geometry.world_to_index[:3, :3].astype(np.float32)
    u_vox = torch.from_numpy(np.einsum("ic,dhwc->idhw", to_index, u_mm))[None]
    alignment = np.prod(
        [np.linalg.det(t.matrix[:3, :3]) for t in transform.transforms if isinstance(t, Affine)]
    )
    jacobian = jacobian_determinant(u_vox).numpy() / alignment
    fields = [t for t in transform.transforms if isinstance(t, DisplacementField)]
    folds = sum(len(folded_cells(torch.from_numpy(f.u_vox)[None]).lower_vox) for f in fields)
    cells = sum(int(np.prod([n + 1 for n in f.geometry.shape])) for f in fields)
    known = residual_mm[np.isfinite(residual_mm)]
    return FieldRecord(
        mean_mm=float(length_mm.mean()),
        maximum_mm=float(length_mm.max()),
        jacobian_minimum=float(jacobian.min()),
        folded_percent=100 * folds / max(1, cells),
        inverse_residual_mean_mm=float(known.mean()) if known.size else None,
        inverse_residual_maximum_mm=float(known.max()) if known.size else None,
        inverse_missing_percent=float(100 * (1 - known.size / residual_mm.size)),
    )


def _write_warped(warped: Volume, pair: PairFiles, folder: Path) -> list[str]:
    """One file for one channel, numbered files for several."""
    if len(pair.moving) == 1:
        names = [WARPED]
    else:
        names = [WARPED_CHANNEL.format(channel) for channel in range(len(pair.moving))]
    for name, channel, source in zip(names, warped.array, pair.moving, strict=True):
        volume = Volume(channel[None], warped.geometry, "intensity")
        write_image(folder / name, volume, integer_type(source))
    return names
