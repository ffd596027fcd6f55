"""Predicting many pairs: one after the other, each complete on disk before the next begins."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm

from autoreg.errors import UsageError
from autoreg.failures import FAILURES, reason_of
from autoreg.geometry.volume import Volume
from autoreg.inference.export import (
    begin_case,
    clear_case,
    export_pair,
    mark_failed,
    mark_finished,
    outside_note,
    read_carried,
    trace_text,
)
from autoreg.inference.pairs import find_pairs
from autoreg.inference.pairs_file import PairFiles
from autoreg.inference.placement import modality_notes, placement_notes
from autoreg.inference.predictor import Prediction, Predictor
from autoreg.inference.refinement import (
    chosen_refinement,
    obeyed_plan,
    refinement_of_pair,
    refinement_record,
)
from autoreg.inference.request import PredictRequest, Report
from autoreg.inference.result import (
    field_warnings,
    inputs_record,
    is_complete,
    loss_record,
    loss_warnings,
    optimisation_record,
    request_digest,
    versions,
)
from autoreg.io.atomic import require_writable
from autoreg.io.images import read_image, read_on_grid
from autoreg.io.records import save_record
from autoreg.io.result import (
    RESULT_FILE,
    RESULT_FORMAT,
    ModelRecord,
    Result,
    SecondsRecord,
)
from autoreg.plan import InstanceOptimisationPlan
from autoreg.registration.instance_optimisation import TraceStep
from autoreg.training.model_folder import find_checkpoint, trained_folds

logger = logging.getLogger(__name__)

_MORE_MEMORY = "use --device cpu, --io none, --refine off, or plan for a smaller budget"


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
    if request.parts < 1:
        raise UsageError(f"--num-parts {request.parts}: expected 1 or more")
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
    decided = chosen_refinement(request.refine, plan, lambda: predictor.refinement)
    if request.refine != "auto" or io.refine is not None:
        logger.info("refinement: %s: %s", "off" if decided.field is None else "on", decided.reason)
    predictor = Predictor(predictor.network, obeyed_plan(plan, decided), device, decided)
    require_writable(request.output)
    _save_context(request, checkpoint, predictor)
    worker = _Worker(request, predictor, checkpoint.absolute())
    outcomes: dict[str, list[str]] = {"predicted": [], "skipped": [], "failed": []}
    for number, pair in enumerate(pairs, 1):
        outcome = worker.run(pair)
        outcomes[outcome.kind].append(pair.case)
        text = (number, len(pairs), pair.case, outcome.message)
        logger.log(outcome.level, "[%d/%d] %s: %s", *text)
    return Report(**{key: tuple(cases) for key, cases in outcomes.items()})


def _save_context(request: PredictRequest, checkpoint: Path, predictor: Predictor) -> None:
    """Plan, arguments and versions, beside the results. Every part writes the same."""
    if trained_folds(request.output):
        raise UsageError(
            f"-o {request.output}: holds a trained model, whose plan.json it would lose"
        )
    save_record(predictor.plan, request.output / "plan.json")
    arguments = {
        "command": "autoreg_predict",
        "input": str(request.source.absolute()),
        "output": str(request.output.absolute()),
        "model": str(request.model.absolute()),
        "checkpoint": str(checkpoint.absolute()),
        "split": request.split,
        "instance_optimisation": vars(request.optimisation),
        "refine": request.refine,
        "fixed_modalities": request.fixed_modalities,
        "moving_modalities": request.moving_modalities,
        "parts": request.parts,
        "device": str(predictor.device),
        "versions": versions(),
    }
    save_record(arguments, request.output / "arguments.json")


class _Outcome(NamedTuple):
    """What came of a pair: "predicted", "skipped" or "failed", a message and how loud it is."""

    kind: str
    message: str
    level: int


@dataclass(frozen=True)
class _Worker:
    """Predicts single pairs of one request."""

    request: PredictRequest
    predictor: Predictor
    checkpoint: Path

    def run(self, pair: PairFiles) -> _Outcome:
        """Predict a pair unless it is complete."""
        folder = self.request.output / pair.case
        try:
            pair = replace(
                pair,
                fixed_modalities=self.request.fixed_modalities or pair.fixed_modalities,
                moving_modalities=self.request.moving_modalities or pair.moving_modalities,
            )
            digest = self._digest(pair)
            if self.request.skip_complete and is_complete(folder, digest):
                mark_finished(folder)
                return _Outcome("skipped", "complete already", logging.INFO)
            begin_case(folder, pair)
            result = self._predict(pair, folder, digest)
            save_record(result, folder / RESULT_FILE)
            mark_finished(folder)
        except FAILURES as error:
            reason = reason_of(error, f"case {pair.case}", _MORE_MEMORY)
            mark_failed(folder, reason)
            kept = "; its earlier results are kept" if (folder / RESULT_FILE).exists() else ""
            message = f"failed: {reason} ({_files_text(pair)}){kept}"
            return _Outcome("failed", message, logging.ERROR)
        level = logging.WARNING if result.warnings else logging.INFO
        return _Outcome("predicted", _result_text(result), level)

    def _digest(self, pair: PairFiles) -> str:
        return request_digest(pair, [self.checkpoint], replace(self.predictor.plan, reasons={}))

    def _predict(self, pair: PairFiles, folder: Path, digest: str) -> Result:
        start = time.perf_counter()
        fixed = read_image(pair.fixed, "intensity")
        moving = read_image(pair.moving, "intensity")
        masks = _mask(pair.fixed_mask, fixed), _mask(pair.moving_mask, moving)
        carried = read_carried(pair, fixed.geometry, moving.geometry)
        read = time.perf_counter()
        prediction = self._register(pair, (fixed, moving), masks)
        registered = time.perf_counter()
        registration, plan = prediction.registration, self.predictor.plan
        refinement, doubts = refinement_record(prediction, masks, self.request.refine, plan)
        trace = None if registration.trace is None else trace_text(registration.trace)
        clear_case(folder)  # what may fail comes before it
        field, files = export_pair(prediction.pair, pair, carried, folder, trace=trace)
        end = time.perf_counter()
        before, after = (
            loss_record(registration.loss_before),
            loss_record(registration.loss_after),
        )
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
            loss_before=before,
            loss_after=after,
            optimisation=optimisation_record(registration.trace, plan.instance_optimisation),
            field=field,
            outside_value=prediction.outside,
            label_names=plan.labels,
            files=files,
            warnings=(
                *placement_notes(fixed, moving, plan),
                *self._modality_notes(pair, fixed, moving),
                *field_warnings(field, fixed.geometry, outside_note(carried, pair, fixed.geometry)),
                *loss_warnings(before, after),
                *doubts,
            ),
            field_optimisation=refinement,
        )

    def _modality_notes(self, pair: PairFiles, fixed: Volume, moving: Volume) -> tuple[str, ...]:
        plan = self.predictor.plan
        of_fixed = pair.fixed_modalities or plan.fixed_modalities
        of_moving = pair.moving_modalities or plan.moving_modalities
        return (
            *modality_notes("fixed", fixed, of_fixed, plan),
            *modality_notes("moving", moving, of_moving, plan),
        )

    def _register(
        self,
        pair: PairFiles,
        images: tuple[Volume, Volume],
        masks: tuple[Volume | None, Volume | None],
    ) -> Prediction:
        with _progress_bar(self.predictor.plan.instance_optimisation, pair.case) as on_step:
            return self.predictor.predict_pair(
                *images,
                fixed_mask=masks[0],
                moving_mask=masks[1],
                fixed_modalities=pair.fixed_modalities,
                moving_modalities=pair.moving_modalities,
                refine=refinement_of_pair(
                    self.predictor.plan, pair.fixed_modalities, pair.moving_modalities
                ),
                names=(_joined(pair.fixed), _joined(pair.moving)),
                on_step=on_step,
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
    return None if path is None else read_on_grid([path], "mask", image.geometry)


def _result_text(result: Result) -> str:
    parts = [f"{result.seconds:.1f} s"]
    optimisation = result.optimisation
    if result.loss_before and result.loss_after and optimisation:
        parts.append(
            f"{optimisation.steps} steps, loss {result.loss_before.total:.4f} -> "
            f"{result.loss_after.total:.4f}"
        )
    parts.append(f"mean displacement {result.field.mean_mm:.2f} mm")
    return ", ".join([*parts, *(f"warning: {text}" for text in result.warnings)])


def _files_text(pair: PairFiles) -> str:
    return f"fixed {_joined(pair.fixed)}, moving {_joined(pair.moving)}"


def _joined(paths: Sequence[Path]) -> str:
    return ";".join(map(str, paths))
