"""The folder of one registered pair: what may be written there, and what becomes of old results."""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

from autoreg.errors import UsageError
from autoreg.inference.pairs_file import PairFiles
from autoreg.io.atomic import require_writable, write_text_atomic
from autoreg.io.result import (
    DISPLACEMENT_FILE,
    INVERSE_FILE,
    RESULT_FILE,
    TRACE_FILE,
    TRACE_NETWORK_FILE,
    UNFINISHED_FILE,
    WARPED_FILE,
    WARPED_LABELS_FILE,
    WARPED_LANDMARKS_FILE,
    warped_files,
)

# Of a field's optimisation; a trained model's plan lies beside the pairs' folders.
PLAN_FILE = "plan.json"
# result.json first: without it the folder is incomplete.
FILES = (
    RESULT_FILE, DISPLACEMENT_FILE, INVERSE_FILE, WARPED_FILE, WARPED_LABELS_FILE,
    WARPED_LANDMARKS_FILE, TRACE_FILE, TRACE_NETWORK_FILE, PLAN_FILE,
)  # fmt: skip

# Where an earlier result waits while a new one is written; renaming needs no room.
_EARLIER = ".earlier_result"


def begin_case(folder: Path, pair: PairFiles) -> None:
    """Make a pair's folder; until `mark_finished`, unfinished.txt says that its result is due.

    Args:
        folder: `<out>/<case>`.
        pair: The input files, none of which may be removed or overwritten by the result.

    Raises:
        UsageError: if the folder cannot be made or written to, holds an input under the name of a
            result, or holds files under such names that are no results: a model's plan.json,
            somebody's warped.nii.gz.
    """
    _check_inputs(folder, pair)
    with suppress(OSError):
        _restore(folder)  # a run was killed while it wrote
    foreign = foreign_files(folder)
    if foreign:
        raise UsageError(
            f"{folder}: holds {', '.join(foreign)}, but no result.json of a registration to which "
            "they belong, and they would be overwritten; choose another folder, or remove them"
        )
    write_text_atomic(folder / UNFINISHED_FILE, "it still runs, or was interrupted\n")


def clear_case(folder: Path) -> None:
    """Set aside what an earlier prediction of a pair left in its folder, result.json first.

    An interrupted run would otherwise leave an old result.json beside new files, and labels warped
    by another transform. `mark_failed` brings it back, `mark_finished` removes it. Files that
    autoreg does not write stay.

    Raises:
        UsageError: if the folder cannot be written to.
    """
    names = [name for name in _result_names(folder) if (folder / name).exists()]
    require_writable(folder / _EARLIER)
    for name in names:
        (folder / name).replace(folder / _EARLIER / name)


def _restore(folder: Path) -> None:
    """Bring back what `clear_case` set aside, in place of what was written since."""
    earlier = folder / _EARLIER
    if not earlier.is_dir():
        return
    for name in _result_names(folder):
        (folder / name).unlink(missing_ok=True)
    # result.json last: it says that the others are there.
    for name in reversed(_result_names(earlier)):
        if (earlier / name).exists():
            (earlier / name).replace(folder / name)
    earlier.rmdir()


def foreign_files(folder: Path) -> tuple[str, ...]:
    """Names of files that a result would overwrite and that are of no earlier registration."""
    if (folder / UNFINISHED_FILE).is_file() or _is_result(folder / RESULT_FILE):
        return ()
    return tuple(name for name in _result_names(folder) if (folder / name).exists())


def _check_inputs(folder: Path, pair: PairFiles) -> None:
    names = (*_result_names(folder), *warped_files(len(pair.moving)), UNFINISHED_FILE)
    lost = {os.path.realpath(folder / name) for name in names}
    for path in (path for paths in pair.files().values() for path in paths):
        if os.path.realpath(path) in lost:
            raise UsageError(f"{path}: would be overwritten by the result; choose another -o")


def _result_names(folder: Path) -> tuple[str, ...]:
    channels = sorted(folder.glob("warped_[0-9][0-9][0-9][0-9].nii.gz"))
    return (*FILES, *(path.name for path in channels))


def _is_result(path: Path) -> bool:
    """Whether a file is a result.json of any version, or a damaged one beside its displacement."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError:
        return False
    except ValueError:
        return (path.parent / DISPLACEMENT_FILE).is_file()
    return isinstance(found, dict) and {"format", "case", "inputs"} <= found.keys()


def mark_finished(folder: Path) -> None:
    """Say that a pair's folder is complete, after its result.json was written."""
    shutil.rmtree(folder / _EARLIER, ignore_errors=True)
    (folder / UNFINISHED_FILE).unlink(missing_ok=True)


def mark_failed(folder: Path, reason: str) -> None:
    """Leave the reason in a pair's folder, and its earlier result, as far as that is possible.

    Both where the folder can be written to and is a pair's.
    """
    if foreign_files(folder):
        return
    with suppress(OSError):
        _restore(folder)
    with suppress(UsageError):
        write_text_atomic(folder / UNFINISHED_FILE, f"{reason}\n")


def kept_note(folder: Path) -> str:
    """What is said of an earlier result after a run that failed; empty if there is none."""
    return f"; the earlier results in {folder} are kept" if _is_result(folder / RESULT_FILE) else ""
