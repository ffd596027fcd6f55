"""Registration of two images by optimising a displacement field, without any network.

Coarse to fine, in two stages. First a smooth deformation: a stationary velocity of cubic B-splines,
by Gauss-Newton, with the bending energy as regulariser. Where that leaves much undone that noise
does not explain, as between different people's brains, a second stage refines the displacement
block by block; between images of one anatomy it would only follow the noise, and is left out.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from autoreg.errors import DataError
from autoreg.field_plan import FieldPlan, StageName
from autoreg.geometry.grid import FloatArray, Geometry, apply_affine
from autoreg.geometry.transforms import (
    Affine,
    Composite,
    DisplacementField,
    Transform,
    map_where_known,
)
from autoreg.geometry.volume import Volume
from autoreg.losses.mind import mind_descriptor
from autoreg.losses.window import box_window
from autoreg.numerics.coarse_inverse import coarse_inverse
from autoreg.numerics.control_grid import ControlGrid
from autoreg.numerics.precision import float32_exactly
from autoreg.registration.field_course import Course, FieldStep
from autoreg.registration.field_dense import BlockField, optimise_dense
from autoreg.registration.field_exchanged import mean_of_both
from autoreg.registration.field_images import FieldImages, make_images
from autoreg.registration.field_level import Level
from autoreg.registration.field_residual import Residual, residual_of
from autoreg.registration.field_similarity import (
    LocalCorrelation,
    SquaredDifference,
)
from autoreg.registration.field_spline import Penalty, SplineField, optimise_spline

# Standard deviation, as a share of the image's range, below which a window is flat.
_FLAT_WINDOW = 0.01
# For objects smaller than that the lengths of the plan shrink.
_HEAD_MM = 100.0
# So scaled, the weight of the bending energy that suits correlations suits MIND: measured.
_MIND_SCALE = 2.0
_MIND_RADIUS, _MIND_DILATION = 1, 1


@dataclass(frozen=True, eq=False)
class FieldRegistration:
    """What was found.

    Attributes:
        initial: From fixed to moving points, as given.
        forward: Displacement of the points of the fixed image, before `initial`.
        backward: The inverse of `forward`, on the same grid.
        residual: What the spline left undone; decides on the second stage.
        refined: Whether there was a second stage.
        steps: All steps taken, those with exchanged images last.
        seconds: Wall time.
        cpu_seconds: CPU time of the process.
    """

    initial: Affine
    forward: DisplacementField
    backward: DisplacementField
    residual: Residual
    refined: bool
    steps: tuple[FieldStep, ...]
    seconds: float
    cpu_seconds: float

    @property
    def transform(self) -> Composite:
        """From points of the fixed image to points of the moving one, LPS mm."""
        return Composite((self.forward, self.initial))

    @property
    def inverse(self) -> Composite:
        """From points of the moving image to points of the fixed one, LPS mm."""
        return Composite((self.initial.inverse(), self.backward))


@torch.no_grad()
@float32_exactly()
def register_field(
    fixed: Volume,
    moving: Volume,
    initial: Affine,
    plan: FieldPlan,
    *,
    start: Transform | None = None,
    fixed_mask: Volume | None = None,
    moving_mask: Volume | None = None,
    device: torch.device | str = "cpu",
    on_step: Callable[[FieldStep], None] | None = None,
) -> FieldRegistration:
    """Register two images.

    Args:
        fixed: The fixed image; an axis of one voxel is left alone.
        moving: The moving image, on any grid, with as many channels.
        initial: The initial alignment, from fixed to moving points.
        plan: Similarity, stages and how long.
        start: Where the optimisation begins: from points of the fixed image to where they lie
            before `initial` maps them; None: nowhere else.
        fixed_mask: Where the fixed image counts; likewise the other.
        moving_mask: See `fixed_mask`.
        device: Where to compute.
        on_step: Hears of every step.

    Raises:
        DataError: for an image or mask of which nothing can be compared.
    """
    begin, cpu_begin = time.perf_counter(), time.process_time()
    images = make_images(fixed, moving, initial, (fixed_mask, moving_mask), torch.device(device))
    course = Course(plan.flat_tolerance, on_step)
    u_mm, residual, refined = _Optimisation(images, plan, course, start=start).run()
    u_vox = u_mm / torch.tensor(fixed.geometry.spacing_mm).to(u_mm).view(3, 1, 1, 1)
    if plan.both_directions and not refined:
        exchanged = make_images(
            moving, fixed, initial.inverse(), (moving_mask, fixed_mask), torch.device(device)
        )
        back = None if start is None else _seen_from_moving(start, initial)
        other = _exchanged(exchanged, plan, course, moving.geometry, back)
        u_vox = mean_of_both(u_vox, other, fixed.geometry, initial)
    return FieldRegistration(
        initial,
        _field(u_vox, fixed.geometry),
        _field(coarse_inverse(u_vox), fixed.geometry),
        residual,
        refined,
        tuple(course.steps),
        time.perf_counter() - begin,
        time.process_time() - cpu_begin,
    )


def _exchanged(
    images: FieldImages,
    plan: FieldPlan,
    course: Course,
    geometry: Geometry,
    start: Transform | None,
) -> DisplacementField:
    """The first stage with exchanged images: the inverse of its displacement, on its grid."""
    optimisation = _Optimisation(images, replace(plan, dense=None), course, "exchanged", start)
    u_mm, _, _ = optimisation.run()
    u_vox = u_mm / torch.tensor(geometry.spacing_mm).to(u_mm).view(3, 1, 1, 1)
    return _field(coarse_inverse(u_vox), geometry)


@dataclass(frozen=True, eq=False)
class _Optimisation:
    images: FieldImages
    plan: FieldPlan
    course: Course
    first_stage: StageName = "spline"
    start: Transform | None = None

    def run(self) -> tuple[Tensor, Residual, bool]:
        """The displacement on the whole fixed grid (3, D, H, W), mm along its axes."""
        dense = self.plan.dense
        field = self._start()
        last = min(1, self.images.resolutions - 1)
        for index in reversed(range(last, self.images.resolutions)):
            field = self._spline(field, index)
        residual = residual_of(self._intensities(last), field, self.images, self._signed)
        # Descriptors leave too much undone everywhere to tell anything.
        decided = self.plan.similarity != "mind"
        differs = dense is not None and residual.unexplained >= dense.from_residual
        wanted = dense is not None and any(dense.iterations) and decided and differs
        if not wanted:
            for index in reversed(range(last)):
                field = self._spline(field, index)
            u_mm = field.grid.evaluate(field.displacement, self.images.box.of_image())
            return u_mm, residual, False
        return self._dense(field, last), residual, True

    def _start(self) -> SplineField:
        spline, box = self.plan.spline, self.images.box
        spacing = max(spline.control_mm * self._size, spline.control_vox * self.images.voxel_mm)
        grid = ControlGrid(box.lengths_mm, spacing)
        if self.start is not None:
            at_nodes = torch.from_numpy(self._started_mm(self.start, grid)).to(self.images.fixed)
            return SplineField.of(grid, grid.logarithm(at_nodes))
        zeros = torch.zeros(3, *grid.shape).to(self.images.fixed)
        return SplineField(grid, zeros, zeros)

    def _started_mm(self, start: Transform, grid: ControlGrid) -> FloatArray:
        """A transform's displacement at the control points, mm along (d, h, w); (3, *shape)."""
        box = self.images.box
        nodes = np.stack(np.meshgrid(*grid.nodes_mm(), indexing="ij"), axis=-1).reshape(-1, 3)
        held = np.clip(nodes, 0, np.array(box.lengths_mm))
        points = apply_affine(box.world_of_mm(), held)
        mapped, _ = map_where_known(start, points)
        u_mm = (mapped - points) @ np.linalg.inv(box.world_of_mm()[:3, :3]).T
        u_mm[:, list(box.flat)] = 0
        return np.ascontiguousarray(u_mm.T).reshape(3, *grid.shape)

    def _spline(self, field: SplineField, index: int) -> SplineField:
        plan = self.plan.spline
        steps = plan.iterations[min(index, len(plan.iterations) - 1)]
        if steps == 0:
            return field
        factor = 1.0 if index == 0 else plan.coarser[min(index, len(plan.coarser)) - 1]
        penalty = Penalty(plan.bending * factor * self._size**2, plan.detail_mm * self._size)
        level = self._level(index, "spline")
        return optimise_spline(level, field, penalty, plan, steps, self.course, self.first_stage)

    def _dense(self, spline: SplineField, first: int) -> Tensor:
        plan = self.plan.dense
        if plan is None:
            raise ValueError("the plan has no second stage")
        field = None
        for index in reversed(range(first + 1)):
            steps = plan.iterations[min(index, len(plan.iterations) - 1)]
            if steps == 0:
                continue
            level = self._level(index, "dense")
            if field is None:
                blocks = level.blocks_mm()
                field = BlockField(spline.grid.evaluate(spline.displacement, blocks), blocks)
            field = optimise_dense(level, field, plan, steps, self.course)
        if field is None:
            return spline.grid.evaluate(spline.displacement, self.images.box.of_image())
        return field.at(self.images.box.of_image())

    @property
    def _size(self) -> float:
        """Of the object, against a head; 1 for all that are larger."""
        return min(1.0, self.images.object_mm / _HEAD_MM)

    @property
    def _signed(self) -> bool:
        """Whether the images show the same contrast."""
        return self.plan.similarity == "lncc"

    def _intensities(self, index: int) -> Level:
        """The images as they are."""
        return self.images.level(index, LocalCorrelation("signed", _FLAT_WINDOW), None, fine=False)

    def _level(self, index: int, stage: StageName) -> Level:
        if self.plan.similarity == "mind":
            return self.images.level(index, SquaredDifference(_MIND_SCALE), _mind, fine=False)
        # The smooth deformation is looked for with the square, which leaves windows of noise out.
        signed = stage == "dense" and self._signed
        voxel_mm = self.images.voxel_mm * 2**index
        fine = stage == "spline" and index <= 1 and voxel_mm >= self.plan.spline.fine_from_mm
        kind: Literal["signed", "squared"] = "signed" if signed else "squared"
        return self.images.level(index, LocalCorrelation(kind, _FLAT_WINDOW), None, fine=fine)


def _seen_from_moving(start: Transform, initial: Affine) -> Transform:
    """The inverse of a start, for points of the moving image under exchanged images."""
    return Composite((initial.inverse(), start.inverse(), initial))


def _mind(intensities: Tensor) -> Tensor:
    """MIND-SSC of every channel, one after the other."""
    window = box_window(intensities[None], 2 * _MIND_RADIUS + 1, "replicate")
    channels = [mind_descriptor(c[None, None], window, _MIND_DILATION)[0] for c in intensities]
    return torch.cat(channels)


def _field(u_vox: Tensor, geometry: Geometry) -> DisplacementField:
    if not bool(u_vox.isfinite().all()):
        raise DataError("the displacement is not finite; check both images for absurd intensities")
    return DisplacementField(u_vox.cpu().numpy(), geometry)
