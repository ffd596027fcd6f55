"""What surrounds a training: its log file."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Write what autoreg logs inside the block to a file as well, and the error that ends it.

    Args:
        path: The file; lines are appended.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    # A full disk: the terminal has the lines as well, and logging would print a traceback for each.
    handler.handleError = lambda record: None  # type: ignore[method-assign]
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    root = logging.getLogger("autoreg")
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    except Exception as error:
        # To the file alone: on the terminal the command reports it.
        fields = {"msg": f"stopped: {error}", "levelno": logging.ERROR, "levelname": "ERROR"}
        handler.handle(logging.makeLogRecord(fields))
        raise
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        with suppress(OSError):  # what is left in its buffer does not fit on the disk either
            handler.close()
