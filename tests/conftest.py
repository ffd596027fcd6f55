"""Settings of all tests."""

import os

# Tests run in several processes, one for each processor: threads of their own would fight for them.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
