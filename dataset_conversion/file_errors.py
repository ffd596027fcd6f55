"""Errors of one published file as one of many problems of its data set."""

from pathlib import Path

from autoreg.errors import AutoregError
from autoreg.io.problems import Problem


def problem_of(error: AutoregError, path: Path, expected: str, remedy: str) -> Problem:
    """The problem that a file could not be used.

    Args:
        error: Its text begins with the file.
        path: The file.
        expected: What the file should be.
        remedy: Where the error tells none after a semicolon.
    """
    text = str(error).removeprefix(str(path)).removeprefix(": ")
    found, _, own = text.rpartition("; ")
    return Problem(str(path), found or text, expected, own if found else remedy)
