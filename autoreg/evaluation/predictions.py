"""The folders that autoreg_predict leaves behind, as far as an evaluation needs them."""

from dataclasses import dataclass
from pathlib import Path

from autoreg.errors import DataError, UsageError
from autoreg.io.result import (
    DISPLACEMENT_FILE,
    INVERSE_FILE,
    RESULT_FILE,
    UNFINISHED_FILE,
    WARPED_FILE,
    WARPED_LABELS_FILE,
    WARPED_LANDMARKS_FILE,
    InputsRecord,
    Result,
    read_result,
    warped_files,
)

_TRACES = (
    RESULT_FILE, UNFINISHED_FILE, DISPLACEMENT_FILE, INVERSE_FILE, WARPED_FILE, WARPED_LABELS_FILE,
    WARPED_LANDMARKS_FILE,
)  # fmt: skip


@dataclass(frozen=True)
class PredictedPair:
    """One predicted pair.

    Attributes:
        folder: Where its files lie.
        result: What the prediction noted.
    """

    folder: Path
    result: Result

    @property
    def notes(self) -> tuple[str, ...]:
        """A later prediction that failed, if there was one: the results are older."""
        why = unfinished(self.folder)
        return () if why is None else (f"results of an earlier prediction; the last one: {why}",)

    @property
    def inputs(self) -> InputsRecord:
        """What was registered."""
        return self.result.inputs

    @property
    def warped_files(self) -> tuple[Path, ...]:
        """The warped image, one file per channel."""
        return tuple(self.folder / name for name in warped_files(len(self.inputs.moving)))


def find_cases(predictions: Path) -> tuple[Path, ...]:
    """The folders of pairs in an output folder of autoreg_predict, complete or not.

    Args:
        predictions: The folder; that of one pair, as autoreg_register writes it, will do.

    Returns:
        Sub-folders that hold a result.json or any other file of a prediction, by name: failed
        and interrupted ones leave an unfinished.txt.

    Raises:
        UsageError: if there are none.
    """
    if not predictions.is_dir():
        raise UsageError(
            f"-i {predictions}: no such folder; expected the output folder of autoreg_predict or "
            "autoreg_register"
        )
    if _is_case(predictions):
        return (predictions.resolve(),)
    cases = tuple(
        folder for folder in sorted(predictions.iterdir()) if folder.is_dir() and _is_case(folder)
    )
    if cases:
        return cases
    raise UsageError(
        f"-i {predictions}: holds no registered pairs; expected <case>/{RESULT_FILE}, as "
        f"autoreg_predict writes them with -o, or {RESULT_FILE} of autoreg_register"
    )


def read_prediction(folder: Path) -> PredictedPair:
    """Read what result.json says about a pair.

    Raises:
        DataError: if it is missing or cannot be understood.
    """
    path = folder / RESULT_FILE
    if not path.is_file():
        why = unfinished(folder)
        raise DataError(
            f"{folder}: {RESULT_FILE} is missing, so the prediction is incomplete"
            f"{'' if why is None else f' ({why})'}; run autoreg_predict again with --continue, or "
            "autoreg_register"
        )
    result = read_result(folder)
    if result.case != folder.name:
        raise DataError(
            f'{path}: tells of the case "{result.case}", but the folder is called "{folder.name}"; '
            "give the folder its old name"
        )
    return PredictedPair(folder, result)


def unfinished(folder: Path) -> str | None:
    """Why a pair's last prediction did not end; None if it did, or if nothing is known."""
    path = folder / UNFINISHED_FILE
    return path.read_text("utf-8").strip() if path.is_file() else None


def _is_case(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _TRACES)
