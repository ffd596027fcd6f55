"""Evaluate a folder of predictions, several pairs at a time."""

import logging
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from autoreg.errors import AutoregError
from autoreg.evaluation.case import evaluate_case, load_images
from autoreg.evaluation.predictions import find_cases, read_prediction
from autoreg.evaluation.scores import CaseScores, Failure, Summary
from autoreg.evaluation.summary import summarise

logger = logging.getLogger(__name__)

Outcome = CaseScores | Failure

# What one pair may raise without ending the others: bad input, and what torch, ITK and the file
# system raise when memory, disk or a library fails.
_FAILURES = (AutoregError, RuntimeError, OSError, MemoryError, ValueError, ArithmeticError)


@dataclass(frozen=True)
class EvaluationJob:
    """What to do with every pair.

    Attributes:
        device: Where torch computes.
        figures: Folder for pictures, or None for no pictures.
        threads: CPU threads per process; None leaves torch's choice.
    """

    device: torch.device
    figures: Path | None
    threads: int | None = None


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
    job = EvaluationJob(device, figures, 1 if workers > 1 else None)
    for outcome in tqdm(_outcomes(folders, job, workers), "evaluating", len(folders), unit="pair"):
        outcomes[outcome.case] = outcome
    ordered = [outcomes[folder.name] for folder in folders]
    return summarise(
        str(predictions.absolute()),
        [outcome for outcome in ordered if isinstance(outcome, CaseScores)],
        [outcome for outcome in ordered if isinstance(outcome, Failure)],
    )


def evaluate_folder(folder: Path, job: EvaluationJob) -> Outcome:
    """Evaluate the pair in one folder; what goes wrong there becomes a `Failure`."""
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    try:
        prediction = read_prediction(folder)
        images = load_images(prediction)
        scores = evaluate_case(prediction, images, job.device)
        if job.figures is not None:
            # pyplot takes a second to import
            from autoreg.evaluation.figures import pair_figure

            path = job.figures / f"{prediction.case}.png"
            pair_figure(
                images.fixed,
                images.initial,
                images.warped,
                images.displacement_mm,
                path,
                prediction.case,
            )
    except _FAILURES as error:
        return Failure(folder.name, _reason(error, folder))
    return scores


def _reason(error: Exception, folder: Path) -> str:
    if isinstance(error, AutoregError):
        return str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "out of memory; use fewer --workers, or --device cpu"
    logger.error("unexpected error in %s", folder, exc_info=error)
    return f"{type(error).__name__}: {error}"


def _outcomes(folders: Sequence[Path], job: EvaluationJob, workers: int) -> Iterator[Outcome]:
    if workers <= 1:
        yield from (evaluate_folder(folder, job) for folder in folders)
        return
    # CUDA and OpenMP do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
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
