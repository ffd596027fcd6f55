"""What one pair of many may raise without ending the others, and how it is told."""

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from autoreg.errors import AutoregError

logger = logging.getLogger(__name__)

# What torch says as a plain RuntimeError, in small letters: of the memory of the processor and of
# a device, also in the words of CUDA's libraries (CUBLAS_STATUS_ALLOC_FAILED, ...).
_OUT_OF_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "out_of_memory",
    "alloc_failed",
    "allocation_failed",
)
# And of a device that fails.
_DEVICE = ("CUDA error", "CUDNN_STATUS", "CUBLAS_STATUS", "cuDNN error", "CUDA driver")

# Bad input, and what torch, ITK and the file system raise when memory, disk or a library fails.
FAILURES = (AutoregError, RuntimeError, OSError, MemoryError, ValueError, ArithmeticError)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or what it was raised from, says that memory was exhausted.

    Args:
        error: From the device, the processor or the system.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError | torch.OutOfMemoryError):
            return True
        if isinstance(cause, OSError) and cause.errno == errno.ENOMEM:
            return True
        text = str(cause).lower()
        if isinstance(cause, RuntimeError) and any(words in text for words in _OUT_OF_MEMORY):
            return True
        cause = cause.__cause__
    return False


def reason_of(error: Exception, where: str, more_memory: str) -> str:
    """Why a pair failed, for people; an error that nobody expected is logged with its traceback.

    Args:
        error: One of `FAILURES`.
        where: What was worked on.
        more_memory: The remedy for want of memory.
    """
    if isinstance(error, AutoregError):
        return str(error)
    text = str(error)
    if is_out_of_memory(error):
        return f"out of memory; {more_memory}"
    if isinstance(error, RuntimeError) and any(words in text for words in _DEVICE):
        return f"the device failed: {text.splitlines()[0]}; try again, or use --device cpu"
    if isinstance(error, OSError) and error.strerror:
        file = "" if error.filename is None else f"{error.filename}: "
        return f"{file}{error.strerror}; check the file, its folder and the room on its disk"
    logger.error("unexpected error in %s", where, exc_info=error)
    return f"{type(error).__name__}: {text}"


@contextmanager
def one_message(where: str, more_memory: str) -> Iterator[None]:
    """Turn whatever memory, disk, device or a library raises in the block into one error.

    Args:
        where: What is worked on.
        more_memory: The remedy for want of memory.

    Raises:
        AutoregError: with the reason, for any of `FAILURES`.
    """
    try:
        yield
    except AutoregError:
        raise
    except FAILURES as error:
        raise AutoregError(f"{where}: {reason_of(error, where, more_memory)}") from error
