"""Predicting many pairs: one after the other, each complete on disk before the next begins."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from autoreg.errors import UsageError
from autoreg.inference.batch_pair import PairWorker
from autoreg.inference.pair_hooks import PairHooks
from autoreg.inference.pairs import find_pairs
from autoreg.inference.pairs_file import PairFiles
from autoreg.inference.predictor import Predictor
from autoreg.inference.refinement import (
    chosen_refinement,
    obeyed_plan,
)
from autoreg.inference.request import PredictRequest, Report
from autoreg.inference.result import versions
from autoreg.io.atomic import require_writable
from autoreg.io.records import save_record
from autoreg.training.model_folder import find_checkpoint, trained_folds

logger = logging.getLogger(__name__)


def predict_all(
    request: PredictRequest,
    device: torch.device,
    hooks: PairHooks | None = None,
    pairs: Sequence[PairFiles] | None = None,
) -> Report:
    """Predict every pair of a request; a failing pair does not keep the others from running.

    Args:
        request: What to predict.
        device: Where to compute.
        hooks: What else is to be done.
        pairs: In place of those of the request's source.

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
    found = find_pairs(request.source, request.split) if pairs is None else pairs
    pairs = found[request.part :: request.parts]
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
    hooks = PairHooks() if hooks is None else hooks
    worker = PairWorker(request, predictor, checkpoint.absolute(), hooks.is_complete)
    outcomes: dict[str, list[str]] = {"predicted": [], "skipped": [], "failed": []}
    for number, pair in enumerate(pairs, 1):
        outcome = worker.run(pair)
        outcomes[outcome.kind].append(pair.case)
        text = (number, len(pairs), pair.case, outcome.message)
        logger.log(outcome.level, "[%d/%d] %s: %s", *text)
        if outcome.kind != "failed":
            hooks.after(request.output / pair.case, fresh=outcome.kind == "predicted")
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
