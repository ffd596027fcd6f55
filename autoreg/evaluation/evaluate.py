"""Evaluate a folder of predictions, several pairs at a time."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from tqdm import tqdm

from autoreg.errors import DataError, UsageError
from autoreg.evaluation.case import PairImages, evaluate_case, load_images
from autoreg.evaluation.predictions import find_cases, read_prediction
from autoreg.evaluation.protocols import PROTOCOLS, ProtocolName
from autoreg.evaluation.referee_case import score_case
from autoreg.evaluation.referee_files import files_of, fits, with_ground_truth
from autoreg.evaluation.referee_scores import RefereeCase, RefereeSummary
from autoreg.evaluation.referee_summary import referee_summary
from autoreg.evaluation.scores import CaseScores, Failure, Summary
from autoreg.evaluation.summary import summarise
from autoreg.failures import FAILURES, reason_of
from autoreg.parallel import worker_pool

Scores = TypeVar("Scores", CaseScores, RefereeCase)

_MORE_MEMORY = "use fewer --workers, or --device cpu"


@dataclass(frozen=True)
class EvaluationJob:
    """What to do with every pair.

    Attributes:
        device: Where torch computes.
        figures: Folder for pictures, or None for no pictures.
    """

    device: torch.device
    figures: Path | None


def evaluate_predictions(
    predictions: Path, device: torch.device, figures: Path | None = None, workers: int = 1
) -> Summary:
    """Evaluate all pairs of an output folder of autoreg_predict.

    A pair that cannot be evaluated becomes a `Failure` and doesn't stop the others.

    Args:
        predictions: The folder.
        device: Where to compute what torch computes.
        figures: Folder for one picture per pair, or None.
        workers: Pairs at a time, each in its own process.

    Raises:
        UsageError: if the folder holds no predictions.
    """
    work = partial(evaluate_folder, job=EvaluationJob(device, figures))
    return summarise(str(predictions.absolute()), *_all(predictions, work, workers))


@dataclass(frozen=True)
class RefereeJob:
    """By which rules every pair is scored.

    Attributes:
        protocol: Whose rules.
        device: Where torch computes.
        ground_truth: Folder of labels, masks and landmarks in the challenges' layout; None: those
            that the predictions name.
        labels: In place of the protocol's list of labels.
        masked: Whether SDlogJ is taken inside the fixed image's mask; None: as the task's referee.
    """

    protocol: ProtocolName
    device: torch.device
    ground_truth: Path | None = None
    labels: tuple[int, ...] | None = None
    masked: bool | None = None


def evaluate_by_protocol(predictions: Path, job: RefereeJob, workers: int = 1) -> RefereeSummary:
    """Evaluate all pairs of an output folder of autoreg_predict as a challenge's referee does.

    A pair that cannot be evaluated becomes a `Failure` and doesn't stop the others.

    Args:
        predictions: The folder.
        job: The rules.
        workers: Pairs at a time, each in its own process.

    Raises:
        UsageError: if the folder holds no predictions, or the ground truth no file of any of them.
    """
    if job.ground_truth is not None:
        _require_fitting(predictions, job.ground_truth)
    cases, failures = _all(predictions, partial(score_folder, job=job), workers)
    protocol = PROTOCOLS[job.protocol]
    return referee_summary(str(predictions.absolute()), protocol, job.labels, cases, failures)


def _require_fitting(predictions: Path, ground_truth: Path) -> None:
    """Refuse a ground truth of other images than the predictions'."""
    images: list[str] = []
    for folder in find_cases(predictions):
        try:
            files = files_of(read_prediction(folder))
        except DataError:
            continue  # becomes a failure when it is scored
        if fits(files, ground_truth):
            return
        images += [files.fixed.name, files.moving.name]
    if images:
        raise UsageError(
            f"--ground-truth {ground_truth}: holds no file of any predicted pair; expected files "
            f"named like the images, such as {images[0]} or {images[1]}, in its folders labels*, "
            "masks*, landmarks* or keypoints*"
        )


def score_folder(folder: Path, job: RefereeJob) -> RefereeCase | Failure:
    """Score the pair in one folder by a referee's rules; what goes wrong becomes a `Failure`."""
    try:
        files = files_of(read_prediction(folder))
        if job.ground_truth is not None:
            files = with_ground_truth(files, job.ground_truth)
        protocol = PROTOCOLS[job.protocol]
        return score_case(files, protocol, job.labels, job.device, masked=job.masked)
    except FAILURES as error:
        return Failure(folder.name, reason_of(error, str(folder), _MORE_MEMORY))


def evaluate_folder(folder: Path, job: EvaluationJob) -> CaseScores | Failure:
    """Evaluate the pair in one folder.

    What goes wrong there becomes a `Failure`; when only the picture does, the scores are kept
    with a note.
    """
    try:
        pair = read_prediction(folder)
        images = load_images(pair)
        scores = evaluate_case(pair, images, job.device)
    except FAILURES as error:
        return Failure(folder.name, reason_of(error, str(folder), _MORE_MEMORY))
    if job.figures is None:
        return scores
    try:
        _draw(images, job.figures / f"{folder.name}.png")
    except FAILURES as error:
        note = f"no picture: {reason_of(error, str(folder), _MORE_MEMORY)}"
        return replace(scores, notes=(*scores.notes, note), picture_failed=True)
    return scores


def _draw(images: PairImages, path: Path) -> None:
    # pyplot takes a second to import
    from autoreg.evaluation.figures import pair_figure

    path.unlink(missing_ok=True)  # of an earlier evaluation
    pair_figure(
        images.fixed, images.initial, images.warped, images.displacement_mm, path, path.stem
    )


def _all(
    predictions: Path, work: Callable[[Path], Scores | Failure], workers: int
) -> tuple[list[Scores], list[Failure]]:
    """Do some work on every pair of a folder; scores and failures in the order of the pairs."""
    folders = find_cases(predictions)
    outcomes: dict[str, Scores | Failure] = {}
    running = _outcomes(folders, work, min(workers, len(folders)))
    for outcome in tqdm(running, "evaluating", len(folders), unit="pair"):
        outcomes[outcome.case] = outcome
    ordered = [outcomes[folder.name] for folder in folders]
    scores = [outcome for outcome in ordered if not isinstance(outcome, Failure)]
    return scores, [outcome for outcome in ordered if isinstance(outcome, Failure)]


def _outcomes(
    folders: Sequence[Path], work: Callable[[Path], Scores | Failure], workers: int
) -> Iterator[Scores | Failure]:
    if workers <= 1:
        yield from (work(folder) for folder in folders)
        return
    with worker_pool(workers) as pool:
        running = {pool.submit(work, folder): folder for folder in folders}
        for future in as_completed(running):
            yield _outcome(future, running[future])


def _outcome(future: "Future[Scores | Failure]", folder: Path) -> Scores | Failure:
    try:
        return future.result()
    except BrokenProcessPool:
        return Failure(
            folder.name,
            "a worker process died, most likely for want of memory; use fewer --workers",
        )
    except Exception as error:
        error.add_note(f"while evaluating {folder}")
        raise
