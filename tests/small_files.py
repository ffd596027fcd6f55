"""A limit on the size of files (`ulimit -f`), which libraries ignore as they ignore a full disk."""

import resource
from contextlib import contextmanager


@contextmanager
def no_file_larger_than(number):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (number, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
