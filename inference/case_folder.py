"""The folder of one registered pair: what may be written there, and what becomes of old results."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from autoreg.errors import UsageError
from autoreg.inference.pairs_file import PairFiles
from autoreg.io.atomic import locked_folder, require_writable, write_text_atomic
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

# Of a result while it is written, and while it moves to its place.
_NEW, _WHOLE = ".new_result_", ".whole_result_"
# In it: the names of all its files.
_LIST = ".files"


@contextmanager
def new_result(folder: Path, pair: PairFiles) -> Iterator[Path]:
    """A hidden folder for the files of a new result, which then replaces an earlier one as a whole.

    While the block runs the earlier result stays as it is, and unfinished.txt says that another one
    is due. After it the new files move to their place, result.json last; an interruption in between
    is made up for by the next run. If the block fails, what it wrote is removed. Files that autoreg
    does not write stay.

    Args:
        folder: `<out>/<case>`; is made if it is missing.
        pair: The input files, none of which may be removed or overwritten by the result.

    Yields:
        Where to write, result.json included.

    Raises:
        UsageError: if the folder cannot be made or written to, another process writes there, it
            holds an input under the name of a result, or holds files under such names that are
            no results: a model's plan.json, somebody's warped.nii.gz.
    """
    _check_inputs(folder, pair)
    require_writable(folder)
    with locked_folder(folder, wait=False):
        for whole in folder.glob(f"{_WHOLE}*"):
            _move_in(whole, folder)
        for left in folder.glob(f"{_NEW}*"):  # a run was killed: nobody else is in this block
            shutil.rmtree(left, ignore_errors=True)
        for name in _result_names(folder):
            if (folder / name).is_dir():
                raise UsageError(
                    f"{folder / name}: is a folder where a file of the result belongs; remove it, "
                    "or choose another folder"
                )
        foreign = foreign_files(folder)
        if foreign:
            raise UsageError(
                f"{folder}: holds {', '.join(foreign)}, but no result.json of a registration to "
                "which they belong, and they would be overwritten; choose another folder, or "
                "remove them"
            )
        write_text_atomic(folder / UNFINISHED_FILE, "it still runs, or was interrupted\n")
        new = Path(tempfile.mkdtemp(prefix=_NEW, dir=folder))
        try:
            yield new
            names = sorted(path.name for path in new.iterdir())
            write_text_atomic(new / _LIST, "\n".join(names))
            whole = new.replace(folder / new.name.replace(_NEW, _WHOLE))
            _move_in(whole, folder)
            mark_finished(folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)


def _move_in(whole: Path, folder: Path) -> None:
    """Put a whole result in the place of an earlier one; may be interrupted and repeated."""
    listed = whole / _LIST
    if listed.is_file():
        names = listed.read_text("utf-8").split("\n")
        if (whole / RESULT_FILE).exists():
            (folder / RESULT_FILE).unlink(missing_ok=True)  # until all the others are there
        for name in set(_result_names(folder)) - set(names):
            (folder / name).unlink(missing_ok=True)
        for name in sorted(names, key=lambda name: name == RESULT_FILE):
            if (whole / name).exists():
                (whole / name).replace(folder / name)
        listed.unlink()
    shutil.rmtree(whole, ignore_errors=True)


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
    """Say that a pair's folder is complete."""
    (folder / UNFINISHED_FILE).unlink(missing_ok=True)


def mark_failed(folder: Path, reason: str) -> None:
    """Leave the reason in a pair's folder, if it can be written to and is a pair's."""
    if foreign_files(folder):
        return
    with suppress(UsageError):
        write_text_atomic(folder / UNFINISHED_FILE, f"{reason}\n")


def kept_note(folder: Path) -> str:
    """What is said of an earlier result after a run that failed; empty if there is none."""
    return f"; the earlier results in {folder} are kept" if _is_result(folder / RESULT_FILE) else ""
