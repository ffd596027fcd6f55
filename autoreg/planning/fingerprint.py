"""The fingerprint of a raw data set: what the planner must know about its images and pairs."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autoreg.errors import DataError
from autoreg.fingerprint import FINGERPRINT_FORMAT, DisplacementSource, Fingerprint, PairFingerprint
from autoreg.geometry.grid import FloatArray
from autoreg.io.dataset import Case, Pair, RawDataset, landmarks_mm, pair_landmarks
from autoreg.parallel import choose_workers, map_cases
from autoreg.planning.case_fingerprint import CaseResult, CaseTask, measure_case
from autoreg.planning.coarse import displacement_quantiles_mm, misalignment, tissue_displacement_mm
from autoreg.planning.sizes import largest_image_voxels

# Pairs that are looked at more closely; enough for a median and an upper value.
SAMPLED_PAIRS = 12
_SEED = 0
# Measured: 19.3 bytes per voxel of an image of one channel, label map or not.
_BYTES_PER_VOXEL = 20
_BYTES_PER_CHANNEL_VOXEL = 4
# Fewer structures or points tell little about the displacement of the rest.
_MINIMUM_POINTS = 4
_CT_NAMES = frozenset(("CT", "CBCT", "FBCT", "LDCT", "NCCT", "CECT", "CTA", "4DCT"))


def is_ct(modality: str) -> bool:
    """Whether a modality's name means intensities in Hounsfield units.

    Example:
        >>> is_ct("ct"), is_ct("FBCT"), is_ct("T1w"), is_ct("SPECT")
        (True, True, False, False)
    """
    return modality.strip().upper() in _CT_NAMES


def compute_fingerprint(
    dataset: RawDataset, workers: int | None = None, progress: bool = False
) -> Fingerprint:
    """Measure every training case and a sample of the training pairs.

    Args:
        dataset: The raw data set, verified.
        workers: Number of processes; None: from processors, free memory and image size.
        progress: Whether to show bars.

    Returns:
        The fingerprint.

    Raises:
        DataError: if a case cannot be read; it names the case.
    """
    pairs = sample_pairs(dataset, SAMPLED_PAIRS, _SEED)
    found = _measure_cases(dataset, pairs, workers, progress)
    values = sorted({value for result in found.values() for value in result.label_values})
    return Fingerprint(
        format=FINGERPRINT_FORMAT,
        dataset=dataset.name,
        digest=dataset.digest,
        pairing=dataset.pairing,
        training_cases=len(dataset.training),
        training_pairs=dataset.training_pair_count,
        fixed_modalities=dataset.fixed_modalities,
        moving_modalities=dataset.moving_modalities,
        labels=dataset.labels or {f"label_{value}": value for value in values},
        cases=tuple(found[case.name].record for case in dataset.training),
        pairs=_measure_pairs(dataset, pairs, found, progress),
    )


def sample_pairs(dataset: RawDataset, count: int, seed: int) -> tuple[Pair, ...]:
    """At most `count` different training pairs, the same ones for the same seed; sorted."""
    draw = random.Random(seed)
    if dataset.training_pairs is not None:
        listed = dataset.training_pairs
        return tuple(sorted(draw.sample(listed, min(count, len(listed)))))
    names, pairs = dataset.pool, []
    for number in draw.sample(
        range(dataset.training_pair_count), min(count, dataset.training_pair_count)
    ):
        fixed, moving = divmod(number, len(names) - 1)
        pairs.append(Pair(names[fixed], names[moving + (moving >= fixed)]))
    return tuple(sorted(pairs))


def _measure_cases(
    dataset: RawDataset, pairs: Sequence[Pair], workers: int | None, progress: bool
) -> dict[str, CaseResult]:
    """Every training case, by name; those of `pairs` more closely."""
    sampled = {name for pair in pairs for name in (pair.fixed, pair.moving)}
    tasks = [
        (case.name, CaseTask(case, case.name in sampled, not dataset.labels))
        for case in dataset.training
    ]
    channels = len(dataset.fixed_modalities)
    per_voxel = _BYTES_PER_VOXEL + _BYTES_PER_CHANNEL_VOXEL * channels
    needed = per_voxel * largest_image_voxels(dataset.training)
    count = choose_workers(len(tasks), needed, workers)
    return dict(map_cases(measure_case, tasks, workers=count, title="cases", progress=progress))


@dataclass(frozen=True, eq=False)
class _PairTask:
    fixed: Case
    moving: Case
    fixed_result: CaseResult
    moving_result: CaseResult


def _measure_pairs(
    dataset: RawDataset, pairs: Sequence[Pair], found: Mapping[str, CaseResult], progress: bool
) -> tuple[PairFingerprint, ...]:
    """The pairs, in their order, from what was found of their cases."""
    tasks = [
        (
            f"{pair.fixed} and {pair.moving}",
            _PairTask(
                dataset.case(pair.fixed),
                dataset.case(pair.moving),
                found[pair.fixed],
                found[pair.moving],
            ),
        )
        for pair in pairs
    ]
    # In this process: the filters use every processor by themselves, and the pairs are few.
    measured = dict(map_cases(_measure_pair, tasks, workers=1, title="pairs", progress=progress))
    return tuple(measured[name] for name, _ in tasks)


def _measure_pair(task: _PairTask) -> PairFingerprint:
    fixed, moving = task.fixed_result.coarse, task.moving_result.coarse
    if fixed is None or moving is None:
        raise DataError(f"{task.fixed.name}, {task.moving.name}: not measured as a sampled pair")
    place = misalignment(fixed, moving)
    offset = moving.centre_mm - fixed.centre_mm
    source: DisplacementSource = "landmarks"
    displacements = _landmark_displacements(task)
    if displacements is None:
        source, displacements = "labels", _label_displacements(task)
    if displacements is None:
        same = task.fixed.modalities[0] == task.moving.modalities[0]
        source, displacements = "demons", tissue_displacement_mm(fixed, moving, same)
    centred, world = displacement_quantiles_mm(displacements, offset)
    return PairFingerprint(
        fixed=task.fixed.name,
        moving=task.moving.name,
        centre_distance_mm=place.centre_distance_mm,
        box_overlap=place.box_overlap,
        world_correlation=place.world_correlation,
        centred_correlation=place.centred_correlation,
        displacement_mm=centred,
        world_displacement_mm=world,
        displacement_source=source,
    )


def _landmark_displacements(task: _PairTask) -> FloatArray | None:
    files = pair_landmarks(task.fixed, task.moving)
    if files is None:
        return None
    fixed, moving = (
        landmarks_mm(case, file)
        for case, file in zip((task.fixed, task.moving), files, strict=True)
    )
    if len(fixed) != len(moving):
        raise DataError(f"{files[0]}: {len(fixed)} points, but {len(moving)} in {files[1]}")
    return moving - fixed if len(fixed) >= _MINIMUM_POINTS else None


def _label_displacements(task: _PairTask) -> FloatArray | None:
    fixed, moving = task.fixed_result.centroids_mm, task.moving_result.centroids_mm
    common = sorted(fixed.keys() & moving.keys())
    if len(common) < _MINIMUM_POINTS:
        return None
    return np.stack([moving[value] - fixed[value] for value in common])
