"""Files as the authors of SITReg and TransMorph save them, with small random weights."""

import copy
import json

import nibabel as nib
import numpy as np
import torch

from autoreg.network_plan import SITRegPlan, TransMorphPlan
from autoreg.networks.factory import build_network

# The authors' order of axes, (x, y, z).
SITREG_SHAPE = (16, 12, 14)
SITREG = SITRegPlan(
    features=(4, 8, 8),
    feature_convolutions=(2, 2, 1),
    deformation_features=(6, 8, None),
    deformation_convolutions=2,
    groups=2,
    normalise_deformations=False,
    bound_share=0.9,
    voxel_size=(1.0, 2.0, 1.5),
    compatibility="upstream",
)
_SOLVER = {
    "stop_criterion": {
        "type": "deformation_inversion_layer.fixed_point_iteration.MaxElementWiseAbsStopCriterion",
        "args": {"min_iterations": 2, "max_iterations": 50, "threshold": 1e-2},
    },
    "arguments": {"memory_length": 4},
}
SETTINGS = {
    "data": {"module": "oasis", "config": {"normalize": False, "batch_size": 1}},
    "application": {
        "training_factory": "application.sitreg.interface.create_training_definition",
        "config": {
            "model": {
                "n_features_per_resolution": [4, 8, 8],
                "n_feature_convolutions_per_resolution": [2, 2, 1],
                "n_transformation_features_per_resolution": [6, 8, None],
                "n_transformation_convolutions_per_resolution": [2, 2, None],
                "max_control_point_multiplier": 0.9,
                "use_normalization_in_deformation_extraction": False,
                "transformation_downsampling_factor": [1.0, 1.0, 1.0],
                "predict_affine": False,
                "normalizer": {"type": "GroupNormalizerFactory", "args": {"n_groups": 2}},
                "activation": {"type": "ReLUFactory"},
                "n_input_channels": 1,
                "voxel_size": [1.0, 2.0, 1.5],
                "input_shape": list(SITREG_SHAPE),
                "displacement_field_inversion": {
                    "forward_fixed_point_solver": _SOLVER,
                    "backward_fixed_point_solver": _SOLVER,
                },
            },
            "training": {
                "n_epochs": 24,
                "loss": {
                    "similarity": [
                        [
                            {
                                "name": "ncc",
                                "type": "LocalNormalizedCrossCorrelationLoss",
                                "args": {"window_size": 11, "separable": True},
                            }
                        ]
                    ],
                    "regularity": [
                        [
                            {"name": "g", "type": "GradientDeformationLoss", "weight": 1.5},
                            {"name": "ndv", "type": "NDVLoss", "weight": 1e-5},
                        ]
                    ],
                },
            },
        },
    },
    "commit": "0123abc",
}

TRANSMORPH_SHAPE = (32, 64, 32)
TRANSMORPH = {
    "full": TransMorphPlan("full", 8, (2, 1, 1, 1), (2, 4, 2, 2), (1, 2, 1), 0.3),
    "half": TransMorphPlan(
        "half", 8, (2, 1, 1, 1), (2, 4, 2, 2), (1, 2, 1), 0.3, compatibility="upstream"
    ),
    "time_varying": TransMorphPlan(
        "time_varying", 8, (1, 1, 2), (2, 4, 2), (1, 1, 1), 0.3, 2, compatibility="upstream"
    ),
}


def settings(data=None, module="oasis", **model):
    """The configuration with other values in its data and its model."""
    content = copy.deepcopy(SETTINGS)
    content["data"] = {"module": module, "config": data or {}}
    content["application"]["config"]["model"].update(model)
    return content


def random_state(plan, amplify, scale=0.3):
    """Random weights, larger where a name holds `amplify`, so that voxels are displaced."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        state = build_network(plan, 1).state_dict()
        for key, value in state.items():
            if amplify in key and value.is_floating_point():
                value.copy_(scale * torch.randn(value.shape))
    return state


def sitreg_state():
    return random_state(SITREG, "final_convolution", 2.0)


def transmorph_state(variant):
    return random_state(TRANSMORPH[variant], "reg_head", 0.1)


def save_sitreg(folder, content=SETTINGS, state=None):
    """model_epoch_001.pt with training_config.json beside it, unless that is None."""
    folder.mkdir(parents=True, exist_ok=True)
    state = dict(sitreg_state() if state is None else state)
    state["_image_coordinate_system._indicator"] = torch.zeros(0)
    state["_not_none_dense_extration_networks.0._feature_coordinate_system._indicator"] = (
        torch.zeros(0)
    )
    torch.save({"registration_network": state}, folder / "model_epoch_001.pt")
    if content is not None:
        (folder / "training_config.json").write_text(json.dumps(content))
    return folder / "model_epoch_001.pt"


def save_transmorph(folder, variant, state=None):
    """A *.pth.tar with sampling grids, an epoch, and an optimiser whose rate numpy computed."""
    folder.mkdir(parents=True, exist_ok=True)
    state = dict(transmorph_state(variant) if state is None else state)
    shape = TRANSMORPH_SHAPE
    state["spatial_trans.grid"] = torch.zeros(1, 3, *shape)
    if variant == "time_varying":
        state["spatial_trans_.grid"] = torch.zeros(1, 3, *(n // 2 for n in shape))
    content = {
        "epoch": 3,
        "state_dict": state,
        "best_dsc": np.float64(0.7),
        "optimizer": {"state": {}, "param_groups": [{"lr": round(1e-4 * np.power(0.9, 0.9), 8)}]},
    }
    torch.save(content, folder / "dsc0.700.pth.tar")
    return folder / "dsc0.700.pth.tar"


def save_pair(folder, shape, scale=1.0):
    """x_fixed and x_moving as nibabel writes arrays (x, y, z) of [0, scale]; the arrays."""
    folder.mkdir()
    random = np.random.default_rng(5)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    arrays = []
    for role in ("fixed", "moving"):
        array = np.zeros(shape)
        for _ in range(12):
            centre = random.uniform(-0.7, 0.7, 3)
            squares = sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True))
            array += np.exp(-squares / (2 * random.uniform(0.1, 0.3) ** 2))
        array = (array / array.max()).astype(np.float32)
        image = nib.Nifti1Image(array * np.float32(scale), np.diag([2.0, 1.5, 1.2, 1.0]))
        nib.save(image, folder / f"x_{role}.nii.gz")
        arrays.append(array)
    return arrays
