"""Folds: which cases a training sees and which it is validated on.

`<preprocessed>/<data set>/splits.json` is written by the first training and may be edited. Without
listed validation pairs the cases are dealt into five folds, or into as many as there are cases if
those are fewer (leave one out); two cases cannot be split. Scans of one subject stay together
(`pairing` intra_subject), and an atlas is in every fold.
"""

import itertools
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

import numpy as np

from autoreg.errors import DataError, UsageError, did_you_mean
from autoreg.io.cases import Pair
from autoreg.io.records import load_record, save_record
from autoreg.planning.dataset_pairs import DatasetPairs
from autoreg.training_plan import TrainingPlan

logger = logging.getLogger(__name__)

SPLITS_FORMAT = 1
SPLITS_NAME = "splits.json"
FOLDS = 5
ALL = "all"

MOST_VALIDATION_PAIRS = 20
FEWEST_VALIDATION_PAIRS = 2
# A validation then costs less than a tenth of an epoch: it needs no gradients.
VALIDATION_SHARE = 5


class OrderedPairs(Sequence[Pair]):
    """All ordered pairs of different cases, without storing n (n - 1) of them.

    Args:
        cases: Names.
    """

    def __init__(self, cases: Sequence[str]) -> None:
        self._cases = tuple(cases)

    @property
    def cases(self) -> tuple[str, ...]:
        """The names."""
        return self._cases

    def __len__(self) -> int:
        return len(self._cases) * (len(self._cases) - 1)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Pair]: ...
    def __getitem__(self, index: int | slice) -> Pair | Sequence[Pair]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        fixed, other = divmod(index, len(self._cases) - 1)
        return Pair(self._cases[fixed], self._cases[other + (other >= fixed)])


@dataclass(frozen=True)
class Fold:
    """One line of splits.json.

    Attributes:
        training: Cases to train with.
        validation: Cases held out.
    """

    training: tuple[str, ...]
    validation: tuple[str, ...]


@dataclass(frozen=True)
class Splits:
    """Content of splits.json."""

    format: int
    folds: tuple[Fold, ...]


@dataclass(frozen=True)
class FoldPairs:
    """The pairs of one fold.

    Attributes:
        fold: "0", "1", ... or "all".
        training: Pairs that may be drawn.
        validation: Pairs to validate with.
        held_out: Whether training never sees the validation pairs.
    """

    fold: str
    training: Sequence[Pair]
    validation: Sequence[Pair]
    held_out: bool


@dataclass(frozen=True)
class FoldNames:
    """What a fold trains and validates with, to see later whether it still is the same.

    Attributes:
        training: Cases that are paired freely, or pairs as "moving to fixed".
        validation: Pairs likewise.
    """

    training: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()

    @classmethod
    def of(cls, fold: FoldPairs) -> "FoldNames":
        """The names of a fold."""

        def listed(pairs: Sequence[Pair]) -> tuple[str, ...]:
            return tuple(f"{pair.moving} to {pair.fixed}" for pair in pairs)

        drawn = fold.training
        cases = drawn.cases if isinstance(drawn, OrderedPairs) else listed(drawn)
        return cls(cases, listed(fold.validation))

    def differences(self, now: "FoldNames") -> list[str]:
        """In what another fold differs from this one, in words."""
        found = []
        for what in ("training", "validation"):
            before, after = getattr(self, what), getattr(now, what)
            if before == after:
                continue
            was, will = set(before), set(after)
            gone = [name for name in before if name not in will]
            new = [name for name in after if name not in was]
            for names, verb in ((gone, "no longer has"), (new, "now has")):
                if names:
                    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                    found.append(f"{what} {verb} {', '.join(names[:3])}{more}")
            if not gone and not new:
                found.append(f"{what} has the same in another order or number")
        return found


