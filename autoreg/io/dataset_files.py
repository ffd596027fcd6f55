"""What both layouts of a raw data set share: file names and folders."""

import difflib
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from autoreg.io.problems import Problem

# Endings of more than one part first: the longest wins.
_ENDINGS = (
    ".nii.gz", ".nii.bz2", ".img.gz", ".gipl.gz", ".raw.gz", ".mnc.gz", ".nii", ".mha", ".mhd",
    ".nrrd", ".nhdr", ".hdr", ".img", ".mgz", ".mgh", ".mnc", ".gipl", ".zraw", ".raw", ".tiff",
    ".tif", ".vtk", ".csv", ".fcsv", ".mrk.json",
)  # fmt: skip

# Files that hold only the numbers of an image whose header is another file.
_COMPANIONS = {
    ".img": (".hdr",), ".img.gz": (".hdr",), ".raw": (".mhd", ".nhdr"), ".zraw": (".mhd",),
    ".raw.gz": (".nhdr",),
}  # fmt: skip


# An image file of the native layout.
IMAGE_NAME = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


def split_ending(name: str) -> tuple[str, str]:
    """A file name without its ending, and the ending.

    Example:
        >>> split_ending("brain_1.5mm_0000.nii.gz")
        ('brain_1.5mm_0000', '.nii.gz')
    """
    lower = name.lower()
    for ending in _ENDINGS:
        if lower.endswith(ending):
            return name[: -len(ending)], name[-len(ending) :]
    path = Path(name)
    return path.stem, path.suffix


def is_companion(name: str, names: Collection[str]) -> bool:
    """Whether a file holds only the numbers of an image whose header is among `names`."""
    stem, ending = split_ending(name)
    return any(stem + header in names for header in _COMPANIONS.get(ending.lower(), ()))


def case_name(text: str, known: Collection[str]) -> str:
    """A case's name, given as itself or as the path of one of its image files.

    Args:
        text: As written in dataset.json.
        known: Names of cases; one of these is taken as it stands.
    """
    if text in known:
        return text
    stem = split_ending(text.replace("\\", "/").rpartition("/")[2])[0]
    match = IMAGE_NAME.fullmatch(stem)
    return match["case"] if match else stem


def list_files(folder: Path, problems: list[Problem], ending: str | None = None) -> dict[str, Path]:
    """The files of a folder by name without ending.

    Hidden files are passed over, and so is the second file of an image whose header and numbers
    lie in two. Two files of one name but different endings are a problem; the first one counts.

    Args:
        folder: May be absent, which gives nothing.
        problems: Is added to.
        ending: Files of any other one are passed over; None takes them all.
    """
    if not folder.is_dir():
        return {}
    names = {path.name for path in folder.iterdir()}
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        stem = split_ending(path.name)[0]
        if path.name.startswith(".") or is_companion(path.name, names):
            continue
        if ending is not None and path.is_file() and not path.name.lower().endswith(ending):
            continue
        if path.is_dir():
            problems.append(
                Problem(str(path), "a folder", "files only", "move the folder out of there")
            )
        elif stem in found:
            problems.append(
                Problem(
                    str(path),
                    f"a second file of the same name, beside {found[stem].name}",
                    f'one file for "{stem}"',
                    "remove one of the two",
                )
            )
        else:
            found[stem] = path
    return found


def check_folder_names(folder: Path, known: Sequence[str], problems: list[Problem]) -> None:
    """Report folders whose name is almost, but not quite, one that would be read."""
    plain = {_letters(name): name for name in known}
    for path in sorted(folder.iterdir()):
        if not path.is_dir() or path.name in known or path.name.startswith("."):
            continue
        close = difflib.get_close_matches(_letters(path.name), plain, n=1, cutoff=0.8)
        meant = plain[close[0]] if close else None
        if meant is not None and not (folder / meant).exists():
            problems.append(
                Problem(
                    str(path),
                    f'a folder "{path.name}", which is not read',
                    f'did you mean "{meant}"?',
                    f'rename it to "{meant}" or move it out of the data set',
                )
            )


def _letters(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())
