"""What an evaluation holds: the scores of a pair, and their summary over all pairs.

Absent and undefined values differ: None means that a score does not apply (no labels, no
landmarks, no inverse), NaN that it applies and has no value, inf that a label got lost. In JSON
all three are null; the counts in `Statistic` tell them apart.
"""

from dataclasses import dataclass
from typing import Literal

SUMMARY_FORMAT = 3

LabelState = Literal["ok", "missing in fixed", "missing in moving", "lost"]


@dataclass(frozen=True)
class LabelScore:
    """One label of one pair.

    Attributes:
        label: Its value in the label maps.
        name: Its name, if known.
        state: "ok"; "missing in fixed" or "missing in moving" (in the files given: not scored,
            NaN); "lost": in both files, but no voxel of it is left in the warped labels.
        initial_dice: Before registration.
        dice: After it.
        initial_hd95_mm: Before registration; inf if no voxel of the moving label falls on the
            fixed grid.
        hd95_mm: After it; inf for a lost label.
    """

    label: int
    name: str
    state: LabelState
    initial_dice: float
    dice: float
    initial_hd95_mm: float
    hd95_mm: float


@dataclass(frozen=True)
class LandmarkScore:
    """One pair of corresponding landmarks.

    Attributes:
        initial_tre_mm: Their distance before registration.
        tre_mm: After it.
    """

    initial_tre_mm: float
    tre_mm: float


@dataclass(frozen=True)
class PairState:
    """What can be said before the registration and after it.

    Attributes:
        dice: Mean over the labels that are in both images.
        hd95_mm: Mean over the same labels, without those at infinity (`hd95_infinite`).
        hd95_infinite: Labels of which nothing is left on the fixed grid.
        tre_mean_mm: Mean distance of corresponding landmarks.
        tre_p95_mm: 95th percentile of these distances.
        lncc: Local correlation of the intensities in the foreground.
    """

    dice: float | None
    hd95_mm: float | None
    hd95_infinite: int
    tre_mean_mm: float | None
    tre_p95_mm: float | None
    lncc: float


@dataclass(frozen=True)
class FieldQuality:
    """How well-behaved the exported displacement is.

    Attributes:
        ndv_fraction: Non-diffeomorphic volume per voxel of the whole grid.
        ndv_foreground_fraction: The same in the foreground.
        folded_fraction: Share of voxels whose central-difference determinant is not positive.
        jacobian_minimum: Smallest central-difference determinant, one voxel off the border.
        sdlogj_plus3: SDlogJ of the whole grid with Learn2Reg's +3.
        sdlogj_foreground: SDlogJ in the foreground without it.
        inverse_error_mean_mm: Inverse-consistency error over the overlap of the images.
        inverse_error_p95_mm: Its 95th percentile.
        inverse_overlap_fraction: Share of the fixed grid that lands in the moving grid.
    """

    ndv_fraction: float
    ndv_foreground_fraction: float
    folded_fraction: float
    jacobian_minimum: float
    sdlogj_plus3: float
    sdlogj_foreground: float
    inverse_error_mean_mm: float | None
    inverse_error_p95_mm: float | None
    inverse_overlap_fraction: float | None


@dataclass(frozen=True)
class CaseScores:
    """All scores of one pair.

    Attributes:
        case: Its name.
        initial: Moving image resampled to the fixed grid through world coordinates.
        registered: As predicted.
        field: The displacement.
        foreground: Where LNCC, NDV and SDlogJ of the "foreground" were taken: the fixed image's
            "mask", or its part above a "threshold" (`geometry.foreground`).
        labels: Scores of each label.
        landmarks: Distance of each pair of landmarks, in the order of their files.
        prediction_seconds: Whole time of the prediction, reading and writing included, as it
            noted.
        picture_failed: Whether its picture was wanted and could not be drawn; a note says why.
        notes: What was not evaluated or deserves a look, and why.
    """

    case: str
    initial: PairState
    registered: PairState
    field: FieldQuality
    foreground: Literal["mask", "threshold"]
    labels: tuple[LabelScore, ...]
    landmarks: tuple[LandmarkScore, ...]
    prediction_seconds: float
    notes: tuple[str, ...]
    picture_failed: bool = False


@dataclass(frozen=True)
class Failure:
    """A pair that could not be evaluated.

    Attributes:
        case: Its name.
        reason: Why.
    """

    case: str
    reason: str


@dataclass(frozen=True)
class Statistic:
    """One score over many pairs.

    Attributes:
        mean: Of the finite values; NaN without any.
        std: Population standard deviation of the finite values.
        finite: How many they are.
        nan: How many values are undefined.
        infinite: How many are infinite.
    """

    mean: float
    std: float
    finite: int
    nan: int
    infinite: int


@dataclass(frozen=True)
class MetricSummary:
    """One metric over all pairs to which it applies.

    Attributes:
        better: Whether "higher" or "lower" values are better, or whether it is "neither".
        unit: Of the values.
        initial: Before registration; None for what only a displacement has.
        registered: After it.
    """

    better: Literal["higher", "lower", "neither"]
    unit: str
    initial: Statistic | None
    registered: Statistic


@dataclass(frozen=True)
class LabelSummary:
    """One label over all pairs that have label maps.

    Attributes:
        label: Its value.
        name: Its name, if known.
        lost: In how many pairs the warp lost it.
        initial_dice: Before registration; likewise the others.
        dice: After it.
        initial_hd95_mm: See `LabelScore`.
        hd95_mm: See `LabelScore`.
    """

    label: int
    name: str
    lost: int
    initial_dice: Statistic
    dice: Statistic
    initial_hd95_mm: Statistic
    hd95_mm: Statistic


@dataclass(frozen=True)
class Pooled:
    """A score of all landmarks of all pairs, each landmark counting once.

    Attributes:
        mean: Over the landmarks.
        p25: Quartiles, linear in between.
        p50: The median.
        p75: See `p25`.
        p95: 95th percentile.
    """

    mean: float
    p25: float
    p50: float
    p75: float
    p95: float


@dataclass(frozen=True)
class LandmarkSummary:
    """All landmarks of all pairs together, as Lung250M-4B's evaluation reports them.

    Attributes:
        count: How many they are.
        initial_tre_mm: Before registration.
        tre_mm: After it.
    """

    count: int
    initial_tre_mm: Pooled
    tre_mm: Pooled


@dataclass(frozen=True)
class Summary:
    """summary.json.

    Attributes:
        format: Version of this record.
        autoreg_version: Of the package that evaluated.
        predictions: The folder that was evaluated.
        metrics: By name, see `autoreg.evaluation.summary.METRICS`.
        labels: Per label.
        landmarks: Of all pairs together; None without landmarks.
        cases: Per pair.
        failures: Pairs that are not part of the statistics.
    """

    format: int
    autoreg_version: str
    predictions: str
    metrics: dict[str, MetricSummary]
    labels: tuple[LabelSummary, ...]
    landmarks: LandmarkSummary | None
    cases: tuple[CaseScores, ...]
    failures: tuple[Failure, ...]