def fold_pairs(
    pairs: DatasetPairs,
    folder: Path,
    fold: str | None,
    training: TrainingPlan,
    most: int | None = None,
) -> FoldPairs:
    """Decide the training and validation pairs of a fold.

    With listed validation pairs those serve every fold, and nothing is split. Otherwise a fold is
    validated on the pairs of held-out cases among themselves or, where there are none (a single
    held-out case, an atlas), on those between held-out and training cases. Fold "all" trains with
    everything and is validated on training pairs, which shows that it works and measures nothing.

    Args:
        pairs: Of the data set.
        folder: `<preprocessed>/<data set>`, home of splits.json.
        fold: A number or "all"; None: 0, or "all" where the cases are too few to be split.
        training: Its seed decides the splits, and which of the validation pairs are used where
            there are more than 20 or than a fifth of its pairs per epoch.
        most: In place of that limit.

    Returns:
        The pairs.

    Raises:
        DataError: if splits.json is unusable or no training pair is left.
        UsageError: if there is no such fold.
    """
    allowed = allowed_pairs(pairs)
    if not allowed:
        raise DataError(
            f"{folder}: no training pair; found the training cases "
            f"{', '.join(pairs.pool) or 'none'}, expected two of them or listed training pairs"
        )
    seed, limit = training.seed, _validation_limit(training) if most is None else most
    if pairs.validation_pairs:
        if fold not in (None, "0", ALL):
            raise UsageError(
                f"--fold {fold}: the data set lists its validation pairs, so that there is one "
                "fold only; use --fold 0"
            )
        return FoldPairs(fold or "0", allowed, _some(pairs.validation_pairs, limit, seed), True)
    if fold == ALL:
        return FoldPairs(ALL, allowed, _some(allowed, limit, seed), False)
    splits = _load_or_make(pairs, folder, seed)
    if fold is None and not splits.folds:
        logger.info("too few cases to hold any out: training with all of them (--fold all)")
        return FoldPairs(ALL, allowed, _some(allowed, limit, seed), False)
    one = _one_fold(pairs, splits, fold or "0", folder / SPLITS_NAME)
    return replace(one, validation=_some(one.validation, limit, seed))


def allowed_pairs(pairs: DatasetPairs) -> Sequence[Pair]:
    """Every ordered pair that training may draw."""
    return OrderedPairs(pairs.pool) if pairs.training_pairs is None else pairs.training_pairs


def make_splits(pairs: DatasetPairs, seed: int) -> Splits:
    """Deal the cases into folds.

    Args:
        pairs: Of the data set.
        seed: Of the shuffling.

    Returns:
        At most five folds whose held-out cases are disjoint; none where leaving out any group of
        cases would leave no training pair.
    """
    groups = _groups(pairs)
    cases = sorted(_cases(pairs))
    order = np.random.default_rng(seed).permutation(len(groups))
    folds = []
    for number in range(min(FOLDS, len(groups))):
        held = {case for i in order[number::FOLDS] for case in groups[i]}
        fold = Fold(tuple(c for c in cases if c not in held), tuple(sorted(held)))
        if not _pairs_within(pairs, fold.training):
            return Splits(SPLITS_FORMAT, ())
        folds.append(fold)
    return Splits(SPLITS_FORMAT, tuple(folds))


def _groups(pairs: DatasetPairs) -> list[tuple[str, ...]]:
    """The cases that must stay together; an atlas is in no group."""
    listed = pairs.training_pairs
    if listed is None or pairs.pairing == "inter_subject":
        return [(case,) for case in sorted(_cases(pairs))]
    if pairs.pairing == "atlas":
        atlas = set.intersection(*({pair.fixed, pair.moving} for pair in listed))
        return [(case,) for case in sorted(_cases(pairs) - atlas)]
    group_of = {case: {case} for case in _cases(pairs)}
    for pair in listed:
        joined = group_of[pair.fixed] | group_of[pair.moving]
        for case in joined:
            group_of[case] = joined
    return sorted({tuple(sorted(group)) for group in group_of.values()})


