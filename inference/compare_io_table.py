"""The numbers of a comparison: columns, means over the common pairs, paired tests."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from autoreg.evaluation.paired import PairedDifference, holm, paired_difference
from autoreg.evaluation.protocols import PROTOCOLS, RefereeMetric
from autoreg.evaluation.referee_summary import referee_statistic
from autoreg.evaluation.summary import METRICS, Metric, statistic
from autoreg.inference.compare_io import Comparison
from autoreg.inference.compare_io_lost import HD95_OF_FINITE, hd95_of_both
from autoreg.inference.compare_io_run import ScoredPair
from autoreg.inference.compare_io_settings import NO_IO, ProtocolChoice, Setting

Values = list[float | None]

# What the table shows; the csv files have all metrics.
_SHOWN: dict[ProtocolChoice, tuple[str, ...]] = {
    "plain": ("dice", "hd95_mm", "tre_mean_mm", "lncc", "ndv_fraction", "sdlogj_plus3"),
    "lumir": ("dice", "hd95_vox", "tre_vox", "ndv_moving_fraction"),
    "learn2reg": ("dice", "hd95_vox", "tre_lm_mm", "tre_kp_mm", "sdlogj_plus3", "ndv_fraction"),
}
# Per cent where a ratio is small or usual in per cent.
_PERCENT = ("dice", "ndv_")
_FORMATS = {"dice": ".2f", "hd95": ".3f", "tre": ".3f", "ndv": ".3g"}
ACCURACY = ("dice", "hd95", "tre")


@dataclass(frozen=True)
class Column:
    """One metric as tables show it.

    Attributes:
        key: As in the reports of autoreg_evaluate.
        title: With its unit.
        better: Which direction is an improvement.
        scale: From stored to shown values.
        spec: Format of shown values.
    """

    key: str
    title: str
    better: Literal["higher", "lower", "neither"]
    scale: float
    spec: str

    def shown(self, value: float) -> str:
        """A stored value as text."""
        return format(self.scale * value, self.spec)


@dataclass(frozen=True)
class Mean:
    """Mean and population standard deviation over pairs, as stored; `pairs` values entered it."""

    mean: float
    std: float
    pairs: int


@dataclass(frozen=True)
class PairedTest:
    """One setting against another, by one metric.

    Attributes:
        column: The metric.
        setting: The one.
        reference: The other; the difference is `setting` minus `reference`.
        difference: In stored units.
        p_holm: Corrected over all tests of this metric; None where there was no test.
    """

    column: Column
    setting: Setting
    reference: Setting
    difference: PairedDifference
    p_holm: float | None


def all_columns(protocol: ProtocolChoice) -> tuple[Column, ...]:
    """Every metric of a protocol; without the time, which tables take from result.json."""
    metrics: dict[str, Metric] | dict[str, RefereeMetric]
    metrics = METRICS if protocol == "plain" else PROTOCOLS[protocol].metrics
    return tuple(_column(k, m) for k, m in metrics.items() if k != "prediction_seconds")


def _column(key: str, metric: Metric | RefereeMetric) -> Column:
    percent = metric.percent or key.startswith(_PERCENT)
    unit = "%" if percent else metric.unit
    spec = next((f for start, f in _FORMATS.items() if key.startswith(start)), ".4f")
    title = f"{metric.title} [{unit}]" if unit else metric.title
    return Column(key, title, metric.better, 100.0 if percent else 1.0, spec)


def shown_columns(comparison: Comparison) -> tuple[Column, ...]:
    """The columns of the table that apply to any common pair."""
    protocol = comparison.request.protocol
    return tuple(
        column
        for column in all_columns(protocol)
        if column.key in _SHOWN[protocol]
        and any(
            value is not None
            for setting in comparison.settings
            for value in values_of(comparison, setting, column.key)
        )
    )


def value_of(pair: ScoredPair, key: str, *, initial: bool = False) -> float | None:
    """One metric of one pair; None where it does not apply, or is not taken before registration."""
    if pair.scores.referee is not None:
        return None if initial else pair.scores.referee.scores.get(key)
    if pair.scores.plain is None:
        return None
    metric = METRICS[key]
    taken = metric.initial if initial else metric.registered
    return None if taken is None else taken(pair.scores.plain)


def values_of(
    comparison: Comparison, setting: Setting, key: str, *, initial: bool = False
) -> Values:
    """One metric of the common pairs, in their order."""
    scored = comparison.scored[setting.name]
    return [value_of(scored[case], key, initial=initial) for case in comparison.common]


def mean_of(protocol: ProtocolChoice, key: str, values: Sequence[float | None]) -> Mean | None:
    """Mean and spread as autoreg_evaluate gives them; None where the metric applies to no pair."""
    if all(value is None for value in values):
        return None
    if protocol == "plain":
        plain = statistic(values)
        return Mean(plain.mean, plain.std, plain.finite)
    referee = referee_statistic(PROTOCOLS[protocol].metrics[key], values)
    return None if referee is None else Mean(referee.mean, referee.std, referee.pairs)


def seconds_of(comparison: Comparison, setting: Setting) -> list[float]:
    """Wall-clock seconds of the registration of each common pair, without reading and writing.

    Empty where the pairs of the comparison were not all predicted on one device: earlier pairs are
    kept, whatever they were computed on, and their times cannot be compared.
    """
    if len(devices_of(comparison)) > 1:
        return []
    return [_pair(comparison, setting, case).result.stages.register for case in comparison.common]


def devices_of(comparison: Comparison) -> dict[str, tuple[str, ...]]:
    """Where the compared pairs were predicted, each device with the names of its settings."""
    return _told_of(comparison, lambda pair: pair.result.device)


def versions_of(comparison: Comparison) -> dict[str, tuple[str, ...]]:
    """What the compared pairs were predicted with, as "autoreg 0.1, torch 2.9", likewise."""
    return _told_of(
        comparison, lambda pair: ", ".join(f"{k} {v}" for k, v in pair.result.versions.items())
    )


def _told_of(
    comparison: Comparison, tell: Callable[[ScoredPair], str]
) -> dict[str, tuple[str, ...]]:
    found: dict[str, dict[str, None]] = {}
    for setting in comparison.settings:
        for case in comparison.common:
            found.setdefault(tell(_pair(comparison, setting, case)), {})[setting.name] = None
    return {text: tuple(names) for text, names in found.items()}


def conflicts_of(comparison: Comparison, setting: Setting) -> list[float]:
    """Share of steps in which the gradients were in conflict, for each common pair.

    Empty for what never takes the two gradients apart.
    """
    if setting.mode != "gradient_projection":
        return []
    records = [_pair(comparison, setting, case).result.optimisation for case in comparison.common]
    return [record.conflicts / record.steps for record in records if record and record.steps]


def steps_of(comparison: Comparison, setting: Setting) -> list[int]:
    """Steps that were taken on each common pair; fewer than asked for where the loss got flat."""
    records = [_pair(comparison, setting, case).result.optimisation for case in comparison.common]
    return [0 if record is None else record.steps for record in records]


def tests_of(comparison: Comparison, columns: Sequence[Column]) -> tuple[PairedTest, ...]:
    """All paired comparisons: each setting against no IO, projection against plain IO.

    Holm's correction is over the comparisons of one metric.
    """
    return tuple(test for column in columns for test in _tests_of_metric(comparison, column))


def _tests_of_metric(comparison: Comparison, column: Column) -> list[PairedTest]:
    couples = _couples(comparison.settings)
    differences = [
        difference_of(comparison, setting, reference, column.key) for setting, reference in couples
    ]
    corrected = holm([difference.p for difference in differences])
    return [
        PairedTest(column, *couple, difference, p)
        for couple, difference, p in zip(couples, differences, corrected, strict=True)
    ]


def difference_of(
    comparison: Comparison, setting: Setting, reference: Setting, key: str
) -> PairedDifference:
    """One metric of two settings over the common pairs, `setting` minus `reference`."""
    if comparison.request.protocol == "plain" and key == HD95_OF_FINITE:
        return paired_difference(*hd95_of_both(comparison, setting, reference))
    return paired_difference(
        values_of(comparison, setting, key), values_of(comparison, reference, key)
    )


def _couples(settings: Sequence[Setting]) -> list[tuple[Setting, Setting]]:
    couples = []
    if NO_IO in settings:
        couples += [(setting, NO_IO) for setting in settings if setting != NO_IO]
    for setting in settings:
        plain = Setting("vanilla", setting.optimised, setting.steps)
        if setting.mode == "gradient_projection" and plain in settings:
            couples.append((setting, plain))
    return couples


def _pair(comparison: Comparison, setting: Setting, case: str) -> ScoredPair:
    return comparison.scored[setting.name][case]
