"""A finished data set gives way to a newer one: what is kept is linked, then the folders swap."""

import os
import shutil
from pathlib import Path

from autoreg.errors import UsageError
from autoreg.io.atomic import PARTIAL

_REPLACED = ".replaced_"


def take_over(finished: Path, building: Path, without: set[str]) -> None:
    """Give a data set in the making what is to be kept of the finished one, as hard links.

    Where the file system knows none, files are copied.

    Args:
        finished: The data set, which stays as it is.
        building: The folder of the new one; files there that are kept are replaced.
        without: Files that are not taken over.

    Raises:
        UsageError: if a file cannot be written.
    """
    for path in sorted(p for p in finished.rglob("*") if p.is_symlink() or p.is_file()):
        name = path.relative_to(finished).as_posix()
        if name in without or path.name.startswith(PARTIAL):
            continue
        target = building / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            _same(path, target)
        except OSError as error:
            raise UsageError(
                f"{target}: cannot be written ({error.strerror or error}); {finished} is as it was"
            ) from error


def _same(path: Path, target: Path) -> None:
    try:
        os.link(path, target, follow_symlinks=False)
    except (OSError, NotImplementedError):  # a file system without hard links
        shutil.copy2(path, target, follow_symlinks=False)


def change_places(building: Path, folder: Path) -> None:
    """Give the complete data set its name, and remove the one that had it.

    A process that is killed between the two renamings leaves `building` complete, which the next
    run finds and names.
    """
    replaced = folder.with_name(f"{_REPLACED}{folder.name}")
    shutil.rmtree(replaced, ignore_errors=True)
    if folder.exists():
        folder.replace(replaced)
    building.replace(folder)
    shutil.rmtree(replaced, ignore_errors=True)
