"""Registration in memory: two images in, a transform and the warped image out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import torch

from autoreg.command import resolve_device
from autoreg.errors import DataError, PlanError, did_you_mean
from autoreg.field_plan import FieldPlan
from autoreg.geometry.transforms import Composite
from autoreg.geometry.volume import Kind, Volume
from autoreg.inference.registered_pair import Image, RegisteredPair, as_volume
from autoreg.networks.base import RegistrationNetwork
from autoreg.plan import InstanceOptimisationPlan, Plan, intensity_name
from autoreg.registration.field_from_network import Refinement, register_from
from autoreg.registration.instance_optimisation import TraceStep
from autoreg.registration.prepare import Prepared, prepare
from autoreg.registration.register import Registration, register
from autoreg.registration.start import ImagePair
from autoreg.training.model_folder import Which, find_checkpoint, load_network
from autoreg.training.refinement_record import Decision, decision

_FEWEST_VOXELS = 4  # along an axis: a slice has no third dimension to deform
_NOT_ASKED_FOR = Decision(None, "nobody asked for it")


@dataclass(frozen=True, eq=False)
class Prediction:
    """One registered pair.

    Attributes:
        registration: Transform, displacement on the network's grid, trace and losses.
        fixed: The fixed image.
        moving: The moving image.
        outside: What each channel of the warped image holds where the moving image ends.
        refinement: What the optimisation of a field made of it, at the fixed image's resolution.
    """

    registration: Registration
    fixed: Volume
    moving: Volume
    outside: tuple[float, ...]
    refinement: Refinement | None = None

    @property
    def transform(self) -> Composite:
        """From points of the fixed image to points of the moving one, LPS mm."""
        found = self.registration if self.refinement is None else self.refinement.field
        return found.transform

    @cached_property
    def pair(self) -> RegisteredPair:
        """The images and the transform, both ways if it was refined."""
        inverse = None if self.refinement is None else self.refinement.field.inverse
        return RegisteredPair(self.transform, self.fixed, self.moving, self.outside, inverse)

    @property
    def warped(self) -> Volume:
        """The moving image on the fixed image's grid, interpolated once."""
        return self.pair.warped

    def warp(self, volume: Image, kind: Kind = "intensity") -> Volume:
        """Bring anything in the moving image's space onto the fixed image's grid.

        See `RegisteredPair.warp`.
        """
        return self.pair.warp(volume, kind)


