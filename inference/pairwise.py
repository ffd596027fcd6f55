"""Registration of two images in memory: from the headers, or from where a network left them."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from autoreg.command import resolve_device
from autoreg.errors import DataError
from autoreg.field_plan import FieldPlan, FieldSimilarity
from autoreg.geometry.transforms import Affine, Composite
from autoreg.geometry.volume import Kind, Volume
from autoreg.inference.pair_checks import (
    agreement_warnings,
    outside_value,
    require_mask,
    require_usable,
)
from autoreg.inference.registered_pair import Image, RegisteredPair, as_volume
from autoreg.registration.align import Alignment, align
from autoreg.registration.align_settings import AlignmentKind, AlignmentSettings
from autoreg.registration.align_starts import header_placement
from autoreg.registration.contrast import Agreement, CoarsePair, coarse_pair
from autoreg.registration.field import FieldRegistration, register_field
from autoreg.registration.field_course import FieldStep
from autoreg.registration.field_presets import DEFAULT_PRESET, preset_plan

if TYPE_CHECKING:  # networks come with them, which are not always needed
    from autoreg.inference.predictor import Predictor
    from autoreg.registration.field_from_network import Refinement
    from autoreg.registration.register import Registration

# By so much the images must agree worse after the alignment than before for it to be dropped.
_CLEARLY_WORSE = 0.02


@dataclass(frozen=True)
class PairOptions:
    """How two images are registered.

    Attributes:
        preset: "fast", "balanced" or "accurate".
        plan: In place of a preset.
        similarity: In place of the plan's; None: the plan's own, or of a preset the one that suits
            the images' contrasts.
        align: The initial alignment.

    Raises:
        PlanError: for an unknown preset.
    """

    preset: str = DEFAULT_PRESET
    plan: FieldPlan | None = None
    similarity: FieldSimilarity | None = None
    align: AlignmentKind = "affine"

    def __post_init__(self) -> None:
        preset_plan(self.preset)

    @property
    def base(self) -> FieldPlan:
        """The plan before the similarity is chosen."""
        return preset_plan(self.preset) if self.plan is None else self.plan


@dataclass(frozen=True, eq=False)
class PairRegistration:
    """Two registered images.

    Attributes:
        pair: The images and the transform between them, both ways.
        alignment: The initial alignment and its report; None after a network.
        network: What the network did, where one was used.
        field: The displacement field and how it was found.
        plan: As it was obeyed.
        similarity_reason: Why this similarity.
        aligned: How the images agree after the initial alignment, or after the network.
        registered: How they agree at the end.
        align_seconds: Wall time of the initial alignment.
        warnings: What a reader should know before trusting the result.
        refinement: What the field's optimisation added to a network's answer, where one was used.
    """

    pair: RegisteredPair
    alignment: Alignment | None
    network: "Registration | None"
    field: FieldRegistration
    plan: FieldPlan
    similarity_reason: str
    aligned: Agreement
    registered: Agreement
    align_seconds: float
    warnings: tuple[str, ...]
    refinement: "Refinement | None" = None

    @property
    def transform(self) -> Composite:
        """From points of the fixed image to points of the moving one, LPS mm."""
        return self.field.transform

    @property
    def inverse(self) -> Composite:
        """From points of the moving image to points of the fixed one, LPS mm."""
        return self.field.inverse

    @property
    def warped(self) -> Volume:
        """The moving image on the fixed image's grid, interpolated once."""
        return self.pair.warped

    def warp(self, volume: Image, kind: Kind = "intensity") -> Volume:
        """Bring anything in the moving image's space onto the fixed image's grid.

        See `RegisteredPair.warp`.
        """
        return self.pair.warp(volume, kind)


def register_pair(
    fixed: Image,
    moving: Image,
    options: PairOptions | None = None,
    *,
    predictor: "Predictor | None" = None,
    fixed_mask: Image | None = None,
    moving_mask: Image | None = None,
    device: str | torch.device = "auto",
    names: tuple[str, str] = ("fixed image", "moving image"),
    on_step: Callable[[FieldStep], None] | None = None,
) -> PairRegistration:
    """Register two images: an initial alignment, then a displacement field.

    Args:
        fixed: A two- or three-dimensional SimpleITK image, or a `Volume` (array with a Geometry;
            two-dimensional ones are one layer, (1, H, W)).
        moving: Likewise, on any other grid, with as many channels.
        options: Preset, similarity, initial alignment.
        predictor: A trained network to start from, in place of the initial alignment.
        fixed_mask: Where the fixed image counts, on its grid; likewise the other.
        moving_mask: See `fixed_mask`.
        device: "auto", "cpu", "cuda" or "cuda:N".
        names: What messages call the two images.
        on_step: Hears of every step of the field's optimisation.

    Returns:
        The transform both ways, and whatever follows from it.

    Raises:
        DataError: if an image is constant, not finite or too small, the two do not overlap or
            differ in dimensions or channels, or a mask is empty or lies elsewhere.
        UsageError: if there is no such device.

    Example:
        >>> result = register_pair(sitk.ReadImage("f.nii"), sitk.ReadImage("m.nii"))
        >>> sitk.WriteImage(to_sitk(result.warped), "warped.nii")
        >>> result.transform.map_points([[0.0, 0.0, 0.0]])  # of the fixed image, LPS mm
    """
    options = PairOptions() if options is None else options
    place = device if isinstance(device, torch.device) else resolve_device(device)
    images = as_volume(fixed, "intensity"), as_volume(moving, "intensity")
    for image, name in zip(images, names, strict=True):
        require_usable(image, name)
    masks = [None if m is None else as_volume(m, "mask") for m in (fixed_mask, moving_mask)]
    for mask, image, name in zip(masks, images, names, strict=True):
        if mask is not None:
            require_mask(mask, image, name)
    job = _Job(images, (masks[0], masks[1]), options, place, on_step)
    if predictor is not None:
        return job.from_network(predictor, names)
    try:
        return job.from_headers()
    except DataError as error:
        raise DataError(f"{names[0]} and {names[1]}: {error}") from error


