"""Files that appear complete or not at all."""

import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autoreg.errors import UsageError

# Names of files that are not complete begin so; a killed process leaves them.
PARTIAL = ".partial_"

# What a disk, a quota or a limit on the size of files says when it holds no more.
_NO_ROOM = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "the file would be larger than allowed (ulimit -f, or the file system's limit)",
}
_ROOM = "make room, or write to another disk"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` and rename it to `path` when the block succeeds.

    The temporary name ends like `path`, so that writers choosing a format by suffix see the
    right one. If the block raises, the temporary file is removed and `path` stays untouched.

    Args:
        path: The file to be written; its folder is made if it is missing.

    Yields:
        The path to write to.

    Raises:
        UsageError: if the folder cannot be made or written to, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=PARTIAL, suffix=f"_{path.name}", dir=path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files that only the owner may read; results are for the user's group too.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)  # before the free space is asked for
        raise _unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def require_writable(folder: Path) -> None:
    """Make a folder that results are written to later, and try whether that is possible.

    Raises:
        UsageError: if it cannot be made or written to.
    """
    if folder.is_file():
        raise UsageError(f"{folder}: is a file; expected a folder to write results to")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=PARTIAL, dir=folder):
            pass
    except OSError as error:
        raise _unwritable(folder, error) from error


@contextmanager
def locked_folder(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Let one process at a time into the block, for reading, changing and writing files there.

    The folder itself is locked: no file is left behind, and a killed process lets go. Windows and
    some network file systems know no such lock; there the block runs without one.

    Args:
        folder: Is made if it is missing.
        wait: Whether to wait for another process in the block; otherwise it is an error.

    Raises:
        UsageError: if the folder cannot be made or opened, or another process is there.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise UsageError(
                f"{folder}: another process is writing there; wait for it, or choose another folder"
            ) from error
        except OSError:  # no such lock there
            pass
        yield
    finally:
        os.close(handle)


def unwritten(path: Path, why: str, partial: Path) -> UsageError:
    """The error that a library could not write a file, or only a part of it.

    Args:
        path: The file, under its final name.
        why: What the library said, or what was found.
        partial: What there is of it; is removed, before the free space is asked for.
    """
    partial.unlink(missing_ok=True)
    return UsageError(f"{path}: cannot be written: {why}; {_free(path)}; {_ROOM}")


def _unwritable(path: Path, error: OSError) -> UsageError:
    why = error.strerror or str(error)
    if error.errno in _NO_ROOM:
        why = f"{_NO_ROOM[error.errno]} ({why})"
        return UsageError(f"{path}: cannot be written: {why}; {_free(path)}; {_ROOM}")
    return UsageError(
        f"{path}: cannot be written ({why}); choose a folder that you may write to, with room on "
        "its disk"
    )


def _free(path: Path) -> str:
    """How much room there is for a file, in words."""
    folder = next((p for p in path.absolute().parents if p.is_dir()), Path.cwd())
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return f"the room in {folder} is unknown"
    return f"{free / 1e6:.1f} MB are free in {folder}"


def write_text_atomic(path: Path, text: str) -> None:
    """Write `text` (UTF-8) to `path` completely or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
