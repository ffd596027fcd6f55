"""Workers die, hang and are left alone; the training ends in seconds, and says why."""

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from batchgenerators.dataloading.data_loader import SlimDataLoaderBase
from processes import is_running

from autoreg.errors import DataError
from autoreg.training import workers as workers_module
from autoreg.training.workers import Workers, prepare_worker

LARGE = 10_000_000  # bytes; no pipe holds so many


class Loader(SlimDataLoaderBase):
    """Worker `bad` does something to itself in place of batch `at`."""

    def __init__(self, count, workers, size=10, bad=None, at=0, deed=None):
        super().__init__(None, 1, workers)
        self.count, self.size, self.bad, self.at, self.deed = count, size, bad, at, deed
        self.index = 0

    def set_thread_id(self, thread_id):
        super().set_thread_id(thread_id)
        self.index = thread_id
        prepare_worker()

    def generate_train_batch(self):
        index = self.index
        if index >= self.count:
            raise StopIteration
        if self.thread_id == self.bad and index >= self.at:
            self.deed()
        self.index += self.number_of_threads_in_multithreaded
        return {"index": index, "array": np.zeros(self.size, np.uint8)}


def unchanged(**item):
    return item


def kill_itself():
    os.kill(os.getpid(), signal.SIGKILL)


def sleep_for_ever():
    time.sleep(10_000)


def stop_itself():
    os.kill(os.getpid(), signal.SIGSTOP)


def started(loader, transform=unchanged):
    return Workers(loader, transform, loader.number_of_threads_in_multithreaded)


@pytest.mark.parametrize("count", [0, 1, 7])
def test_batches_come_in_order_and_end(count):
    workers = started(Loader(count, 3))
    try:
        assert [item["index"] for item in workers] == list(range(count))
        with pytest.raises(StopIteration):
            next(workers)
    finally:
        workers.end()
    assert not multiprocessing.active_children()


def test_workers_load_ahead_and_no_further():
    workers = started(Loader(100, 2, size=LARGE))
    try:
        next(workers)
        time.sleep(0.5)
        held = sum(inbox.qsize() for inbox in workers._inboxes)
        assert 2 <= held <= 2 * workers_module.CACHED_PER_WORKER
    finally:
        workers.end()


@pytest.mark.parametrize("size", [10, LARGE])
def test_a_killed_worker_is_named_at_once(size):
    workers = started(Loader(100, 2, size, bad=1, at=5, deed=kill_itself))
    start = time.monotonic()
    try:
        with pytest.raises(DataError, match=r"killed \(signal 9\).*fewer --workers \(now 2\)"):
            list(workers)
    finally:
        workers.end()
    assert time.monotonic() - start < 10
    assert not multiprocessing.active_children()


def test_a_worker_killed_while_it_sends_is_noticed():
    # Its inbox is full, so that it stands with half a batch in the pipe.
    workers = started(Loader(100, 1, LARGE))
    deadline = time.monotonic() + 20
    while not workers._inboxes[0].full() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    os.kill(workers._processes[0].pid, signal.SIGKILL)
    try:
        with pytest.raises(DataError, match="was killed"):
            list(workers)
    finally:
        workers.end()


@pytest.mark.parametrize("deed", [sleep_for_ever, stop_itself])
def test_blocked_workers_do_not_hold_up_the_end(deed):
    workers = started(Loader(100, 2, LARGE, bad=0, at=4, deed=deed))
    for _ in range(4):
        next(workers)
    start = time.monotonic()
    workers.end()
    assert time.monotonic() - start < 3
    assert not multiprocessing.active_children()
    assert not any(thread.is_alive() for thread in workers._threads)


def test_waiting_long_is_said(monkeypatch, caplog):
    monkeypatch.setattr(workers_module, "PATIENCE_SECONDS", 0.1)
    workers = started(Loader(2, 1, bad=0, at=0, deed=nap))
    try:
        assert next(workers)["index"] == 0
    finally:
        workers.end()
    assert "no batch for 0.1 s" in caplog.text


def nap():
    time.sleep(0.5)


def test_signals_of_the_terminal_are_the_trainings_business():
    seen = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    term = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    workers = started(Loader(100, 2, LARGE))
    try:
        next(workers), next(workers)
        for process in workers._processes:
            os.kill(process.pid, signal.SIGINT)
        assert next(workers)["index"] == 2
        assert [process.is_alive() for process in workers._processes] == [True, True]
        # As torchrun and batch systems end a job: the training needs its data to end in order.
        for number in (signal.SIGTERM, signal.SIGUSR1):
            for process in workers._processes:
                os.kill(process.pid, number)
        assert next(workers)["index"] == 3
        # Here they arrive as ever.
        os.kill(os.getpid(), signal.SIGTERM)
        assert seen == [signal.SIGTERM]
        assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        workers.end()
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGTERM, term)


def test_the_end_is_quick_while_workers_send():
    start, before = time.monotonic(), threading.active_count()
    workers = started(Loader(100, 3, LARGE))
    next(workers)
    workers.end()
    assert time.monotonic() - start < 5
    assert not multiprocessing.active_children()
    assert threading.active_count() == before


TRAINING = """
import multiprocessing, os, signal, sys, time
sys.path[:0] = sys.argv[1:]
from test_workers import LARGE, Loader, started, stop_itself
workers = started(Loader(100, 3, LARGE, bad=2, at=5, deed=stop_itself))
next(workers)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
{end}
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
@pytest.mark.parametrize(
    ("end", "stopped"),
    [
        ("time.sleep(1); os.kill(os.getpid(), signal.SIGKILL)", 1),
        ("time.sleep(1); workers.end()", 0),
        ("raise SystemExit(3)", 0),
    ],
    ids=["killed", "ended", "left without an end"],
)
def test_no_worker_outlives_its_training(end, stopped):
    folder = Path(__file__).parent
    command = [sys.executable, "-c", TRAINING.format(end=end), str(folder), str(folder.parent)]
    # Not through a pipe: the workers hold its other end.
    with tempfile.TemporaryFile("w+") as output:
        start = time.monotonic()
        subprocess.run(command, stdout=output, stderr=subprocess.DEVNULL, check=False, timeout=60)
        assert time.monotonic() - start < 30
        output.seek(0)
        workers = [int(pid) for pid in output.read().split()]
    assert len(workers) == 3
    deadline = time.monotonic() + 10
    while sum(map(is_running, workers)) > stopped and time.monotonic() < deadline:
        time.sleep(0.1)
    # One that was stopped cannot look after itself; it holds nothing that anybody waits for.
    left = [pid for pid in workers if is_running(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert len(left) <= stopped
