"""Batches of pairs or cycles: drawn by a seed, loaded and augmented in batchgenerators' workers.

What is drawn depends on the plan's seed, the epoch and the place in the epoch alone, so that it is
the same for any number of workers and after any interruption. One set of workers serves all epochs:
the next epoch is being loaded while the last one is validated.

batchgenerators prints a worker's error and raises a RuntimeError that names neither case nor cause.
Here an error is caught in the worker and travels to the main process in place of the batch.
"""

import logging
import multiprocessing
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batchgenerators.dataloading.data_loader import SlimDataLoaderBase
from batchgenerators.dataloading.multi_threaded_augmenter import MultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from batchgenerators.transforms.abstract_transforms import AbstractTransform
from numpy.typing import NDArray
from torch import Tensor

from autoreg.errors import AutoregError, DataError
from autoreg.io.cases import Pair
from autoreg.parallel import end_with_parent
from autoreg.planning.prepared import PreparedCase, load_prepared
from autoreg.training.draws import Draws

logger = logging.getLogger(__name__)

CACHED_PER_WORKER = 2


@dataclass(frozen=True)
class Failure:
    """An error on its way from a worker to the main process."""

    message: str
    trace: str | None


@dataclass(frozen=True, eq=False)
class PairBatch:
    """A batch of pairs.

    Attributes:
        fixed: (B, C, D, H, W) float32 on the CPU.
        moving: The same.
        pairs: Which pairs these are.
        fixed_mask: (B, 1, D, H, W) bool, where the similarity to the fixed image counts; None if
            no fixed case of the batch has a mask.
        moving_mask: The same of the moving images.
        is_cycle: Whether these are the three pairs of a cycle.
    """

    fixed: Tensor
    moving: Tensor
    pairs: tuple[Pair, ...]
    fixed_mask: Tensor | None = None
    moving_mask: Tensor | None = None
    is_cycle: bool = False

    def to(self, device: torch.device) -> "PairBatch":
        """The batch on a device."""
        return self._changed(self.pairs, self.is_cycle, lambda tensor: tensor.to(device))

    def one(self, number: int) -> "PairBatch":
        """One of its pairs, as a batch of one."""
        only = slice(number, number + 1)
        return self._changed(self.pairs[only], False, lambda tensor: tensor[only])

    def _changed(
        self, pairs: tuple[Pair, ...], is_cycle: bool, change: Callable[[Tensor], Tensor]
    ) -> "PairBatch":
        fixed, moving = self.fixed_mask, self.moving_mask
        return PairBatch(
            change(self.fixed),
            change(self.moving),
            pairs,
            None if fixed is None else change(fixed),
            None if moving is None else change(moving),
            is_cycle,
        )


class PairLoader(SlimDataLoaderBase):  # type: ignore[misc]
    """Loads the batches of some epochs; one of `workers` equal ones, each taking its share.

    Args:
        folder: Of the prepared cases.
        draws: Which pairs.
        epochs: To be loaded.
        workers: Number of processes; batches are dealt to them in turn.
    """

    def __init__(self, folder: Path, draws: Draws, epochs: range, workers: int) -> None:
        super().__init__(draws, draws.batch_size, workers)
        self._folder = folder
        self._epochs = epochs
        self._epoch = epochs.start
        self._index = 0

    def set_thread_id(self, thread_id: int) -> None:
        """Called by batchgenerators in each worker before the first batch."""
        super().set_thread_id(thread_id)
        self._index = thread_id
        if multiprocessing.parent_process() is not None:
            # Workers share the processors; besides, a forked OpenMP pool would hang.
            torch.set_num_threads(1)
            end_with_parent()

    def generate_train_batch(self) -> dict[str, Any]:
        """The next batch of this worker, or its failure.

        Raises:
            StopIteration: after the last epoch.
        """
        while self._epoch < self._epochs.stop:
            count = self._data.batches_in(self._epoch)
            if self._index < count:
                self._index += self.number_of_threads_in_multithreaded
                return self._load(
                    self._epoch, self._index - self.number_of_threads_in_multithreaded
                )
            self._epoch, self._index = self._epoch + 1, self._index - count
        raise StopIteration

    def _load(self, epoch: int, index: int) -> dict[str, Any]:
        keyed = self._data.batch(epoch, index)
        # In a cycle the moving cases are the fixed ones of the next pairs.
        roles = ("fixed",) if self._data.are_cycles(epoch) else ("fixed", "moving")
        cases: dict[str, list[PreparedCase]] = {role: [] for role in roles}
        for _, pair in keyed:
            for role, loaded in cases.items():
                case = getattr(pair, role)
                try:
                    loaded.append(load_prepared(self._folder, case))
                except Exception as error:  # noqa: BLE001 - the main process raises it again
                    return {"failure": _failure(f'{role} case "{case}"', error)}
        masked = {role for role, loaded in cases.items() if any(c.mask is not None for c in loaded)}
        return {
            **{role: np.stack([c.image for c in loaded]) for role, loaded in cases.items()},
            **{f"{role}_mask": np.stack([_mask(c) for c in cases[role]]) for role in masked},
            "pairs": tuple(pair for _, pair in keyed),
            "keys": tuple(key for key, _ in keyed),
            "epoch": epoch,
        }


