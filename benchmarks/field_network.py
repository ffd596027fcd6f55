"""Compare what instance optimisation changes, weights or a field, with and without projection.

    python benchmarks/field_network.py MODEL PAIRS [--steps 50] [--regularity diffusion]

MODEL is a model folder of autoreg_train, PAIRS what autoreg_predict takes as input, with labels or
landmarks (mm) where there are any. Every pair is registered without instance optimisation, and with
that of the network's weights, of a velocity and of displacements, each with the plain sum of the
gradients and with gradient projection, all steps being done.

Printed for each pair, and as means over the pairs that have a value: loss of the result, share of
steps in conflict and mean cosine of the two gradients; mean landmark distance (mm) and Dice; NDV
(voxels) and SD of log J in the foreground, on the grid on which the map was sampled and before
anything is repaired; CPU seconds of the registration, without files and the last interpolation.
"""

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from autoreg.evaluation.fields import ndv, sdlogj
from autoreg.evaluation.landmarks import tre_mm
from autoreg.evaluation.overlap import dice, present_labels
from autoreg.inference.pairs import find_pairs
from autoreg.inference.pairs_file import PairFiles
from autoreg.inference.predictor import Predictor
from autoreg.inference.registered_pair import RegisteredPair
from autoreg.io.images import read_image
from autoreg.io.landmarks import read_landmarks
from autoreg.networks.base import eval_mode
from autoreg.plan import InstanceOptimisationPlan, Plan
from autoreg.registration.objective import Objective
from autoreg.registration.prepare import Prepared, prepare
from autoreg.registration.register import Registration, register

OPTIMISED = ("network", "velocity", "displacements")
MODES = ("vanilla", "gradient_projection")
FOREGROUND = 0.05


def main() -> int:
    """Register, score, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--cases", nargs="+", help="of the pairs, these alone")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--optimised", nargs="*", choices=OPTIMISED, default=OPTIMISED)
    parser.add_argument("--regularity", choices=("diffusion", "bending"),
                        help="in place of the plan's, with weight 2")  # fmt: skip
    args = parser.parse_args()
    torch.set_num_threads(1)
    predictor = Predictor.from_model(args.model, device="cpu")
    plan = predictor.plan
    if args.regularity is not None:
        plan = replace(
            plan, loss=replace(plan.loss, regularity=args.regularity, regularity_weight=2.0)
        )
    settings = {"none": replace(plan.instance_optimisation, mode="none")}
    for optimised in args.optimised:
        for mode in MODES:
            settings[f"{optimised}, {mode}"] = replace(
                plan.instance_optimisation,
                mode=mode, optimised=optimised, steps=args.steps, flat_window=0,
            )  # fmt: skip
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in settings}
    for pair in find_pairs(args.pairs, None):
        if args.cases is None or pair.case in args.cases:
            measure_pair(predictor, plan, pair, settings, rows)
    for name, measured in rows.items():
        line(f"mean, {name}", {
            key: float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
            for key, values in ((k, [row[k] for row in measured]) for k in measured[0])
        })  # fmt: skip
    return 0


def measure_pair(
    predictor: Predictor,
    plan: Plan,
    pair: PairFiles,
    settings: dict[str, InstanceOptimisationPlan],
    rows: dict[str, list[dict[str, float]]],
) -> None:
    """Register a pair with every setting."""
    images = [read_image(paths, "intensity") for paths in (pair.fixed, pair.moving)]
    fixed, moving = (prepare(image, plan, plan.fixed_modalities) for image in images)
    for name, io in settings.items():
        start = time.process_time()
        found = register(predictor.network, plan, fixed, moving, io)
        seconds = time.process_time() - start
        result = RegisteredPair(found.transform, images[0], images[1], (0.0,))
        values = {
            **losses(found, predictor, plan, (fixed, moving)),
            **accuracy(result, pair),
            **smoothness(found, fixed),
            "CPU s": seconds,
        }
        rows[name].append(values)
        line(f"{pair.case}, {name}", values)


def losses(
    found: Registration, predictor: Predictor, plan: Plan, images: tuple[Prepared, Prepared]
) -> dict[str, float]:
    """Loss of the result, conflicts and cosines."""
    loss, trace, (fixed, moving) = found.loss_after, found.trace, images
    if loss is None:
        pair = Objective.from_plan(plan).bind(moving.image, fixed.image)
        with eval_mode(predictor.network), torch.no_grad():
            maps = predictor.network(moving.image, fixed.image)
            loss = pair(maps, torch.Generator().manual_seed(0)).values()
    steps = () if trace is None else trace.steps
    cosines = [step.cosine for step in steps if step.cosine is not None]
    return {
        "similarity": loss.similarity,
        "regularity": loss.regularity,
        "total": loss.total,
        "conflicts": np.nan if trace is None else trace.conflicts / len(steps),
        "cosine": float(np.mean(cosines)) if cosines else np.nan,
    }


def accuracy(result: RegisteredPair, pair: PairFiles) -> dict[str, float]:
    """Mean distance of landmarks, and Dice, where a pair has them."""
    distance, overlap = np.nan, np.nan
    if pair.fixed_landmarks is not None and pair.moving_landmarks is not None:
        points, there = map(read_landmarks, (pair.fixed_landmarks, pair.moving_landmarks))
        distance = float(tre_mm(result.transform.map_points(points), there).mean())
    if pair.fixed_labels is not None and pair.moving_labels is not None:
        fixed, moving = (read_image([p], "label") for p in (pair.fixed_labels, pair.moving_labels))
        one, other = fixed.single, result.warp(moving, "label").single
        overlap = float(np.nanmean(dice(one, other, present_labels(one))))
    return {"TRE mm": distance, "Dice": overlap}


def smoothness(found: Registration, fixed: Prepared) -> dict[str, float]:
    """NDV and SD of log J on the grid of the displacement."""
    shape = found.u_vox.shape[1:]
    image = functional.interpolate(fixed.image[:, :1], shape, mode="trilinear", align_corners=True)
    inside = (image[0, 0] > FOREGROUND).numpy()
    return {
        "NDV": float(ndv(found.u_vox).volume_vox),
        "SD log J": sdlogj(found.u_vox, inside, plus3=False),
    }


def line(name: str, values: dict[str, float]) -> None:
    """A row of a table in Markdown."""
    text = " | ".join(f"{key} {value:.4g}" for key, value in values.items())
    print(f"| {name} | {text} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
