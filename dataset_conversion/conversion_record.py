"""conversion.json: what each file of a converted data set was made from; what is right still."""

import hashlib
import json
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
    """

    format: int = RECORD_FORMAT
    dataset: str = ""
    source: str = ""
    json_digest: str = ""
    files: dict[str, str] = field(default_factory=dict)


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
    one, other = path.stat(), content.stat()
    return (one.st_size, one.st_mtime_ns) == (other.st_size, other.st_mtime_ns)


def signature(content: Content) -> str:
    """What a file is made from, in a line that changes when the file has to be made anew."""
    if not isinstance(content, Made):
        return f"published as {content.absolute()}"
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
