"""Names that users give: of folders to be made, of data sets that they mean, of point files."""

import difflib
import re
from collections.abc import Iterable

FCSV_SUFFIX, MARKUPS_SUFFIX = ".fcsv", ".mrk.json"  # of 3D Slicer
LANDMARK_SUFFIXES = (".csv", FCSV_SUFFIX, MARKUPS_SUFFIX)

_NUMBERED = re.compile(r"Dataset(\d+)_(.+)")


def folder_name_problem(name: str, what: str) -> str | None:
    """Why a name cannot be a folder's, or None if it can.

    Args:
        name: As the user wrote it.
        what: What it names, for the message: "a case", "a configuration".
    """
    if not name or name != name.strip():
        return f"{what} needs a name without spaces at its ends"
    if re.search(r'[/\\:*?"<>|\x00-\x1f]', name) or name.startswith("."):
        return f'{what} names a folder: no / \\ : * ? " < > | and no leading dot'
    return None


def matching_names(names: Iterable[str], id_or_name: str) -> tuple[str, ...]:
    """The data sets that a user means.

    Args:
        names: Of folders, as Dataset001_Brains.
        id_or_name: The whole name, which wins; else the number (1 and 001 are the same) or the
            name without it (Brains).
    """
    names = tuple(names)
    if id_or_name in names:
        return (id_or_name,)
    number = int(id_or_name) if id_or_name.isdecimal() else None
    numbered = ((name, _NUMBERED.fullmatch(name)) for name in names)
    return tuple(n for n, m in numbered if m and (int(m[1]) == number or m[2] == id_or_name))


def closest_name(names: Iterable[str], id_or_name: str) -> str | None:
    """The data set that a user may have meant with a name that none has; None if none is close.

    Args:
        names: Of folders, as Dataset001_Brains.
        id_or_name: As for `matching_names`.

    Example:
        >>> closest_name(["Dataset001_Brains"], "brians")
        'Dataset001_Brains'
    """
    known: dict[str, str] = {}
    for name in names:
        numbered = _NUMBERED.fullmatch(name)
        for form in (name, numbered[2] if numbered else name):
            known.setdefault(form.lower(), name)
    close = difflib.get_close_matches(id_or_name.lower(), known, n=1)
    return known[close[0]] if close else None
