"""The records of a raw data set: Case, Pair and RawDataset."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from autoreg.errors import DataError, did_you_mean

Pairing = Literal["inter_subject", "intra_subject", "atlas"]
PAIRINGS: tuple[Pairing, ...] = ("inter_subject", "intra_subject", "atlas")

LandmarkFrame = Literal["lps_mm", "voxels"]


def nearest_case(name: str, cases: Collection[str]) -> str:
    """A hint for a name that is no case's: the closest one, or how many there are."""
    hint = did_you_mean(name, cases)
    return hint if hint.startswith("did you mean") else f"there are {len(cases)} cases"


@dataclass(frozen=True)
class Case:
    """One image (of one or more channels) and what belongs to it.

    Attributes:
        name: Unique in its data set.
        images: One file per channel.
        modalities: Of each channel, as the data set names them.
        labels: Label map, if there is one.
        mask: Mask of the region that counts, if there is one.
        landmarks: Landmark csv, if there is one.
        landmark_frame: "lps_mm": header x,y,z and world points in LPS millimetres; "voxels": no
            header and voxel indices of the case's image, as Learn2Reg publishes them.
        other_landmarks: Further landmark files of the same case in other folders. Learn2Reg has
            them where one scan takes part in several pairs; see `dataset.pair_landmarks`.
    """

    name: str
    images: tuple[Path, ...]
    modalities: tuple[str, ...]
    labels: Path | None = None
    mask: Path | None = None
    landmarks: Path | None = None
    landmark_frame: LandmarkFrame = "lps_mm"
    other_landmarks: tuple[Path, ...] = ()

    @property
    def landmark_files(self) -> tuple[Path, ...]:
        """Every landmark file of the case, the preferred one first."""
        return () if self.landmarks is None else (self.landmarks, *self.other_landmarks)

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file of the case."""
        single = [path for path in (self.labels, self.mask) if path is not None]
        return (*self.images, *single, *self.landmark_files)


@dataclass(frozen=True, order=True)
class Pair:
    """Two cases by name; the moving image is brought onto the fixed one."""

    fixed: str
    moving: str


@dataclass(frozen=True)
class Scan:
    """What a layout's reader finds in the files of a raw data set.

    Attributes:
        pairing: How pairs arise.
        labels: Name to value of the structures (never 0); empty if dataset.json lists none.
        training: Cases for training and for validation while training.
        test: Cases for prediction.
        training_pairs: The pairs to train with; None: any ordered pair of `pool`.
        validation_pairs: The pairs to validate with; None: the splits decide.
        test_pairs: The pairs to predict.
        fixed_modalities: Modality of each channel of fixed images.
        moving_modalities: The same of moving images.
    """

    pairing: Pairing
    labels: dict[str, int]
    training: tuple[Case, ...]
    test: tuple[Case, ...]
    training_pairs: tuple[Pair, ...] | None
    validation_pairs: tuple[Pair, ...] | None
    test_pairs: tuple[Pair, ...]
    fixed_modalities: tuple[str, ...]
    moving_modalities: tuple[str, ...]


@dataclass(frozen=True)
class RawDataset(Scan):
    """A raw data set as its files describe it; no image has been opened.

    Attributes:
        name: The folder's name, e.g. "Dataset001_Brains", which is unique among raw data sets;
            dataset.json's `name` need not be.
        folder: Where it lies.
        layout: How it was read.
        digest: SHA-256 over names, sizes and times of all files and dataset.json's content.
    """

    name: str
    folder: Path
    layout: Literal["native", "learn2reg"]
    digest: str

    @cached_property
    def _by_name(self) -> dict[str, Case]:
        return {case.name: case for case in (*self.training, *self.test)}

    def case(self, name: str) -> Case:
        """The case of that name.

        Raises:
            DataError: if there is none.
        """
        if name not in self._by_name:
            raise DataError(f'{self.folder}: no case "{name}"; {nearest_case(name, self._by_name)}')
        return self._by_name[name]

    @property
    def pool(self) -> tuple[str, ...]:
        """Names of the cases from which training pairs are drawn when none are listed.

        Cases that validation pairs name are left out, so that validation stays honest.
        """
        held_out = {n for pair in self.validation_pairs or () for n in (pair.fixed, pair.moving)}
        return tuple(case.name for case in self.training if case.name not in held_out)

    @property
    def training_pair_count(self) -> int:
        """Number of ordered pairs that training may draw."""
        if self.training_pairs is not None:
            return len(self.training_pairs)
        return len(self.pool) * (len(self.pool) - 1)
