"""The folder of a pair holds one whole result, whatever happens to the run that writes the next."""

import errno
import shutil
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from autoreg.errors import UsageError
from autoreg.inference.case_folder import new_result
from autoreg.inference.pairs_file import PairFiles

# Enough of one to be known as a result.
RESULT = '{"format": 3, "case": "out", "inputs": {}}'
EARLIER = {"result.json": RESULT, "plan.json": "{}", "trace.csv": "old", "warped.nii.gz": "old"}
NEW = {"result.json": RESULT + " ", "displacement.nii.gz": "new", "warped.nii.gz": "new"}


@pytest.fixture
def case(tmp_path):
    """A folder with an earlier result and a file of its own, and the files of a pair."""
    folder = tmp_path / "case"
    folder.mkdir()
    for name, text in (EARLIER | {"mine.txt": "mine"}).items():
        (folder / name).write_text(text)
    return folder, PairFiles("case", (tmp_path / "f.nii.gz",), (tmp_path / "m.nii.gz",))


def write_new(folder):
    for name, text in NEW.items():
        (folder / name).write_text(text)


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_new_result_replaces_the_earlier_one_as_a_whole(case):
    folder, pair = case
    with new_result(folder, pair) as new:
        write_new(new)
        assert contents(new) == NEW
        assert (folder / "trace.csv").read_text() == "old"
        assert (folder / "unfinished.txt").exists()
    assert contents(folder) == NEW | {"mine.txt": "mine"}


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_what_fails_leaves_the_earlier_result(case, error):
    folder, pair = case
    with suppress(type(error)), new_result(folder, pair) as new:
        write_new(new)
        raise error
    (folder / "unfinished.txt").unlink()
    assert contents(folder) == EARLIER | {"mine.txt": "mine"}


class Killed(BaseException):
    """In place of SIGKILL: nothing after it has an effect."""


@pytest.mark.parametrize("step", range(1, 12))
def test_a_run_killed_at_any_step_leaves_one_whole_result(case, monkeypatch, step):
    """After the next run began; the earlier result if the new one was not whole, else that."""
    folder, pair = case
    steps = {"left": step}

    def counted(original):
        def call(*arguments, **flags):
            steps["left"] -= 1
            if steps["left"] < 0:
                raise Killed
            return original(*arguments, **flags)

        return call

    with monkeypatch.context() as patch, suppress(Killed), new_result(folder, pair) as new:
        write_new(new)
        for owner, name in ((Path, "replace"), (Path, "unlink"), (shutil, "rmtree")):
            patch.setattr(owner, name, counted(getattr(owner, name)))
    assert steps["left"] < 0 or (folder / "displacement.nii.gz").exists()
    left = contents_of_files(folder)
    if left.get("result.json") == NEW["result.json"]:  # for whoever reads before the next run
        assert left.items() >= NEW.items()
    seen = []
    with suppress(Killed), new_result(folder, pair):
        found = contents_of_files(folder)
        found.pop("unfinished.txt")
        seen.append(found)
        raise Killed
    assert seen[0] in (EARLIER | {"mine.txt": "mine"}, NEW | {"mine.txt": "mine"})
    assert not [path for path in folder.iterdir() if path.is_dir()]


def contents_of_files(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


@pytest.mark.skipif(sys.platform == "win32", reason="knows no locks of folders")
def test_two_processes_do_not_write_into_one_folder(case):
    folder, pair = case
    with new_result(folder, pair) as new:
        write_new(new)
        with pytest.raises(UsageError, match="another process is writing there"):
            with new_result(folder, pair):
                pytest.fail("two at once")
    assert contents(folder) == NEW | {"mine.txt": "mine"}


def test_a_folder_under_the_name_of_a_result_is_refused_before_anything_is_touched(case):
    folder, pair = case
    (folder / "warped_labels.nii.gz").mkdir()
    before = contents_of_files(folder)
    with pytest.raises(UsageError, match=r"warped_labels\.nii\.gz: is a folder where a file"):
        with new_result(folder, pair):
            pytest.fail("began")
    assert contents_of_files(folder) == before
