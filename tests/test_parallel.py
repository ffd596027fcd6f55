import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import is_running

from autoreg import parallel
from autoreg.errors import DataError
from autoreg.parallel import choose_workers, map_cases

GIB = 2**30


def double(number):
    return 2 * number


def fail_on_three(number):
    if number == 3:
        raise ValueError("three is not for me")
    return number


def refuse_three(number):
    if number == 3:
        raise DataError("file x: found 3, expected less")
    return number


def die_on_three(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def run(function, numbers, workers):
    tasks = [(f"case{n}", n) for n in numbers]
    return dict(map_cases(function, tasks, workers=workers, title="test", progress=False))


@pytest.mark.parametrize("workers", [1, 2])
def test_every_case_gets_its_result(workers):
    assert run(double, range(5), workers) == {f"case{n}": 2 * n for n in range(5)}


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_names_the_case_and_carries_its_cause(workers):
    with pytest.raises(DataError, match='case "case3": ValueError: three is not for me') as caught:
        run(fail_on_three, range(5), workers)
    assert isinstance(caught.value.__cause__, ValueError)


def test_an_expected_error_stays_one_sentence():
    with pytest.raises(DataError) as caught:
        run(refuse_three, range(5), 1)
    assert str(caught.value) == 'case "case3": file x: found 3, expected less'


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_a_killed_worker_is_reported_and_nothing_hangs():
    with pytest.raises(DataError, match=r"killed.*case3.*memory ran out: use --workers 1"):
        run(die_on_three, [3, 4], 2)


@pytest.mark.parametrize(
    ("tasks", "size", "free", "processors", "expected"),
    [
        (100, GIB, 100 * GIB, 8, 8),
        (3, GIB, 100 * GIB, 8, 3),
        (100, GIB, 4 * GIB, 8, 2),
        (100, 50 * GIB, 4 * GIB, 8, 1),
        (0, GIB, 100 * GIB, 8, 1),
    ],
)
def test_workers_by_processors_cases_and_memory(
    monkeypatch, tasks, size, free, processors, expected
):
    monkeypatch.setattr(parallel, "memory_available_bytes", lambda: free)
    monkeypatch.setattr(parallel, "cpu_count", lambda: processors)
    assert choose_workers(tasks, size) == expected


KILLED = """
import os, signal, sys
from autoreg.parallel import worker_pool

def main():
    pool = worker_pool(2)
    print(*{pool.submit(os.getpid).result() for _ in range(4)}, flush=True)
    pool.submit(__import__("time").sleep, 60)
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    main()
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
def test_workers_end_when_their_parent_is_killed(tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    with (tmp_path / "out").open("w") as output:
        subprocess.run([sys.executable, str(script)], stdout=output, check=False)
    workers = [int(pid) for pid in (tmp_path / "out").read_text().split()]
    assert workers
    deadline = time.monotonic() + 20
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(is_running, workers))


def test_the_user_decides_about_workers():
    assert choose_workers(100, 10**15, requested=7) == 7
