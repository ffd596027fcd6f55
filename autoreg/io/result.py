"""The folder of one predicted pair: its file names, and the record result.json.

Prediction writes it, evaluation reads it.
"""

from dataclasses import dataclass
from pathlib import Path

from autoreg.errors import DataError
from autoreg.io.cases import LandmarkFrame
from autoreg.io.records import from_plain, load_json

RESULT_FORMAT = 3

RESULT_FILE = "result.json"
DISPLACEMENT_FILE = "displacement.nii.gz"
INVERSE_FILE = "inverse_displacement.nii.gz"
WARPED_FILE = "warped.nii.gz"
WARPED_LABELS_FILE = "warped_labels.nii.gz"
WARPED_LANDMARKS_FILE = "warped_landmarks.csv"
TRACE_FILE = "trace.csv"
# Of the network, where autoreg_register goes on from one; trace.csv is the field's there.
TRACE_NETWORK_FILE = "trace_network.csv"
# There from the start of a prediction until result.json is; then, why it failed.
UNFINISHED_FILE = "unfinished.txt"


def warped_files(channels: int) -> tuple[str, ...]:
    """Names of the warped image's files: one for one channel, numbered ones for several."""
    if channels == 1:
        return (WARPED_FILE,)
    stem, _, ending = WARPED_FILE.partition(".")
    return tuple(f"{stem}_{channel:04d}.{ending}" for channel in range(channels))


@dataclass(frozen=True)
class InputsRecord:
    """The files of the pair, as absolute paths.

    Attributes:
        fixed: One file for each channel.
        moving: One file for each channel.
        fixed_labels: Or null; likewise the others.
        moving_labels: See `fixed_labels`.
        fixed_mask: See `fixed_labels`.
        moving_mask: See `fixed_labels`.
        fixed_landmarks: See `fixed_labels`.
        moving_landmarks: See `fixed_labels`.
        landmark_frame: What the landmark files hold: "lps_mm", or "voxels" (Learn2Reg).
    """

    fixed: tuple[str, ...]
    moving: tuple[str, ...]
    fixed_labels: str | None
    moving_labels: str | None
    fixed_mask: str | None
    moving_mask: str | None
    fixed_landmarks: str | None
    moving_landmarks: str | None
    landmark_frame: LandmarkFrame


@dataclass(frozen=True)
class ModelRecord:
    """The weights that were used.

    Attributes:
        folder: Model folder.
        checkpoint: The checkpoint file.
    """

    folder: str
    checkpoint: str


@dataclass(frozen=True)
class LossRecord:
    """A loss on the plan's grid.

    Attributes:
        similarity: Sum over both directions.
        regularity: Without its weight.
        total: similarity + weight * regularity.
    """

    similarity: float
    regularity: float
    total: float


@dataclass(frozen=True)
class OptimisationRecord:
    """What instance optimisation did; its trace has the steps.

    Attributes:
        mode: "gradient_projection", "vanilla" or "none".
        steps: Steps taken.
        conflicts: Steps in which the two gradients pointed against each other.
        mean_cosine: Mean cosine of the two gradients; null where they were not taken apart.
        stopped: "steps" or "flat" (the loss no longer fell); null without steps.
        optimised: "network", or the field on top of its maps: "velocity" or "displacements"; null
            without steps.
    """

    mode: str
    steps: int
    conflicts: int
    mean_cosine: float | None
    stopped: str | None
    optimised: str | None = None


@dataclass(frozen=True)
class AlignmentRecord:
    """The initial alignment of a pair, without a network or in place of its answer.

    Attributes:
        kind: "none", "centres", "rigid" or "affine".
        kept: "aligned", or "headers" where nothing better than the headers' placement was found.
        similarity_before: Correlation ratio, 0 to 1, in the headers' placement.
        similarity_after: The same after the alignment.
        overlap_before: Share of the smaller foreground that lies in the other one, headers.
        overlap_after: The same after the alignment.
        starts: Starting placements that were tried.
        seconds: Wall-clock.
    """

    kind: str
    kept: str
    similarity_before: float
    similarity_after: float
    overlap_before: float
    overlap_after: float
    starts: int
    seconds: float


@dataclass(frozen=True)
class FieldOptimisationRecord:
    """The optimisation of a displacement field; plan.json has what was obeyed.

    Attributes:
        preset: Name of the preset; null for a plan of the user's own.
        similarity: "lncc", "squared_lncc" or "mind".
        similarity_reason: Why this one.
        correlation_aligned: Mean local correlation on a coarse copy of the images (its absolute
            value unless `similarity` is "lncc") after the initial alignment; null where nothing
            could be compared.
        correlation_registered: The same after registration.
        steps: Steps taken.
        refined: Whether the second stage was needed.
        seconds: Wall-clock.
        network_mm: Where it began with a network's answer: mean length of the network's
            displacement on its own grid, without the alignment; otherwise null.
        refinement_mm: Mean distance, over the fixed image, between where the network and the
            result put a point in the moving image; or null.
        cpu_seconds: CPU time of the field's optimisation alone, all threads together.
    """

    preset: str | None
    similarity: str
    similarity_reason: str
    correlation_aligned: float | None
    correlation_registered: float | None
    steps: int
    refined: bool
    seconds: float
    network_mm: float | None = None
    refinement_mm: float | None = None
    cpu_seconds: float | None = None


