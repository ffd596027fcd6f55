"""Predicting many pairs where no model is trained: by optimising a displacement field for each."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from autoreg.errors import UsageError
from autoreg.failures import FAILURES, reason_of
from autoreg.inference.case_folder import mark_failed, mark_finished
from autoreg.inference.pair_hooks import PairHooks
from autoreg.inference.pairs import Split, find_pairs
from autoreg.inference.pairs_file import PairFiles
from autoreg.inference.pairwise import PairOptions
from autoreg.inference.register import RegisterRequest, register_files
from autoreg.inference.request import Report
from autoreg.io.atomic import require_writable
from autoreg.io.result import Result

logger = logging.getLogger(__name__)

_MORE_MEMORY = "use --device cpu"


@dataclass(frozen=True)
class ModelFlags:
    """Flags of autoreg_predict that mean something for a model alone; None: not given."""

    fold: str | None = None
    checkpoint: str | None = None
    io: str | None = None
    io_optimised: str | None = None
    io_steps: int | None = None
    io_projection: str | None = None
    seed: int | None = None
    refine: str | None = None
    fixed_modality: list[str] | None = None
    moving_modality: list[str] | None = None

    def refuse(self, reason: str) -> None:
        """Refuse flags that would do nothing.

        Args:
            reason: Why they would.

        Raises:
            UsageError: naming them.
        """
        given = [f"--{f.name}" for f in fields(self) if getattr(self, f.name) is not None]
        if given:
            raise UsageError(
                f"{reason}, so that {', '.join(given).replace('_', '-')} would do nothing; "
                "name a model with -m, or drop what belongs to one"
            )


@dataclass(frozen=True)
class BatchRequest:
    """What to register.

    Attributes:
        source: Folder or file of pairs.
        output: Folder for the results, one sub-folder for each pair.
        split: Of a raw data set; None: test.
        skip_complete: Whether complete results are kept.
        parts: Number of parts that the pairs are split into.
        part: Which of them, from 0.
    """

    source: Path
    output: Path
    split: Split | None
    skip_complete: bool
    parts: int
    part: int


def register_all(
    request: BatchRequest,
    device: torch.device,
    hooks: PairHooks | None = None,
    pairs: Sequence[PairFiles] | None = None,
) -> Report:
    """Register every pair with the default preset; a failing one does not keep the others.

    Args:
        request: What to register.
        device: Where to compute.
        hooks: What else is to be done.
        pairs: In place of those of the request's source.

    Raises:
        AutoregError: if nothing can be registered at all.
    """
    if request.part >= request.parts:
        raise UsageError(
            f"--part-id {request.part} of --num-parts {request.parts}: expected 0 to "
            f"{request.parts - 1}"
        )
    found = find_pairs(request.source, request.split) if pairs is None else pairs
    pairs = found[request.part :: request.parts]
    hooks = PairHooks() if hooks is None else hooks
    require_writable(request.output)
    outcomes: dict[str, list[str]] = {"predicted": [], "skipped": [], "failed": []}
    for number, pair in enumerate(pairs, 1):
        kind, message = _outcome(pair, request, device, hooks)
        outcomes[kind].append(pair.case)
        level = logging.ERROR if kind == "failed" else logging.INFO
        logger.log(level, "[%d/%d] %s: %s", number, len(pairs), pair.case, message)
        if kind != "failed":
            hooks.after(request.output / pair.case, fresh=kind == "predicted")
    return Report(**{kind: tuple(cases) for kind, cases in outcomes.items()})


def _outcome(
    pair: PairFiles, request: BatchRequest, device: torch.device, hooks: PairHooks
) -> tuple[str, str]:
    one = RegisterRequest(pair, request.output / pair.case, PairOptions(), device)
    try:
        if request.skip_complete and hooks.is_complete(one.output, one.digest):
            mark_finished(one.output)
            return "skipped", "complete already"
        return "predicted", _text(register_files(one))
    except FAILURES as error:
        reason = reason_of(error, f"case {pair.case}", _MORE_MEMORY)
        mark_failed(one.output, reason)
        return "failed", f"failed: {reason}"


def _text(result: Result) -> str:
    parts = [f"{result.seconds:.1f} s", f"mean displacement {result.field.mean_mm:.2f} mm"]
    return ", ".join([*parts, *(f"warning: {text}" for text in result.warnings)])
