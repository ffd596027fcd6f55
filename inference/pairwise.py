"""Registration of two images in memory: from the headers, or from where a network left them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from autoreg.command import resolve_device
from autoreg.errors import DataError
from autoreg.field_plan import FieldPlan, FieldSimilarity
from autoreg.geometry.transforms import Composite
from autoreg.geometry.volume import Kind, Volume
from autoreg.inference.pair_checks import (
    agreement_warnings,
    outside_value,
    require_pair,
)
from autoreg.inference.registered_pair import Image, RegisteredPair, as_volume
from autoreg.registration.align import Alignment
from autoreg.registration.align_settings import AlignmentKind
from autoreg.registration.contrast import Agreement
from autoreg.registration.field import FieldRegistration, register_field
from autoreg.registration.field_course import FieldStep
from autoreg.registration.field_presets import DEFAULT_PRESET, preset_plan
from autoreg.registration.start import ImagePair, Start, aligned_start, network_start

if TYPE_CHECKING:  # networks come with them, which are not always needed
    from autoreg.inference.predictor import Predictor
    from autoreg.registration.field_from_network import Refinement
    from autoreg.registration.register import Registration


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
        alignment: The initial alignment and its report; None where a network's answer was better.
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
        predictor: A trained network to start from, unless the images agree clearly better after
            the initial alignment.
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
    masks = [None if m is None else as_volume(m, "mask") for m in (fixed_mask, moving_mask)]
    require_pair(images, (masks[0], masks[1]), names)
    job = _Job(ImagePair.of(*images, masks[0], masks[1]), options, place, on_step)
    if predictor is not None:
        return job.from_network(predictor, names)
    try:
        return job.from_headers()
    except DataError as error:
        raise DataError(f"{names[0]} and {names[1]}: {error}") from error


@dataclass(frozen=True, eq=False)
class _Job:
    """Two images and what is to be done with them."""

    pair: ImagePair
    options: PairOptions
    device: torch.device
    on_step: Callable[[FieldStep], None] | None

    def from_headers(self) -> PairRegistration:
        start = aligned_start(self.pair, self.options.align)
        plan, reason = _chosen(self.options, start.agreement)
        field = register_field(
            self.pair.fixed,
            self.pair.moving,
            start.initial,
            plan,
            fixed_mask=self.pair.fixed_mask,
            moving_mask=self.pair.moving_mask,
            device=self.device,
            on_step=self.on_step,
        )
        return self._result(start, field, plan, reason)

    def from_network(self, predictor: "Predictor", names: tuple[str, str]) -> PairRegistration:
        from autoreg.registration.field_from_network import register_from

        prediction = predictor.predict_pair(
            self.pair.fixed,
            self.pair.moving,
            fixed_mask=self.pair.fixed_mask,
            moving_mask=self.pair.moving_mask,
            names=names,
        )
        network = prediction.transform
        try:
            start = network_start(network, self.pair, self.options.align)
        except DataError as error:
            raise DataError(f"{names[0]} and {names[1]}: {error}") from error
        plan, reason = _chosen(self.options, start.agreement)
        refinement = register_from(
            network, self.pair, plan, self.device, start=start, on_step=self.on_step
        )
        found = self._result(refinement.start, refinement.field, plan, reason)
        return replace(found, network=prediction.registration, refinement=refinement)

    def _result(
        self, start: Start, field: FieldRegistration, plan: FieldPlan, reason: str
    ) -> PairRegistration:
        registered = self.pair.coarse.agreement(field.transform)
        images = self.pair.fixed, self.pair.moving
        outside = tuple(outside_value(channel) for channel in self.pair.moving.array)
        return PairRegistration(
            pair=RegisteredPair(field.transform, *images, outside, field.inverse),
            alignment=start.alignment,
            network=None,
            field=field,
            plan=plan,
            similarity_reason=reason,
            aligned=start.agreement,
            registered=registered,
            align_seconds=start.seconds,
            warnings=(*start.warnings, *agreement_warnings(plan, start.agreement, registered)),
        )


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
