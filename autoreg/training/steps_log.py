"""steps.csv: what every single step minimised, for programs.

A training that goes on from a checkpoint repeats the steps after it: their earlier lines are
dropped, so that each step stands there once.
"""

import csv
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from autoreg.io.atomic import write_text_atomic
from autoreg.training.step_values import StepValues

logger = logging.getLogger(__name__)

STEPS_NAME = "steps.csv"
_VALUES = tuple(StepValues.__dataclass_fields__)
HEADER = ("epoch", "step", *_VALUES)


class StepsLog:
    """Takes the steps as they are made.

    Args:
        file: At its end.
    """

    def __init__(self, file: TextIO | None) -> None:
        self._file = file
        self._writer = None if file is None else csv.writer(file, lineterminator="\n")

    def write(self, epoch: int, step: int, values: StepValues) -> None:
        """Add a line; both are counted from 0. What was not computed stays empty."""
        if self._writer is None or self._file is None:
            return
        known = asdict(values)
        try:
            self._writer.writerow([epoch, step, *(known[name] for name in _VALUES)])
            self._file.flush()
        except OSError as error:
            self._give_up(error)

    def sync(self) -> None:
        """See that the lines are on the disk, where a checkpoint that follows will be."""
        if self._file is None:
            return
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """The training is worth more than its log."""
        logger.warning("%s: nothing more is written there: %s", STEPS_NAME, error)
        file, self._file, self._writer = self._file, None, None
        with suppress(OSError):  # what is left in its buffer does not fit either
            if file is not None:
                file.close()


@contextmanager
def open_steps_log(folder: Path | None, epoch: int, step: int) -> Iterator[StepsLog]:
    """Open the log of a fold for a training that begins with a step.

    Args:
        folder: Of the fold; None: nothing is written.
        epoch: Of the first step, counted from 0.
        step: In its epoch, counted from 0.
    """
    if folder is None:
        yield StepsLog(None)
        return
    path = folder / STEPS_NAME
    kept = list(_kept(path, epoch, step))
    if (epoch, step) > (0, 0) and len(kept) == 1:
        logger.warning(
            "%s: the steps before are not there; it begins with step %d of epoch %d",
            path,
            step + 1,
            epoch + 1,
        )
    write_text_atomic(path, "".join(kept))
    with path.open("a", encoding="utf-8", newline="") as file:
        yield StepsLog(file)


def _kept(path: Path, epoch: int, step: int) -> Iterator[str]:
    """The header and the lines before a step; a last one that was cut off is dropped."""
    yield ",".join(HEADER) + "\n"
    if not path.exists():
        return
    for line in path.read_text("utf-8").splitlines()[1:]:
        place = line.split(",")[:2]
        if len(line.split(",")) != len(HEADER) or not all(p.isdecimal() for p in place):
            continue
        if (int(place[0]), int(place[1])) < (epoch, step):
            yield line + "\n"