class Predictor:
    """A trained network that registers pairs, one after the other.

    Example:
        >>> predictor = Predictor.from_model("results/Dataset001_Brains/default")
        >>> prediction = predictor.predict_pair(sitk.ReadImage("f.nii"), sitk.ReadImage("m.nii"))
        >>> prediction.transform.map_points([[0.0, 0.0, 0.0]])

    Args:
        network: In evaluation mode, on `device`; its weights are the same after every pair.
        plan: What it obeys.
        device: Where to compute.
        refinement: Whether its results are to be refined, or what finds out when it is asked for;
            `predict_pair` is told by its caller.
    """

    def __init__(
        self,
        network: RegistrationNetwork,
        plan: Plan,
        device: torch.device,
        refinement: Decision | Callable[[], Decision] = _NOT_ASKED_FOR,
    ) -> None:
        self.network = network
        self.plan = plan
        self.device = device
        self._refinement = refinement

    @cached_property
    def refinement(self) -> Decision:
        """Whether its results are to be refined.

        Raises:
            DataError: if the fold's refinement.json is damaged.
        """
        found = self._refinement
        return found if isinstance(found, Decision) else found()

    @classmethod
    def from_model(
        cls,
        folder: Path | str,
        *,
        fold: str | int | None = None,
        checkpoint: Which | None = None,
        device: str | torch.device = "auto",
    ) -> "Predictor":
        """Load a trained or imported model.

        Args:
            folder: Model folder: plan.json with fold_*/checkpoint_*.pt.
            fold: By default the only one there is.
            checkpoint: By default final, else best, else latest.
            device: "auto", "cpu", "cuda" or "cuda:N".

        Returns:
            The predictor; `refinement.field` is what its plan and the fold's refinement.json
            say of refining its results.

        Raises:
            CheckpointError: if the weights are missing or don't fit the plan.
            UsageError: if there is no such device.
        """
        place = device if isinstance(device, torch.device) else resolve_device(device)
        model = load_network(Path(folder), fold, checkpoint, place)
        refine = model.plan.instance_optimisation.refine
        beside = find_checkpoint(Path(folder), fold, checkpoint).parent
        return cls(model.network, model.plan, place, partial(decision, refine, beside))

    def predict_pair(
        self,
        fixed: Image,
        moving: Image,
        *,
        fixed_mask: Image | None = None,
        moving_mask: Image | None = None,
        fixed_modalities: Sequence[str] | None = None,
        moving_modalities: Sequence[str] | None = None,
        io: InstanceOptimisationPlan | None = None,
        refine: FieldPlan | None = None,
        names: tuple[str, str] = ("fixed image", "moving image"),
        on_step: Callable[[TraceStep], None] | None = None,
    ) -> Prediction:
        """Register one pair.

        Args:
            fixed: A three-dimensional SimpleITK image, or a `Volume` (array with a Geometry).
            moving: Likewise, on any other grid.
            fixed_mask: Where instance optimisation looks at the fixed image; likewise the other.
            moving_mask: See `fixed_mask`.
            fixed_modalities: Of each channel, names in `plan.intensity`; by default the plan's.
            moving_modalities: See `fixed_modalities`.
            io: Instance optimisation in place of the plan's.
            refine: Optimisation of a displacement field that follows, at the fixed image's own
                resolution; None: there is none, whatever the plan says. `refinement.field` is
                what autoreg_predict does.
            names: What messages call the two images.
            on_step: Hears of every step of it.

        Returns:
            The transform, and whatever follows from it.

        Raises:
            PlanError: for an unknown modality.
            DataError: if an image does not fit the plan, is constant, too thin or not finite, or
                nothing of the two is left to compare for the refinement.
        """
        fixed, moving = as_volume(fixed, "intensity"), as_volume(moving, "intensity")
        of_fixed = self.known_modalities(fixed_modalities) or self.plan.fixed_modalities
        of_moving = self.known_modalities(moving_modalities) or self.plan.moving_modalities
        one = self._prepared(names[0], fixed, of_fixed, fixed_mask)
        other = self._prepared(names[1], moving, of_moving, moving_mask)
        registration = register(self.network, self.plan, one, other, io, on_step=on_step)
        found = Prediction(registration, fixed, moving, self._outside(of_moving))
        if refine is None:
            return found
        masks = [None if m is None else as_volume(m, "mask") for m in (fixed_mask, moving_mask)]
        pair = ImagePair.of(fixed, moving, masks[0], masks[1])
        refinement = register_from(registration.transform, pair, refine, self.device)
        return replace(found, refinement=refinement)

    def known_modalities(self, given: Sequence[str] | None) -> tuple[str, ...]:
        """The given modalities by the names under which the plan scales them.

        Raises:
            PlanError: for an unknown one.
        """
        names = []
        for name in given or ():
            known = intensity_name(name, self.plan.intensity)
            if known is None:
                raise PlanError(
                    f'modality "{name}": the plan of this model has no intensity scheme for it; '
                    "say which one is meant with --fixed-modality and --moving-modality; "
                    f"{did_you_mean(name, self.plan.intensity)}"
                )
            names.append(known)
        return tuple(names)

    def _prepared(
        self, name: str, image: Volume, modalities: Sequence[str], mask: Image | None
    ) -> Prepared:
        if min(image.geometry.shape) < _FEWEST_VOXELS:
            raise DataError(
                f"{name}: the image has {image.geometry.shape} voxels; expected at least "
                f"{_FEWEST_VOXELS} along every axis; give a volume instead of a slice"
            )
        inside = None if mask is None else as_volume(mask, "mask")
        try:
            return prepare(image, self.plan, modalities, inside, self.device)
        except DataError as error:
            raise DataError(f"{name}: {error}") from error

    def _outside(self, modalities: Sequence[str]) -> tuple[float, ...]:
        # 0 HU is water; what surrounds a CT is the window's low end, air.
        schemes = [self.plan.intensity[name] for name in modalities]
        return tuple(scheme.lower if scheme.kind == "window" else 0.0 for scheme in schemes)
