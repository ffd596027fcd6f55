""".ci/typecheck gives each run a tree of its own and leaves nothing behind."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# In place of Python: says where it stands, and whether both root rooms are there.
STUB = """#!/bin/sh
test -f autoreg/plan.py && test -f autoreg/inference/cli.py || exit 3
test -d autoreg/dataset_conversion && pwd
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_concurrent_runs_do_not_share_a_tree(tmp_path):
    stub = tmp_path / "python"
    stub.write_text(STUB)
    stub.chmod(stub.stat().st_mode | stat.S_IXUSR)
    environment = {**os.environ, "PYTHON": str(stub), "TMPDIR": str(tmp_path)}
    command = ["bash", str(ROOT / ".ci" / "typecheck")]
    runs = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    trees = [run.communicate()[0].strip() for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert trees[0] != trees[1]
    assert not any(Path(tree).exists() for tree in trees)
