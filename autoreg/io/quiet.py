"""What ITK, VNL, HDF5 and the NIfTI library print by themselves is kept off the terminal.

They write to the process's standard error, past Python: warnings on headers, stacks of errors that
are raised as exceptions as well. Our own messages say what there is to say.
"""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_STANDARD_ERROR = 2


_lock = threading.Lock()
_inside = 0
_kept = -1


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Discard what is written to standard error within the block, by whomever.

    For single calls of a library, within which nothing of ours is logged. Of several threads the
    first one in closes standard error and the last one out opens it again.
    """
    _enter()
    try:
        yield
    finally:
        _leave()


def _enter() -> None:
    global _inside, _kept
    with _lock:
        _inside += 1
        if _inside > 1:
            return
        if sys.stderr is not None:
            sys.stderr.flush()
        try:
            _kept = os.dup(_STANDARD_ERROR)
        except OSError:  # closed: nothing can be printed
            _kept = -1
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, _STANDARD_ERROR)
        os.close(nowhere)


def _leave() -> None:
    global _inside, _kept
    with _lock:
        _inside -= 1
        if _inside == 0 and _kept >= 0:
            os.dup2(_kept, _STANDARD_ERROR)
            os.close(_kept)
            _kept = -1
