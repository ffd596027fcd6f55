"""The JSON configuration that the authors of SITReg train with, as far as a plan needs it.

What decides the network is read strictly: an unknown key may mean something that is not done
here. Of the data and the training only the named keys are looked at.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from autoreg.errors import PlanError
from autoreg.io.records import from_plain, load_json
from autoreg.network_plan import Shape, Triple

_LUNGS = ("lung250m_4b", "nlst")  # their reader adds 1024 to Hounsfield units
_NCC = "LocalNormalizedCrossCorrelationLoss"
_DIFFUSION = "GradientDeformationLoss"
_NDV = "NDVLoss"
_CONSISTENCY = "consistency_loss_weight_per_epoch"  # its last entry holds from there on


@dataclass(frozen=True)
class _Groups:
    n_groups: int


@dataclass(frozen=True)
class _Normaliser:
    type: Literal["GroupNormalizerFactory"]
    args: _Groups


@dataclass(frozen=True)
class _Activation:
    type: Literal["ReLUFactory"] = "ReLUFactory"


@dataclass(frozen=True)
class _Named:
    type: str
    args: dict[str, float]


@dataclass(frozen=True)
class _Solver:
    stop_criterion: _Named
    arguments: dict[str, float]


@dataclass(frozen=True)
class ModelSettings:
    """`application.config.model`, under the authors' names; axes in the order of nibabel."""

    n_input_channels: int
    input_shape: Shape
    n_features_per_resolution: tuple[int, ...]
    n_feature_convolutions_per_resolution: tuple[int, ...]
    n_transformation_features_per_resolution: tuple[int | None, ...]
    n_transformation_convolutions_per_resolution: tuple[int | None, ...]
    max_control_point_multiplier: float
    normalizer: _Normaliser
    voxel_size: Triple = (1.0, 1.0, 1.0)
    predict_affine: bool = False
    transformation_downsampling_factor: Triple = (1.0, 1.0, 1.0)
    use_normalization_in_deformation_extraction: bool | None = None
    activation: _Activation = _Activation()
    displacement_field_inversion: dict[str, _Solver] | None = None


@dataclass(frozen=True)
class _Data:
    """`data.config`: what is done to the intensities."""

    clip: tuple[float, float] | None = None
    shift_and_normalize: tuple[float, float] | None = None
    normalize: bool = False


@dataclass(frozen=True)
class SITRegSettings:
    """What the authors' configuration says.

    Attributes:
        model: The network.
        modality: "CT" for the authors' lung data sets, else "MR".
        min_max: Whether intensities are scaled from each image's minimum to its maximum.
        window: Otherwise the intensities of the image files that become 0 and 1.
        ncc_window: Edge of the windows of the similarity, voxels.
        gradient_weight: Of the displacement's squared gradient.
        ndv_weight: Of the non-diffeomorphic volume.
        intensity_notes: What a plan does otherwise with the intensities, for people.
        loss_notes: The same of the losses.
        left_out: What of the configuration no plan takes over, for people.
    """

    model: ModelSettings
    modality: Literal["MR", "CT"]
    min_max: bool
    window: tuple[float, float]
    ncc_window: int
    gradient_weight: float
    ndv_weight: float
    intensity_notes: tuple[str, ...]
    loss_notes: tuple[str, ...]
    left_out: tuple[str, ...]


def read_sitreg_settings(file: Path) -> SITRegSettings:
    """Read a configuration.

    Args:
        file: A configuration of the authors' repository or the training_config.json that their
            training writes; or the object "model" of one alone.

    Raises:
        PlanError: if it is unreadable, of another release, or asks for what is not done here.
    """
    content = load_json(file)
    if not isinstance(content, dict):
        raise PlanError(f"{file}: expected the authors' configuration, found {content!r:.60}")
    application = _inner(content, "application", "config")
    model = _model(application.get("model", content), file)
    raw_data = _inner(content, "data", "config")
    known = {f.name for f in fields(_Data)}
    data = from_plain(
        _Data, {k: v for k, v in raw_data.items() if k in known}, f"{file}: data: config"
    )
    lungs = _inner(content, "data").get("module") in _LUNGS
    training = _inner(application, "training")
    loss = _inner(training, "loss")
    similarities, regularities = _terms(loss, "similarity"), _terms(loss, "regularity")
    ncc_window = _number(similarities, _NCC, "window_size", 7.0)
    gradient_weight = _number(regularities, _DIFFUSION, "weight", 1.0)
    return SITRegSettings(
        model=model,
        modality="CT" if lungs else "MR",
        min_max=data.normalize,
        window=_window(data, 1024.0 if lungs else 0.0),
        ncc_window=int(ncc_window),
        gradient_weight=gradient_weight,
        ndv_weight=_number(regularities, _NDV, "weight", 1.0) if _NDV in regularities else 0.0,
        intensity_notes=tuple(_intensity_notes(raw_data, data)),
        loss_notes=(
            *_loss_notes(similarities, _NCC, f"a windowed NCC of {ncc_window:g} voxels"),
            *_loss_notes(regularities, _DIFFUSION, f"diffusion with weight {gradient_weight:g}"),
        ),
        left_out=tuple(_left_out(training, loss, model)),
    )


