"""Batches of pairs or cycles: drawn by a seed, loaded and augmented in batchgenerators' workers.

What is drawn depends on the plan's seed, the epoch and the place in the epoch alone, so that it is
the same for any number of workers and after any interruption. One set of workers serves all epochs:
the next epoch is being loaded while the last one is validated.

batchgenerators prints a worker's error and raises a RuntimeError that names neither case nor cause.
Here an error is caught in the worker and travels to the main process in place of the batch.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from torch import Tensor

from autoreg.errors import DataError
from autoreg.io.cases import Pair
from autoreg.network_plan import Triple
from autoreg.training.draws import Draws, Key
from autoreg.training.loading import Content, Failure, LandmarkArrays, LoadedBatch, PairLoader
from autoreg.training.processes import ALONE, Processes
from autoreg.training.workers import Workers

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LandmarkPair:
    """The corresponding landmarks of a pair, row by row.

    Attributes:
        fixed_vox: (N, 3) float32, (d, h, w) indices of the fixed grid.
        moving_vox: (N, 3) float32, of the moving grid.
        fixed_spacing_mm: Along (d, h, w).
        moving_spacing_mm: Along (d, h, w).
    """

    fixed_vox: Tensor
    moving_vox: Tensor
    fixed_spacing_mm: Triple
    moving_spacing_mm: Triple

    def to(self, device: torch.device) -> "LandmarkPair":
        """The landmarks on a device."""
        return replace(
            self, fixed_vox=self.fixed_vox.to(device), moving_vox=self.moving_vox.to(device)
        )


@dataclass(frozen=True, eq=False)
class PairBatch:
    """A batch of pairs, or this process's share of one.

    Attributes:
        fixed: (B, C, D, H, W) float32.
        moving: The same.
        pairs: Which pairs these are.
        fixed_mask: (B, 1, D, H, W) bool, where the similarity to the fixed image counts; None if
            no fixed case of the batch has a mask, or masks are not loaded.
        moving_mask: The same of the moving images.
        is_cycle: Whether these are the three pairs of a cycle.
        fixed_labels: (B, 1, D, H, W) integers; None if no case of the batch has a label map, or
            these are not loaded.
        moving_labels: The same of the moving images.
        has_labels: Of each pair, whether both of its cases have a label map; where not, the
            label maps say nothing. Empty: none has.
        landmarks: Of each pair, or None for one without. Empty: none has.
        keys: Of each pair, the integers that seed its augmentation.
        epoch: For which it was drawn, counted from 0.
        size: Pairs of the whole batch, over all its parts and processes: a mean over these pairs
            counts in the batch's mean with the weight len(pairs) / size. 0: these are all.
    """

    fixed: Tensor
    moving: Tensor
    pairs: tuple[Pair, ...]
    fixed_mask: Tensor | None = None
    moving_mask: Tensor | None = None
    is_cycle: bool = False
    fixed_labels: Tensor | None = None
    moving_labels: Tensor | None = None
    has_labels: tuple[bool, ...] = ()
    landmarks: tuple[LandmarkPair | None, ...] = ()
    keys: tuple[Key, ...] = ()
    epoch: int = 0
    size: int = 0

    def __post_init__(self) -> None:
        if self.size == 0:
            object.__setattr__(self, "size", len(self.pairs))

    def to(self, device: torch.device) -> "PairBatch":
        """The batch on a device."""
        if self.fixed.device == device:
            return self
        tensors = {name: tensor.to(device) for name, tensor in self.tensors().items()}
        landmarks = tuple(None if one is None else one.to(device) for one in self.landmarks)
        return self.with_tensors(tensors, landmarks)

    def one(self, number: int) -> "PairBatch":
        """One of its pairs, as a batch of one."""
        return self._selected(slice(number, number + 1))

    def parts(self, count: int) -> "tuple[PairBatch, ...]":
        """The batch cut into parts of consecutive pairs, as even as possible and never empty.

        Args:
            count: Number of parts; fewer if there are fewer pairs.
        """
        pairs, count = len(self.pairs), min(count, len(self.pairs))
        if count == 1:
            return (self,)
        ends = [number * pairs // count for number in range(count + 1)]
        return tuple(self._selected(slice(*ends[number : number + 2])) for number in range(count))

    def tensors(self) -> dict[str, Tensor]:
        """Those of its attributes that are tensors, one entry per pair each, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def with_tensors(
        self, tensors: dict[str, Tensor], landmarks: tuple[LandmarkPair | None, ...]
    ) -> "PairBatch":
        """The same pairs with other images, masks, label maps and landmarks."""
        changes: dict[str, Any] = {**tensors, "landmarks": landmarks}
        return replace(self, **changes)

    def _selected(self, chosen: slice) -> "PairBatch":
        changes: dict[str, Any] = {name: value[chosen] for name, value in self.tensors().items()}
        for name in ("pairs", "has_labels", "landmarks", "keys"):
            changes[name] = getattr(self, name)[chosen]
        return replace(self, **changes, is_cycle=False)


