"""batchgenerators' workers, each behind a pipe of its own, so that the death of one shows at once.

batchgenerators' `MultiThreadedAugmenter` waits for ever when a worker is killed while it writes a
batch: half of it lies in a queue whose other end the training itself holds open. Its workers are
therefore run here with one pipe each that nobody else may write to. A worker's death closes it.
Nothing is shared with a worker, so that it can be killed at any moment.
"""

import atexit
import logging
import multiprocessing
import queue
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from batchgenerators.dataloading.data_loader import SlimDataLoaderBase
from batchgenerators.dataloading.multi_threaded_augmenter import producer

from autoreg.errors import DataError
from autoreg.parallel import end_with_parent
from autoreg.training.stopping import SIGNALS

logger = logging.getLogger(__name__)

Item = dict[str, Any]
Transform = Callable[..., Item]

CACHED_PER_WORKER = 2
PATIENCE_SECONDS = 120.0
_GRACE_SECONDS = 5.0
_POLL_SECONDS = 0.1


class Workers:
    """Worker processes that load ahead; their batches come in turn, the first one's first.

    Args:
        loader: Copied to each worker, which calls `loader.set_thread_id(number)`.
        transform: What a worker does to each batch, called with its items as keywords.
        count: Number of processes.
    """

    def __init__(self, loader: SlimDataLoaderBase, transform: Transform, count: int) -> None:
        self._turn = 0
        self._ended = threading.Event()
        self._inboxes: list[queue.Queue[Any]] = [
            queue.Queue(CACHED_PER_WORKER) for _ in range(count)
        ]
        self._processes: list[BaseProcess] = []
        readers = []
        with _blocked_signals(), warnings.catch_warnings():
            # Python 3.12 warns of any fork beside other threads. The workers run torch with one
            # thread and touch no lock that another thread may hold.
            warnings.filterwarnings("ignore", "This process", DeprecationWarning)
            for number in range(count):
                reader, process = _started(loader, transform, number)
                readers.append(reader)
                self._processes.append(process)
            self._threads = [
                threading.Thread(target=_receive, args=(*ends, self._ended), daemon=True)
                for ends in zip(readers, self._inboxes, strict=True)
            ]
            for thread in self._threads:
                thread.start()
        # Before multiprocessing's own end, which sends SIGTERM, which they ignore, and waits.
        atexit.register(self.end)

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        """The next batch.

        Raises:
            StopIteration: after the last one.
            DataError: if its worker was killed.
        """
        number = self._turn % len(self._inboxes)
        item = self._wait(self._inboxes[number])
        if item is None or isinstance(item, str):
            self._inboxes[number].put(item)  # its last word, for whoever asks again
        if item is None:
            raise DataError(self._death(self._processes[number]))
        if isinstance(item, str):  # batchgenerators' "end"
            raise StopIteration  # batches are dealt in turn: neither have the others any more
        self._turn += 1
        return item

    def end(self) -> None:
        """End all processes, whatever they are doing."""
        self._ended.set()
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join(_GRACE_SECONDS)
        for thread in self._threads:
            thread.join(_GRACE_SECONDS)
        atexit.unregister(self.end)

    def _wait(self, inbox: "queue.Queue[Any]") -> Item | str | None:
        while True:
            try:
                item: Item | str | None = inbox.get(timeout=PATIENCE_SECONDS)
            except queue.Empty:
                logger.warning(
                    "no batch for %g s, though all loading processes are there: is the disk slow, "
                    "or the machine busy?",
                    PATIENCE_SECONDS,
                )
            else:
                return item

    def _death(self, process: BaseProcess) -> str:
        process.join(_GRACE_SECONDS)
        code = process.exitcode
        how = f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"
        return (
            f"a loading process was killed ({how}); most often memory ran out: use fewer "
            f"--workers (now {len(self._processes)})"
        )


def prepare_worker() -> None:
    """To be called first in each worker process."""
    # Workers share the processors; besides, a forked OpenMP pool would hang.
    torch.set_num_threads(1)
    # Ctrl-C, torchrun and batch systems tell all processes of a group to end: what happens then is
    # the training's choice, which needs its data for the step under way.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    end_with_parent()


@contextmanager
def _blocked_signals() -> Iterator[None]:
    """Hold back signals while workers are forked: at first they have the training's handlers."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _started(
    loader: SlimDataLoaderBase, transform: Transform, number: int
) -> tuple["Connection[Any, Any]", BaseProcess]:
    reader, writer = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(
        target=_work, args=(writer, loader, transform, number), daemon=True
    )
    process.start()
    # At once, so that the next worker does not inherit it: only then does it close with this one.
    writer.close()
    return reader, process


class _Outbox:
    """What batchgenerators' worker takes for its queue."""

    def __init__(self, writer: "Connection[Any, Any]", done: threading.Event) -> None:
        self._writer = writer
        self._done = done

    def put(self, item: Item | str, timeout: float) -> None:
        """Send an item; after the last one the worker ends."""
        self._writer.send(item)
        if isinstance(item, str):
            self._done.set()


def _work(
    writer: "Connection[Any, Any]", loader: SlimDataLoaderBase, transform: Transform, number: int
) -> None:
    done = threading.Event()
    producer(_Outbox(writer, done), loader, transform, number, None, done)


def _receive(
    reader: "Connection[Any, Any]", inbox: "queue.Queue[Any]", ended: threading.Event
) -> None:
    """Fetch a worker's items ahead; None when it is gone."""
    with reader:
        while not ended.is_set():
            try:
                item = reader.recv()
            except (EOFError, OSError):
                item = None
            while not ended.is_set():
                try:
                    inbox.put(item, timeout=_POLL_SECONDS)
                    break
                except queue.Full:
                    continue
            if item is None or isinstance(item, str):
                return