def _mask(case: PreparedCase) -> NDArray[np.bool_]:
    """(1, D, H, W), everywhere true for a case without a mask."""
    shape = case.image.shape[1:]
    return np.ones((1, *shape), dtype=np.bool_) if case.mask is None else case.mask[None]


class _Guarded(AbstractTransform):  # type: ignore[misc]
    """Runs a transform; an error in it becomes the batch's failure."""

    def __init__(self, transform: AbstractTransform) -> None:
        self.transform = transform

    def __call__(self, **batch: Any) -> dict[str, Any]:  # noqa: ANN401 - batchgenerators' interface
        if "failure" in batch:
            return batch
        try:
            result: dict[str, Any] = self.transform(**batch)
        except Exception as error:  # noqa: BLE001 - the main process raises it again
            names = ", ".join(f"{pair.moving} to {pair.fixed}" for pair in batch["pairs"])
            return {"failure": _failure(f"augmenting the pairs {names}", error)}
        return result


@contextmanager
def open_batches(
    folder: Path, draws: Draws, transform: AbstractTransform, epochs: range, workers: int
) -> Iterator[Iterator[PairBatch]]:
    """All batches of some epochs, in order; workers end with the block.

    Args:
        folder: Of the prepared cases.
        draws: Which pairs.
        transform: Augments a batch (see `augmentation.PairAugmentation`).
        epochs: To be loaded, e.g. range(first, end).
        workers: Number of processes; 0: load in this process.

    Yields:
        The batches. While they are fetched, a DataError is raised for an error in a worker,
        with the case and the cause, or for a worker that was killed.
    """
    loader = PairLoader(folder, draws, epochs, max(1, workers))
    guarded = _Guarded(transform)
    if workers == 0:
        yield _batches(SingleThreadedAugmenter(loader, guarded))
        return
    augmenter = MultiThreadedAugmenter(loader, guarded, workers, CACHED_PER_WORKER)
    try:
        with warnings.catch_warnings():
            # Python 3.12 warns of any fork beside other threads. The workers run torch with one
            # thread and touch no lock that another thread may hold.
            warnings.filterwarnings("ignore", "This process", DeprecationWarning)
            augmenter.restart()  # now, before a network or CUDA is there to be copied
        yield _batches(augmenter)
    finally:
        augmenter._finish()


def _batches(augmenter: Iterator[dict[str, Any]]) -> Iterator[PairBatch]:
    while True:
        try:
            batch = next(augmenter)
        except StopIteration:
            return
        except RuntimeError as error:
            raise DataError(
                "a loading process was killed; most often memory ran out: use fewer --workers"
            ) from error
        if "failure" in batch:
            failure = batch["failure"]
            if failure.trace:
                logger.error("%s", failure.trace)
            raise DataError(failure.message)
        arrays = {name: value for name, value in batch.items() if isinstance(value, np.ndarray)}
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        is_cycle = "moving" not in tensors
        if is_cycle:
            tensors |= {n.replace("fixed", "moving"): t.roll(-1, 0) for n, t in tensors.items()}
        yield PairBatch(pairs=batch["pairs"], is_cycle=is_cycle, **tensors)


def _failure(what: str, error: Exception) -> Failure:
    if isinstance(error, AutoregError):
        return Failure(f"{what}: {error}", None)
    return Failure(f"{what}: {type(error).__name__}: {error}", traceback.format_exc())
