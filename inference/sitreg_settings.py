"""The JSON configuration that the authors of SITReg train with, as far as a plan needs it.

What decides the network is read strictly: an unknown key may mean something that is not done
here. Of the data and the training only the named keys are looked at.
"""

from collections.abc import Mapping
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
    """

    model: ModelSettings
    modality: Literal["MR", "CT"]
    min_max: bool
    window: tuple[float, float]
    ncc_window: int
    gradient_weight: float
    ndv_weight: float


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
    raw_model = application.get("model", content)
    if "max_displacements" in raw_model:
        raise PlanError(
            f'{file}: "max_displacements" is of a release before the bounds on control points; '
            "weights of that release cannot be imported"
        )
    model = from_plain(ModelSettings, raw_model, f"{file}: model")
    if set(model.transformation_downsampling_factor) != {1.0}:
        raise PlanError(
            f"{file}: transformation_downsampling_factor "
            f"{list(model.transformation_downsampling_factor)}: only maps at the images' own "
            "resolution, [1, 1, 1], can be imported"
        )
    raw_data = _inner(content, "data", "config")
    known = {f.name for f in fields(_Data)}
    data = from_plain(
        _Data, {k: v for k, v in raw_data.items() if k in known}, f"{file}: data: config"
    )
    lungs = _inner(content, "data").get("module") in _LUNGS
    loss = _inner(application, "training", "loss")
    return SITRegSettings(
        model=model,
        modality="CT" if lungs else "MR",
        min_max=data.normalize,
        window=_window(data, 1024.0 if lungs else 0.0),
        ncc_window=int(_term(loss, "similarity", _NCC, "window_size", 7)),
        gradient_weight=_term(loss, "regularity", _DIFFUSION, "weight", 1.0),
        ndv_weight=_term(loss, "regularity", _NDV, "weight", 1.0) if _NDV in str(loss) else 0.0,
    )


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


def _term(loss: Mapping[str, Any], kind: str, name: str, key: str, default: float) -> float:
    """A number of the first loss of this name, at any of the resolutions."""
    levels = loss.get(kind)
    for level in levels if isinstance(levels, list) else []:
        for term in level if isinstance(level, list) else []:
            if isinstance(term, dict) and term.get("type") == name:
                value = {**term, **_inner(term, "args")}.get(key, default)
                return float(value) if isinstance(value, int | float) else default
    return default
