"""Write a planned conversion: links, copies or computed files, resumably, complete or not at all.

A data set is built in the hidden folder `.converting_<name>`, which no command takes for a data
set, and gets its name when everything is there. `conversion.json` in it says what each file was
made from, so that a second run keeps what is right. A finished data set that is brought up to date
stays as it is until then: what is new is written into the hidden folder, what is right is linked
into it in the end (hard links, which need no room), and the two folders change places.
"""

import os
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from autoreg.dataset_conversion.conversion import RECORD_NAME, Conversion, Item, Made, checked
from autoreg.dataset_conversion.conversion_record import (
    RECORD_FORMAT,
    Record,
    changed_by_hand,
    digest,
    extra_files,
    is_right,
    json_is_right,
    json_text,
)
from autoreg.dataset_conversion.replacing import change_places, take_over
from autoreg.errors import DataError, UsageError
from autoreg.io.atomic import (
    PARTIAL,
    atomic_path,
    locked_folder,
    require_writable,
    write_text_atomic,
)
from autoreg.io.dataset import read_dataset
from autoreg.io.names import folder_name_problem
from autoreg.io.problems import report
from autoreg.io.records import load_record, save_record
from autoreg.parallel import choose_workers, map_cases

_BUILDING = ".converting_"
_NUMBERED = re.compile(r"Dataset(\d+)_(.+)")
# Of the largest volumes that converters compute: three float64 copies of 320x320x320 voxels.
_BYTES_PER_TASK = 3 * 8 * 320**3


@dataclass(frozen=True)
class Target:
    """Where and how to write.

    Attributes:
        raw: Folder of raw data sets.
        number: Of the data set; None: its number if it is there already, else the lowest free one.
        name: Of the data set without its number; None: the conversion's.
        copy: Whether files are copied instead of linked.
        partial: Whether to go on with a part of the data set.
        workers: Processes for computed files; None: from processors and memory.
        progress: Whether to show bars.
    """

    raw: Path
    number: int | None = None
    name: str | None = None
    copy: bool = False
    partial: bool = False
    workers: int | None = None
    progress: bool = False


@dataclass(frozen=True)
class Written:
    """What was done.

    Attributes:
        folder: Of the data set.
        kept: Files that were right already.
        written: Files that were linked, copied or computed.
        removed: Files of an earlier conversion that have no place in this one.
        changed: Kept files that were changed by hand since they were copied or computed.
    """

    folder: Path
    kept: int
    written: int
    removed: int
    changed: tuple[str, ...] = ()


def write_conversion(conversion: Conversion, target: Target) -> Written:
    """Write a data set, or bring one that is there up to date.

    Args:
        conversion: As planned; it is checked here.
        target: Where and how.

    Returns:
        The folder and what was done.

    Raises:
        DataError: listing all problems, before anything is written; or if a computed file fails.
        UsageError: if the folder is taken by something else or cannot be written, or files in it
            were changed by hand that would have to be written anew.
    """
    conversion = checked(conversion)
    _require_sound(conversion, target.partial)
    require_writable(target.raw)
    with locked_folder(target.raw):
        folder = _choose_folder(conversion, target)
        return replace(_write(conversion, target, folder), folder=folder)


def _write(conversion: Conversion, target: Target, chosen: Path) -> Written:
    folder = chosen.resolve() if chosen.is_symlink() else chosen  # moved to another disk
    building = folder.with_name(f"{_BUILDING}{folder.name}")
    present = folder if folder.exists() else building
    known = _load_own_record(present, conversion)
    items = conversion.items()
    wrong = [item for item in items if not is_right(item, present, known, target.copy)]
    extra = extra_files(present, known, items)
    json_right = json_is_right(present, conversion, known)
    replaced = {*extra, *(item.target for item in wrong)}
    changed = _changed(present, known, replaced)
    if present == folder and json_right and not replaced:
        return Written(folder, len(items), 0, 0, changed)
    record = _load_own_record(building, conversion)
    todo = [item for item in wrong if not is_right(item, building, record, target.copy)]
    building.mkdir(exist_ok=True)
    record.dataset, record.source = conversion.name, str(conversion.source.absolute())
    save_record(record, building / RECORD_NAME)
    _remove(building, extra_files(building, record, items), record)
    _write_all(todo, building, record, target)
    if present == folder:
        take_over(folder, building, {*replaced, RECORD_NAME})
        record.adopt(known, {*known.files} - replaced)
    if not json_right:
        _write_json(building, conversion, record)
    save_record(record, building / RECORD_NAME)
    read_dataset(building)
    change_places(building, folder)
    return Written(folder, len(items) - len(todo), len(todo), len(extra), changed)


def _require_sound(conversion: Conversion, partial: bool) -> None:
    hints = conversion.missing if not partial else ()
    listed = [*conversion.problems, *hints]
    if not listed:
        return
    text = report(str(conversion.source), listed)
    if hints and not conversion.problems:
        text += "\nor go on with what is there: --partial"
    raise DataError(text)


