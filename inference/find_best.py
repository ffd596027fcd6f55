"""Every configuration, fold and setting registered and scored, the folds merged."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from autoreg.command import roomy_heap
from autoreg.errors import AutoregError, UsageError
from autoreg.evaluation.report import counted
from autoreg.inference.batch_without_model import BatchRequest, register_all
from autoreg.inference.compare_io import compare_io, prepare
from autoreg.inference.compare_io_run import PairRun, ScoredPair
from autoreg.inference.compare_io_scores import make_scorer
from autoreg.inference.compare_io_settings import CompareRequest, Setting
from autoreg.inference.compare_io_table import value_of
from autoreg.inference.find_best_candidates import (
    WITHOUT_NETWORK,
    Candidate,
    SettingChoice,
    settings_of_model,
)
from autoreg.inference.find_best_choice import Choice, Entry, Values, choose
from autoreg.inference.find_best_contest import Contest, TrainedConfiguration, trained_fold
from autoreg.inference.find_best_pairs import ContestFold
from autoreg.training.model_folder import PLAN_FILE, Which

logger = logging.getLogger(__name__)

PREDICTIONS = "predictions"
_MEASURES: tuple[tuple[str, Literal["higher", "lower"]], ...] = (
    ("dice", "higher"), ("tre_mean_mm", "lower"), ("lncc", "higher"),
)  # fmt: skip


@dataclass(frozen=True)
class FindBestRequest:
    """What to do with a contest.

    Attributes:
        contest: Models, folds, pairs.
        output: Folder of reports and results.
        choice: Which settings.
        checkpoint: Of every fold; None: final, else best, else latest.
        without_network: Whether registration without a network takes part.
        keep: Whether images and displacements are kept after scoring.
        device: Where to compute.
    """

    contest: Contest
    output: Path
    choice: SettingChoice
    checkpoint: Which | None
    without_network: bool
    keep: bool
    device: torch.device

    def settings(self, model: TrainedConfiguration) -> tuple[Setting, ...]:
        """Of one configuration."""
        return settings_of_model(model, self.contest, self.choice)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """In the order of preference between equals."""
        return (
            *(Candidate(m.name, s) for m in self.contest.models for s in self.settings(m)),
            *((WITHOUT_NETWORK,) if self.without_network else ()),
        )


@dataclass(frozen=True)
class Found:
    """What came of it.

    Attributes:
        request: What was compared.
        scored: By the candidate's name, then by the pair's.
        failures: By the candidate's name, then by the pair's, with the reason.
        measure: By what it was decided: "dice", "tre_mean_mm" or "lncc".
        choice: The outcome.
        entries: What it was decided by, in the order of `request.candidates`.
    """

    request: FindBestRequest
    scored: dict[str, dict[str, ScoredPair]]
    failures: dict[str, dict[str, str]]
    measure: str
    choice: Choice
    entries: tuple[Entry, ...]

    @property
    def cases(self) -> tuple[str, ...]:
        """The pairs that some candidate succeeded on."""
        return _cases(self.request.contest, self.scored)

    def values(self, candidate: Candidate, key: str, *, initial: bool = False) -> Values:
        """One metric over `cases`; None where it does not apply, or the candidate failed."""
        return _values(self.scored[candidate.name], self.cases, key, initial=initial)

    def seconds(self, candidate: Candidate) -> list[float]:
        """Seconds of each pair's registration, without reading and writing."""
        return _seconds(self.scored[candidate.name])


def prepare_all(request: FindBestRequest) -> None:
    """Look whether everything can be done, before hours of work; nothing is written.

    Raises:
        AutoregError: if not.
    """
    if (request.output / PLAN_FILE).exists():
        raise UsageError(
            f"{request.output}: is a trained model, and the place of this command's reports; "
            "rename the configuration"
        )
    for model in request.contest.models:
        for fold in request.contest.folds:
            prepare(_compare_request(request, model, fold), request.device, fold.pairs)


def find_best(request: FindBestRequest) -> Found:
    """Register and score every pair by every candidate, and choose.

    What is registered and scored already, by the same files, weights and options, is kept. The
    output folder has to be locked meanwhile.

    Raises:
        AutoregError: if no candidate succeeded on all pairs that any succeeded on.
    """
    contest, candidates = request.contest, request.candidates
    logger.info(
        "%s of %s, %d ways to register each: %d registrations",
        counted(len(contest.pairs), "held-out pair"), contest.dataset, len(candidates),
        len(contest.pairs) * len(candidates),
    )  # fmt: skip
    scored: dict[str, dict[str, ScoredPair]] = {c.name: {} for c in candidates}
    failures: dict[str, dict[str, str]] = {c.name: {} for c in candidates}
    for model in contest.models:
        for fold in contest.folds:
            _compare_fold(request, model, fold, scored, failures)
    if request.without_network:
        _without_network(request, scored, failures)
    return _judged(request, scored, failures)


