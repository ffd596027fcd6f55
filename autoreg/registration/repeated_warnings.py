"""One warning where the same could come in every step."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

# The only module that warns in the middle of a network.
from autoreg.numerics.inverse_layer import logger as _LOGGER


@contextmanager
def warned_once() -> Iterator[None]:
    """Let the first warning about an inverse through; count the others and tell their number.

    A network that is evaluated hundreds of times (in an epoch, in instance optimisation) would
    repeat it each time.
    """
    seen = 0

    def first(record: logging.LogRecord) -> bool:
        nonlocal seen
        seen += record.levelno >= logging.WARNING
        return seen <= 1 or record.levelno < logging.WARNING

    _LOGGER.addFilter(first)
    try:
        yield
    finally:
        _LOGGER.removeFilter(first)
        if seen > 1:
            _LOGGER.warning("the last warning about inverses came %d more times", seen - 1)
