"""One pair of a batch: from its files to its results, or to the reason why there are none."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from autoreg.failures import FAILURES, reason_of
from autoreg.geometry.volume import Volume
from autoreg.inference.case_folder import (
    kept_note,
    mark_failed,
    mark_finished,
    new_result,
)
from autoreg.inference.export import (
    export_pair,
    outside_note,
    read_carried,
    trace_text,
)
from autoreg.inference.pairs_file import PairFiles
from autoreg.inference.placement import modality_notes, placement_notes
from autoreg.inference.predictor import Prediction, Predictor
from autoreg.inference.refinement import (
    refinement_of_pair,
    refinement_record,
)
from autoreg.inference.register_report import alignment_record
from autoreg.inference.request import PredictRequest
from autoreg.inference.result import (
    field_warnings,
    inputs_record,
    loss_record,
    loss_warnings,
    optimisation_record,
    request_digest,
    versions,
)
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

_MORE_MEMORY = "use --device cpu, --io none, --refine off, or plan for a smaller budget"


class Outcome(NamedTuple):
    """What came of a pair: "predicted", "skipped" or "failed", a message and how loud it is."""

    kind: str
    message: str
    level: int


@dataclass(frozen=True)
class PairWorker:
    """Predicts single pairs of one request.

    Attributes:
        request: The request.
        predictor: With the plan that is obeyed.
        checkpoint: Its weights.
        is_complete: See `batch.PairHooks`.
    """

    request: PredictRequest
    predictor: Predictor
    checkpoint: Path
    is_complete: Callable[[Path, str], bool]

    def run(self, pair: PairFiles) -> Outcome:
        """Predict a pair unless it is complete."""
        folder = self.request.output / pair.case
        try:
            pair = replace(
                pair,
                fixed_modalities=self.request.fixed_modalities or pair.fixed_modalities,
                moving_modalities=self.request.moving_modalities or pair.moving_modalities,
            )
            digest = self._digest(pair)
            if self.request.skip_complete and self.is_complete(folder, digest):
                mark_finished(folder)
                return Outcome("skipped", "complete already", logging.INFO)
            with new_result(folder, pair) as new:
                result = self._predict(pair, new, digest)
                save_record(result, new / RESULT_FILE)
        except FAILURES as error:
            reason = reason_of(error, f"case {pair.case}", _MORE_MEMORY)
            mark_failed(folder, reason)
            message = f"failed: {reason} ({_files_text(pair)}){kept_note(folder)}"
            return Outcome("failed", message, logging.ERROR)
        level = logging.WARNING if result.warnings else logging.INFO
        return Outcome("predicted", _result_text(result), level)

    def _digest(self, pair: PairFiles) -> str:
        return request_digest(pair, [self.checkpoint], replace(self.predictor.plan, reasons={}))

    def _predict(self, pair: PairFiles, folder: Path, digest: str) -> Result:
        """Register, and write everything but result.json."""
        start = time.perf_counter()
        fixed = read_image(pair.fixed, "intensity")
        moving = read_image(pair.moving, "intensity")
        masks = _mask(pair.fixed_mask, fixed), _mask(pair.moving_mask, moving)
        carried = read_carried(pair, fixed.geometry, moving.geometry)
        read = time.perf_counter()
        prediction = self._register(pair, (fixed, moving), masks)
        registered = time.perf_counter()
        registration, plan = prediction.registration, self.predictor.plan
        begun = None if prediction.refinement is None else prediction.refinement.start
        refinement, doubts = refinement_record(prediction, self.request.refine, plan)
        trace = None if registration.trace is None else trace_text(registration.trace)
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
            alignment=None
            if begun is None
            else alignment_record(begun.alignment, "affine", begun.seconds),
            field_optimisation=refinement,
        )

    def _modality_notes(self, pair: PairFiles, fixed: Volume, moving: Volume) -> tuple[str, ...]:
        plan = self.predictor.plan
        known = self.predictor.known_modalities
        of_fixed = known(pair.fixed_modalities) or plan.fixed_modalities
        of_moving = known(pair.moving_modalities) or plan.moving_modalities
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
                names=(pair.joined("fixed"), pair.joined("moving")),
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
    return f"fixed {pair.joined('fixed')}, moving {pair.joined('moving')}"
