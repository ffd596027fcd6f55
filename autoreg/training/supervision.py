"""What training learns from besides the images: label maps and landmarks, where a pair has them."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from torch import Tensor

from autoreg.errors import DataError
from autoreg.io.cases import Pair
from autoreg.io.records import load_record
from autoreg.losses.landmarks import landmark_distance
from autoreg.losses.soft_dice import soft_dice_loss
from autoreg.networks.base import MapPair
from autoreg.planning.prepared import PreparedRecord, array_names, record_path
from autoreg.registration.objective import evaluated
from autoreg.training.batches import LandmarkPair, PairBatch
from autoreg.training.loading import Content
from autoreg.training.splits import OrderedPairs
from autoreg.training_plan import SupervisionPlan

logger = logging.getLogger(__name__)


def supervision_loss(
    maps: MapPair, batch: PairBatch, plan: SupervisionPlan, labels: Sequence[int]
) -> Tensor | None:
    """dice_weight * soft Dice loss + landmark_weight * landmark distance, mean over the pairs.

    Both are means over the two directions. A pair without label maps or landmarks adds 0 and
    counts in the mean nevertheless, so that the loss of a batch is the mean of that of its parts,
    weighted by their pairs, however it is cut.

    Args:
        maps: Of the batch; best those of `objective.evaluated`, which are computed once.
        batch: On the maps' device.
        plan: The weights.
        labels: Structures that count; empty: all that a pair's label maps hold.

    Returns:
        Scalar; None where the plan asks for neither.
    """
    if plan.dice_weight == 0 and plan.landmark_weight == 0:
        return None
    shape, total = batch.fixed.shape[2:], batch.fixed.new_zeros(())
    maps = evaluated(maps, shape)
    for number in range(len(batch.pairs)):
        if plan.dice_weight > 0 and any(batch.has_labels[number : number + 1]):
            total = total + plan.dice_weight * _dice(maps, batch, number, labels)
        landmarks = next(iter(batch.landmarks[number : number + 1]), None)
        if plan.landmark_weight > 0 and landmarks is not None:
            total = total + plan.landmark_weight * _distance(maps, number, landmarks, shape)
    return total / len(batch.pairs)


def _dice(maps: MapPair, batch: PairBatch, number: int, labels: Sequence[int]) -> Tensor:
    if batch.fixed_labels is None or batch.moving_labels is None:
        raise DataError("a batch has pairs with label maps, but none of these")
    fixed, moving = batch.fixed_labels[number, 0], batch.moving_labels[number, 0]
    shape = fixed.shape
    forth = maps.fixed_to_moving.dense(shape)[number]
    back = maps.moving_to_fixed.dense(shape)[number]
    there = soft_dice_loss(moving, fixed, forth, labels)
    return (there + soft_dice_loss(fixed, moving, back, labels)) / 2


def _distance(maps: MapPair, number: int, landmarks: LandmarkPair, shape: Sequence[int]) -> Tensor:
    one = slice(number, number + 1)
    fixed, moving = landmarks.fixed_vox, landmarks.moving_vox
    forth, back = maps.fixed_to_moving.select(one), maps.moving_to_fixed.select(one)
    there = landmark_distance(forth, fixed, moving, landmarks.moving_spacing_mm, shape)
    return (there + landmark_distance(back, moving, fixed, landmarks.fixed_spacing_mm, shape)) / 2


def require_supervision(plan: SupervisionPlan, folder: Path, pairs: Sequence[Pair]) -> None:
    """See that what a plan wants to learn from is there, before training begins.

    One line is logged for each kind that only some of the pairs have.

    Args:
        plan: What is asked for.
        folder: Of the prepared cases.
        pairs: That may be drawn.

    Raises:
        DataError: if no pair has it at all.
    """
    content = Content.of(plan)
    if content == Content():
        return
    kinds, total = _counted_kinds(folder, pairs), len(pairs)
    for wanted, value, what, has in (
        (content.masks, f"masks is {plan.masks}".lower(), "a mask", _has_mask),
        (content.labels, f"dice_weight is {plan.dice_weight:g}", "two label maps", _has_labels),
        (
            content.landmarks,
            f"landmark_weight is {plan.landmark_weight:g}",
            "corresponding landmarks",
            _has_landmarks,
        ),
    ):
        found = sum(count for (fixed, moving), count in kinds.items() if has(fixed, moving))
        if wanted and found == 0:
            raise DataError(
                f"{folder}: training.supervision.{value}, but none of the {total} training pairs "
                f"has {what}; add them to the raw data set and prepare it again, or set the value "
                f"to {'false' if value.startswith('masks') else 0}"
            )
        if wanted and found < total:
            logger.info("supervision: %d of %d training pairs have %s", found, total, what)


@dataclass(frozen=True)
class _Kind:
    """What a case has."""

    labels: bool
    mask: bool
    landmarks: frozenset[str]

    @classmethod
    def of(cls, record: PreparedRecord) -> "_Kind":
        names = array_names(record.case)
        return cls(
            names["labels"] in record.files,
            names["mask"] in record.files,
            frozenset(record.landmarks_vox),
        )


def _has_mask(fixed: _Kind, moving: _Kind) -> bool:
    return fixed.mask or moving.mask


def _has_labels(fixed: _Kind, moving: _Kind) -> bool:
    return fixed.labels and moving.labels


def _has_landmarks(fixed: _Kind, moving: _Kind) -> bool:
    return bool(fixed.landmarks & moving.landmarks)


def _counted_kinds(folder: Path, pairs: Sequence[Pair]) -> Counter[tuple[_Kind, _Kind]]:
    """How many pairs there are of which kind of cases, (fixed, moving)."""

    def kind(case: str) -> _Kind:
        return _Kind.of(load_record(PreparedRecord, record_path(folder, case), DataError))

    if not isinstance(pairs, OrderedPairs):
        names = {name for pair in pairs for name in (pair.fixed, pair.moving)}
        kinds = {name: kind(name) for name in names}
        return Counter((kinds[pair.fixed], kinds[pair.moving]) for pair in pairs)
    # Thousands of cases make millions of pairs, but few kinds.
    cases = Counter(kind(name) for name in pairs.cases)
    return Counter({(f, m): cases[f] * (cases[m] - (f == m)) for f, m in product(cases, repeat=2)})
