"""The scores of one predicted pair as a file beside it, so that a comparison can be resumed."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from autoreg import __version__
from autoreg.errors import DataError, UsageError
from autoreg.evaluation.evaluate import EvaluationJob, RefereeJob, evaluate_folder, score_folder
from autoreg.evaluation.protocols import parse_labels
from autoreg.evaluation.referee_scores import RefereeCase
from autoreg.evaluation.scores import CaseScores, Failure
from autoreg.inference.compare_io_settings import ProtocolChoice
from autoreg.io.records import from_plain, load_json, save_record, to_plain
from autoreg.io.result import TRACE_FILE, WARPED_LANDMARKS_FILE, read_result

SCORES_FORMAT = 2
_NUMBER = "number"


@dataclass(frozen=True)
class StoredScores:
    """scores_<protocol>.json.

    Attributes:
        format: Version of this record.
        autoreg_version: Of the package that scored.
        request: Of the prediction that was scored, as in result.json.
        protocol: By whose rules.
        labels: The user's list of labels, if there was one.
        plain: The scores with the protocol "plain", else None.
        referee: The scores with another protocol, else None.
    """

    format: int
    autoreg_version: str
    request: str
    protocol: ProtocolChoice
    labels: tuple[int, ...] | None
    plain: CaseScores | None
    referee: RefereeCase | None


@dataclass(frozen=True)
class Scorer:
    """Scores pairs by one protocol, as autoreg_evaluate does.

    Attributes:
        protocol: Whose rules.
        labels: In place of the protocol's list; None with the protocol "plain".
        device: Where torch computes.
    """

    protocol: ProtocolChoice
    labels: tuple[int, ...] | None
    device: torch.device

    def path(self, folder: Path) -> Path:
        """The file of a pair's scores."""
        return folder / f"scores_{self.protocol}.json"

    def score(self, folder: Path, request: str) -> StoredScores | Failure:
        """Score a predicted pair and write the file."""
        plain: CaseScores | None = None
        referee: RefereeCase | None = None
        if self.protocol == "plain":
            found = evaluate_folder(folder, EvaluationJob(self.device, None))
            if isinstance(found, Failure):
                return found
            plain = found
        else:
            judged = score_folder(
                folder, RefereeJob(self.protocol, self.device, labels=self.labels)
            )
            if isinstance(judged, Failure):
                return judged
            referee = judged
        stored = StoredScores(
            SCORES_FORMAT, __version__, request, self.protocol, self.labels, plain, referee
        )
        save_record(_told_apart(to_plain(stored)), self.path(folder))
        return stored

    def stored(self, folder: Path, request: str) -> StoredScores | None:
        """The scores of this very prediction by these very rules, if the file holds them."""
        try:
            data = load_json(self.path(folder), DataError)
            found = from_plain(StoredScores, _numbers(data), str(self.path(folder)), DataError)
        except DataError:
            return None
        expected = (SCORES_FORMAT, __version__, request, self.protocol, self.labels)
        told = (found.format, found.autoreg_version, found.request, found.protocol, found.labels)
        return found if told == expected else None


def make_scorer(protocol: ProtocolChoice, labels: str | None, device: torch.device) -> Scorer:
    """The scorer that a user's flags ask for.

    Raises:
        UsageError: if `labels` is no list, or does nothing with the protocol.
    """
    if labels is None:
        return Scorer(protocol, None, device)
    if protocol == "plain":
        raise UsageError("--labels does nothing with --protocol plain; drop it")
    return Scorer(protocol, parse_labels(labels), device)


def discard_fields(folder: Path) -> None:
    """Remove images and displacements of a scored pair; its record, trace and points stay."""
    kept = (TRACE_FILE, WARPED_LANDMARKS_FILE)
    for name in read_result(folder).files:
        if name not in kept:
            (folder / name).unlink(missing_ok=True)


def _told_apart(value: object) -> object:
    """NaN and infinities as {"number": "nan"}: in plain JSON all of them would be null."""
    return _mapped(
        value,
        lambda v: {_NUMBER: str(v)} if isinstance(v, float) and not math.isfinite(v) else v,
    )


def _numbers(value: object) -> object:
    """The inverse of `_told_apart`."""
    return _mapped(
        value, lambda v: float(v[_NUMBER]) if isinstance(v, dict) and v.keys() == {_NUMBER} else v
    )


def _mapped(value: object, change: Callable[[object], object]) -> object:
    """A JSON value with `change` applied to every part of it, the whole first."""
    value = change(value)
    if isinstance(value, dict) and value.keys() != {_NUMBER}:
        return {key: _mapped(item, change) for key, item in value.items()}
    return [_mapped(item, change) for item in value] if isinstance(value, list) else value
