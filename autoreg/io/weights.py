"""Files written by torch.save, opened without executing what is in them."""

from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import numpy as np
import torch

from autoreg.errors import CheckpointError

# What torch.load raises for files that it did not write, besides the errors of the file system.
_UNREADABLE = (EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError)

# Scalars of numpy are plain values too, and stand in published checkpoints: TransMorph's scripts
# save the state of an optimiser whose learning rate np.power computed. numpy 1 has its rebuilding
# function under another name.
_REBUILD: Callable[..., Any] = cast(Any, np.float64(0).__reduce__())[0]
_NUMPY_SCALARS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    _REBUILD,
    (_REBUILD, "numpy.core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(name)) for name in ("f4", "f8", "i4", "i8", "?")),
]


def read_torch_file(path: Path, remedy: str) -> object:
    """The tensors and plain values (numpy's scalars among them) that torch.save wrote, on the CPU.

    Args:
        path: The file.
        remedy: What to do with a file that cannot be read, for the message.

    Raises:
        CheckpointError: if it is missing, damaged, or holds anything else.
    """
    try:
        with torch.serialization.safe_globals(_NUMPY_SCALARS):
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
