"""Processes that a test looks at from outside."""

from pathlib import Path


def is_running(pid):
    """Whether a process is there and no zombie; by /proc."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
