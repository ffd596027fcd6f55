"""A plan, a network with a real deformation and a pair of images, all small."""

import dataclasses

import torch
from golden_inputs import keyed_state_dict, volume

from autoreg.network_plan import GradICONPlan
from autoreg.networks.gradicon import GradICON
from autoreg.plan import (
    PLAN_FORMAT,
    AlignmentPlan,
    GridPlan,
    InstanceOptimisationPlan,
    IntensityPlan,
    LossPlan,
    MemoryPlan,
    Plan,
)
from autoreg.training_plan import AugmentationPlan, TrainingPlan

SHAPE = (14, 12, 13)
LEVELS = (0.5, 1.0)
VANILLA = InstanceOptimisationPlan("vanilla", "both", 3, "adam", 1e-3, 0.0, 0, 0.0, 0)


def example_plan(**changes):
    plan = Plan(
        format=PLAN_FORMAT,
        configuration="default",
        dataset="Dataset001_Small",
        budget="cpu",
        fixed_modalities=("MR",),
        moving_modalities=("MR",),
        labels={},
        grid=GridPlan(SHAPE, (2.0, 2.5, 3.0), False),
        alignment=AlignmentPlan("boxes"),
        intensity={
            "MR": IntensityPlan("quantiles", 0.0, 0.99),
            "CT": IntensityPlan("window", -1000.0, 1000.0),
        },
        network=GradICONPlan(LEVELS, 0.125),
        loss=LossPlan("lncc", {"sigma": 2.0}, "gradicon", 1.5),
        training=TrainingPlan(
            1, 0, 1, 1, 5e-5, AugmentationPlan(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0, 0.0, 0.0), 1, 0
        ),
        instance_optimisation=VANILLA,
        memory=MemoryPlan(1, 1, 1, 1),
    )
    return dataclasses.replace(plan, **changes)


def small_network(levels=LEVELS, channels=1):
    """A cascade that displaces by a voxel or two, in eval mode."""
    network = GradICON(levels, channels, 0.125)
    network.load_state_dict(keyed_state_dict(network.state_dict()))
    return network.eval()


def pair(shape=SHAPE):
    return volume(1, shape), volume(2, shape)


def same_tensors(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
