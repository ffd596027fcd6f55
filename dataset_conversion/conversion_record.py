"""conversion.json: what each file of a converted data set was made from; what is right still."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from autoreg.dataset_conversion.conversion import RECORD_NAME, Content, Conversion, Item, Made
from autoreg.errors import UsageError

RECORD_FORMAT = 1


@dataclass
class Record:
    """Content of conversion.json.

    Attributes:
        format: Of this record.
        dataset: Name of the conversion.
        source: Folder of the published files.
        json_digest: Of dataset.json as it was written, by which later changes are noticed.
        files: Path in the data set to what the file was made from.
        stamps: Path in the data set to size and time of change of the file as it was copied or
            computed, by which later changes are noticed; links have none.
    """

    format: int = RECORD_FORMAT
    dataset: str = ""
    source: str = ""
    json_digest: str = ""
    files: dict[str, str] = field(default_factory=dict)
    stamps: dict[str, str] = field(default_factory=dict)

    def note(self, item: Item, folder: Path) -> None:
        """Remember a file as it was just linked, copied or computed."""
        path = folder / item.target
        self.forget(item.target)
        self.files[item.target] = signature(item.content, linked=path.is_symlink())
        if not path.is_symlink():
            self.stamps[item.target] = stamp(path)

    def adopt(self, other: "Record", names: Iterable[str]) -> None:
        """Take over what another record knows of some files and of dataset.json."""
        for name in names:
            self.forget(name)
            for own, theirs in ((self.files, other.files), (self.stamps, other.stamps)):
                if name in theirs:
                    own[name] = theirs[name]
        self.json_digest = other.json_digest

    def forget(self, name: str) -> None:
        """Know nothing of a file any more."""
        self.files.pop(name, None)
        self.stamps.pop(name, None)


def is_right(item: Item, folder: Path, record: Record, copy: bool) -> bool:
    """Whether a file is there as it would be written now.

    Args:
        item: What it should hold.
        folder: Of the data set.
        record: Of the earlier run.
        copy: Whether published files are copied, not linked.
    """
    path = folder / item.target
    content = item.content
    if isinstance(content, Made):
        return path.is_file() and record.files.get(item.target) == signature(content)
    if not copy:
        return path.is_symlink() and path.readlink() == content.absolute() and path.exists()
    if path.is_symlink() or not path.is_file():
        return False
    # A copy that was changed by hand is right as long as what it was copied from is the same.
    return stamp(path) == stamp(content) or record.files.get(item.target) == signature(content)


def stamp(path: Path) -> str:
    """Size and time of change of a file."""
    status = path.stat()
    return f"{status.st_size} bytes of {status.st_mtime_ns}"


def changed_by_hand(folder: Path, record: Record) -> list[str]:
    """Copied and computed files that are not as they were written."""
    return sorted(
        name
        for name, written in record.stamps.items()
        if (path := folder / name).is_file() and not path.is_symlink() and stamp(path) != written
    )


def signature(content: Content, *, linked: bool = False) -> str:
    """What a file is made from, in a line that changes when the file has to be made anew.

    Args:
        content: A published file or a computed one.
        linked: Whether it is a link, which holds whatever the published file holds.
    """
    if not isinstance(content, Made):
        path = content.absolute()
        return f"published as {path}" if linked else f"copied from {path}, {stamp(content)}"
    function = content.function
    what = f"{function.__module__}.{function.__qualname__} {content.version}"
    settings = json.dumps(dict(content.settings), sort_keys=True)
    inputs = [(str(p.absolute()), p.stat().st_size, p.stat().st_mtime_ns) for p in content.inputs]
    digest = hashlib.sha256(f"{what}\n{settings}\n{inputs}".encode()).hexdigest()
    return f"made by {what}: {digest[:16]}"


def extra_files(folder: Path, record: Record, items: tuple[Item, ...]) -> list[str]:
    """Files of an earlier run that have no place in this one.

    Args:
        folder: Of the data set; may be absent.
        record: Of the earlier run.
        items: What this run writes.

    Raises:
        UsageError: if files of somebody else lie there.
    """
    wanted = {item.target for item in items}
    own = {"dataset.json", RECORD_NAME, *wanted, *record.files}
    present = [p for p in folder.rglob("*") if p.is_symlink() or p.is_file()]
    names = {path.relative_to(folder).as_posix() for path in present}
    foreign = sorted(n for n in names - own if not Path(n).name.startswith("."))
    if foreign:
        raise UsageError(
            f"{folder}: holds {len(foreign)} files that the conversion does not write, as "
            f"{foreign[0]}; move them elsewhere, or choose another --name"
        )
    return sorted((names & set(record.files)) - wanted)


def json_text(conversion: Conversion) -> str:
    """The text of dataset.json."""
    return json.dumps(conversion.json_content(), indent=1) + "\n"


def digest(text: str) -> str:
    """Of a text, short enough for a record."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def json_is_right(folder: Path, conversion: Conversion, record: Record) -> bool:
    """Whether dataset.json may stay as it is; what people have changed in it is theirs.

    Raises:
        UsageError: if it was changed, and would now be written with other content.
    """
    file = folder / "dataset.json"
    if conversion.in_place is not None:
        return True
    if not file.is_file():
        return False
    present, wanted = digest(file.read_text("utf-8")), digest(json_text(conversion))
    if present == wanted or record.json_digest == wanted:
        return True
    if present == record.json_digest:
        return False
    raise UsageError(
        f"{file}: was changed since it was written, and the conversion would now write another; "
        "move it elsewhere, convert again, and repeat your changes"
    )
