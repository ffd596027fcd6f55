"""One function over many cases in worker processes, with a bar and errors that name the case."""

import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from tqdm import tqdm

from autoreg.errors import AutoregError, DataError
from autoreg.machine import cpu_count, memory_available_bytes

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

# Measured: a spawned worker that has imported torch, SimpleITK and nibabel holds 330 MiB.
WORKER_BASELINE_BYTES = 350 * 2**20
# Share of the free memory that all workers together may take.
MEMORY_SHARE = 0.7
PARENT_CHECK_SECONDS = 1.0


def choose_workers(tasks: int, bytes_per_task: int, requested: int | None = None) -> int:
    """How many processes to start.

    As many as there are processors and tasks, but no more than 70 % of the free memory holds
    (control groups considered), each taking `bytes_per_task` beside its 350 MiB of libraries.

    Args:
        tasks: Number of cases.
        bytes_per_task: Peak memory of one case.
        requested: What the user asked for, which wins.

    Returns:
        At least 1.
    """
    if requested is not None:
        return max(1, min(requested, tasks))
    fitting = int(MEMORY_SHARE * memory_available_bytes()) // (
        WORKER_BASELINE_BYTES + bytes_per_task
    )
    return max(1, min(cpu_count(), tasks, fitting))


def map_cases(
    function: Callable[[T], R],
    tasks: Sequence[tuple[str, T]],
    *,
    workers: int,
    title: str,
    progress: bool,
) -> Iterator[tuple[str, R]]:
    """Run `function` on every task and yield (case, result) as they are finished.

    With one worker it runs in this process. The first error stops the work: cases not yet begun
    are dropped, and the error is raised here, with the case's name, from its cause.

    Args:
        function: A function at the top level of a module (workers are spawned).
        tasks: (case, argument) pairs.
        workers: Number of processes.
        title: Of the progress bar.
        progress: Whether to show the bar.

    Raises:
        DataError: if a case fails or a worker is killed.
    """
    with tqdm(total=len(tasks), desc=title, unit="case", disable=not progress) as bar:
        results = (
            _in_process(function, tasks)
            if workers <= 1 or len(tasks) <= 1
            else _in_pool(function, tasks, workers)
        )
        for item in results:
            bar.update()
            yield item


def worker_pool(workers: int) -> ProcessPoolExecutor:
    """Processes of one thread each, for those who collect the results of cases by themselves."""
    return ProcessPoolExecutor(
        max_workers=workers,
        # Forking a process that has run torch, CUDA or ITK threads can hang; spawning cannot.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
    )


def _in_process(
    function: Callable[[T], R], tasks: Sequence[tuple[str, T]]
) -> Iterator[tuple[str, R]]:
    for case, task in tasks:
        try:
            result = function(task)
        except Exception as error:
            raise _case_error(case, error) from error
        yield case, result


def _in_pool(
    function: Callable[[T], R], tasks: Sequence[tuple[str, T]], workers: int
) -> Iterator[tuple[str, R]]:
    pool = worker_pool(workers)
    futures: dict[Future[R], str] = {}
    try:
        futures = {pool.submit(function, task): case for case, task in tasks}
        for future in as_completed(futures):
            error = future.exception()
            if isinstance(error, BrokenProcessPool):
                raise _killed_error(futures, workers) from error
            if error is not None:
                raise _case_error(futures[future], error) from error
            yield futures[future], future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def end_with_parent() -> None:
    """End this worker when its parent is gone: one killed by SIGKILL cannot end it."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_CHECK_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _start_worker() -> None:
    """Leave one thread to each worker: the parallelism is over cases."""
    end_with_parent()
    os.environ["OMP_NUM_THREADS"] = "1"
    import SimpleITK
    import torch

    torch.set_num_threads(1)
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def _case_error(case: str, error: BaseException) -> DataError:
    if isinstance(error, AutoregError):
        return DataError(f'case "{case}": {error}')
    if isinstance(error, MemoryError):
        return DataError(f'case "{case}": out of memory; use fewer --workers')
    return DataError(f'case "{case}": {type(error).__name__}: {error}')


def _killed_error(futures: dict[Future[R], str], workers: int) -> DataError:
    unfinished = [
        case
        for future, case in futures.items()
        if not future.done() or isinstance(future.exception(), BrokenProcessPool)
    ]
    shown = ", ".join(unfinished[:workers])
    return DataError(
        f"a worker process was killed while {workers} of them worked, at or near case {shown}; "
        f"most often memory ran out: use --workers {max(1, workers // 2)}"
    )
