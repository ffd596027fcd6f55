"""What an evaluation by a referee's rules holds: the scores of a pair, and of all pairs.

As in `scores`: None does not apply, NaN applies and has no value, inf stands for a lost label. In
JSON all three are null; counts and notes tell them apart.
"""

from dataclasses import dataclass
from typing import Literal

from autoreg.evaluation.protocols import ProtocolName
from autoreg.evaluation.scores import Failure, LabelState

REFEREE_FORMAT = 2

LabelSource = Literal["protocol", "user", "data set", "occurring"]


@dataclass(frozen=True)
class RefereeLabel:
    """One label of one pair.

    Attributes:
        label: Its value in the label maps.
        name: Its name, if known.
        state: As in `scores.LabelScore`.
        dice: NaN for a label that is missing in either map; 0 for a lost one.
        hd95_vox: NaN likewise; inf for a lost label.
    """

    label: int
    name: str
    state: LabelState
    dice: float
    hd95_vox: float


@dataclass(frozen=True)
class RefereeCase:
    """All scores of one pair.

    Attributes:
        case: Its name.
        scores: By the keys of the protocol's metrics; None where one does not apply.
        sdlogj_region: Where SDlogJ was taken: inside the fixed image's "mask", or the "whole" grid.
        labels: Scores of each label of the protocol's list.
        landmarks: Number of landmarks, key points included.
        notes: What was not evaluated, vanished or deserves a look.
    """

    case: str
    scores: dict[str, float | None]
    sdlogj_region: Literal["mask", "whole"]
    labels: tuple[RefereeLabel, ...]
    landmarks: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class RefereeStatistic:
    """One metric over the pairs to which it applies, as the referee reports it.

    Attributes:
        official: Whether the referee reports this metric.
        better: Whether "higher" or "lower" values are better.
        unit: Of the values.
        mean: Over all pairs: NaN if one of them is NaN, inf if one is inf.
        std: Population standard deviation over the pairs; NaN if a value is not finite.
        quantile: Over the pairs, linearly interpolated; NaN if a value is NaN.
        quantile_level: Which one, in [0, 1].
        pairs: To how many the metric applies.
        nan: How many of these values are NaN.
        infinite: How many are infinite.
        finite_mean: Mean of the others, which no referee reports.
    """

    official: bool
    better: Literal["higher", "lower"]
    unit: str
    mean: float
    std: float
    quantile: float
    quantile_level: float
    pairs: int
    nan: int
    infinite: int
    finite_mean: float


@dataclass(frozen=True)
class RefereeSummary:
    """lumir.json or learn2reg.json.

    Attributes:
        format: Version of this record.
        autoreg_version: Of the package that evaluated.
        protocol: Whose rules were followed.
        predictions: The folder that was evaluated.
        label_list: The labels of Dice and HD95 if one list holds for all pairs, else null.
        label_list_from: Whose list it is: the "protocol"'s, the "user"'s, the "data set"'s names of
            structures, or none: the labels "occurring" in the maps. Null without labels.
        sdlogj_region: As of all cases, or "mixed"; null without cases.
        metrics: By key; those that apply to no pair are left out.
        cases: Per pair.
        failures: Pairs that are not part of the statistics.
    """

    format: int
    autoreg_version: str
    protocol: ProtocolName
    predictions: str
    label_list: tuple[int, ...] | None
    label_list_from: LabelSource | None
    sdlogj_region: Literal["mask", "whole", "mixed"] | None
    metrics: dict[str, RefereeStatistic]
    cases: tuple[RefereeCase, ...]
    failures: tuple[Failure, ...]
