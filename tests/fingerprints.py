"""Fingerprints of imagined data sets, and a small plan."""

import itertools

from autoreg.fingerprint import CaseFingerprint, Fingerprint, IntensityStatistics, PairFingerprint
from autoreg.network_plan import GradICONPlan
from autoreg.plan import (
    AlignmentPlan,
    GridPlan,
    InstanceOptimisationPlan,
    IntensityPlan,
    LossPlan,
    MemoryPlan,
    Plan,
)
from autoreg.training_plan import AugmentationPlan, TrainingPlan


def statistics(minimum=0.0, maximum=1.0):
    return IntensityStatistics(minimum, maximum, 0.2, 0.4, 0.1, 0.05, 0.4, 0.95)


def case(
    name="a",
    shape=(160, 224, 192),
    spacing=(1.0, 1.0, 1.0),
    orientation="SPL",
    extent=None,
    centre=(0.0, 0.0, 0.0),
    modalities=("MR",),
    intensities=(0.0, 1.0),
):
    """A case whose foreground fills its box but 5 % on each side, unless `extent` (x, y, z)."""
    axes = {letter: i for i, pair in enumerate(("LR", "PA", "SI")) for letter in pair}
    along = [0.0] * 3
    for letter, size, step in zip(orientation, shape, spacing, strict=True):
        along[axes[letter]] = 0.9 * size * step
    return CaseFingerprint(
        case=name,
        shape=shape,
        spacing_mm=spacing,
        orientation=orientation,
        box_centre_mm=centre,
        foreground_centre_mm=centre,
        foreground_extent_mm=tuple(extent or along),
        foreground_box=tuple((round(0.05 * n), n - 1 - round(0.05 * n)) for n in shape),
        modalities=modalities,
        intensity=tuple(statistics(*intensities) for _ in modalities),
        has_labels=False,
        has_mask=False,
        has_landmarks=False,
    )


def fingerprint(
    cases=None,
    displacement=8.0,
    world_displacement=8.0,
    overlap=0.9,
    correlation=0.6,
    fixed=("MR",),
    moving=None,
    training_pairs=None,
):
    cases = cases or [case(str(i)) for i in range(4)]
    pairs = tuple(
        PairFingerprint(
            a.case, b.case, 1.0, overlap, correlation, correlation,
            displacement, world_displacement, "demons",
        )
        for a, b in itertools.permutations(cases[:3], 2)
    )  # fmt: skip
    return Fingerprint(
        format=1,
        dataset="Dataset001_X",
        digest="digest",
        pairing="inter_subject",
        training_cases=len(cases),
        training_pairs=training_pairs or len(cases) * (len(cases) - 1),
        fixed_modalities=fixed,
        moving_modalities=moving or fixed,
        labels={},
        cases=tuple(cases),
        pairs=pairs,
    )


def small_plan(configuration="default", epochs=80, **changes):
    values = {
        "format": 1,
        "configuration": configuration,
        "dataset": "Dataset001_X",
        "budget": "cpu",
        "fixed_modalities": ("MR",),
        "moving_modalities": ("MR",),
        "labels": {"brain": 1},
        "grid": GridPlan((16, 20, 24), (2.0, 2.0, 2.5), True),
        "alignment": AlignmentPlan("world", (0.0, 1.0, 2.0)),
        "intensity": {"MR": IntensityPlan("quantiles", 0.0, 0.99)},
        "network": GradICONPlan((0.5, 1.0), 0.5),
        "loss": LossPlan("lncc", {"sigma": 2.0}, "gradicon", 1.5),
        "training": TrainingPlan(
            epochs, 64, 100, 1, 5e-5, AugmentationPlan(50, 0.5, 10, 5, 0.03, 0.5, 0, 0.1, 0.2), 5, 0
        ),
        "instance_optimisation": InstanceOptimisationPlan(
            "gradient_projection", "random_one", 50, "amsgrad", 2e-5, 1e-3, 0, 0.0, 0
        ),
        "memory": MemoryPlan(4, 3, 2, 1),
        "reasons": {"training.epochs": "paper: 80", "grid.shape": "rule grid_shape"},
    }
    return Plan(**{**values, **changes})
