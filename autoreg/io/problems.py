"""Problem: one defect of a data set, told so that its owner can mend it."""

from collections.abc import Sequence
from dataclasses import dataclass

# Of the files that share one problem.
_FILES_SHOWN = 20


@dataclass(frozen=True, order=True)
class Problem:
    """One defect.

    Attributes:
        file: The file (with the line, where there is one), folder or key that is wrong.
        found: What is there.
        expected: What should be there.
        remedy: What to do about it.
    """

    file: str
    found: str
    expected: str
    remedy: str


def report(subject: str, problems: Sequence[Problem]) -> str:
    """The text of an error that lists every problem; equal ones are told once for all files.

    Args:
        subject: What was looked at, e.g. the data set's folder.
        problems: At least one.
    """
    groups: dict[tuple[str, str, str], list[str]] = {}
    for problem in problems:
        kind = (problem.found, problem.expected, problem.remedy)
        groups.setdefault(kind, []).append(problem.file)
    rows = [f"{subject}: {len(problems)} {'problem' if len(problems) == 1 else 'problems'}"]
    for number, ((found, expected, remedy), files) in enumerate(groups.items(), 1):
        rows += [f"{number:3d}. {files[0]}", *(f"     {file}" for file in files[1:_FILES_SHOWN])]
        if len(files) > _FILES_SHOWN:
            rows.append(f"     ... and {len(files) - _FILES_SHOWN} more files")
        rows += [f"       found:    {found}", f"       expected: {expected}"]
        rows.append(f"       remedy:   {remedy}")
    return "\n".join(rows)
