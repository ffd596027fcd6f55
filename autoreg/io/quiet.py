"""What ITK, VNL, HDF5 and the NIfTI library print by themselves is kept off the terminal.

They write to the process's standard error, past Python: warnings on headers, stacks of errors that
are raised as exceptions as well. Our own messages say what there is to say.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_STANDARD_ERROR = 2


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Discard what is written to standard error within the block, by whomever.

    For single calls of a library, within which nothing of ours is logged.
    """
    if sys.stderr is not None:
        sys.stderr.flush()
    try:
        kept = os.dup(_STANDARD_ERROR)
    except OSError:  # closed: nothing can be printed
        yield
        return
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, _STANDARD_ERROR)
        os.close(nowhere)
        yield
    finally:
        os.dup2(kept, _STANDARD_ERROR)
        os.close(kept)
