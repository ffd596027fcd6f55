"""Scalars for TensorBoard, where its package is installed."""

import logging
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from autoreg.training.progress import EpochRecord, Measures, ValidationSummary

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)

FOLDER = "tensorboard"
_TRAINING = (
    "total", "similarity", "regularity", "folding", "cycle", "supervised", "conflicts",
    "learning_rate", "seconds", "waiting_seconds",
)  # fmt: skip


class Board:
    """Writes epochs for TensorBoard; without its package it does nothing.

    A training never fails for it: where events cannot be written, a warning says so, once, and
    that is the end of them.

    Args:
        writer: Of the events; None: nothing is written.
    """

    def __init__(self, writer: "SummaryWriter | None") -> None:
        self._writer = writer

    def __enter__(self) -> "Board":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def write(self, record: EpochRecord) -> None:
        """Write an epoch, with its validation if it has one, at the step epoch + 1."""
        values = [(f"train/{name}", getattr(record, name)) for name in _TRAINING]
        if record.validation is not None:
            values += _measures(record.validation)
        self._write(values, record.epoch + 1)

    def write_initial(self, summary: ValidationSummary) -> None:
        """Write the validation before the first epoch, at the step 0."""
        self._write(list(_measures(summary)), 0)

    def close(self) -> None:
        """Write what is left to write; nothing can be written afterwards."""
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                writer.close()
            except OSError as error:
                _warn(error)

    def _write(self, values: list[tuple[str, float | None]], step: int) -> None:
        if self._writer is None:
            return
        try:
            for name, value in values:
                if value is not None:
                    self._writer.add_scalar(name, value, step)
            self._writer.flush()  # a killed training keeps its epochs
        except OSError as error:
            self._writer = None
            _warn(error)


def open_board(folder: Path, completed: int = 0) -> Board:
    """A board whose events go to `<folder>/tensorboard/`.

    Args:
        folder: Of the fold.
        completed: Epochs that were trained before, by a training that is continued. Whatever was
            written of later ones is hidden by TensorBoard: they are trained again.

    Returns:
        The board, to be closed; one that does nothing if the package tensorboard is not installed
        or the folder cannot be written to.
    """
    try:
        # Here, because it takes a second, and no other command needs it.
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return Board(None)
    purged = completed + 1 if completed else 0
    try:
        return Board(SummaryWriter(str(folder / FOLDER), purge_step=purged))
    except OSError as error:
        _warn(error)
        return Board(None)


def _measures(summary: ValidationSummary) -> Iterator[tuple[str, float | None]]:
    for field in fields(Measures):
        yield f"validation/{field.name}", getattr(summary, field.name)


def _warn(error: OSError) -> None:
    logger.warning("nothing more is written for TensorBoard: %s", error)
