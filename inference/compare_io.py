"""Instance optimisation compared: every setting predicted and scored on the same pairs."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from autoreg.errors import AutoregError, UsageError
from autoreg.inference.batch import predict_all
from autoreg.inference.compare_io_run import PairRun, ScoredPair
from autoreg.inference.compare_io_scores import Scorer, make_scorer
from autoreg.inference.compare_io_settings import CompareRequest, Setting, predict_request
from autoreg.inference.pairs import find_pairs
from autoreg.inference.pairs_file import PairFiles
from autoreg.io.atomic import require_writable
from autoreg.plan import intensity_name
from autoreg.training.model_folder import find_checkpoint, load_network

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FailedPair:
    """A pair that a setting could not register, or that could not be scored.

    Attributes:
        setting: Which.
        case: Name of the pair.
        reason: Why.
    """

    setting: Setting
    case: str
    reason: str


@dataclass(frozen=True)
class Comparison:
    """What came of a comparison.

    Attributes:
        request: What was asked for.
        checkpoint: The weights.
        device: Where this run computed; results that it kept may be from another one.
        pairs: All pairs, in the order of their source.
        scored: By the name of the setting, then by the name of the pair.
        failures: What is missing in `scored`.
    """

    request: CompareRequest
    checkpoint: Path
    device: str
    pairs: tuple[PairFiles, ...]
    scored: dict[str, dict[str, ScoredPair]]
    failures: tuple[FailedPair, ...]

    @property
    def settings(self) -> tuple[Setting, ...]:
        """Those that succeeded on some pair."""
        return tuple(s for s in self.request.settings if self.scored[s.name])

    @property
    def common(self) -> tuple[str, ...]:
        """The pairs on which every setting of `settings` succeeded; none without a setting."""
        names = [setting.name for setting in self.settings]
        cases = (pair.case for pair in self.pairs) if names else ()
        return tuple(case for case in cases if all(case in self.scored[name] for name in names))


@dataclass(frozen=True)
class PreparedComparison:
    """What is compared, after everything that can be checked beforehand.

    Attributes:
        request: What was asked for.
        device: Where to compute.
        scorer: By the rules of the request.
        pairs: All pairs, in the order of their source.
        checkpoint: The weights.
    """

    request: CompareRequest
    device: torch.device
    scorer: Scorer
    pairs: tuple[PairFiles, ...]
    checkpoint: Path


def prepare(
    request: CompareRequest, device: torch.device, pairs: Sequence[PairFiles] | None = None
) -> PreparedComparison:
    """Look whether a comparison can be done; nothing is written.

    Args:
        request: What to compare.
        device: Where to compute.
        pairs: In place of those of the request's source.

    Raises:
        AutoregError: if nothing can be predicted at all: no pairs, no model, bad values.
    """
    scorer = make_scorer(request.protocol, request.labels, device)
    pairs = find_pairs(request.source, request.split) if pairs is None else pairs
    checkpoint = find_checkpoint(request.model, request.fold, request.checkpoint)
    _check_settings(request, pairs)
    return PreparedComparison(request, device, scorer, tuple(pairs), checkpoint.absolute())


def compare_io(prepared: PreparedComparison) -> Comparison:
    """Predict and score every pair in every setting, one setting after the other.

    The output folder has to be locked meanwhile: two processes would take each other's results
    for earlier ones. A pair is scored right after its prediction, in the same process, so that the
    prediction times are those of a machine without other work. Nothing is lost when the process is
    killed: pairs that are predicted and scored are kept by `skip_complete`.

    Args:
        prepared: By `prepare`.

    Raises:
        UsageError: if the output folder cannot be written to.
    """
    request, pairs = prepared.request, prepared.pairs
    require_writable(request.output)
    scored: dict[str, dict[str, ScoredPair]] = {}
    failures: list[FailedPair] = []
    for number, setting in enumerate(request.settings, 1):
        logger.info("setting %d of %d: %s", number, len(request.settings), setting.title)
        left = len(pairs) * (len(request.settings) - number + 1)
        out = request.folder(setting)
        run = PairRun(out, prepared.scorer, request.discard_fields, left)
        asked_for = predict_request(request, setting)
        report = predict_all(asked_for, prepared.device, run.hooks, pairs)
        failures += [FailedPair(setting, *one) for one in run.failed(report.failed)]
        scored[setting.name] = run.scored
    device = str(prepared.device)
    return Comparison(request, prepared.checkpoint, device, pairs, scored, tuple(failures))


def _check_settings(request: CompareRequest, pairs: Sequence[PairFiles]) -> None:
    """Refuse what the model cannot do before hours of work, not after."""
    plan = load_network(request.model, request.fold, request.checkpoint).plan
    problems: dict[str, str] = {}
    for setting in request.settings:
        choice = predict_request(request, setting).optimisation
        try:
            replace(plan, instance_optimisation=choice.applied(plan.instance_optimisation))
        except AutoregError as error:
            problems.setdefault(f"--optimised {setting.optimised}", str(error))
    for pair in pairs:
        for name in (*(pair.fixed_modalities or ()), *(pair.moving_modalities or ())):
            if intensity_name(name, plan.intensity) is None:
                problems[f'modality "{name}" of {pair.case}'] = (
                    f"the model scales {', '.join(plan.intensity)} alone; name a model of this "
                    "data set with -m or --config"
                )
    if problems:
        lines = [f"{flag}: {problem}" for flag, problem in problems.items()]
        raise UsageError("\n".join(lines))