def _model(content: dict[str, Any], file: Path) -> ModelSettings:
    if "max_displacements" in content:
        raise PlanError(
            f'{file}: "max_displacements" is of a release before the bounds on control points; '
            "weights of that release cannot be imported"
        )
    model = from_plain(ModelSettings, content, f"{file}: model")
    if set(model.transformation_downsampling_factor) != {1.0}:
        raise PlanError(
            f"{file}: transformation_downsampling_factor "
            f"{list(model.transformation_downsampling_factor)}: only maps at the images' own "
            "resolution, [1, 1, 1], can be imported"
        )
    return model


def _inner(content: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """An object inside objects; empty if one of them is missing."""
    found: Any = content
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def _window(data: _Data, offset: float) -> tuple[float, float]:
    """The intensities of an image file that become 0 and 1: (x + offset - shift) / scale."""
    shift, scale = data.shift_and_normalize or (0.0, 1.0)
    return shift - offset, shift + scale - offset


def _intensity_notes(given: Mapping[str, Any], data: _Data) -> Iterator[str]:
    if not given:
        yield (
            "the configuration says nothing of the intensities: 0 to 1 is taken; give another "
            "range with --window"
        )
    ends = _window(data, 0.0)
    if data.clip not in (None, ends) and not data.normalize:
        low, high = data.clip or ends
        yield (
            f"intensities were clipped to {low:g} to {high:g}; the plan clips to {ends[0]:g} to "
            f"{ends[1]:g}, which become 0 and 1 (in the units of the configuration)"
        )


def _loss_notes(terms: Mapping[str, Any], followed: str, taken: str) -> list[str]:
    """What instance optimisation and fine-tuning do otherwise than the authors' training."""
    others = sorted(set(terms) - {followed, _NDV})
    if followed not in terms:
        found = ", ".join(others) or "nothing"
        return [f"of losses, {found} is configured and {followed} expected: {taken} is taken"]
    return [f"the loss {name} of the configuration is left out" for name in others]


def _left_out(
    training: Mapping[str, Any], loss: Mapping[str, Any], model: ModelSettings
) -> Iterator[str]:
    names = [name for name in training if name != "loss"]
    names += [f"loss.{name}" for name in loss if name not in ("similarity", "regularity")]
    if model.displacement_field_inversion is not None:
        names.append("displacement_field_inversion")
    if names:
        yield (
            f"of the configuration, {', '.join(names)} are not taken over: the plan's training "
            "values are its own, for fine-tuning"
        )
    weights = loss.get(_CONSISTENCY)
    found = weights if isinstance(weights, list) else []
    weight = max((w for w in found if isinstance(w, int | float)), default=0.0)
    if weight > 0:
        yield (
            f"the weights were trained with group consistency (weight up to {weight:g}), the plan "
            "has none; to fine-tune with it, set training.group_consistency"
        )


def _terms(loss: Mapping[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    """The losses of a kind by the name of their type: of each the first, at any resolution."""
    found: dict[str, dict[str, Any]] = {}
    levels = loss.get(kind)
    for level in levels if isinstance(levels, list) else []:
        for term in level if isinstance(level, list) else []:
            if isinstance(term, dict) and isinstance(term.get("type"), str):
                found.setdefault(term["type"], {**term, **_inner(term, "args")})
    return found


def _number(terms: Mapping[str, Any], name: str, key: str, default: float) -> float:
    value = terms.get(name, {}).get(key, default)
    return float(value) if isinstance(value, int | float) else default
