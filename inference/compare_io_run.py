"""One setting while its pairs are registered: what is done already, scores, failures."""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autoreg.errors import DataError
from autoreg.evaluation.predictions import unfinished
from autoreg.evaluation.scores import Failure
from autoreg.inference.compare_io_scores import Scorer, StoredScores, discard_fields
from autoreg.inference.pair_hooks import PairHooks
from autoreg.inference.result import is_complete
from autoreg.io.result import Result, read_result

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoredPair:
    """One pair in one setting.

    Attributes:
        scores: By the rules of the request.
        result: What the prediction noted.
        folder: Where its files lie, as far as they were kept.
    """

    scores: StoredScores
    result: Result
    folder: Path


@dataclass(frozen=True)
class PairRun:
    """One setting while its pairs are registered.

    Attributes:
        out: Folder of the setting's results, one sub-folder for each pair.
        scorer: By the rules of the comparison.
        discard: Whether images and displacements go as soon as their pair is scored.
        left: Pairs of this setting and of those that follow.
        scored: What is done, by the name of the pair.
        unscored: What was registered and could not be scored.
    """

    out: Path
    scorer: Scorer
    discard: bool
    left: int
    scored: dict[str, ScoredPair] = field(default_factory=dict)
    unscored: dict[str, Failure] = field(default_factory=dict)

    @property
    def hooks(self) -> PairHooks:
        """For the batch that registers the pairs."""
        return PairHooks(self.is_done, self.after)

    def is_done(self, folder: Path, request: str) -> bool:
        """Whether a pair is predicted, with all its files or with scores in their place."""
        if is_complete(folder, request):
            return True
        try:
            predicted = read_result(folder).request == request
        except DataError:  # interrupted while it was predicted anew: older scores do not count
            return False
        return predicted and self.scorer.stored(folder, request) is not None

    def after(self, folder: Path, *, fresh: bool) -> None:
        """Score a pair unless that is done, and remove what is not to be kept."""
        result = read_result(folder)
        stored = None if fresh else self.scorer.stored(folder, result.request)
        found = self.scorer.score(folder, result.request) if stored is None else stored
        if isinstance(found, Failure):
            logger.error("%s: not scored: %s", folder.name, found.reason)
            self.unscored[folder.name] = found
            return
        if self.discard:
            discard_fields(folder)
        elif fresh and not self.scored:
            self._warn_of_disk(sum(result.files.values()))
        self.scored[folder.name] = ScoredPair(found, result, folder)

    def _warn_of_disk(self, bytes_per_pair: int) -> None:
        needed, free = bytes_per_pair * (self.left - 1), shutil.disk_usage(self.out).free
        if needed > free:
            logger.warning(
                f"{self.out.parent}: up to {needed / 1e9:.0f} GB are still to be written, and "
                f"{free / 1e9:.0f} GB are free; --discard-fields removes what has been scored"
            )

    def failed(self, unpredicted: Sequence[str]) -> list[tuple[str, str]]:
        """What went wrong: names of pairs, each with the reason.

        Args:
            unpredicted: Those that could not be registered.
        """
        reasons = [(case, unfinished(self.out / case)) for case in unpredicted]
        failures = [(case, reason or "see the messages above") for case, reason in reasons]
        return failures + [
            (case, f"not scored: {failure.reason}") for case, failure in self.unscored.items()
        ]
