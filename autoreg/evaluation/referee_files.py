"""The files of a pair that a referee looks at, and where its ground truth lies."""

from dataclasses import dataclass, replace
from pathlib import Path

from autoreg.errors import UsageError
from autoreg.evaluation.predictions import PredictedPair
from autoreg.io.cases import LandmarkFrame
from autoreg.io.dataset_files import split_ending
from autoreg.io.result import DISPLACEMENT_FILE

_KINDS = ("labels", "masks", "landmarks", "keypoints")


@dataclass(frozen=True)
class RefereeFiles:
    """Files of one pair.

    Attributes:
        case: Name of the pair.
        displacement: As it was written.
        fixed: Fixed image, its first channel.
        moving: Moving image, its first channel.
        fixed_labels: Label map, or None; likewise the others.
        moving_labels: See `fixed_labels`.
        fixed_mask: See `fixed_labels`.
        fixed_landmarks: Points, or a map of blobs.
        moving_landmarks: See `fixed_landmarks`.
        landmark_frame: Of points: "voxels" (no header), or "lps_mm".
        label_names: Values of structures by name.
        notes: What deserves a look already.
    """

    case: str
    displacement: Path
    fixed: Path
    moving: Path
    fixed_labels: Path | None
    moving_labels: Path | None
    fixed_mask: Path | None
    fixed_landmarks: Path | None
    moving_landmarks: Path | None
    landmark_frame: LandmarkFrame
    label_names: dict[str, int]
    notes: tuple[str, ...] = ()


def files_of(pair: PredictedPair) -> RefereeFiles:
    """The files of a predicted pair, as its result.json names them."""

    def one(name: str | None) -> Path | None:
        return None if name is None else Path(name)

    inputs = pair.inputs
    return RefereeFiles(
        case=pair.result.case,
        displacement=pair.folder / DISPLACEMENT_FILE,
        fixed=Path(inputs.fixed[0]),
        moving=Path(inputs.moving[0]),
        fixed_labels=one(inputs.fixed_labels),
        moving_labels=one(inputs.moving_labels),
        fixed_mask=one(inputs.fixed_mask),
        fixed_landmarks=one(inputs.fixed_landmarks),
        moving_landmarks=one(inputs.moving_landmarks),
        landmark_frame=inputs.landmark_frame,
        label_names=pair.result.label_names,
        notes=pair.notes,
    )


def with_ground_truth(files: RefereeFiles, folder: Path) -> RefereeFiles:
    """Take labels, mask and landmarks from a folder in the layout of the challenges.

    For the image `imagesVal/NAME.nii.gz` these are `labelsVal/NAME.*`, `masksVal/NAME.*`, and
    `landmarksVal/NAME.*` or else `keypointsVal/NAME.*`. What is not there stays as it was; points
    that are there are voxels without a header.

    Args:
        files: Of the pair.
        folder: The ground truth; see `require_ground_truth`.
    """
    points = {
        kind: (_truth(folder, kind, files.fixed), _truth(folder, kind, files.moving))
        for kind in ("landmarks", "keypoints")
    }
    both = next((found for found in points.values() if None not in found), None)
    if both is not None:
        files = replace(
            files, fixed_landmarks=both[0], moving_landmarks=both[1], landmark_frame="voxels"
        )
    return replace(
        files,
        fixed_labels=_truth(folder, "labels", files.fixed) or files.fixed_labels,
        moving_labels=_truth(folder, "labels", files.moving) or files.moving_labels,
        fixed_mask=_truth(folder, "masks", files.fixed) or files.fixed_mask,
    )


def require_ground_truth(folder: Path) -> None:
    """Refuse a folder that holds no ground truth.

    Raises:
        UsageError: if it is missing, or has no folder labels*, masks*, landmarks* or keypoints*.
    """
    if not folder.is_dir():
        raise UsageError(f"--ground-truth {folder}: no such folder")
    if not any(path.is_dir() for kind in _KINDS for path in folder.glob(f"{kind}*")):
        raise UsageError(
            f"--ground-truth {folder}: no ground truth in it; expected folders such as labelsVal, "
            "masksTr, landmarksVal or keypointsTr, with files named like the images"
        )


def _truth(folder: Path, kind: str, image: Path) -> Path | None:
    parent = image.parent.name
    split = parent.removeprefix("images") if parent.startswith("images") else ""
    stem = split_ending(image.name)[0]
    places = sorted((folder / f"{kind}{split}").glob(f"{stem}.*"))
    return next((path for path in places if split_ending(path.name)[0] == stem), None)
