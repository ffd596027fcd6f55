"""Reading a model archive that anybody may have made: nothing in it is trusted.

Only files whose names an archive may hold are ever written, only as many bytes as the manifest
says, and only into a folder that is thrown away unless everything fits.
"""

import hashlib
import json
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autoreg import __version__
from autoreg.errors import DataError
from autoreg.inference.model_archive import (
    ARCHIVE_FORMAT,
    CHUNK_BYTES,
    MANIFEST_FILE,
    WEIGHTS,
    ArchivedFile,
    Manifest,
    fold_of,
    is_archive_name,
)
from autoreg.io.names import folder_name_problem
from autoreg.io.records import from_plain, parse_json

_MOST_FILES = 1000
_MOST_MANIFEST_BYTES = 2**20
_MOST_RECORD_BYTES = 2**28  # of all files but the checkpoints together
_ENCRYPTED = 0x1
# What zipfile and its decompressor raise for damaged files.
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, OverflowError, OSError,
    NotImplementedError,
)  # fmt: skip


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip file, for reading in the block.

    Raises:
        DataError: if it is missing, or no zip file or an incomplete one.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise DataError(f"{path}: {what}; name the zip file of autoreg_export_model")
    try:
        archive = zipfile.ZipFile(path)
    except _DAMAGED as error:
        raise DataError(
            f"{path}: not a zip file, or not all of it ({error}); copy it again"
        ) from error
    with archive:
        yield archive


def checked_manifest(archive: zipfile.ZipFile, path: Path) -> Manifest:
    """The manifest of an archive whose list of files is what the manifest says.

    Args:
        archive: From `opened`.
        path: The archive, for messages.

    Raises:
        DataError: if a name, a kind of entry or a size is not what an archive may have.
    """
    entries = archive.infolist()
    if len(entries) > _MOST_FILES:
        raise DataError(f"{path}: {len(entries)} entries, expected at most {_MOST_FILES}")
    for entry in entries:
        if problem := _problem(entry):
            raise DataError(f"{path}: refused: its entry {entry.orig_filename!r} {problem}")
    names = [entry.filename for entry in entries]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{path}: refused: these names stand twice: {', '.join(doubled)}")
    if MANIFEST_FILE not in names:
        raise DataError(f"{path}: no {MANIFEST_FILE}: not an archive of autoreg_export_model")
    manifest = _read_manifest(archive, path)
    _require_same_files(entries, manifest, path)
    return manifest


def extract(archive: zipfile.ZipFile, manifest: Manifest, path: Path, folder: Path) -> None:
    """Write the files of an archive, as far as they are what the manifest says.

    Args:
        archive: From `opened`.
        manifest: From `checked_manifest`.
        path: The archive, for messages.
        folder: An empty folder.

    Raises:
        DataError: if a file is damaged, longer or shorter than it should be, or another one.
    """
    for name, expected in manifest.files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with _damage(path, name), archive.open(name) as source, target.open("xb") as sink:
            digest, size = hashlib.sha256(), 0
            while chunk := source.read(CHUNK_BYTES):
                size += len(chunk)
                if size > expected.size:
                    raise DataError(
                        f"{path}: {name} has more than the {expected.size} bytes that the manifest "
                        "says; refused"
                    )
                digest.update(chunk)
                sink.write(chunk)
            sink.flush()
            os.fsync(sink.fileno())
        if ArchivedFile(size, digest.hexdigest()) != expected:
            raise DataError(
                f"{path}: {name} is not what the manifest says ({size} of {expected.size} bytes, "
                "another SHA-256); copy the archive again"
            )


@contextmanager
def _damage(path: Path, name: str) -> Iterator[None]:
    try:
        yield
    except _DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise DataError(f"{path}: {name} cannot be unpacked ({error.strerror})") from error
        raise DataError(f"{path}: {name} is damaged ({error}); copy the archive again") from error
    except RuntimeError as error:  # how zipfile tells of an encrypted file
        raise DataError(f"{path}: {name} cannot be read ({error})") from error


def _problem(entry: zipfile.ZipInfo) -> str | None:
    """Why an entry cannot be one of a model archive's, or None."""
    name = entry.orig_filename  # before zipfile mends it
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if "\\" in name or re.match(r"[A-Za-z]:", name) or name.startswith("/"):
        return "is an absolute path, or one of another system"
    if ".." in name.split("/"):
        return "leads out of its folder"
    if kind not in (0, stat.S_IFREG) or entry.is_dir():
        return "is a link, a folder or a device; expected files alone"
    if entry.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is compressed in a way that archives are not"
    if entry.filename != name or (name != MANIFEST_FILE and not is_archive_name(name)):
        return "is no file of a model"
    return None


def _read_manifest(archive: zipfile.ZipFile, path: Path) -> Manifest:
    where = f"{path}: {MANIFEST_FILE}"
    with _damage(path, MANIFEST_FILE), archive.open(MANIFEST_FILE) as file:
        content = file.read(_MOST_MANIFEST_BYTES + 1)
    if len(content) > _MOST_MANIFEST_BYTES:
        raise DataError(f"{where}: longer than {_MOST_MANIFEST_BYTES} bytes; refused")
    try:
        data = parse_json(content.decode("utf-8"), where, DataError)
    except (UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{where}: cannot be read ({error})") from error
    found = data.get("format") if isinstance(data, dict) else None
    if found != ARCHIVE_FORMAT:
        raise DataError(
            f"{where}: format {json.dumps(found)}, but this version (autoreg {__version__}) reads "
            f"format {ARCHIVE_FORMAT}; install with the version that wrote it"
        )
    manifest = from_plain(Manifest, data, where, DataError)
    for name, what in ((manifest.dataset, "a data set"), (manifest.configuration, "a model")):
        if problem := folder_name_problem(name, what):
            raise DataError(f'{where}: "{name}": {problem}; refused')
    return manifest


def _require_same_files(entries: list[zipfile.ZipInfo], manifest: Manifest, path: Path) -> None:
    sizes = {entry.filename: entry.file_size for entry in entries}
    del sizes[MANIFEST_FILE]
    listed = manifest.files
    for names, what in (
        (sorted(set(sizes) - set(listed)), "not in its manifest"),
        (sorted(set(listed) - set(sizes)), "missing"),
        ([n for n in sizes if n in listed and sizes[n] != listed[n].size], "of another size"),
    ):
        if names:
            raise DataError(f"{path}: refused: these files are {what}: {', '.join(names)}")
    _require_modest(manifest, path)
    folds = {fold for name in listed if (fold := fold_of(name)) is not None}
    if folds != set(manifest.folds) or len(manifest.folds) != len(folds) or not folds:
        raise DataError(
            f"{path}: refused: the manifest names the folds {', '.join(manifest.folds) or 'none'}, "
            f"found {', '.join(sorted(folds)) or 'none'}"
        )


def _require_modest(manifest: Manifest, path: Path) -> None:
    """No archive may unpack to far more than it is: weights do not become smaller in it."""
    weights = sum(f.size for name, f in manifest.files.items() if name.endswith(WEIGHTS))
    others = sum(file.size for file in manifest.files.values()) - weights
    for size, most, what in (
        (weights, path.stat().st_size, "weights, which is more than the archive itself"),
        (others, _MOST_RECORD_BYTES, f"other files, expected at most {_MOST_RECORD_BYTES}"),
    ):
        if size > most:
            raise DataError(f"{path}: refused: it would unpack to {size} bytes of {what}")
