"""Does the optimisation of a displacement field after the network help? Measured after training.

A few validation pairs with labels or landmarks are registered from their original images as
prediction would do it, once without the refinement and once with it. It helps if the mean Dice
(without label maps: the mean landmark error) gets better and the mean non-diffeomorphic volume no
larger.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from autoreg.errors import AutoregError, DataError
from autoreg.evaluation.exported_field import exported_field
from autoreg.evaluation.landmarks import tre_mm
from autoreg.evaluation.overlap import dice, mean_over_labels, present_labels
from autoreg.failures import FAILURES, reason_of
from autoreg.field_plan import FieldPlan, suited
from autoreg.geometry.resampling import resample_volume
from autoreg.geometry.transforms import Composite
from autoreg.geometry.volume import Volume
from autoreg.io.cases import Case, Pair, RawDataset
from autoreg.io.dataset import is_dataset, landmarks_mm, pair_landmarks, read_dataset
from autoreg.io.images import read_image, read_on_grid
from autoreg.io.records import save_record
from autoreg.registration.field_from_network import register_from
from autoreg.registration.prepare import prepare
from autoreg.registration.register import register
from autoreg.registration.start import ImagePair
from autoreg.training.model_folder import LoadedModel, load_network
from autoreg.training.refinement_record import (
    REFINEMENT_FILE,
    REFINEMENT_FORMAT,
    REFINEMENT_METHOD,
    Measure,
    RefinedPair,
    RefinementRecord,
    Scores,
)
from autoreg.training.splits import FoldPairs

logger = logging.getLogger(__name__)

# Instance optimisation takes minutes a pair on a CPU.
MOST_PAIRS = 4
_MORE_MEMORY = "train with --no-refinement-check, or --device cpu"


def decide_refinement(
    model: Path, fold: FoldPairs, raw: Path | None, device: torch.device
) -> RefinementRecord | None:
    """Measure whether a trained fold's predictions gain from refinement, and write it down.

    Whatever goes wrong is told in one line and leaves the question open; the training is finished
    and does not depend on it.

    Args:
        model: Model folder.
        fold: Its trained fold.
        raw: Folder of the raw data set; None: it is not known.
        device: Where to compute.

    Returns:
        The content of refinement.json; None if it stays open.
    """
    logger.info(
        "the training is complete; now for whether refinement helps (may be interrupted and made "
        "up for with --continue)"
    )
    folder = model / f"fold_{fold.fold}"
    try:
        record = _measured(load_network(model, fold.fold, device=device), fold, raw, device)
    except FAILURES as error:
        reason = reason_of(error, "the check of the refinement", _MORE_MEMORY)
        logger.info("refinement: not decided, hence off: %s", reason)
        return None
    save_record(record, folder / REFINEMENT_FILE)
    logger.info("refinement: %s: %s", "on" if record.helps else "off", record.reason)
    return record


def _measured(
    model: LoadedModel, fold: FoldPairs, raw: Path | None, device: torch.device
) -> RefinementRecord:
    refine = model.plan.instance_optimisation.refine
    if refine is None:
        raise AutoregError("the plan has no instance_optimisation.refine")
    if raw is None or not is_dataset(raw):
        raise DataError(
            f"{raw}: is no raw data set, and original images are needed; name the folder of raw "
            "data with --raw"
        )
    dataset = read_dataset(raw)
    measure, pairs = scored_pairs(dataset, fold.validation)
    results = []
    for pair in pairs:
        result = _Pair(dataset.case(pair.fixed), dataset.case(pair.moving), model, device)
        results.append(result.compared(refine.field))
    network = _mean([r.network for r in results])
    refined = _mean([r.refined for r in results])
    helps, reason = judged(measure, network, refined)
    where = f"{len(pairs)} validation pairs" + ("" if fold.held_out else ", none held out")
    return RefinementRecord(
        REFINEMENT_FORMAT,
        helps,
        f"{reason} ({where})",
        measure,
        fold.held_out,
        model.description,
        network,
        refined,
        refine.field,
        tuple(results),
        REFINEMENT_METHOD,
    )


def scored_pairs(dataset: RawDataset, pairs: Sequence[Pair]) -> tuple[Measure, tuple[Pair, ...]]:
    """The pairs to measure with: labelled ones, else those with landmarks, spread over the list.

    Raises:
        DataError: if there is none.
    """
    measure, found = measurable_pairs(dataset, pairs)
    if measure is None:
        raise DataError("no validation pair has label maps or landmarks")
    places = np.linspace(0, len(found) - 1, min(MOST_PAIRS, len(found))).round().astype(int)
    return measure, tuple(found[i] for i in places)


def measurable_pairs(
    dataset: RawDataset, pairs: Sequence[Pair]
) -> tuple[Measure | None, tuple[Pair, ...]]:
    """The pairs whose accuracy can be measured, and by what: labelled ones, else with landmarks.

    Returns:
        The measure and the pairs; None and all pairs where nothing tells their accuracy.
    """
    labelled, marked = [], []
    for pair in pairs:
        fixed, moving = dataset.case(pair.fixed), dataset.case(pair.moving)
        if fixed.labels is not None and moving.labels is not None:
            labelled.append(pair)
        if pair_landmarks(fixed, moving) is not None:
            marked.append(pair)
    if labelled:
        return "dice", tuple(labelled)
    return ("tre_mm", tuple(marked)) if marked else (None, tuple(pairs))


def judged(measure: Measure, network: Scores, refined: Scores) -> tuple[bool, str]:
    """Whether refinement helps, and why.

    Raises:
        DataError: if the measure has no value.
    """
    before, after = getattr(network, measure), getattr(refined, measure)
    if before is None or after is None:
        raise DataError("no structure is in both images of any validation pair")
    better = after > before if measure == "dice" else after < before
    folds = refined.ndv_percent > network.ndv_percent
    name = "Dice" if measure == "dice" else "TRE"
    unit = "" if measure == "dice" else " mm"
    return better and not folds, (
        f"mean {name} {before:.4g} -> {after:.4g}{unit}, NDV {network.ndv_percent:.3g} -> "
        f"{refined.ndv_percent:.3g} %"
    )


def _mean(scores: Sequence[Scores]) -> Scores:
    def mean(name: str) -> float | None:
        values = [v for v in (getattr(s, name) for s in scores) if v is not None]
        return sum(values) / len(values) if values else None

    return Scores(mean("dice"), mean("tre_mm"), mean("ndv_percent") or 0.0)


@dataclass(frozen=True, eq=False)
class _Pair:
    """Two cases, to be registered from their original images."""

    fixed: Case
    moving: Case
    model: LoadedModel
    device: torch.device

    def compared(self, field: FieldPlan) -> RefinedPair:
        start = time.perf_counter()
        images = [read_image(case.images, "intensity") for case in (self.fixed, self.moving)]
        masks = [_mask(case, image) for case, image in zip(self._cases, images, strict=True)]
        plan, network = self.model.plan, self.model.network
        prepared = [
            prepare(image, plan, case.modalities, mask, self.device)
            for case, image, mask in zip(self._cases, images, masks, strict=True)
        ]
        transform = register(network, plan, prepared[0], prepared[1]).transform
        registered = time.perf_counter()
        pair = ImagePair.of(images[0], images[1], masks[0], masks[1])
        field = suited(field, self.fixed.modalities, self.moving.modalities)
        found = register_from(transform, pair, field, self.device)
        return RefinedPair(
            self.fixed.name,
            self.moving.name,
            self._scores(transform, images[0], images[1]),
            self._scores(found.field.transform, images[0], images[1]),
            registered - start,
            found.seconds,
        )

    @property
    def _cases(self) -> tuple[Case, Case]:
        return self.fixed, self.moving

    def _scores(self, transform: Composite, fixed: Volume, moving: Volume) -> Scores:
        written = exported_field(transform, fixed.geometry)
        return Scores(
            self._dice(written.transform, fixed, moving),
            self._tre_mm(written.transform),
            100 * written.volume.fraction,
        )

    def _dice(self, transform: Composite, fixed: Volume, moving: Volume) -> float | None:
        if self.fixed.labels is None or self.moving.labels is None:
            return None
        there = read_on_grid([self.fixed.labels], "label", fixed.geometry).single
        other = read_on_grid([self.moving.labels], "label", moving.geometry)
        warped = resample_volume(other, transform, fixed.geometry).single
        labels = tuple(self.model.plan.labels.values()) or present_labels(there)
        value = mean_over_labels(dice(there, warped, labels, moving=other.single))
        return None if np.isnan(value) else value

    def _tre_mm(self, transform: Composite) -> float | None:
        files = pair_landmarks(self.fixed, self.moving)
        if files is None:
            return None
        fixed_mm, moving_mm = (landmarks_mm(c, f) for c, f in zip(self._cases, files, strict=True))
        return float(np.mean(tre_mm(transform.map_points(fixed_mm), moving_mm)))


def _mask(case: Case, image: Volume) -> Volume | None:
    return None if case.mask is None else read_on_grid([case.mask], "mask", image.geometry)
