"""Weights trained with the authors' code of SITReg."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from autoreg.errors import CheckpointError, PlanError, UsageError
from autoreg.inference.imported import ARRAYS_NOTE, Imported, ImportOptions
from autoreg.inference.published_plan import SITREG_REASONS, Published, complete_plan, reversed_axes
from autoreg.inference.sitreg_settings import (
    ModelSettings,
    SITRegSettings,
    read_sitreg_settings,
)
from autoreg.inference.weight_files import check_state, entries_text, plain_state, read_state_dict
from autoreg.network_plan import SITRegPlan
from autoreg.plan import GridPlan, IntensityPlan, LossPlan

_ENTRY = "registration_network"  # of the authors' model_epoch_<n>.pt
_SETTINGS_FILE = "training_config.json"  # which their training leaves beside it
_FIRST = "_feature_extractor.initial_projection.weight"
_HEADS = "_not_none_dense_extration_networks."  # the authors' spelling


def import_sitreg(file: Path, options: ImportOptions) -> Imported:
    """Read weights of the authors' training.

    Args:
        file: Their `model_epoch_<n>.pt`, or its network's state dict alone; the empty `_indicator`
            buffers are dropped.
        options: Its grid, window and settings count. Without settings, the training_config.json
            beside `file` is read.

    Raises:
        CheckpointError: if the file holds no such weights, or those of another configuration.
        PlanError: if the configuration cannot be followed.
        UsageError: if there is no configuration.
    """
    state = plain_state(read_state_dict(file, _ENTRY), lambda key: key.endswith("._indicator"))
    if _FIRST not in state:
        raise CheckpointError(
            f"{file}: not the weights of SITReg: found {entries_text(state)}; expected {_FIRST}"
        )
    source = _settings_file(file, options.settings)
    settings = read_sitreg_settings(source)
    network = sitreg_network(settings.model, state, source)
    channels = settings.model.n_input_channels
    check_state(state, network, channels, file, f"the network that {source} describes")
    if options.grid is not None and network.affine:
        raise UsageError(
            "--grid: the affine stage of these weights works on the grid that they were trained "
            f"at alone, {reversed_axes(settings.model.input_shape)}; drop it"
        )
    published = _Import(settings, network, options)
    affine = " and an affine stage" if network.affine else ""
    return Imported(
        complete_plan(published.plan()),
        state,
        f"SITReg with {network.levels} levels{affine}, configured as in {source}",
        published.notes(),
    )


def _settings_file(file: Path, given: Path | None) -> Path:
    beside = file.parent / _SETTINGS_FILE
    if given is not None or beside.is_file():
        return given or beside
    raise UsageError(
        f"{file}: weights of SITReg do not tell the image size, the groups of their "
        "normalisations, the bound on the control points and the voxel size; give the JSON "
        f"configuration that they were trained with as --settings FILE.json (training leaves it "
        f"beside them as {_SETTINGS_FILE})"
    )


def sitreg_network(model: ModelSettings, state: Mapping[str, Tensor], source: Path) -> SITRegPlan:
    """The network of the authors' configuration.

    Args:
        model: The configuration.
        state: Tells whether the deformation networks are normalised.
        source: What messages name.

    Raises:
        PlanError: if no plan can say what is configured.
    """
    given = {n for n in model.n_transformation_convolutions_per_resolution if n is not None}
    if len(given) != 1:
        raise PlanError(
            f"{source}: n_transformation_convolutions_per_resolution "
            f"{list(model.n_transformation_convolutions_per_resolution)}: one number for all "
            "resolutions is needed, null where there is no deformation network"
        )
    normalised = any(k.startswith(_HEADS) and ".normalizers." in k for k in state)
    if model.use_normalization_in_deformation_extraction not in (None, normalised):
        raise PlanError(
            f"{source}: use_normalization_in_deformation_extraction is "
            f"{model.use_normalization_in_deformation_extraction}, but the weights were trained "
            "otherwise: they belong to another configuration"
        )
    try:
        return SITRegPlan(
            features=model.n_features_per_resolution,
            feature_convolutions=model.n_feature_convolutions_per_resolution,
            deformation_features=model.n_transformation_features_per_resolution,
            deformation_convolutions=given.pop(),
            groups=model.normalizer.args.n_groups,
            normalise_deformations=normalised,
            bound_share=model.max_control_point_multiplier,
            affine=model.predict_affine,
            voxel_size=reversed_axes(model.voxel_size),
            axes="whd",
            compatibility="upstream",
        )
    except PlanError as error:
        raise PlanError(f"{source}: {error}") from error


@dataclass(frozen=True)
class _Import:
    """The plan of imported weights, and what it cannot say."""

    settings: SITRegSettings
    network: SITRegPlan
    options: ImportOptions

    def plan(self) -> Published:
        settings, model = self.settings, self.settings.model
        return Published(
            dataset="sitreg",
            grid=GridPlan(
                self.options.grid or reversed_axes(model.input_shape),
                reversed_axes(model.voxel_size),
                antialias=False,
            ),
            intensity={settings.modality: self._intensity()},
            modalities=(settings.modality,) * model.n_input_channels,
            network=self.network,
            loss=LossPlan(
                "windowed_ncc",
                {"window": settings.ncc_window},
                "diffusion",
                # The authors weigh the mean of both directions, here both similarities are added.
                2 * settings.gradient_weight,
                settings.ndv_weight,
            ),
            reasons=SITREG_REASONS,
        )

    def notes(self) -> tuple[str, ...]:
        notes = [ARRAYS_NOTE, *self.settings.loss_notes, *self.settings.left_out]
        if self.options.window is None:
            notes += self.settings.intensity_notes
            if self.settings.modality == "CT":
                notes.append("that data had everything outside the lungs set to -1024 HU")
        return tuple(notes)

    def _intensity(self) -> IntensityPlan:
        if self.options.window is not None:
            return IntensityPlan("window", *self.options.window)
        if self.settings.min_max:
            return IntensityPlan("quantiles", 0.0, 1.0)
        return IntensityPlan("window", *self.settings.window)
