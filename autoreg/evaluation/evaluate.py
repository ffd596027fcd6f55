"""Evaluate a folder of predictions, several pairs at a time."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

from autoreg.evaluation.case import PairImages, evaluate_case, load_images
from autoreg.evaluation.predictions import find_cases, read_prediction
from autoreg.evaluation.scores import CaseScores, Failure, Summary
from autoreg.evaluation.summary import summarise
from autoreg.failures import FAILURES, reason_of
from autoreg.parallel import worker_pool

Outcome = CaseScores | Failure

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
    folders = find_cases(predictions)
    workers = min(workers, len(folders))
    outcomes: dict[str, Outcome] = {}
    job = EvaluationJob(device, figures)
    for outcome in tqdm(_outcomes(folders, job, workers), "evaluating", len(folders), unit="pair"):
        outcomes[outcome.case] = outcome
    ordered = [outcomes[folder.name] for folder in folders]
    return summarise(
        str(predictions.absolute()),
        [outcome for outcome in ordered if isinstance(outcome, CaseScores)],
        [outcome for outcome in ordered if isinstance(outcome, Failure)],
    )


def evaluate_folder(folder: Path, job: EvaluationJob) -> Outcome:
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


def _outcomes(folders: Sequence[Path], job: EvaluationJob, workers: int) -> Iterator[Outcome]:
    if workers <= 1:
        yield from (evaluate_folder(folder, job) for folder in folders)
        return
    with worker_pool(workers) as pool:
        running = {pool.submit(evaluate_folder, folder, job): folder for folder in folders}
        for future in as_completed(running):
            yield _outcome(future, running[future])


def _outcome(future: "Future[Outcome]", folder: Path) -> Outcome:
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
