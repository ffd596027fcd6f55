"""Where raw data, prepared cases and results live: flag > environment > ./autoreg_data."""

import os
from dataclasses import dataclass
from pathlib import Path

ENVIRONMENT = {
    "raw": "autoreg_raw",
    "preprocessed": "autoreg_preprocessed",
    "results": "autoreg_results",
}


@dataclass(frozen=True)
class Paths:
    """The three root folders.

    Attributes:
        raw: Data sets as their owners gave them; autoreg never writes here.
        preprocessed: Fingerprints, plans and prepared cases.
        results: Trained models.
    """

    raw: Path
    preprocessed: Path
    results: Path


def resolve_paths(
    raw: Path | None = None, preprocessed: Path | None = None, results: Path | None = None
) -> Paths:
    """Decide the three folders; each may come from a flag, the environment or the default.

    Args:
        raw: Value of the flag `--raw`, if given; likewise the others.
        preprocessed: Value of `--preprocessed`.
        results: Value of `--results`.

    Returns:
        The folders; they need not exist yet.
    """
    flags = {"raw": raw, "preprocessed": preprocessed, "results": results}

    def one(name: str) -> Path:
        flag = flags[name]
        if flag is not None:
            return flag
        value = os.environ.get(ENVIRONMENT[name], "")
        return Path(value).expanduser() if value else Path("autoreg_data") / name

    return Paths(one("raw"), one("preprocessed"), one("results"))
