"""The folders that autoreg_predict leaves behind, as far as an evaluation needs them."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from autoreg.errors import DataError, UsageError
from autoreg.io.records import from_plain, load_json

RESULT_FILE = "result.json"
DISPLACEMENT_FILE = "displacement.nii.gz"
INVERSE_FILE = "inverse_displacement.nii.gz"
WARPED_FILE = "warped.nii.gz"
WARPED_LABELS_FILE = "warped_labels.nii.gz"
WARPED_LANDMARKS_FILE = "warped_landmarks.csv"
_TRACES = (DISPLACEMENT_FILE, INVERSE_FILE, WARPED_FILE, WARPED_LABELS_FILE, WARPED_LANDMARKS_FILE)


@dataclass(frozen=True)
class InputFiles:
    """The key `inputs` of a result.json: the pair's files, as absolute paths.

    Attributes:
        fixed: One file for each channel.
        moving: One file for each channel.
        fixed_labels: Or null; likewise the others.
        moving_labels: See `fixed_labels`.
        fixed_mask: See `fixed_labels`.
        moving_mask: See `fixed_labels`.
        fixed_landmarks: See `fixed_labels`.
        moving_landmarks: See `fixed_labels`.
        landmark_frame: What the landmark files hold: world points or (Learn2Reg) voxels.
    """

    fixed: tuple[str, ...]
    moving: tuple[str, ...]
    fixed_labels: str | None = None
    moving_labels: str | None = None
    fixed_mask: str | None = None
    moving_mask: str | None = None
    fixed_landmarks: str | None = None
    moving_landmarks: str | None = None
    landmark_frame: Literal["lps_mm", "voxels"] = "lps_mm"


@dataclass(frozen=True)
class Prediction:
    """One predicted pair.

    Attributes:
        folder: Where its files lie.
        case: Its name, that of the folder.
        inputs: What was registered.
        seconds: Time that the prediction took, if noted.
        label_names: Structures by name.
        outside_value: What the warped image holds where the moving image ends.
    """

    folder: Path
    case: str
    inputs: InputFiles
    seconds: float | None
    label_names: dict[str, int]
    outside_value: float

    @property
    def warped_files(self) -> tuple[Path, ...]:
        """The warped image, one file per channel."""
        if len(self.inputs.moving) == 1:
            return (self.folder / WARPED_FILE,)
        stem, _, ending = WARPED_FILE.partition(".")
        names = [f"{stem}_{channel:04d}.{ending}" for channel in range(len(self.inputs.moving))]
        return tuple(self.folder / name for name in names)


@dataclass(frozen=True)
class _Needed:
    """The keys of result.json that an evaluation reads; all others are left alone."""

    case: str
    inputs: InputFiles
    seconds: float | None = None
    label_names: dict[str, int] | None = None
    outside_value: float = 0.0


def find_cases(predictions: Path) -> tuple[Path, ...]:
    """The folders of pairs in an output folder of autoreg_predict, complete or not.

    Args:
        predictions: The folder.

    Returns:
        Sub-folders that hold a result.json or any other file of a prediction, by name; empty
        ones too, which failed predictions leave.

    Raises:
        UsageError: if there are none.
    """
    if not predictions.is_dir():
        raise UsageError(
            f"-i {predictions}: no such folder; expected the output folder of autoreg_predict"
        )
    cases = tuple(
        folder for folder in sorted(predictions.iterdir()) if folder.is_dir() and _is_case(folder)
    )
    if cases:
        return cases
    if (predictions / RESULT_FILE).is_file():
        raise UsageError(
            f"-i {predictions}: is the folder of one pair; give the folder above it, "
            f"{predictions.absolute().parent}"
        )
    raise UsageError(
        f"-i {predictions}: holds no predictions; expected <case>/{RESULT_FILE}, as "
        "autoreg_predict writes them with -o"
    )


def read_prediction(folder: Path) -> Prediction:
    """Read what result.json says about a pair.

    Raises:
        DataError: if it is missing or cannot be understood.
    """
    path = folder / RESULT_FILE
    if not path.is_file():
        raise DataError(
            f"{folder}: {RESULT_FILE} is missing, so the prediction is incomplete; run "
            "autoreg_predict again with --continue"
        )
    data = load_json(path, DataError)
    needed = from_plain(_Needed, _known_keys(data, path), str(path), DataError)
    if needed.case != folder.name:
        raise DataError(
            f'{path}: tells of the case "{needed.case}", but the folder is called "{folder.name}"; '
            "give the folder its old name"
        )
    return Prediction(
        folder=folder,
        case=needed.case,
        inputs=needed.inputs,
        seconds=needed.seconds,
        label_names=needed.label_names or {},
        outside_value=needed.outside_value,
    )


def _is_case(folder: Path) -> bool:
    names = {path.name for path in folder.iterdir()}
    return not names or not names.isdisjoint((RESULT_FILE, *_TRACES))


def _known_keys(data: Any, path: Path) -> dict[str, Any]:  # noqa: ANN401 - any JSON value
    if not isinstance(data, dict) or not isinstance(data.get("inputs", {}), dict):
        raise DataError(f'{path}: expected an object with the keys "case" and "inputs"')
    kept = {f.name: data[f.name] for f in fields(_Needed) if f.name in data}
    if "inputs" in kept:
        names = {f.name for f in fields(InputFiles)}
        kept["inputs"] = {key: value for key, value in kept["inputs"].items() if key in names}
    return kept
