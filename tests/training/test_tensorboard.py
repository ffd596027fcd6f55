import logging
import subprocess
import sys

import pytest

from autoreg.training.progress import EpochRecord, ValidationSummary
from autoreg.training.tensorboard import Board, open_board

SUMMARY = ValidationSummary(1.0, 0.5, 1.5, 0.75, None, 0.125, 0.5, pairs=3)


def record(epoch, total, validation=None):
    return EpochRecord(epoch, 1, False, 0.1, 0.2, total, 8.0, 2.0, validation, learning_rate=0.5)


def scalars(folder):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator(str(folder / "tensorboard"))
    accumulator.Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


@pytest.fixture
def _installed():
    pytest.importorskip("torch.utils.tensorboard")


@pytest.mark.usefixtures("_installed")
def test_epochs_and_validations_are_written_where_they_are_known(tmp_path):
    with open_board(tmp_path) as board:
        board.write_initial(SUMMARY)
        board.write(record(0, 2.0))
        board.write(record(1, 1.0, SUMMARY))
        found = scalars(tmp_path)  # before it is closed: a killed training keeps its epochs
    assert found["train/total"] == [(1, 2.0), (2, 1.0)]
    assert found["train/learning_rate"] == [(1, 0.5), (2, 0.5)]
    assert found["validation/dice"] == [(0, 0.75), (2, 0.75)]
    assert found["validation/lncc"] == [(0, 0.5), (2, 0.5)]
    assert not {"train/folding", "train/conflicts", "validation/tre_mm"} & set(found)


@pytest.mark.usefixtures("_installed")
def test_a_continued_training_shows_each_epoch_once(tmp_path):
    with open_board(tmp_path) as board:
        board.write_initial(SUMMARY)
        for epoch in range(4):
            board.write(record(epoch, float(epoch), SUMMARY))
    with open_board(tmp_path, completed=2) as board:
        for epoch in (2, 3, 4):
            board.write(record(epoch, 10.0 + epoch))
    found = scalars(tmp_path)
    assert found["train/total"] == [(1, 0.0), (2, 1.0), (3, 12.0), (4, 13.0), (5, 14.0)]
    assert [step for step, _ in found["validation/dice"]] == [0, 1, 2]


@pytest.mark.usefixtures("_installed")
def test_a_new_training_hides_what_lies_there(tmp_path):
    for total in (1.0, 2.0):
        with open_board(tmp_path) as board:
            board.write_initial(SUMMARY)
            board.write(record(0, total))
    found = scalars(tmp_path)
    assert found["train/total"] == [(1, 2.0)]
    assert found["validation/dice"] == [(0, 0.75)]


def test_without_the_package_nothing_is_done_or_said(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with caplog.at_level(logging.DEBUG), open_board(tmp_path) as board:
        board.write_initial(SUMMARY)
        board.write(record(0, 1.0, SUMMARY))
    assert not caplog.records
    assert not list(tmp_path.iterdir())


def test_a_full_disk_ends_the_events_and_not_the_training(caplog):
    class Full:
        calls = 0

        def add_scalar(self, *event):
            Full.calls += 1
            raise OSError(28, "No space left on device")

    board = Board(Full())
    for epoch in range(3):
        board.write(record(epoch, 1.0))
    board.close()
    assert Full.calls == 1
    assert [r.getMessage() for r in caplog.records] == [
        "nothing more is written for TensorBoard: [Errno 28] No space left on device"
    ]


def test_a_folder_that_cannot_be_made_ends_nothing(tmp_path, caplog):
    pytest.importorskip("torch.utils.tensorboard")
    (tmp_path / "tensorboard").write_text("a file")
    open_board(tmp_path).write(record(0, 1.0))
    assert "nothing more is written for TensorBoard" in caplog.text


FORGOTTEN = """
from pathlib import Path
from autoreg.training.progress import EpochRecord
from autoreg.training.tensorboard import open_board
board = open_board(Path({folder!r}))
board.write(EpochRecord(0, 1, False, 0.1, 0.2, 0.3, 8.0, 2.0, None))
"""


@pytest.mark.usefixtures("_installed")
def test_a_board_that_nobody_closes_does_not_keep_the_process(tmp_path):
    code = FORGOTTEN.format(folder=str(tmp_path))
    subprocess.run([sys.executable, "-c", code], timeout=120, check=True)
    assert [step for step, _ in scalars(tmp_path)["train/total"]] == [1]


def test_the_command_does_not_load_it_for_its_help():
    code = (
        "import sys, autoreg.training.cli, autoreg.training.tensorboard;"
        "sys.exit('tensorboard' in sys.modules or 'torch.utils.tensorboard' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], timeout=120, check=True)
