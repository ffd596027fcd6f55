"""The files of a pair that a referee looks at, and where its ground truth lies."""

import re
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path
from typing import Literal

from autoreg.errors import DataError, UsageError
from autoreg.evaluation.predictions import PredictedPair
from autoreg.io.cases import LandmarkFrame
from autoreg.io.dataset import points_kind
from autoreg.io.dataset_files import split_ending
from autoreg.io.result import DISPLACEMENT_FILE

PointsKind = Literal["landmarks", "keypoints"]

_KINDS = ("labels", "masks", "landmarks", "keypoints")
# Where one scan takes part in several pairs, each pair's key points have a folder of their own.
_POINTS = re.compile(r"(landmarks|keypoints)\d*")


@dataclass(frozen=True)
class LandmarkFiles:
    """Corresponding landmarks of a pair.

    Attributes:
        kind: "landmarks" that people set, or "keypoints" that a program found.
        fixed: Points, or a map of blobs; None: the image has none of this kind.
        moving: See `fixed`.
        frame: Of points: "voxels" (no header), or "lps_mm".
    """

    kind: PointsKind
    fixed: Path | None
    moving: Path | None
    frame: LandmarkFrame


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
        landmarks: One entry for each kind that an image has.
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
    landmarks: tuple[LandmarkFiles, ...]
    label_names: dict[str, int]
    notes: tuple[str, ...] = ()

    @property
    def task(self) -> str:
        """What the fixed image's name begins with: NLST for NLST_0101_0000.nii.gz; may be ""."""
        match = re.match(r"(.+?)_\d{4}(?!\d)", self.fixed.name)
        return match[1] if match else ""


def files_of(pair: PredictedPair) -> RefereeFiles:
    """The files of a predicted pair, as its result.json names them."""

    def one(name: str | None) -> Path | None:
        return None if name is None else Path(name)

    inputs = pair.inputs
    points = one(inputs.fixed_landmarks), one(inputs.moving_landmarks)
    named = next((path for path in points if path is not None), None)
    return RefereeFiles(
        case=pair.result.case,
        displacement=pair.folder / DISPLACEMENT_FILE,
        fixed=Path(inputs.fixed[0]),
        moving=Path(inputs.moving[0]),
        fixed_labels=one(inputs.fixed_labels),
        moving_labels=one(inputs.moving_labels),
        fixed_mask=one(inputs.fixed_mask),
        landmarks=()
        if named is None
        else (LandmarkFiles(_kind_of(named), *points, inputs.landmark_frame),),
        label_names=pair.result.label_names,
        notes=pair.notes,
    )


def with_ground_truth(files: RefereeFiles, folder: Path) -> RefereeFiles:
    """Take labels, mask and landmarks from a folder in the layout of the challenges.

    For the image `imagesVal/NAME.nii.gz` these are `labelsVal/NAME.*`, `masksVal/NAME.*`,
    `landmarksVal/NAME.*` and `keypointsVal/NAME.*` (or the first of `keypoints01Val`,
    `keypoints02Val`, ... that has both images). An image of another split, as a conversion puts
    validation images into `imagesTr`, is looked up in all of `labels*` and so on. What is not there
    stays as it was, with a note if nothing is; points that are there are voxels without a header.

    Args:
        files: Of the pair.
        folder: The ground truth; see `require_ground_truth`.

    Raises:
        DataError: if two folders have a file for an image, and neither is of its split.
    """
    if not fits(files, folder):
        note = f"the ground truth {folder} has no file for {files.fixed.name} or its moving image"
        return replace(files, notes=(*files.notes, note))
    return replace(
        files,
        fixed_labels=_truth(folder, "labels", files.fixed) or files.fixed_labels,
        moving_labels=_truth(folder, "labels", files.moving) or files.moving_labels,
        fixed_mask=_truth(folder, "masks", files.fixed) or files.fixed_mask,
        landmarks=_landmarks(files, folder),
    )


def fits(files: RefereeFiles, folder: Path) -> bool:
    """Whether a ground truth has any file of a pair."""
    kinds = ("labels", "masks", *_point_kinds(folder))
    return any(
        _found(place, image)
        for kind in kinds
        for place in _places(folder, kind)
        for image in (files.fixed, files.moving)
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


def _landmarks(files: RefereeFiles, folder: Path) -> tuple[LandmarkFiles, ...]:
    """Per kind: the folder's where it has both images, else the prediction's, else one side's."""
    chosen: dict[PointsKind, LandmarkFiles] = {}
    for name in _point_kinds(folder):
        pair = _truth(folder, name, files.fixed), _truth(folder, name, files.moving)
        kind: PointsKind = "keypoints" if name.startswith("keypoints") else "landmarks"
        known = chosen.get(kind)
        if pair != (None, None) and (known is None or (_one_sided(known) and None not in pair)):
            chosen[kind] = LandmarkFiles(kind, *pair, "voxels")
    for given in files.landmarks:
        if given.kind not in chosen or _one_sided(chosen[given.kind]):
            chosen[given.kind] = given
    return tuple(chosen[kind] for kind in sorted(chosen, reverse=True))  # landmarks first


def _one_sided(files: LandmarkFiles) -> bool:
    return files.fixed is None or files.moving is None


def _kind_of(file: Path) -> PointsKind:
    return "keypoints" if points_kind(file).startswith("keypoints") else "landmarks"


def _point_kinds(folder: Path) -> list[str]:
    """Names of folders of points without the split, in order: landmarks, then by number."""
    matches = (_POINTS.match(path.name) for path in folder.iterdir() if path.is_dir())
    names = {match[0] for match in matches if match}
    return sorted(names, key=lambda name: (not name.startswith("landmarks"), name))


def _truth(folder: Path, kind: str, image: Path) -> Path | None:
    """The file of a kind for an image: in the folder of its split, else in the only one."""
    parent = image.parent.name
    split = parent.removeprefix("images") if parent.startswith("images") else ""
    own = _found(folder / f"{kind}{split}", image)
    if own is not None:
        return own
    others = [file for place in _places(folder, kind) if (file := _found(place, image))]
    if len(others) > 1:
        listed = " and ".join(str(file) for file in others)
        raise DataError(
            f"{image}: the ground truth has {len(others)} files for it, {listed}; keep one of them"
        )
    return others[0] if others else None


def _places(folder: Path, kind: str) -> list[Path]:
    """The folders of a kind of all splits."""
    name = re.compile(rf"{kind}(?!\d).*")
    return sorted(path for path in folder.iterdir() if path.is_dir() and name.fullmatch(path.name))


def _found(place: Path, image: Path) -> Path | None:
    stem = split_ending(image.name)[0]
    files = sorted(place.glob(f"{escape(stem)}.*"))
    return next((path for path in files if split_ending(path.name)[0] == stem), None)
