"""The arrays of batches, read from prepared cases, in a worker or in the training itself."""

import multiprocessing
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from batchgenerators.dataloading.data_loader import SlimDataLoaderBase
from numpy.typing import NDArray

from autoreg.errors import AutoregError
from autoreg.io.cases import Pair
from autoreg.network_plan import Triple
from autoreg.planning.prepared import PreparedCase, corresponding_landmarks, load_prepared
from autoreg.training.draws import Draws, Key
from autoreg.training.processes import ALONE, Processes
from autoreg.training.workers import prepare_worker
from autoreg.training_plan import SupervisionPlan

Cases = dict[str, list[PreparedCase]]
"""By role: "fixed" and "moving", or in a cycle "fixed" alone."""

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Content:
    """What is loaded besides images, where cases have it."""

    masks: bool = False
    labels: bool = False
    landmarks: bool = False

    @classmethod
    def of(cls, supervision: SupervisionPlan) -> "Content":
        """What a plan's supervision needs."""
        return cls(supervision.masks, supervision.dice_weight > 0, supervision.landmark_weight > 0)


@dataclass(frozen=True, eq=False)
class LandmarkArrays:
    """Corresponding landmarks of a pair; see `batches.LandmarkPair`."""

    fixed_vox: NDArray[np.float32]
    moving_vox: NDArray[np.float32]
    fixed_spacing_mm: Triple
    moving_spacing_mm: Triple


@dataclass(frozen=True, eq=False)
class LoadedBatch:
    """A batch as it travels from a worker; see `batches.PairBatch`.

    Attributes:
        arrays: By name: "fixed", "moving_mask", ...; without any of "moving" in a cycle.
        pairs: This process's share of them.
        keys: Of their augmentation.
        epoch: Counted from 0.
        size: Pairs of the whole batch.
        has_labels: Whether both cases of each pair have a label map.
        landmarks: Of each pair.
    """

    arrays: Arrays
    pairs: tuple[Pair, ...]
    keys: tuple[Key, ...]
    epoch: int
    size: int
    has_labels: tuple[bool, ...]
    landmarks: tuple[LandmarkArrays | None, ...]


@dataclass(frozen=True)
class Failure:
    """An error on its way from a worker to the main process."""

    message: str
    trace: str | None

    @classmethod
    def of(cls, what: str, error: Exception) -> "Failure":
        """An error that happened while doing something."""
        if isinstance(error, AutoregError):
            return cls(f"{what}: {error}", None)
        return cls(f"{what}: {type(error).__name__}: {error}", traceback.format_exc())


class PairLoader(SlimDataLoaderBase):  # type: ignore[misc]
    """Loads the batches of some epochs; one of `workers` equal ones, each taking its share.

    Args:
        folder: Of the prepared cases.
        draws: Which pairs.
        epochs: To be loaded.
        workers: Number of workers; batches are dealt to them in turn.
        first: Index of the first batch in the first epoch.
        processes: Of the training; this one's share of each batch is loaded. Cycles are whole.
        content: What to load besides images.
    """

    def __init__(
        self,
        folder: Path,
        draws: Draws,
        epochs: range,
        workers: int,
        *,
        first: int = 0,
        processes: Processes = ALONE,
        content: Content = Content(),
    ) -> None:
        super().__init__(draws, draws.batch_size, workers)
        self._folder = folder
        self._epochs = epochs
        self._epoch = epochs.start
        self._first = first
        self._index = first
        self._processes = processes
        self._content = content

    def set_thread_id(self, thread_id: int) -> None:
        """Called by batchgenerators in each worker before the first batch."""
        super().set_thread_id(thread_id)
        self._index = self._first + thread_id
        if multiprocessing.parent_process() is not None:
            prepare_worker()

    def generate_train_batch(self) -> dict[str, LoadedBatch | Failure]:
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

    def _load(self, epoch: int, index: int) -> dict[str, LoadedBatch | Failure]:
        keyed, is_cycle = self._data.batch(epoch, index), self._data.are_cycles(epoch)
        share = keyed if is_cycle else keyed[self._processes.share(len(keyed))]
        pairs = tuple(pair for _, pair in share)
        # In a cycle the moving cases are the fixed ones of the next pairs.
        cases: Cases = {role: [] for role in (("fixed",) if is_cycle else ("fixed", "moving"))}
        for pair in pairs:
            for role, loaded in cases.items():
                name = getattr(pair, role)
                try:
                    loaded.append(load_prepared(self._folder, name))
                except Exception as error:  # noqa: BLE001 - the main process raises it again
                    return {"failure": Failure.of(f'{role} case "{name}"', error)}
        both = list(zip(cases["fixed"], _moving(cases), strict=True))
        loaded_batch = LoadedBatch(
            arrays=_arrays(cases, self._content),
            pairs=pairs,
            keys=tuple(key for key, _ in share),
            epoch=epoch,
            size=len(keyed),
            has_labels=tuple(f.labels is not None and m.labels is not None for f, m in both),
            landmarks=tuple(_landmarks(f, m) if self._content.landmarks else None for f, m in both),
        )
        return {"batch": loaded_batch}


def _moving(cases: Cases) -> list[PreparedCase]:
    fixed = cases["fixed"]
    return cases["moving"] if "moving" in cases else [*fixed[1:], fixed[0]]


def _arrays(cases: Cases, content: Content) -> Arrays:
    arrays: Arrays = {role: np.stack([c.image for c in found]) for role, found in cases.items()}
    for role, found in cases.items():
        if content.masks and any(case.mask is not None for case in found):
            arrays[f"{role}_mask"] = np.stack([_mask(case) for case in found])
    if content.labels:
        everyone = [case for found in cases.values() for case in found]
        if any(case.labels is not None for case in everyone):
            for role, found in cases.items():
                arrays[f"{role}_labels"] = np.stack([_labels(case) for case in found])
    return arrays


def _mask(case: PreparedCase) -> NDArray[np.bool_]:
    """(1, D, H, W), everywhere true for a case without a mask."""
    shape = case.image.shape[1:]
    return np.ones((1, *shape), dtype=np.bool_) if case.mask is None else case.mask[None]


def _labels(case: PreparedCase) -> NDArray[Any]:
    """(1, D, H, W), everywhere 0 for a case without labels."""
    if case.labels is None:
        return np.zeros((1, *case.image.shape[1:]), dtype=np.uint8)
    # Torch computes with no other unsigned type.
    kind = np.uint8 if case.labels.dtype == np.uint8 else np.int32
    return np.asarray(case.labels[None], dtype=kind)


def _landmarks(fixed: PreparedCase, moving: PreparedCase) -> LandmarkArrays | None:
    found = corresponding_landmarks(fixed, moving)
    if found is None:
        return None
    at_fixed, at_moving = (points.astype(np.float32) for points in found)
    return LandmarkArrays(
        at_fixed, at_moving, fixed.geometry.spacing_mm, moving.geometry.spacing_mm
    )