def _compare_fold(
    request: FindBestRequest,
    model: TrainedConfiguration,
    fold: ContestFold,
    scored: dict[str, dict[str, ScoredPair]],
    failures: dict[str, dict[str, str]],
) -> None:
    logger.info("configuration %s, fold %s", model.name, fold.name)
    asked_for = _compare_request(request, model, fold)
    comparison = compare_io(prepare(asked_for, request.device, fold.pairs))
    for setting in asked_for.settings:
        scored[Candidate(model.name, setting).name] |= comparison.scored[setting.name]
    for failure in comparison.failures:
        name = Candidate(model.name, failure.setting).name
        failures[name][failure.case] = failure.reason


def _compare_request(
    request: FindBestRequest, model: TrainedConfiguration, fold: ContestFold
) -> CompareRequest:
    return CompareRequest(
        source=request.contest.raw.folder,
        output=request.output / PREDICTIONS / model.name / f"fold_{fold.name}",
        model=model.folder,
        settings=request.settings(model),
        fold=trained_fold(model, fold.name),
        checkpoint=request.checkpoint,
        skip_complete=True,
        discard_fields=not request.keep,
    )


def _without_network(
    request: FindBestRequest,
    scored: dict[str, dict[str, ScoredPair]],
    failures: dict[str, dict[str, str]],
) -> None:
    logger.info("without a network: a displacement field is optimised for each pair")
    pairs, name = request.contest.pairs, WITHOUT_NETWORK.name
    out = request.output / name
    run = PairRun(out, make_scorer("plain", None, request.device), not request.keep, len(pairs))
    asked_for = BatchRequest(request.contest.raw.folder, out, None, True, 1, 0)
    roomy_heap()  # as where autoreg_predict has no model, so that the seconds are the same
    report = register_all(asked_for, request.device, run.hooks, pairs)
    scored[name] |= run.scored
    failures[name] |= dict(run.failed(report.failed))


def _judged(
    request: FindBestRequest,
    scored: dict[str, dict[str, ScoredPair]],
    failures: dict[str, dict[str, str]],
) -> Found:
    cases = _cases(request.contest, scored)
    measure, better = _measure(scored, cases)
    entries = tuple(_entry(c, scored, cases, measure) for c in request.candidates)
    choice = choose(entries, better) if cases else None
    if choice is None:
        lines = [
            f"  {case}, {name}: {reason}"
            for name, of_pairs in failures.items()
            for case, reason in of_pairs.items()
        ]
        raise AutoregError("\n".join(["nothing can be recommended: all failed on a pair", *lines]))
    return Found(request, scored, failures, measure, choice, entries)


def _entry(
    candidate: Candidate,
    scored: dict[str, dict[str, ScoredPair]],
    cases: Sequence[str],
    measure: str,
) -> Entry:
    mine = scored[candidate.name]
    seconds = _seconds(mine)
    devices = {pair.result.device for pairs in scored.values() for pair in pairs.values()}
    return Entry(
        candidate,
        _values(mine, cases, measure),
        _values(mine, cases, "ndv_fraction"),
        sum(seconds) / len(seconds) if seconds and len(devices) == 1 else None,
        sum(case not in mine for case in cases),
    )


def _measure(
    scored: dict[str, dict[str, ScoredPair]], cases: Sequence[str]
) -> tuple[str, Literal["higher", "lower"]]:
    """Dice where any pair has labels, else landmarks, else what the images say."""
    for key, better in _MEASURES:
        for pairs in scored.values():
            if any(value is not None for value in _values(pairs, cases, key)):
                return key, better
    return _MEASURES[-1]


def _cases(contest: Contest, scored: dict[str, dict[str, ScoredPair]]) -> tuple[str, ...]:
    names = [pair.case for pair in contest.pairs]
    return tuple(case for case in names if any(case in pairs for pairs in scored.values()))


def _values(
    scored: dict[str, ScoredPair], cases: Sequence[str], key: str, *, initial: bool = False
) -> Values:
    return tuple(
        value_of(scored[case], key, initial=initial) if case in scored else None for case in cases
    )


def _seconds(scored: dict[str, ScoredPair]) -> list[float]:
    return [pair.result.stages.register for pair in scored.values()]
