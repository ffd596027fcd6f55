"""What the referees of two challenges measure: their labels, metrics and names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from autoreg.errors import UsageError

ProtocolName = Literal["lumir", "learn2reg"]

# Of the whole-brain segmentations of LUMIR, the background 0 included, as its evaluator lists them.
_LUMIR_RANGES = (
    "0,4,11,23,30-32,35-41,44,45,47-52,55-62,71-73,75,76,100-109,112-125,128,129,132-157,160-187,"
    "190-207"
)


@dataclass(frozen=True)
class RefereeMetric:
    """One number of a pair.

    Attributes:
        title: For tables.
        unit: Of the stored values; empty for ratios.
        better: Which direction is an improvement.
        official: Whether the referee reports it; the others stand beside it.
        quantile: Which quantile over the pairs is reported with the mean, in [0, 1].
        percent: Tables show the stored fraction in per cent.
    """

    title: str
    unit: str
    better: Literal["higher", "lower"]
    official: bool
    quantile: float
    percent: bool = False


@dataclass(frozen=True)
class Protocol:
    """The rules of a referee.

    Attributes:
        name: Of the protocol.
        labels: The labels of Dice and HD95; None: those that the data set names, else those that
            occur, the background never.
        landmarks: "blobs" in label maps, or "points" in csv files.
        masked_tasks: By task, in small letters: whether SDlogJ is taken inside the fixed image's
            mask. One that is not listed isn't known to do so.
        metrics: By key, in the order of tables.
    """

    name: ProtocolName
    labels: tuple[int, ...] | None
    landmarks: Literal["blobs", "points"]
    masked_tasks: Mapping[str, bool]
    metrics: dict[str, RefereeMetric]


def parse_labels(text: str) -> tuple[int, ...]:
    """The labels that a text lists, ascending and each once.

    Raises:
        UsageError: if it is no list of whole numbers.

    Example:
        >>> parse_labels("0,4,30-32")
        (0, 4, 30, 31, 32)
    """
    labels: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        ends = (first.strip(), last.strip() if dash else first.strip())
        if not all(end.isascii() and end.isdecimal() for end in ends) or int(ends[0]) > int(
            ends[1]
        ):
            raise UsageError(
                f'labels "{text}": found "{part.strip()}", expected values and ranges such as '
                "0,4,30-32"
            )
        labels.update(range(int(ends[0]), int(ends[1]) + 1))
    return tuple(sorted(labels))


def _metric(
    title: str, unit: str, better: Literal["higher", "lower"], *, percent: bool = False
) -> Callable[[bool, float], RefereeMetric]:
    return lambda official, quantile: RefereeMetric(
        title, unit, better, official, quantile, percent
    )


_METRICS = {
    "dice": _metric("Dice", "", "higher"),
    "hd95_vox": _metric("HD95", "voxels", "lower"),
    "tre_vox": _metric("TRE, centroids", "voxels", "lower"),
    "tre_lm_mm": _metric("TRE, landmarks", "mm", "lower"),
    "tre_kp_mm": _metric("TRE, key points", "mm", "lower"),
    "ndv_moving_fraction": _metric("NDV, moving foreground", "", "lower", percent=True),
    "ndv_fixed_fraction": _metric("NDV, fixed foreground", "", "lower", percent=True),
    "ndv_fraction": _metric("NDV, whole grid", "", "lower", percent=True),
    "sdlogj_plus3": _metric("SDlogJ (+3)", "", "lower"),
    "sdlogj_plain": _metric("SDlogJ (plain)", "", "lower"),
}


def _metrics(official: dict[str, float], beside: dict[str, float]) -> dict[str, RefereeMetric]:
    """Metrics with the quantile of each, in the order of tables."""
    return {
        key: make(key in official, (official | beside)[key])
        for key, make in _METRICS.items()
        if key in official | beside
    }


# `masked_evaluation` of the configurations that the organisers published. OASIS and ThoraxCBCT come
# with masks and are not masked.
_MASKED_TASKS = {
    "nlst": True,
    "lungct": True,
    "abdomenmrct": True,
    "abdomenctct": False,
    "oasis": False,
    "hippocampusmr": False,
    "curious": False,
    "thoraxcbct": False,
}

_LUMIR = Protocol(
    name="lumir",
    labels=parse_labels(_LUMIR_RANGES),
    landmarks="blobs",
    masked_tasks={},
    metrics=_metrics(
        {"dice": 0.3, "hd95_vox": 0.3, "tre_vox": 0.3, "ndv_moving_fraction": 0.3},
        {"ndv_fixed_fraction": 0.3, "ndv_fraction": 0.3, "sdlogj_plus3": 0.3, "sdlogj_plain": 0.3},
    ),
)
_LEARN2REG = Protocol(
    name="learn2reg",
    labels=None,
    landmarks="points",
    masked_tasks=_MASKED_TASKS,
    metrics=_metrics(
        # The hardest 30 % of pairs lie below the 0.3 or above the 0.7 quantile; HD95 has 0.3 in
        # the organisers' code, too.
        {"dice": 0.3, "hd95_vox": 0.3, "tre_lm_mm": 0.7, "tre_kp_mm": 0.7, "sdlogj_plus3": 0.7},
        {
            "ndv_moving_fraction": 0.7,
            "ndv_fixed_fraction": 0.7,
            "ndv_fraction": 0.7,
            "sdlogj_plain": 0.7,
        },
    ),
)
PROTOCOLS: dict[ProtocolName, Protocol] = {"lumir": _LUMIR, "learn2reg": _LEARN2REG}
