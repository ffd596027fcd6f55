"""Cheap checks of published files: half downloads, leftover archives, wrong editions.

Only headers and the ends of files are read: the images of a data set are opened in full by
`planning.verification`, before anything is computed from them.
"""

import gzip
import math
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from autoreg.dataset_conversion.file_errors import problem_of
from autoreg.errors import AutoregError, DataError
from autoreg.io.images import read_geometry
from autoreg.io.problems import Problem

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z")
_UNFINISHED = (".part", ".crdownload", ".download", ".partial", ".aria2", ".filepart")
_NIFTI_HEADER_BYTES = 348
_NIFTI_2 = (struct.pack("<i", 540), struct.pack(">i", 540))
_PIECE_BYTES = 2**20


def require_source(source: Path) -> None:
    """Refuse a source that is no folder.

    Raises:
        DataError: saying how to unpack it where it is an archive.
    """
    if source.is_file() and source.name.lower().endswith(ARCHIVES):
        problem = archive_problem(source)
        raise DataError(f"{source}: {problem.found}; {problem.remedy}")
    if not source.is_dir():
        raise DataError(f"{source}: no such folder; expected the unpacked data set")


def find_root(source: Path, is_root: Callable[[Path], bool]) -> Path | None:
    """The folder that holds the data set: `source` itself, or one up to two levels below.

    Archives unpack into a folder of their own, sometimes two; both ways of unpacking are usual.

    Args:
        source: As the user gave it.
        is_root: Whether a folder is the one.
    """
    folders = [p for p in sorted(source.glob("*")) if _is_plain_folder(p)]
    below = [p for folder in folders for p in sorted(folder.glob("*")) if _is_plain_folder(p)]
    return next((folder for folder in (source, *folders, *below) if is_root(folder)), None)


def archive_problems(source: Path) -> list[Problem]:
    """A problem for each archive or unfinished download in a folder or right below it."""
    files = [p for p in (*sorted(source.glob("*")), *sorted(source.glob("*/*"))) if p.is_file()]
    problems = [archive_problem(p) for p in files if p.name.lower().endswith(ARCHIVES)]
    for path in files:
        if path.name.lower().endswith(_UNFINISHED):
            expected = "a complete download"
            remedy = "finish the download and unpack it"
            problems.append(Problem(str(path), "an unfinished download", expected, remedy))
    return problems


def archive_problem(path: Path) -> Problem:
    """What to do with an archive: unpack it, or download it again where it is cut off."""
    name = path.name.lower()
    if name.endswith(".zip"):
        whole, command = zipfile.is_zipfile(path), f"unzip {path.name}"
    elif name.endswith(".7z"):
        whole, command = path.stat().st_size > 0, f"7z x {path.name}"
    else:
        whole, command = _is_tar(path), f"tar xf {path.name}"
    expected = "the unpacked data set"
    if whole:
        return Problem(str(path), "an archive that is still packed", expected, f"run: {command}")
    found = "an archive that is cut off or empty: its download is not complete"
    return Problem(str(path), found, expected, "download it again, then unpack it")


def file_problems(paths: Iterable[Path]) -> list[Problem]:
    """A problem for each file that is missing, empty or cut off, as far as its ends show."""
    found = ((path, incomplete(path)) for path in dict.fromkeys(paths))
    expected, remedy = "a complete file", "download or unpack it again"
    return [Problem(str(path), what, expected, remedy) for path, what in found if what]


def incomplete(path: Path) -> str | None:
    """What shows that a file is not complete; None where nothing does.

    A .nii.gz file tells at its end how many bytes it unpacks to, and in its header how many it
    should. Only where the two differ (several gzip members do that, too) is it unpacked.
    """
    try:
        if not path.is_file():
            return "no such file"
        if path.stat().st_size == 0:
            return "an empty file"
        return _cut_off_nifti(path) if path.name.lower().endswith(".nii.gz") else None
    except (OSError, EOFError, zlib.error, struct.error) as error:
        return f"a damaged or cut off gzip file ({error})"


def grid_problems(
    images: Sequence[Path], shape_xyz: tuple[int, int, int] | None, edition: str
) -> list[Problem]:
    """Images that have another shape than a data set was published in.

    Args:
        images: Complete files.
        shape_xyz: Voxels along the file's first, second and third axis; None: any.
        edition: What has that shape, for the message.
    """
    problems = []
    for path in images:
        try:
            d, h, w = read_geometry(path).shape
        except AutoregError as error:
            expected, remedy = "a three-dimensional image", "download it again"
            problems.append(problem_of(error, path, expected, remedy))
            continue
        if shape_xyz is not None and (w, h, d) != shape_xyz:
            found = f"{w} x {h} x {d} voxels"
            expected = f"{' x '.join(map(str, shape_xyz))}, as in {edition}"
            remedy = "this looks like another edition of the data set: download the right one"
            problems.append(Problem(str(path), found, expected, remedy))
    return problems


def off_grid_problems(pairs: Iterable[tuple[Path, Path]]) -> list[Problem]:
    """Label maps and masks that do not lie on their image's grid, by their headers.

    Args:
        pairs: (image, label map or mask), complete files.
    """
    problems = []
    for image, other in pairs:
        try:
            difference = read_geometry(image).difference(read_geometry(other))
        except AutoregError as error:
            difference = str(error)
        if difference is not None:
            expected = f"the grid of {image}"
            problems.append(Problem(str(other), difference, expected, "download both again"))
    return problems


def _is_plain_folder(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith((".", "__MACOSX"))


def _is_tar(path: Path) -> bool:
    """Whether a tar archive begins and, unless it is compressed, ends as one should."""
    try:
        if not tarfile.is_tarfile(path):
            return False
    except (OSError, EOFError, zlib.error):
        return False
    if not path.name.lower().endswith(".tar"):
        return True
    with path.open("rb") as file:  # the end of a tar archive is two empty blocks
        file.seek(-min(1024, path.stat().st_size), 2)
        return not any(file.read())


def _cut_off_nifti(path: Path) -> str | None:
    with gzip.open(path) as packed:
        header = packed.read(_NIFTI_HEADER_BYTES)
    if header[:4] in _NIFTI_2:
        return None
    expected = _nifti_bytes(header)
    if expected is None:
        return "no NIfTI header, or a cut off one"
    with path.open("rb") as file:
        file.seek(-4, 2)
        (stated,) = struct.unpack("<I", file.read(4))
    if stated == expected % 2**32:
        return None
    unpacked = _unpacked_bytes(path)
    if unpacked < expected:
        return f"{unpacked} bytes of {expected} after unpacking: it is cut off"
    return None


def _nifti_bytes(header: bytes) -> int | None:
    """The size of a NIfTI-1 file that begins like this (nifti1.h); None if it is none."""
    if len(header) < _NIFTI_HEADER_BYTES:
        return None
    order = next((o for o in "<>" if struct.unpack_from(f"{o}i", header)[0] == 348), None)
    if order is None:
        return None
    count, *size = struct.unpack_from(f"{order}8h", header, 40)
    bits: int
    offset: float
    (bits,) = struct.unpack_from(f"{order}h", header, 72)
    (offset,) = struct.unpack_from(f"{order}f", header, 108)
    voxels = math.prod(max(int(extent), 1) for extent in size[: max(0, min(count, 7))])
    return int(offset) + voxels * bits // 8


def _unpacked_bytes(path: Path) -> int:
    total = 0
    with gzip.open(path) as packed:
        while piece := packed.read(_PIECE_BYTES):
            total += len(piece)
    return total