@dataclass(frozen=True)
class FieldRecord:
    """The exported displacement.

    Attributes:
        mean_mm: Mean length of the displacement, the initial alignment included.
        maximum_mm: Largest length.
        jacobian_minimum: Smallest determinant of the deformation relative to the initial
            alignment, on the fixed grid by central differences.
        folded_percent: Share of the cells of the network's grid that are turned inside out at one
            of their corners; stricter than central differences, which miss narrow folds.
        ndv_percent: Non-diffeomorphic volume of the displacement relative to the initial
            alignment, on the fixed grid: the volume of its folded tetrahedra as a share of all
            voxels off the border. 0: a digital diffeomorphism up to tetrahedra of no volume.
        ndv_vox: The same in voxels of the fixed grid.
        repaired_voxels: Voxels of the exported displacement that were changed because the
            transform folded nearby; 0 where nothing was done. All other keys describe what was
            exported.
        repaired_maximum_mm: Largest distance by which that moved where a point goes.
        inverse_residual_mean_mm: Mean distance between T(inverse(q)) and q over the voxels q of
            the moving grid at which an inverse exists; null where it exists nowhere.
        inverse_residual_maximum_mm: Largest such distance.
        inverse_missing_percent: Share of the moving grid's voxels without an inverse, because the
            transform folds there; the file holds the best point found.
    """

    mean_mm: float
    maximum_mm: float
    jacobian_minimum: float
    folded_percent: float
    ndv_percent: float
    ndv_vox: float
    repaired_voxels: int
    repaired_maximum_mm: float
    inverse_residual_mean_mm: float | None
    inverse_residual_maximum_mm: float | None
    inverse_missing_percent: float


@dataclass(frozen=True)
class SecondsRecord:
    """Wall-clock seconds of each stage."""

    read: float
    register: float
    export: float


@dataclass(frozen=True)
class Result:
    """All that is known of one predicted pair.

    Attributes:
        format: Version of this record.
        case: Name of the pair, and of its folder.
        request: SHA-256 of inputs, weights, plan and options; `--continue` compares it.
        inputs: The files of the pair.
        model: The weights; null without a network.
        device: Where it was computed.
        versions: Of autoreg and what it stands on.
        seconds: Whole time spent on the pair.
        stages: Its parts.
        loss_before: Loss of the network as it was trained, on the plan's grid; null without
            instance optimisation.
        loss_after: Loss after instance optimisation; likewise.
        optimisation: Instance optimisation of a network; null without one.
        field: The exported displacement.
        outside_value: What each channel of the warped image holds where the moving image ends.
        label_names: Structures by name, as the plan knows them.
        files: Size in bytes of every file written beside this one.
        warnings: What a reader should know before trusting the result.
        alignment: The initial alignment; null where a network's answer took its place.
        field_optimisation: Without a network, or after it (refinement); null where there was none.
    """

    format: int
    case: str
    request: str
    inputs: InputsRecord
    model: ModelRecord | None
    device: str
    versions: dict[str, str]
    seconds: float
    stages: SecondsRecord
    loss_before: LossRecord | None
    loss_after: LossRecord | None
    optimisation: OptimisationRecord | None
    field: FieldRecord
    outside_value: tuple[float, ...]
    label_names: dict[str, int]
    files: dict[str, int]
    warnings: tuple[str, ...]
    alignment: AlignmentRecord | None = None
    field_optimisation: FieldOptimisationRecord | None = None


def read_result(folder: Path) -> Result:
    """Read the result.json of a pair's folder.

    Raises:
        DataError: if it is missing, damaged or of another format.
    """
    path = folder / RESULT_FILE
    data = load_json(path, DataError)
    found = data.get("format") if isinstance(data, dict) else None
    if found != RESULT_FORMAT:
        raise DataError(
            f"{path}: a record of format {found}, expected {RESULT_FORMAT}; predict the pair again "
            "with this version of autoreg"
        )
    return from_plain(Result, data, str(path), DataError)


def is_whole(folder: Path, result: Result) -> bool:
    """Whether every file that a result lists is in its folder, in the size that it lists."""
    return all(
        (folder / name).is_file() and (folder / name).stat().st_size == size
        for name, size in result.files.items()
    )
