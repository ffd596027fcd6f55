"""The held-out pairs of each fold, each pair once, as files."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoreg.errors import DataError
from autoreg.inference.pairs import pair_of_cases
from autoreg.inference.pairs_file import PairFiles
from autoreg.io.cases import Pair, RawDataset
from autoreg.planning.dataset_pairs import DatasetPairs
from autoreg.training.refinement import measurable_pairs
from autoreg.training.splits import SPLITS_NAME, fold_pairs
from autoreg.training_plan import TrainingPlan

_ALL_OF_THEM = 10**9


@dataclass(frozen=True)
class ContestFold:
    """One fold with the pairs that are registered with its weights.

    Attributes:
        name: "0", "1", ...
        pairs: Their files.
    """

    name: str
    pairs: tuple[PairFiles, ...]


def held_out(
    pairs: DatasetPairs, home: Path, folds: Iterable[str], training: TrainingPlan
) -> dict[str, list[Pair]]:
    """The validation pairs of each fold; one that several folds hold out goes to one of them.

    Args:
        pairs: Of the data set.
        home: `<preprocessed>/<data set>`, where splits.json lies.
        folds: Their names.
        training: Of the plan.

    Raises:
        DataError: if splits.json is missing or unusable.
        UsageError: if there is no such fold.
    """
    if not pairs.validation_pairs and not (home / SPLITS_NAME).is_file():
        raise DataError(
            f"{home / SPLITS_NAME}: no such file; it says which cases each fold held out. Put it "
            "back, or train the folds again"
        )
    every = {
        fold: list(fold_pairs(pairs, home, fold, training, most=_ALL_OF_THEM).validation)
        for fold in folds
    }
    homes: dict[Pair, list[str]] = {}
    for fold, held in every.items():
        for pair in held:
            homes.setdefault(pair, []).append(fold)
    dealt: dict[str, list[Pair]] = {fold: [] for fold in every}
    for pair, places in homes.items():
        dealt[min(places, key=lambda fold: len(dealt[fold]))].append(pair)
    return dealt


def chosen_pairs(
    by_fold: dict[str, list[Pair]], raw: RawDataset, most: int, seed: int
) -> tuple[tuple[ContestFold, ...], int]:
    """The pairs that are registered.

    Args:
        by_fold: From `held_out`.
        raw: The original images.
        most: How many at most, shared evenly between the folds and rounded up.
        seed: Which, where there are more.

    Returns:
        The folds, each with the pairs of it that can be measured: labelled ones, without any
        those with landmarks, without these all; and how many there are over all folds.

    Raises:
        DataError: if there is none.
    """
    _, found = measurable_pairs(raw, [pair for pairs in by_fold.values() for pair in pairs])
    if not found:
        raise DataError(
            f"{raw.folder}: no validation pairs; expected held-out cases in splits.json"
        )
    measurable = set(found)
    share = -(-most // len(by_fold))
    folds = []
    for name, pairs in by_fold.items():
        usable = [pair for pair in pairs if pair in measurable]
        count = min(len(usable), share)
        chosen = np.sort(np.random.default_rng(seed).choice(len(usable), count, replace=False))
        files = [
            pair_of_cases(raw.case(usable[int(i)].fixed), raw.case(usable[int(i)].moving))
            for i in chosen
        ]
        folds.append(ContestFold(name, tuple(files)))
    return tuple(fold for fold in folds if fold.pairs), len(found)
