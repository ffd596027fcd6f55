"""A tiny model with a real deformation, and image pairs in any orientation."""

import dataclasses
import functools

import numpy as np
import SimpleITK as sitk
import torch
from golden_inputs import keyed_state_dict

from autoreg.inference.published_plan import published_plan
from autoreg.io.records import save_record
from autoreg.network_plan import GradICONPlan
from autoreg.networks.factory import build_network
from autoreg.training.checkpoint import Checkpoint, save_checkpoint

NETWORK = GradICONPlan((0.5, 1.0), 0.125)
GRID = (18, 20, 16)

# Directions of ITK's (x, y, z) index axes, column by column.
_ANGLE = np.deg2rad(25)
ORIENTATIONS = {
    "LPS": np.eye(3),
    "RAS": np.diag([-1.0, -1.0, 1.0]),
    "LAS": np.diag([1.0, -1.0, 1.0]),
    "PIR": np.array([[0.0, 0, -1], [1, 0, 0], [0, -1, 0]]),
    "oblique": np.array(
        [
            [np.cos(_ANGLE), -np.sin(_ANGLE), 0],
            [np.sin(_ANGLE) * np.cos(0.3), np.cos(_ANGLE) * np.cos(0.3), -np.sin(0.3)],
            [np.sin(_ANGLE) * np.sin(0.3), np.cos(_ANGLE) * np.sin(0.3), np.cos(0.3)],
        ]
    ),
}


@functools.cache
def _published_plan():
    return published_plan(NETWORK, 1, GRID, "MR")


def tiny_plan(**changes):
    plan = _published_plan()
    io = dataclasses.replace(plan.instance_optimisation, steps=2, learning_rate=1e-3)
    return dataclasses.replace(plan, **{"instance_optimisation": io, **changes})


def strong_weights(network, channels=1, strength=1):
    """Weights that displace by a few voxels, smoothly; far stronger ones fold."""
    with torch.device("meta"):
        template = build_network(network, channels).state_dict()
    weights = keyed_state_dict(template)
    for key in weights:
        if "lastConv" in key:
            weights[key] = weights[key] * 2 * strength
    return weights


def save_model(folder, plan, fold="all", strength=1):
    network = strong_weights(plan.network, len(plan.fixed_modalities), strength)
    levels = len(plan.network.level_factors)
    save_checkpoint(
        folder / f"fold_{fold}" / "checkpoint_final.pt",
        Checkpoint(plan, fold=fold, levels=levels, epoch=0, network=network),
    )
    save_record(plan, folder / "plan.json")
    return folder


def sitk_image(seed, size, spacing, orientation="LPS", pixel=sitk.sitkFloat32):
    """Blobs on a zero background, centred near the origin; size and spacing in (x, y, z)."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in reversed(size)), indexing="ij")
    array = np.zeros(tuple(reversed(size)))
    for _ in range(6):
        centre = rng.uniform(-0.5, 0.5, 3)
        squares = sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True))
        array += rng.uniform(0.3, 1) * np.exp(-squares / (2 * rng.uniform(0.15, 0.35) ** 2))
    image = sitk.GetImageFromArray((1000 * array).astype(np.float32))
    direction = ORIENTATIONS[orientation]
    image.SetSpacing(spacing)
    image.SetDirection(direction.ravel().tolist())
    middle = direction @ (np.array(spacing) * (np.array(size) - 1) / 2)
    image.SetOrigin((rng.uniform(-2, 2, 3) - middle).tolist())
    return sitk.Cast(sitk.Round(image), pixel) if pixel != sitk.sitkFloat32 else image