def _cases(pairs: DatasetPairs) -> set[str]:
    if pairs.training_pairs is None:
        return set(pairs.pool)
    return {name for pair in pairs.training_pairs for name in (pair.fixed, pair.moving)}


def _pairs_within(pairs: DatasetPairs, cases: Iterable[str]) -> Sequence[Pair]:
    """The allowed pairs of which both cases are among `cases`."""
    chosen = set(cases)
    if pairs.training_pairs is None:
        return OrderedPairs([case for case in pairs.pool if case in chosen])
    return [p for p in pairs.training_pairs if p.fixed in chosen and p.moving in chosen]


def _pairs_across(pairs: DatasetPairs, fold: Fold) -> Sequence[Pair]:
    """The allowed pairs of a held-out case with a training case."""
    training, held = set(fold.training), set(fold.validation)
    if pairs.training_pairs is None:
        both = itertools.product(fold.validation, fold.training)
        return [pair for a, b in both for pair in (Pair(a, b), Pair(b, a))]
    return [
        p
        for p in pairs.training_pairs
        if (p.fixed in held and p.moving in training) or (p.moving in held and p.fixed in training)
    ]


def _load_or_make(pairs: DatasetPairs, folder: Path, seed: int) -> Splits:
    path = folder / SPLITS_NAME
    if not path.exists():
        splits = make_splits(pairs, seed)
        save_record(splits, path)
        return splits
    splits = load_record(Splits, path, DataError)
    if splits.format != SPLITS_FORMAT:
        raise DataError(f"{path}: format {splits.format} is not {SPLITS_FORMAT}; remove the file")
    if not splits.folds and make_splits(pairs, seed).folds:
        raise DataError(f"{path}: has no folds; remove the file to have it written anew")
    known = _cases(pairs)
    for number, fold in enumerate(splits.folds):
        for case in (*fold.training, *fold.validation):
            if case not in known:
                raise DataError(
                    f'{path}: fold {number} names the case "{case}", which is no training case; '
                    f"{did_you_mean(case, known)}; or remove the file to have it written anew"
                )
        twice = set(fold.training) & set(fold.validation)
        if twice:
            raise DataError(
                f"{path}: fold {number} both trains with and holds out {', '.join(sorted(twice))}; "
                "remove them from one of the two lists"
            )
        left = known - {*fold.training, *fold.validation}
        if left:
            logger.info("%s: fold %d leaves out %d cases", path, number, len(left))
    return splits


def _one_fold(pairs: DatasetPairs, splits: Splits, fold: str, path: Path) -> FoldPairs:
    if not fold.isdigit() or int(fold) >= len(splits.folds):
        numbers = [str(number) for number in range(len(splits.folds))]
        raise UsageError(f"--fold {fold}: {path} has the folds {', '.join([*numbers, ALL])}")
    one = splits.folds[int(fold)]
    training = _pairs_within(pairs, one.training)
    validation = _pairs_within(pairs, one.validation) or _pairs_across(pairs, one)
    if not training or not validation:
        raise DataError(
            f"{path}: fold {fold} has {len(training)} training and {len(validation)} validation "
            "pairs; expected at least one of each. Move cases between its lists"
        )
    return FoldPairs(str(int(fold)), training, validation, True)


def _validation_limit(training: TrainingPlan) -> int:
    share = training.pairs_per_epoch // VALIDATION_SHARE
    return max(FEWEST_VALIDATION_PAIRS, min(MOST_VALIDATION_PAIRS, share))


def _some(pairs: Sequence[Pair], limit: int, seed: int) -> Sequence[Pair]:
    """At most `limit` of the pairs, chosen by the seed, in their order."""
    count = min(len(pairs), limit)
    chosen = np.random.default_rng(seed).choice(len(pairs), size=count, replace=False)
    return tuple(pairs[int(i)] for i in np.sort(chosen))
