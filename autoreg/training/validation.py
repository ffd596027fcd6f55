"""Validation on the pairs of a fold, without augmentation: losses, accuracy, folding.

Everything is measured on the plan's grid, where training works: Dice of labels warped by nearest
neighbour, landmark distances in millimetres of the moving image, local correlation in the fixed
image's foreground, non-diffeomorphic volume of the displacement.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from autoreg.errors import AutoregError
from autoreg.evaluation.appearance import local_correlation
from autoreg.evaluation.fields import ndv
from autoreg.evaluation.landmarks import tre_mm
from autoreg.evaluation.overlap import dice, mean_over_labels, present_labels
from autoreg.failures import FAILURES
from autoreg.geometry.foreground import foreground_mask
from autoreg.io.cases import Pair
from autoreg.networks.base import RegistrationNetwork, eval_mode
from autoreg.numerics.warp import sample_at_index, warp
from autoreg.planning.prepared import PreparedCase, corresponding_landmarks, load_prepared
from autoreg.registration.objective import Objective
from autoreg.registration.repeated_warnings import warned_once
from autoreg.training.processes import ALONE, Processes
from autoreg.training.progress import Measures, ValidationSummary

Criterion = Literal["dice", "tre_mm", "total"]


@dataclass(frozen=True)
class PairValidation(Measures):
    """One validation pair.

    Attributes:
        fixed: Name of the case.
        moving: Name of the case.
    """

    fixed: str = field(kw_only=True)
    moving: str = field(kw_only=True)


@dataclass(frozen=True)
class Validation:
    """One validation.

    Attributes:
        summary: Means.
        pairs: Each pair.
    """

    summary: ValidationSummary
    pairs: tuple[PairValidation, ...]


class Validator:
    """Validates a network on always the same pairs, with always the same random points.

    Args:
        folder: Of the prepared cases.
        pairs: To validate with.
        objective: What training minimises.
        labels: Values of the structures; empty: those that a pair's fixed label map has.
        seed: Of the regulariser's points.
        device: Where to compute.
        masks: Whether the similarity counts inside a case's mask alone, where it has one.
        processes: Of the training; each computes its share of the pairs.
        on_pair: Called after each pair, on every process; what it raises ends the validation.
    """

    def __init__(
        self,
        folder: Path,
        pairs: Sequence[Pair],
        objective: Objective,
        labels: Sequence[int],
        seed: int,
        device: torch.device,
        *,
        masks: bool,
        processes: Processes = ALONE,
        on_pair: Callable[[], None] | None = None,
    ) -> None:
        self._folder = folder
        self._pairs = tuple(pairs)
        self._objective = objective
        self._labels = tuple(labels)
        self._seed = seed
        self._device = device
        self._masks = masks
        self._processes = processes
        self._on_pair = on_pair

    @warned_once()
    def __call__(self, network: RegistrationNetwork) -> Validation:
        """Validate; the network is in the same mode afterwards.

        Returns:
            The same on every process.

        Raises:
            AutoregError: if a case cannot be loaded or its loss is not a number, on any process.
        """
        mine = self._pairs[self._processes.share(len(self._pairs))]
        results: list[PairValidation] = []
        failure: Exception | None = None
        try:
            with eval_mode(network), torch.no_grad():
                for pair in mine:
                    results.append(self._one(network, pair))
                    if self._on_pair is not None:
                        self._on_pair()
        except FAILURES as error:  # the other processes wait for an answer, also for this one
            failure = error
        return self._gathered(results, failure)

    def _gathered(self, results: list[PairValidation], failure: Exception | None) -> Validation:
        """The validation of all processes, or the error of any of them, on every process."""
        why = None if failure is None else str(failure) or type(failure).__name__
        answers = self._processes.gather((results, why))
        if failure is not None:
            raise failure
        for rank, (_, why) in enumerate(answers):
            if why is not None:
                raise AutoregError(f"process {rank}: {why}")
        pairs = tuple(result for answer, _ in answers for result in answer)
        return Validation(summarise(pairs), pairs)

    def _one(self, network: RegistrationNetwork, pair: Pair) -> PairValidation:
        fixed, moving = (load_prepared(self._folder, name) for name in (pair.fixed, pair.moving))
        fixed_image, moving_image = (_image(case, self._device) for case in (fixed, moving))
        maps = network(moving_image, fixed_image)
        generator = torch.Generator().manual_seed(self._seed)
        masks = (self._mask(case) for case in (moving, fixed))
        loss = self._objective.bind(moving_image, fixed_image, *masks)(maps, generator).values()
        if not math.isfinite(loss.total):
            raise AutoregError(
                f"validation: the loss of {pair.moving} to {pair.fixed} is {loss.total}, expected "
                "a number; check these two images, or train with a lower --learning-rate"
            )
        u_vox = maps.fixed_to_moving.displacement_vox(fixed.geometry.shape)
        return PairValidation(
            loss.similarity,
            loss.regularity,
            loss.total,
            self._dice(fixed, moving, u_vox),
            _tre(fixed, moving, u_vox),
            100 * ndv(u_vox[0]).fraction,
            _lncc(fixed, fixed_image, warp(moving_image, u_vox, "zeros")),
            fixed=pair.fixed,
            moving=pair.moving,
        )

    def _mask(self, case: PreparedCase) -> Tensor | None:
        if case.mask is None or not self._masks:
            return None
        return torch.from_numpy(np.array(case.mask))[None, None].to(self._device)

    def _dice(self, fixed: PreparedCase, moving: PreparedCase, u_vox: Tensor) -> float | None:
        if fixed.labels is None or moving.labels is None:
            return None
        fixed_map, moving_map = (torch.from_numpy(np.array(c.labels)) for c in (fixed, moving))
        warped = warp(moving_map[None, None].to(u_vox.device), u_vox, "zeros", "nearest")[0, 0]
        labels = self._labels or present_labels(fixed_map)
        value = mean_over_labels(
            dice(fixed_map.to(u_vox.device), warped, labels, moving=moving_map)
        )
        return None if math.isnan(value) else value


def summarise(results: Sequence[PairValidation]) -> ValidationSummary:
    """Means over pairs, each over those that have the measure."""

    def mean(name: str) -> float | None:
        values = [getattr(result, name) for result in results]
        known = [value for value in values if value is not None and not math.isnan(value)]
        return sum(known) / len(known) if known else None

    def always(name: str) -> float:
        value = mean(name)
        return math.nan if value is None else value

    return ValidationSummary(
        similarity=always("similarity"),
        regularity=always("regularity"),
        total=always("total"),
        dice=mean("dice"),
        tre_mm=mean("tre_mm"),
        ndv_percent=always("ndv_percent"),
        lncc=mean("lncc"),
        pairs=len(results),
    )


def criterion(summary: ValidationSummary) -> Criterion:
    """By what the best checkpoint is chosen: Dice, else landmark error, else the loss."""
    if summary.dice is not None:
        return "dice"
    return "total" if summary.tre_mm is None else "tre_mm"


def score(summary: ValidationSummary) -> float:
    """The criterion's value; lower is better."""
    name = criterion(summary)
    if name == "dice" and summary.dice is not None:
        return 1 - summary.dice
    value: float = getattr(summary, name)
    return value


def _image(case: PreparedCase, device: torch.device) -> Tensor:
    return torch.from_numpy(np.array(case.image))[None].to(device)


def _lncc(fixed: PreparedCase, fixed_image: Tensor, warped: Tensor) -> float | None:
    """As autoreg_evaluate measures it, in the fixed image's mask or foreground."""
    mask = foreground_mask(fixed.image[0]) if fixed.mask is None else np.array(fixed.mask)
    (value,) = local_correlation(fixed_image[0], [warped[0]], mask)
    return None if math.isnan(value) else value


def _tre(fixed: PreparedCase, moving: PreparedCase, u_vox: Tensor) -> float | None:
    landmarks = corresponding_landmarks(fixed, moving)
    if landmarks is None:
        return None
    at_fixed, at_moving = landmarks
    points = torch.from_numpy(at_fixed.T.astype(np.float32))[None, :, :, None, None]
    moved = sample_at_index(u_vox, points.to(u_vox.device))[0, :, :, 0, 0].T.cpu().numpy()
    mapped_mm, moving_mm = (moving.geometry.to_world(p) for p in (at_fixed + moved, at_moving))
    return float(np.mean(tre_mm(mapped_mm, moving_mm)))