Transform = Callable[[PairBatch], PairBatch]


@contextmanager
def open_batches(
    folder: Path,
    draws: Draws,
    transform: Transform | None,
    epochs: range,
    workers: int,
    *,
    first: int = 0,
    processes: Processes = ALONE,
    content: Content = Content(),  # noqa: B008 - frozen
) -> Iterator[Iterator[PairBatch]]:
    """All batches of some epochs, in order; workers end with the block.

    Args:
        folder: Of the prepared cases.
        draws: Which pairs.
        transform: Changes a batch in the worker (see `augmentation.PairAugmentation`), or None.
        epochs: To be loaded, e.g. range(first, end).
        workers: Number of processes; 0: load in this process.
        first: Index of the first batch in the first epoch.
        processes: Of the training: each loads its share of every batch; of a cycle everything.
        content: What to load besides images.

    Yields:
        The batches, on the CPU. While they are fetched, a DataError is raised for an error in a
        worker, with the case and the cause, or for a worker that was killed.
    """
    loader = PairLoader(
        folder, draws, epochs, max(1, workers), first=first, processes=processes, content=content
    )
    guarded = Guarded(transform)
    if workers == 0:
        yield _batches(SingleThreadedAugmenter(loader, guarded))
        return
    running = Workers(
        loader, guarded, workers
    )  # now, before a network or CUDA is there to be copied
    try:
        yield _batches(running)
    finally:
        running.end()


class Guarded:
    """Runs a transform in a worker; an error in it becomes the batch's failure."""

    def __init__(self, transform: Transform | None) -> None:
        self._transform = transform

    def __call__(self, **item: Any) -> dict[str, Any]:  # noqa: ANN401 - batchgenerators' interface
        """Change `item["batch"]`."""
        if "failure" in item or self._transform is None:
            return item
        loaded = item["batch"]
        try:
            return {"batch": _packed(self._transform(_unpacked(loaded)), loaded)}
        except Exception as error:  # noqa: BLE001 - the main process raises it again
            names = ", ".join(f"{pair.moving} to {pair.fixed}" for pair in loaded.pairs)
            return {"failure": Failure.of(f"augmenting the pairs {names}", error)}


def _batches(items: Iterator[dict[str, Any]]) -> Iterator[PairBatch]:
    for item in items:
        if "failure" in item:
            failure: Failure = item["failure"]
            if failure.trace:
                logger.error("%s", failure.trace)
            raise DataError(failure.message)
        yield _unpacked(item["batch"])


def _unpacked(loaded: LoadedBatch) -> PairBatch:
    tensors = {name: torch.from_numpy(array) for name, array in loaded.arrays.items()}
    is_cycle = "moving" not in tensors
    if is_cycle:
        tensors |= {n.replace("fixed", "moving"): t.roll(-1, 0) for n, t in tensors.items()}
    landmarks = tuple(
        None
        if one is None
        else LandmarkPair(
            torch.from_numpy(one.fixed_vox),
            torch.from_numpy(one.moving_vox),
            one.fixed_spacing_mm,
            one.moving_spacing_mm,
        )
        for one in loaded.landmarks
    )
    return PairBatch(
        **tensors,
        pairs=loaded.pairs,
        is_cycle=is_cycle,
        has_labels=loaded.has_labels,
        landmarks=landmarks,
        keys=loaded.keys,
        epoch=loaded.epoch,
        size=loaded.size,
    )


def _packed(batch: PairBatch, loaded: LoadedBatch) -> LoadedBatch:
    # Arrays are pickled into the pipe; torch would send tensors through /dev/shm, which is small
    # in containers.
    sent = {
        name: tensor.numpy() for name, tensor in batch.tensors().items() if name in loaded.arrays
    }
    landmarks = tuple(
        None
        if one is None
        else LandmarkArrays(
            one.fixed_vox.numpy(),
            one.moving_vox.numpy(),
            one.fixed_spacing_mm,
            one.moving_spacing_mm,
        )
        for one in batch.landmarks
    )
    return replace(loaded, arrays=sent, landmarks=landmarks)
