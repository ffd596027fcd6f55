"""Files appear complete or not at all."""

import errno
import os
import stat

import pytest

from autoreg.errors import UsageError
from autoreg.io.atomic import atomic_path, write_text_atomic


def test_the_file_appears_with_its_folder(tmp_path):
    path = tmp_path / "new" / "folder" / "file.nii.gz"
    with atomic_path(path) as temporary:
        assert temporary.name.endswith("file.nii.gz")
        temporary.write_text("done")
        assert not path.exists()
    assert path.read_text() == "done"
    assert os.listdir(path.parent) == ["file.nii.gz"]  # noqa: PTH208


def test_an_interrupted_write_leaves_the_old_file_and_no_debris(tmp_path):
    path = tmp_path / "file.txt"
    write_text_atomic(path, "old")

    def interrupted():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_others_may_read_what_the_umask_lets_them(tmp_path):
    before = os.umask(0o022)
    try:
        write_text_atomic(tmp_path / "file.txt", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file.txt").stat().st_mode) == 0o644


def test_a_disk_without_room_and_a_folder_in_the_way_are_told(tmp_path):
    def full():
        with atomic_path(tmp_path / "file.txt"):
            raise OSError(errno.ENOSPC, "No space left on device")

    expected = (
        r"file\.txt: cannot be written: the disk is full \(No space left on device\); "
        r"[\d.]+ MB are free in .*; make room"
    )
    with pytest.raises(UsageError, match=expected):
        full()
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match=r"folder: cannot be written \("):
        write_text_atomic(tmp_path / "folder", "text")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match=r"file/inner\.txt: cannot be written"):
        write_text_atomic(tmp_path / "file" / "inner.txt", "text")
