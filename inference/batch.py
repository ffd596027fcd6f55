"""Predicting many pairs: one after the other, each complete on disk before the next begins."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

from autoreg.errors import AutoregError, UsageError
from autoreg.geometry.volume import Volume
from autoreg.inference.export import clear_case, export_pair, read_on_grid
from autoreg.inference.pairs import find_pairs
from autoreg.inference.pairs_file import PairFiles
from autoreg.inference.predictor import Prediction, Predictor
from autoreg.inference.request import PredictRequest, Report
from autoreg.inference.result import (
    RESULT_FILE,
    RESULT_FORMAT,
    FieldRecord,
    ModelRecord,
    OptimisationRecord,
    Result,
    SecondsRecord,
    inputs_record,
    is_complete,
    request_digest,
    versions,
)
from autoreg.io.images import read_image
from autoreg.io.records import save_record
from autoreg.plan import InstanceOptimisationPlan
from autoreg.registration.instance_optimisation import TraceStep
from autoreg.registration.register import Registration
from autoreg.training.checkpoint import find_checkpoint

logger = logging.getLogger(__name__)

# What one pair may raise without ending the others: bad input, and what torch, ITK and the
# file system raise when memory, disk or a library fails.
_FAILURES = (AutoregError, RuntimeError, OSError, MemoryError, ValueError, ArithmeticError)


def predict_all(request: PredictRequest, device: torch.device) -> Report:
    """Predict every pair of a request; a failing pair does not keep the others from running.

    Args:
        request: What to predict.
        device: Where to compute.

    Returns:
        Which cases were predicted, skipped and failed.

    Raises:
        AutoregError: if nothing can be predicted at all: no pairs, no model, bad flags.
    """
    if not 0 <= request.part < request.parts:
        raise UsageError(
            f"--part-id {request.part} of --num-parts {request.parts}: expected 0 to "
            f"{request.parts - 1}"
        )
    pairs = find_pairs(request.source, request.split)[request.part :: request.parts]
    checkpoint = find_checkpoint(request.model, request.fold, request.checkpoint)
    predictor = Predictor.from_model(
        request.model, fold=request.fold, checkpoint=request.checkpoint, device=device
    )
    predictor.known_modalities(request.fixed_modalities)
    predictor.known_modalities(request.moving_modalities)
    io = request.optimisation.applied(predictor.plan.instance_optimisation)
    plan = replace(predictor.plan, instance_optimisation=io)
    predictor = Predictor(predictor.network, plan, device)
    _save_context(request, checkpoint, predictor)
    worker = _Worker(request, predictor, checkpoint.absolute())
    outcomes: dict[str, list[str]] = {"predicted": [], "skipped": [], "failed": []}
    for number, pair in enumerate(pairs, 1):
        outcome, message = worker.run(pair)
        outcomes[outcome].append(pair.case)
        level = logging.ERROR if outcome == "failed" else logging.INFO
        logger.log(level, "[%d/%d] %s: %s", number, len(pairs), pair.case, message)
    return Report(**{key: tuple(cases) for key, cases in outcomes.items()})


def _save_context(request: PredictRequest, checkpoint: Path, predictor: Predictor) -> None:
    """Plan, arguments and versions, beside the results. Every part writes the same."""
    save_record(predictor.plan, request.output / "plan.json")
    arguments = {
        "command": "autoreg_predict",
        "input": str(request.source.absolute()),
        "output": str(request.output.absolute()),
        "model": str(request.model.absolute()),
        "checkpoint": str(checkpoint.absolute()),
        "split": request.split,
        "instance_optimisation": vars(request.optimisation),
        "fixed_modalities": request.fixed_modalities,
        "moving_modalities": request.moving_modalities,
        "parts": request.parts,
        "versions": versions(),
    }
    save_record(arguments, request.output / "arguments.json")


@dataclass(frozen=True)
class _Worker:
    """Predicts single pairs of one request."""

    request: PredictRequest
    predictor: Predictor
    checkpoint: Path

    def run(self, pair: PairFiles) -> tuple[str, str]:
        """Predict a pair unless it is complete; give the outcome and a message."""
        folder = self.request.output / pair.case
        try:
            pair = replace(
                pair,
                fixed_modalities=self.request.fixed_modalities or pair.fixed_modalities,
                moving_modalities=self.request.moving_modalities or pair.moving_modalities,
            )
            digest = request_digest(pair, self.checkpoint, self.predictor.plan)
            if self.request.skip_complete and is_complete(folder, digest):
                return "skipped", "complete already"
            clear_case(folder)
            result = self._predict(pair, folder, digest)
            save_record(result, folder / RESULT_FILE)
        except _FAILURES as error:
            if not isinstance(error, AutoregError | MemoryError | torch.OutOfMemoryError):
                logger.error("unexpected error in case %s", pair.case, exc_info=True)
            return "failed", _failure_text(error, pair)
        return "predicted", _result_text(result)

    def _predict(self, pair: PairFiles, folder: Path, digest: str) -> Result:
        start = time.perf_counter()
        fixed = read_image(pair.fixed, "intensity")
        moving = read_image(pair.moving, "intensity")
        fixed_mask, moving_mask = _mask(pair.fixed_mask, fixed), _mask(pair.moving_mask, moving)
        read = time.perf_counter()
        with _progress_bar(self.predictor.plan.instance_optimisation, pair.case) as on_step:
            prediction = self.predictor.predict_pair(
                fixed,
                moving,
                fixed_mask=fixed_mask,
                moving_mask=moving_mask,
                fixed_modalities=pair.fixed_modalities,
                moving_modalities=pair.moving_modalities,
                on_step=on_step,
            )
        registered = time.perf_counter()
        field, files = export_pair(prediction, pair, folder)
        end = time.perf_counter()
        registration = prediction.registration
        return Result(
            format=RESULT_FORMAT,
            case=pair.case,
            request=digest,
            inputs=inputs_record(pair),
            model=ModelRecord(str(self.request.model.absolute()), str(self.checkpoint)),
            device=str(self.predictor.device),
            versions=versions(),
            seconds=end - start,
            stages=SecondsRecord(read - start, registered - read, end - registered),
            loss_before=registration.loss_before,
            loss_after=registration.loss_after,
            optimisation=_optimisation_record(registration, self.predictor),
            field=field,
            outside_value=prediction.outside,
            label_names=self.predictor.plan.labels,
            files=files,
            warnings=_warnings(prediction, field),
        )


@contextmanager
def _progress_bar(
    plan: InstanceOptimisationPlan, case: str
) -> Iterator[Callable[[TraceStep], None]]:
    """A bar over the steps of one pair, on a terminal only; gives what is to hear of each step."""
    steps = 0 if plan.mode == "none" else plan.steps
    # disable=None is tqdm's way to stay silent where stderr is a file or a pipe.
    with tqdm(total=steps, desc=case, leave=False, disable=None if steps else True) as bar:

        def on_step(step: TraceStep) -> None:
            bar.set_postfix_str(f"loss {step.loss.total:.4f}", refresh=False)
            bar.update()

        yield on_step


def _mask(path: Path | None, image: Volume) -> Volume | None:
    return None if path is None else read_on_grid(path, "mask", image.geometry)


def _optimisation_record(registration: Registration, predictor: Predictor) -> OptimisationRecord:
    mode, trace = predictor.plan.instance_optimisation.mode, registration.trace
    if trace is None:
        return OptimisationRecord(mode, 0, 0, None, None)
    cosines = [step.cosine for step in trace.steps if step.cosine is not None]
    mean = sum(cosines) / len(cosines) if cosines else None
    return OptimisationRecord(mode, len(trace.steps), trace.conflicts, mean, trace.stopped)


def _warnings(prediction: Prediction, field: FieldRecord) -> tuple[str, ...]:
    found = []
    registration = prediction.registration
    if field.folded_percent > 0:
        found.append(
            f"the transform folds in {field.folded_percent:.3g} % of the network grid's cells"
        )
    if field.inverse_missing_percent > 0:
        found.append(
            f"no inverse exists at {field.inverse_missing_percent:.3g} % of the moving image's "
            "voxels, where the transform folds"
        )
    before, after = registration.loss_before, registration.loss_after
    if before is not None and after is not None and after.total > before.total:
        found.append(
            f"instance optimisation raised the loss from {before.total:.4g} to {after.total:.4g}"
        )
    return tuple(found)


def _result_text(result: Result) -> str:
    parts = [f"{result.seconds:.1f} s"]
    if result.loss_before is not None and result.loss_after is not None:
        parts.append(
            f"{result.optimisation.steps} steps, loss {result.loss_before.total:.4f} -> "
            f"{result.loss_after.total:.4f}"
        )
    parts.append(f"mean displacement {result.field.mean_mm:.2f} mm")
    return ", ".join([*parts, *(f"warning: {text}" for text in result.warnings)])


def _failure_text(error: Exception, pair: PairFiles) -> str:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        text = "out of memory; use --device cpu, --io none, or plan for a smaller budget"
    elif isinstance(error, AutoregError):
        text = str(error)
    else:
        text = f"{type(error).__name__}: {error}"
    files = f"fixed {';'.join(map(str, pair.fixed))}, moving {';'.join(map(str, pair.moving))}"
    return f"failed: {text} ({files})"
