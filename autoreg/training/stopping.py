"""Ending a training on a signal, with a checkpoint."""

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

logger = logging.getLogger(__name__)

# Sent by Ctrl-C, by schedulers and machines that shut down, by a terminal that is closed, and by
# SLURM when it is told to.
SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
    if hasattr(signal, name)
)
# torchrun passes a Ctrl-C on to processes that the terminal has sent it to already.
_REPEATED_AFTER_SECONDS = 2.0


class TrainingStopped(Exception):  # noqa: N818 - no error
    """The training ends early because it was told to; what is needed to go on is saved.

    Args:
        number: Of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class StopRequest:
    """Whether a signal has asked for the end."""

    def __init__(self) -> None:
        self.number = 0
        self._since = 0.0

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Called for a signal; one that is repeated later ends the process at once.

        Raises:
            KeyboardInterrupt: for a repeated one.
        """
        if not self.number:
            self.hear(number)
            logger.info(
                "%s: saving a checkpoint after this step; once more to end at once",
                signal.Signals(number).name,
            )
        elif time.monotonic() - self._since > _REPEATED_AFTER_SECONDS:
            raise KeyboardInterrupt

    def hear(self, number: int) -> None:
        """Take note of a signal that another process has received."""
        if not self.number:
            self.number, self._since = number, time.monotonic()

    def raise_if_received(self) -> None:
        """End the training if a signal has come.

        Raises:
            TrainingStopped: then.
        """
        if self.number:
            raise TrainingStopped(self.number)


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Receive signals inside the block instead of being ended by them.

    In another thread than the main one, where Python allows no handlers, nothing is received.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    # What is ignored from the start stays so, as nohup wants it.
    heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, request.receive) for number in heard}
    try:
        yield request
    finally:
        for number, handler in before.items():
            # None: installed by other than Python code; it cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
