"""What one pair of many may raise without ending the others, and how it is told."""

import logging

import torch

from autoreg.errors import AutoregError

logger = logging.getLogger(__name__)

# Bad input, and what torch, ITK and the file system raise when memory, disk or a library fails.
FAILURES = (AutoregError, RuntimeError, OSError, MemoryError, ValueError, ArithmeticError)


def reason_of(error: Exception, where: str, more_memory: str) -> str:
    """Why a pair failed, for people; an error that nobody expected is logged with its traceback.

    Args:
        error: One of `FAILURES`.
        where: What was worked on.
        more_memory: The remedy for want of memory.
    """
    if isinstance(error, AutoregError):
        return str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return f"out of memory; {more_memory}"
    logger.error("unexpected error in %s", where, exc_info=error)
    return f"{type(error).__name__}: {error}"
