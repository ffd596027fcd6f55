"""Fingerprint: what a data set is, in records that every room may hold.

Written as JSON and read strictly (`io.records`). Axes (d, h, w), spacings in millimetres, world
points xyz in LPS millimetres.
"""

from dataclasses import dataclass
from typing import Literal

from autoreg.errors import PlanError
from autoreg.network_plan import Shape, Triple

FINGERPRINT_FORMAT = 1

DisplacementSource = Literal["landmarks", "labels", "demons"]


@dataclass(frozen=True)
class IntensityStatistics:
    """Intensities of one channel of one case.

    Minimum, maximum and mean are those of all voxels; the others, among them the quantiles 0.5 %,
    50 % and 99.5 %, those of the foreground (`geometry.foreground`).
    """

    minimum: float
    maximum: float
    mean: float
    foreground_mean: float
    foreground_std: float
    quantile_005: float
    quantile_50: float
    quantile_995: float


@dataclass(frozen=True)
class CaseFingerprint:
    """What is known of one case.

    Attributes:
        case: Its name.
        shape: Voxels (d, h, w).
        spacing_mm: Along (d, h, w).
        orientation: Anatomical directions of (d, h, w), e.g. "SPL".
        box_centre_mm: World point of the middle of the voxel box.
        foreground_centre_mm: World point of the centre of foreground mass.
        foreground_extent_mm: Edge lengths of the foreground's box along world (x, y, z).
        foreground_box: First and last foreground index along (d, h, w).
        modalities: Of each channel.
        intensity: Of each channel.
        has_labels: Likewise has_mask, has_landmarks.
    """

    case: str
    shape: Shape
    spacing_mm: Triple
    orientation: str
    box_centre_mm: Triple
    foreground_centre_mm: Triple
    foreground_extent_mm: Triple
    foreground_box: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    modalities: tuple[str, ...]
    intensity: tuple[IntensityStatistics, ...]
    has_labels: bool
    has_mask: bool
    has_landmarks: bool


@dataclass(frozen=True)
class PairFingerprint:
    """What is known of one sampled pair.

    Attributes:
        fixed: Case.
        moving: Case.
        centre_distance_mm: Distance of the foreground centres in world coordinates.
        box_overlap: Share of the fixed foreground box covered by the moving one, in the world.
        world_correlation: Correlation of the intensities where both overlap in the world.
        centred_correlation: The same after the foreground centres are laid on each other.
        displacement_mm: 95th percentile of the displacement that remains after the centres are
            aligned, from `displacement_source`.
        world_displacement_mm: The same without aligning the centres.
        displacement_source: "landmarks", "labels" or "demons" (a coarse registration).
    """

    fixed: str
    moving: str
    centre_distance_mm: float
    box_overlap: float
    world_correlation: float
    centred_correlation: float
    displacement_mm: float
    world_displacement_mm: float
    displacement_source: DisplacementSource


@dataclass(frozen=True)
class Fingerprint:
    """What a data set is.

    Attributes:
        format: Version of this record.
        dataset: Name, e.g. "Dataset001_Brains".
        digest: SHA-256 over names, sizes and times of the files and dataset.json's content.
        pairing: How pairs arise.
        training_cases: Number of training cases.
        training_pairs: Number of ordered training pairs that may be drawn.
        fixed_modalities: Modality of each channel of fixed images.
        moving_modalities: The same of moving images.
        labels: Name to value of the structures.
        cases: One record per training case.
        pairs: Sampled pairs.
    """

    format: int
    dataset: str
    digest: str
    pairing: Literal["inter_subject", "intra_subject", "atlas"]
    training_cases: int
    training_pairs: int
    fixed_modalities: tuple[str, ...]
    moving_modalities: tuple[str, ...]
    labels: dict[str, int]
    cases: tuple[CaseFingerprint, ...]
    pairs: tuple[PairFingerprint, ...]

    def __post_init__(self) -> None:
        if self.format != FINGERPRINT_FORMAT:
            raise PlanError(
                f"fingerprint format {self.format} is not {FINGERPRINT_FORMAT}; "
                "run autoreg_fingerprint again"
            )
