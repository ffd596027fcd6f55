"""Files written by torch.save, opened without executing what is in them."""

from pathlib import Path
from pickle import UnpicklingError

import torch

from autoreg.errors import CheckpointError

# What torch.load raises for files that it did not write, besides the errors of the file system.
_UNREADABLE = (EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError)


def read_torch_file(path: Path, remedy: str) -> object:
    """The tensors and plain values of a file written by torch.save, in CPU memory.

    Args:
        path: The file.
        remedy: What to do with a file that cannot be read, for the message.

    Raises:
        CheckpointError: if it is missing, damaged, or holds anything else.
    """
    try:
        content: object = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as cause:
        raise CheckpointError(f"{path}: no such file") from cause
    except OSError as cause:
        raise CheckpointError(f"{path}: cannot be read ({cause.strerror})") from cause
    except UnpicklingError as cause:  # torch's text advises to execute what is in the file
        raise CheckpointError(
            f"{path}: not a file of plain weights written by torch.save (nothing in it was "
            f"executed); {remedy}"
        ) from cause
    except _UNREADABLE as cause:
        reason = (str(cause).splitlines() or [type(cause).__name__])[0]
        raise CheckpointError(
            f"{path}: not a file of weights written by torch.save ({reason}); {remedy}"
        ) from cause
    return content
