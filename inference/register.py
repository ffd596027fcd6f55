"""Registration of two images, from files to files: autoreg_register."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from autoreg.errors import AutoregError, DataError, UsageError
from autoreg.failures import one_message
from autoreg.field_plan import FieldPlan
from autoreg.geometry.volume import Volume
from autoreg.inference.case_folder import (
    PLAN_FILE,
    kept_note,
    mark_failed,
    new_result,
)
from autoreg.inference.export import (
    Carried,
    export_pair,
    outside_note,
    read_carried,
    trace_text,
)
from autoreg.inference.pair_checks import require_pair
from autoreg.inference.pairs_file import PairFiles
from autoreg.inference.pairwise import PairOptions, PairRegistration, register_pair
from autoreg.inference.register_report import alignment_record, field_optimisation_record
from autoreg.inference.result import (
    field_warnings,
    inputs_record,
    loss_record,
    loss_warnings,
    optimisation_record,
    request_digest,
    versions,
)
from autoreg.io.image_headers import read_channels, read_on_grid_either
from autoreg.io.images import WRITTEN_SUFFIXES
from autoreg.io.itk_transforms import ITK_SUFFIXES
from autoreg.io.names import LANDMARK_SUFFIXES
from autoreg.io.records import load_record, save_record
from autoreg.io.result import (
    RESULT_FILE,
    RESULT_FORMAT,
    FieldRecord,
    ModelRecord,
    Result,
    SecondsRecord,
)
from autoreg.io.transforms import Dimension
from autoreg.registration.field_course import FieldStep

if TYPE_CHECKING:  # networks come with it, which are not always needed
    from autoreg.inference.predictor import Predictor

MORE_MEMORY = "shrink or crop the images, or use another --device with more memory"


# What a folder's name does not end in, unless it is there already.
_FILES = (
    *WRITTEN_SUFFIXES, *ITK_SUFFIXES, *LANDMARK_SUFFIXES, ".mhd", ".nhdr", ".hdr", ".img", ".mgz",
    ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm", ".json", ".npz",
)  # fmt: skip


@dataclass(frozen=True)
class RegisterRequest:
    """What to register.

    Attributes:
        pair: The input files.
        output: Folder for the results.
        options: How.
        device: Where to compute.
        start: A network to start from, in place of the initial alignment.
    """

    pair: PairFiles
    output: Path
    options: PairOptions
    device: torch.device
    start: "NetworkStart | None" = None

    @property
    def digest(self) -> str:
        """Identifies all that decides the outcome; see `request_digest`."""
        if self.start is None:
            return request_digest(self.pair, [], self.options, self.options.base)
        network = replace(self.start.predictor.plan, reasons={})
        weights = [self.start.checkpoint]
        return request_digest(self.pair, weights, self.options, self.options.base, network)


@dataclass(frozen=True, eq=False)
class NetworkStart:
    """A trained network that the optimisation starts from.

    Attributes:
        predictor: The network, with its plan.
        model: Its folder.
        checkpoint: Its weights.
    """

    predictor: "Predictor"
    model: Path
    checkpoint: Path


@dataclass(frozen=True, eq=False)
class _Input:
    """What was read of a pair."""

    images: tuple[Volume, Volume]
    masks: tuple[Volume | None, Volume | None]
    dimension: Dimension


def read_plan(path: Path) -> FieldPlan:
    """Read a plan for field optimisation.

    Raises:
        PlanError: naming what is wrong with it.
    """
    return load_record(FieldPlan, path)


def register_files(request: RegisterRequest) -> Result:
    """Register two images and write everything into the output folder, result.json last.

    Results of an earlier registration there stay until the new ones are whole.

    Args:
        request: What, where and how.

    Returns:
        The contents of result.json.

    Raises:
        AutoregError: if the input cannot be used, memory or the device fails, or the output cannot
            be written. Once everything was read and checked, unfinished.txt in the folder holds
            the reason, as far as that can be written; before that the folder is left alone.
    """
    pair, folder = request.pair, request.output
    _check_output(folder)
    start = time.perf_counter()
    with one_message(f"case {pair.case}", MORE_MEMORY):
        given = _read(pair)
        carried = read_carried(pair, *(image.geometry for image in given.images))
        digest = request.digest
        if request.start is not None and given.images[0].geometry.shape[0] == 1:
            raise DataError(
                f"--model {request.start.model}: a network registers 3-D images of several layers, "
                f"and {pair.joined('fixed')} has one; drop --model"
            )
    read = time.perf_counter()
    with one_message(f"case {pair.case}", MORE_MEMORY), new_result(folder, pair) as new:
        try:
            with one_message(f"case {pair.case}", MORE_MEMORY):
                result = _computed(request, given, carried, new, digest, (start, read))
                save_record(result, new / RESULT_FILE)
        except AutoregError as error:
            mark_failed(folder, str(error))
            raise AutoregError(f"{error}{kept_note(folder)}") from error
    return result


def _computed(
    request: RegisterRequest,
    given: _Input,
    carried: Carried,
    folder: Path,
    digest: str,
    begun: tuple[float, float],
) -> Result:
    """Register, and write everything but result.json; `begun`: before and after reading."""
    pair = request.pair
    found = register_pair(
        *given.images,
        request.options,
        predictor=None if request.start is None else request.start.predictor,
        fixed_mask=given.masks[0],
        moving_mask=given.masks[1],
        device=request.device,
        names=_names(pair),
    )
    registered = time.perf_counter()
    course = None if found.network is None else found.network.trace
    save_record(found.plan, folder / PLAN_FILE)
    exported = export_pair(
        found.pair,
        pair,
        carried,
        folder,
        trace=_trace_text(found.field.steps),
        trace_network=None if course is None else trace_text(course),
        dimension=given.dimension,
    )
    times = (*begun, registered, time.perf_counter())
    note = outside_note(carried, pair, given.images[0].geometry)
    return _result(request, digest, found, exported, times, note)


def _result(
    request: RegisterRequest,
    digest: str,
    found: PairRegistration,
    exported: tuple[FieldRecord, dict[str, int]],
    times: tuple[float, float, float, float],
    landmarks: str | None,
) -> Result:
    (field, files), (start, read, registered, end) = exported, times
    network = found.network
    before, after, optimisation = (None, None, None)
    if network is not None and request.start is not None:
        before, after = loss_record(network.loss_before), loss_record(network.loss_after)
        io = request.start.predictor.plan.instance_optimisation
        optimisation = optimisation_record(network.trace, io)
    return Result(
        format=RESULT_FORMAT,
        case=request.pair.case,
        request=digest,
        inputs=inputs_record(request.pair),
        model=_model_record(request.start),
        device=str(request.device),
        versions=versions(),
        seconds=end - start,
        stages=SecondsRecord(read - start, registered - read, end - registered),
        loss_before=before,
        loss_after=after,
        optimisation=optimisation,
        field=field,
        outside_value=found.pair.outside,
        label_names={},
        files=files,
        warnings=(
            *found.warnings,
            *loss_warnings(before, after),
            *field_warnings(field, found.pair.fixed.geometry, landmarks),
        ),
        alignment=alignment_record(found.alignment, request.options.align, found.align_seconds),
        field_optimisation=field_optimisation_record(found, request.options),
    )


def _model_record(start: NetworkStart | None) -> ModelRecord | None:
    return None if start is None else ModelRecord(str(start.model), str(start.checkpoint))


def _check_output(folder: Path) -> None:
    if folder.name.lower().endswith(_FILES) and not folder.is_dir():
        raise UsageError(f"-o {folder}: names a file; expected a folder for the results")


def _read(pair: PairFiles) -> _Input:
    fixed, dimension = read_channels(pair.fixed, "intensity")
    moving, other = read_channels(pair.moving, "intensity")
    if dimension != other:
        raise DataError(
            f"{pair.joined('fixed')} is a {dimension}-D image and {pair.joined('moving')} a "
            f"{other}-D one; register two images of one dimension"
        )
    if len(pair.fixed) != len(pair.moving):
        raise DataError(
            f"{len(pair.fixed)} channels of the fixed and {len(pair.moving)} of the moving image; "
            "expected as many"
        )
    masks = _mask(pair.fixed_mask, fixed), _mask(pair.moving_mask, moving)
    require_pair((fixed, moving), masks, _names(pair))
    return _Input((fixed, moving), masks, dimension)


def _mask(path: Path | None, image: Volume) -> Volume | None:
    if path is None:
        return None
    mask = read_on_grid_either(path, "mask", image.geometry)
    if not mask.array.any():
        raise DataError(f"{path}: the mask is empty; draw it, or leave it out")
    return mask


def _names(pair: PairFiles) -> tuple[str, str]:
    return pair.joined("fixed"), pair.joined("moving")


def _trace_text(steps: tuple[FieldStep, ...]) -> str:
    lines = ["step,stage,voxel_mm,similarity"]
    lines += [f"{s.step},{s.stage},{s.voxel_mm:.6g},{s.similarity:.8g}" for s in steps]
    return "\n".join(lines) + "\n"