def _choose_folder(conversion: Conversion, target: Target) -> Path:
    """The folder of a data set: its own if it is there (finished or not), else a new number."""
    name = target.name or conversion.name
    problem = folder_name_problem(name, "a data set")
    if problem:
        raise UsageError(f'--name "{name}": {problem}')
    taken: dict[int, str] = {}
    for path in target.raw.iterdir():
        match = _NUMBERED.fullmatch(path.name.removeprefix(_BUILDING))
        if match:
            taken[int(match[1])] = match[2]
    own = sorted(number for number, other in taken.items() if other == name)
    number = target.number
    if number is None:
        free = next(n for n in range(1, len(taken) + 2) if n not in taken)
        number = own[0] if own else free
    if taken.get(number, name) != name:
        raise UsageError(
            f"--id {number}: {target.raw} has Dataset{number:03d}_{taken[number]} already; choose "
            "another number"
        )
    folder = target.raw / f"Dataset{number:03d}_{name}"
    source, new = conversion.source.resolve(), folder.resolve()
    if new.is_relative_to(source) or source.is_relative_to(new):
        raise UsageError(
            f"{folder}: lies inside the source {conversion.source}, or holds it; choose another "
            "--raw"
        )
    return folder


def _load_own_record(found: Path, conversion: Conversion) -> Record:
    """The record of an earlier run; an error if the folder is not one of this conversion's."""
    if not found.exists():
        return Record()
    if not (found / RECORD_NAME).is_file():
        begun = [path for path in found.iterdir() if not path.name.startswith(PARTIAL)]
        if found.name.startswith(_BUILDING) and not begun:  # killed before it wrote anything
            return Record()
        raise UsageError(
            f"{found}: exists and was not written by autoreg_convert_dataset; choose another "
            "--name or --id, or remove it"
        )
    record = load_record(Record, found / RECORD_NAME, DataError)
    if record.format != RECORD_FORMAT or record.dataset != conversion.name:
        raise UsageError(
            f"{found}: holds a conversion of {record.dataset} (format {record.format}), not of "
            f"{conversion.name}; choose another --name or --id, or remove it"
        )
    source = Path(record.source)
    # Where the old source is gone, the files were moved: the links are renewed.
    if source.is_dir() and source.resolve() != conversion.source.resolve():
        raise UsageError(
            f"{found}: was made from {source}, not from {conversion.source}; choose another "
            "--name, or remove it"
        )
    return record


def _changed(folder: Path, record: Record, lost: set[str]) -> tuple[str, ...]:
    """The files that people changed; an error if one of them would be overwritten or removed."""
    changed = changed_by_hand(folder, record)
    endangered = [name for name in changed if name in lost]
    if endangered:
        more = f" and {len(endangered) - 1} more" if len(endangered) > 1 else ""
        raise UsageError(
            f"{folder / endangered[0]}{more}: changed since it was written, and the conversion "
            "would now write another or remove it; move it elsewhere, convert again, and put your "
            "change back"
        )
    return tuple(changed)


def _remove(folder: Path, names: list[str], record: Record) -> None:
    for left_over in folder.rglob(f"{PARTIAL}*"):
        left_over.unlink()
    for name in names:
        (folder / name).unlink()
        record.forget(name)


def _write_all(items: list[Item], folder: Path, record: Record, target: Target) -> None:
    published = [item for item in items if not isinstance(item.content, Made)]
    # Links take no time worth a bar.
    for item in tqdm(published, "copying", disable=not (target.progress and target.copy)):
        _place(item, folder, target.copy)
        record.note(item, folder)
    save_record(record, folder / RECORD_NAME)
    made = {item.target: item for item in items if isinstance(item.content, Made)}
    tasks = [
        (n, _Task(folder / n, i.content)) for n, i in made.items() if isinstance(i.content, Made)
    ]
    workers = choose_workers(len(tasks), _BYTES_PER_TASK, target.workers)
    shown = target.progress and bool(tasks)
    done = map_cases(_make, tasks, workers=workers, title="converting", progress=shown)
    for name, _ in done:
        # Saved at once: computing again what a killed run had done costs more than this.
        record.note(made[name], folder)
        save_record(record, folder / RECORD_NAME)


@dataclass(frozen=True)
class _Task:
    path: Path
    content: Made


def _make(task: _Task) -> None:
    task.path.parent.mkdir(parents=True, exist_ok=True)
    if task.path.is_symlink():  # never write through a link into the published files
        task.path.unlink()
    task.content.function(task.path, task.content.inputs, **task.content.settings)


def _place(item: Item, folder: Path, copy: bool) -> None:
    path, content = folder / item.target, item.content
    if isinstance(content, Made):
        raise TypeError(f"{item.target} is computed, not placed")
    if not copy:
        _link(path, content.absolute())
        return
    with atomic_path(path) as temporary:
        shutil.copyfile(content, temporary)
        status = content.stat()
        os.utime(temporary, ns=(status.st_atime_ns, status.st_mtime_ns))


def _link(path: Path, source: Path) -> None:
    # Not with atomic_path: it sets the permissions of what a link points to.
    temporary = path.with_name(f"{PARTIAL}{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(source)
        temporary.replace(path)
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be made a link to {source} ({error.strerror or error}); use --copy "
            "where the file system knows no links"
        ) from error


def _write_json(folder: Path, conversion: Conversion, record: Record) -> None:
    if conversion.in_place is not None:
        return
    text = json_text(conversion)
    write_text_atomic(folder / "dataset.json", text)
    record.json_digest = digest(text)
    save_record(record, folder / RECORD_NAME)
