"""Model archives: what a zip file with a trained model holds, and what its manifest says."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

ARCHIVE_FORMAT = 1
MANIFEST_FILE = "manifest.json"
WEIGHTS = ".pt"
CHUNK_BYTES = 2**20

# Everything that an archive may hold, so that nothing else is ever written on installation.
_NAMES = re.compile(
    r"(plan|dataset)\.json"
    r"|fold_([0-9]{1,4}|all)/"
    r"(checkpoint_(final|best)\.pt|(progress|validation|refinement)\.json|progress\.png)"
)


@dataclass(frozen=True)
class ArchivedFile:
    """One file of an archive.

    Attributes:
        size: Bytes.
        sha256: Of its content, hexadecimal.
    """

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Content of manifest.json.

    Attributes:
        format: Version of the archive.
        autoreg: Version of autoreg that wrote it.
        dataset: Name of the data set that the model was trained on.
        configuration: Name of the model's configuration.
        folds: Names of the folds, "0", ... or "all".
        created: When, UTC (ISO 8601).
        files: All files besides the manifest, by their names in the archive.
    """

    format: int
    autoreg: str
    dataset: str
    configuration: str
    folds: tuple[str, ...]
    created: str
    files: dict[str, ArchivedFile]


def is_archive_name(name: str) -> bool:
    """Whether a file may stand in an archive besides the manifest."""
    return _NAMES.fullmatch(name) is not None


def fold_of(name: str) -> str | None:
    """The fold that a file of an archive belongs to; None for those of all folds."""
    folder, _, rest = name.partition("/")
    return folder.removeprefix("fold_") if rest else None


def described(path: Path) -> ArchivedFile:
    """Size and hash of a file."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return ArchivedFile(size, digest.hexdigest())