@dataclass(frozen=True, eq=False)
class _Job:
    """Two images and what is to be done with them."""

    images: tuple[Volume, Volume]
    masks: tuple[Volume | None, Volume | None]
    options: PairOptions
    device: torch.device
    on_step: Callable[[FieldStep], None] | None

    @cached_property
    def coarse(self) -> CoarsePair:
        return coarse_pair(*self.images, *self.masks)

    def from_headers(self) -> PairRegistration:
        start = time.perf_counter()
        alignment, aligned, note = _aligned(
            self.images, self.masks, self.options.align, self.coarse
        )
        seconds = time.perf_counter() - start
        plan, reason = _chosen(self.options, aligned)
        field = register_field(
            *self.images,
            alignment.transform,
            plan,
            fixed_mask=self.masks[0],
            moving_mask=self.masks[1],
            device=self.device,
            on_step=self.on_step,
        )
        found = self._result(field, plan, reason, aligned)
        warnings = (*alignment.warnings, *note, *found.warnings)
        return replace(found, alignment=alignment, align_seconds=seconds, warnings=warnings)

    def from_network(self, predictor: "Predictor", names: tuple[str, str]) -> PairRegistration:
        from autoreg.registration.field_from_network import register_from

        prediction = predictor.predict_pair(
            *self.images, fixed_mask=self.masks[0], moving_mask=self.masks[1], names=names
        )
        aligned = self.coarse.agreement(prediction.transform)
        plan, reason = _chosen(self.options, aligned)
        refinement = register_from(
            prediction.transform, *self.images, plan, self.masks, self.device, self.on_step
        )
        found = self._result(refinement.field, plan, reason, aligned)
        return replace(found, network=prediction.registration, refinement=refinement)

    def _result(
        self, field: FieldRegistration, plan: FieldPlan, reason: str, aligned: Agreement
    ) -> PairRegistration:
        registered = self.coarse.agreement(field.transform)
        outside = tuple(outside_value(channel) for channel in self.images[1].array)
        return PairRegistration(
            pair=RegisteredPair(field.transform, *self.images, outside, field.inverse),
            alignment=None,
            network=None,
            field=field,
            plan=plan,
            similarity_reason=reason,
            aligned=aligned,
            registered=registered,
            align_seconds=0.0,
            warnings=agreement_warnings(plan, aligned, registered),
        )


def _aligned(
    images: tuple[Volume, Volume],
    masks: tuple[Volume | None, Volume | None],
    kind: AlignmentKind,
    coarse: CoarsePair,
) -> tuple[Alignment, Agreement, tuple[str, ...]]:
    """The alignment, unless the headers' placement is clearly better by a second measure."""
    settings = AlignmentSettings(kind=kind)
    found = align(*images, settings, fixed_mask=masks[0], moving_mask=masks[1])
    after = coarse.agreement(found.transform)
    if found.kept == "headers":
        return found, after, ()
    if 0 in (found.overlap_before, found.similarity_before):
        return found, after, ()
    placement = header_placement(images[0].geometry, images[1].geometry)
    headers = coarse.agreement(Affine(placement))
    worse = after.absolute < headers.absolute - _CLEARLY_WORSE
    if not worse or headers.windows < after.windows / 2:
        return found, after, ()
    note = (
        f"the initial alignment ({kind}) was dropped for the headers' placement, in which the "
        f"images agree better: local correlation {headers.absolute:.3f} against "
        f"{after.absolute:.3f} (absolute values); look at the result"
    )
    # Once more, for what is to be warned of in this placement rather than in the dropped one.
    trusted = align(
        *images, AlignmentSettings(kind="none"), fixed_mask=masks[0], moving_mask=masks[1]
    )
    return replace(trusted, starts=found.starts, stages=found.stages), headers, (note,)


def _chosen(options: PairOptions, aligned: Agreement) -> tuple[FieldPlan, str]:
    """The plan with its similarity, and why this one."""
    plan = options.base
    if options.similarity is not None:
        return replace(plan, similarity=options.similarity), "asked for"
    if options.plan is not None:
        return plan, "the plan's"
    figures = (
        f"local correlation {aligned.correlation:.2f}, absolute {aligned.absolute:.2f} at the "
        "start of the optimisation"
    )
    if aligned.one_contrast:
        return plan, f"the images have one contrast: {figures}"
    return replace(plan, similarity="mind"), f"the contrasts differ: {figures}"
