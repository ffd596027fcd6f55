"""Compare network, losses, gradients and instance optimisation with golden data of uniGradICON.

    python benchmarks/golden_gradicon.py GOLDEN_FOLDER [--cases keyed_32x ...] [--device cpu]

GOLDEN_FOLDER holds golden.json and golden_*.npz, computed with the published code. Inputs and
weights are drawn anew (tests/golden_inputs.py). Prints one line per quantity: the largest
deviation, the tolerance, and whether it holds; exits with 1 if one doesn't.
"""

import argparse
import copy
import importlib.util
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from golden_table import Table
from torch import Tensor

from autoreg.losses.regularity import gradicon, gradicon_points
from autoreg.losses.similarity import LNCC, MIND, SquaredLNCC
from autoreg.networks.base import MapPair
from autoreg.networks.gradicon import GradICON, level_prefixes
from autoreg.numerics.maps import FieldChain
from autoreg.numerics.warp import sample_at_unit
from autoreg.plan import InstanceOptimisationPlan
from autoreg.registration.gradient_projection import project
from autoreg.registration.instance_optimisation import optimise, preserved
from autoreg.registration.objective import Objective

LEVELS = (0.25, 0.5, 1.0, 1.0)
LAMBDA = 1.5
SHAPES = {"66": (66, 66, 66), "32x": (32, 32, 32)}
TOLERANCE = {"map": 1e-5, "loss": 1e-5, "gradient": 1e-3, "io": 2e-4, "statistics": 1e-4}
PUBLISHED_ADAM = InstanceOptimisationPlan(
    "vanilla", "both", 3, "adam", 2e-5, 0.0, 0, 0.0, 0
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One pair and one set of weights."""

    name: str
    network: GradICON
    moving: Tensor
    fixed: Tensor
    noises: Mapping[str, Tensor]
    golden: Mapping[str, Any]
    arrays: Mapping[str, Any]

    def objective(self, noise: Tensor) -> Objective:
        """The published loss at fixed points."""
        shape = tuple(noise.shape[2:])
        points = gradicon_points(shape, noise[:, :, ::2, ::2, ::2])
        return Objective(LNCC(5.0), lambda f, m, _shape, _rng: gradicon(f, m, points), LAMBDA)


def main(argv: list[str] | None = None) -> int:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of golden.json")
    parser.add_argument("--cases", nargs="*", help="e.g. keyed_32x; default: all in golden.json")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    arguments = parser.parse_args(argv)
    torch.backends.cudnn.allow_tf32 = False
    inputs = load_inputs()
    golden = json.loads((arguments.folder / "golden.json").read_text("utf-8"))
    table = Table(TOLERANCE)
    for name in arguments.cases or [n for n in golden if n.startswith(("zero_", "keyed_"))]:
        case = make_case(name, golden[name], arguments.folder, inputs, arguments.device)
        compare_maps(case, table)
        for noise in ("zeros", "noise"):
            if noise in golden[name]:
                compare_gradients(case, noise, table)
        compare_other_similarities(case, table)
        if "train_mode_noise" in golden[name]:
            compare_training_mode(case, table)
        for mode in ("plain", "pcgrad"):
            if f"io3_{mode}" in golden[name]:
                compare_instance_optimisation(case, mode, table)
    return table.close()


def load_inputs() -> ModuleType:
    """tests/golden_inputs.py, which isn't installed."""
    path = Path(__file__).resolve().parents[1] / "tests" / "golden_inputs.py"
    spec = importlib.util.spec_from_file_location("golden_inputs", path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_case(
    name: str, golden: Mapping[str, Any], folder: Path, inputs: ModuleType, device: str
) -> Case:
    """Draw the inputs and weights of a case."""
    kind, tag = name.split("_")
    shape = SHAPES[tag]
    torch.manual_seed(0)
    network = GradICON(LEVELS, 1, 1.0)
    if kind == "keyed":
        network.load_state_dict(inputs.keyed_state_dict(network.state_dict()))
    stored = folder / f"golden_{name}_stride4.npz"
    return Case(
        name=name,
        network=network.to(device).eval(),
        moving=inputs.volume(11, shape).to(device),
        fixed=inputs.volume(22, shape).to(device),
        noises={
            "zeros": torch.zeros(1, 3, *shape, device=device),
            "noise": inputs.noise(33, shape).to(device),
        },
        golden=golden,
        arrays=dict(np.load(stored)) if stored.exists() else {},
    )


@torch.no_grad()
def compare_maps(case: Case, table: Table) -> None:
    """Maps, warped images, partial cascades and the last U-Net on its own."""
    if not case.arrays:
        return
    shape = case.moving.shape[2:]
    maps = case.network(case.moving, case.fixed)
    forth, back = maps.fixed_to_moving, maps.moving_to_fixed
    points = gradicon_points(tuple(shape), case.noises["noise"][:, :, ::2, ::2, ::2])
    last = case.network.get_submodule(level_prefixes(LEVELS)[-1].removesuffix("."))
    found = {
        "phi_AB_vectorfield": forth.dense(shape),
        "phi_BA_vectorfield": back.dense(shape),
        "warped_image_A": sample_at_unit(case.moving, forth.dense(shape), "zeros"),
        "warped_image_B": sample_at_unit(case.fixed, back.dense(shape), "zeros"),
        "Iepsilon_noise": points,
        "phi_AB_phi_BA_Iepsilon": forth(back(points)),
        "phi_AB_first3": FieldChain(forth.fields[1:]).dense(shape),
        "phi_AB_first2": FieldChain(forth.fields[2:]).dense(shape),
        "unet_last_raw": last(case.moving, case.fixed),
    }
    for name, value in found.items():
        table.add(case.name, name, "map", largest(value, case.arrays[name]))
    single = case.network.one_direction(case.moving, case.fixed).dense(shape)
    table.add(
        case.name, "one direction alone", "map", float((single - forth.dense(shape)).abs().max())
    )


def compare_gradients(case: Case, noise: str, table: Table) -> None:
    """Losses, gradient norms, their cosine and the norms after projection."""
    name, golden = f"{case.name} {noise}", case.golden[noise]
    loss, g_s, g_r = gradients(case, noise)
    values = loss.values()
    for key, value in (
        ("similarity_loss", values.similarity),
        ("inverse_consistency_loss", values.regularity),
        ("all_loss", values.total),
    ):
        table.add(name, key, "loss", abs(value - golden[key]))
    norm_s, norm_r = norm(g_s), norm(g_r)
    total = norm([a + b for a, b in zip(g_s, g_r, strict=True)])
    joint = project([g.clone() for g in g_s], g_r, "both", torch.Generator())
    dot = joint.cosine * norm_s * norm_r
    lost = min(joint.cosine, 0.0)  # each loses its part along the other
    for key, value in (
        ("grad_norm_similarity", norm_s),
        ("grad_norm_lambda_gradicon", norm_r),
        ("grad_norm_total", total),
        ("grad_dot", dot),
        ("grad_cosine", joint.cosine),
        ("pcgrad_norm_similarity", norm_s * (1 - lost**2) ** 0.5),
        ("pcgrad_norm_gradicon", norm_r * (1 - lost**2) ** 0.5),
        ("pcgrad_norm_sum", norm(joint.gradient)),
    ):
        table.add(name, key, "gradient", relative(value, golden[key]))
    worst = 0.0
    names = [key for key, _ in case.network.named_parameters()]
    for key, a, b in zip(names, g_s, g_r, strict=True):
        # Relative to the whole gradient: single tensors may be as small as rounding.
        expected_s, expected_r = golden["grad_norm_per_tensor"][key]
        worst = max(worst, abs(norm([a]) - expected_s) / max(norm_s, 1e-12))
        worst = max(
            worst, abs(norm([b]) - expected_r) / max(norm_r, 1e-12) if norm_r else norm([b])
        )
    table.add(name, "gradient norm per tensor (worst)", "gradient", worst)


def gradients(case: Case, noise: str) -> tuple[Any, list[Tensor], list[Tensor]]:
    """The loss and both gradients."""
    pair = case.objective(case.noises[noise]).bind(case.moving, case.fixed)
    loss = pair(case.network(case.moving, case.fixed), torch.Generator())
    parameters = list(case.network.parameters())
    g_s = torch.autograd.grad(loss.similarity, parameters, retain_graph=True)
    g_r = torch.autograd.grad(loss.weighted_regularity, parameters)
    return loss, list(g_s), list(g_r)


@torch.no_grad()
def compare_other_similarities(case: Case, table: Table) -> None:
    """Squared LNCC and MIND of the whole loss."""
    maps = case.network(case.moving, case.fixed)
    for key, similarity in (("similarity_lncc2", SquaredLNCC(5.0)), ("similarity_mind", MIND())):
        if key in case.golden:
            objective = replace(case.objective(case.noises["noise"]), similarity=similarity)
            loss = objective.bind(case.moving, case.fixed)(maps, torch.Generator())
            table.add(case.name, key, "loss", abs(float(loss.similarity) - case.golden[key]))


@torch.no_grad()
def compare_training_mode(case: Case, table: Table) -> None:
    """Losses with batch statistics, and the running statistics afterwards."""
    network = copy.deepcopy(case.network).train()
    pair = case.objective(case.noises["noise"]).bind(case.moving, case.fixed)
    values = pair(network(case.moving, case.fixed), torch.Generator()).values()
    golden = case.golden["train_mode_noise"]
    name = f"{case.name} train"
    table.add(name, "similarity_loss", "loss", abs(values.similarity - golden["similarity_loss"]))
    for key, value in (
        ("inverse_consistency_loss", values.regularity),
        ("all_loss", values.total),
    ):
        table.add(name, f"{key} (relative)", "loss", relative(value, golden[key]))
    state = network.state_dict()
    worst = max(
        abs(float(state[key].double().sum()) - value)
        for key, value in case.golden["train_mode_running_mean_sum"].items()
    )
    table.add(name, "sums of running statistics (worst)", "statistics", worst)


def compare_instance_optimisation(case: Case, mode: str, table: Table) -> None:
    """Three steps of plain Adam, and the map afterwards."""
    plan = (
        PUBLISHED_ADAM if mode == "plain" else replace(PUBLISHED_ADAM, mode="gradient_projection")
    )
    pair = case.objective(case.noises["noise"]).bind(case.moving, case.fixed)
    with preserved(case.network):
        trace = optimise(case.network, pair, plan)
        with torch.no_grad():
            maps: MapPair = case.network(case.moving, case.fixed)
            final = pair(maps, torch.Generator()).values()
    found = [step.loss for step in trace.steps] + [final]
    golden = case.golden[f"io3_{mode}"]
    worst = max(
        abs(a - b)
        for values, expected in zip(found, golden, strict=True)
        for a, b in zip((values.total, values.similarity, values.regularity), expected, strict=True)
    )
    table.add(case.name, f"IO trace, 3 steps, {mode}", "io", worst)
    expected_map = case.arrays[f"phi_AB_after_io3_{mode}"]
    dense = maps.fixed_to_moving.dense(case.moving.shape[2:])
    table.add(case.name, f"map after IO, {mode}", "io", largest(dense, expected_map))


def largest(value: Tensor, golden: np.ndarray[Any, Any]) -> float:
    """Largest deviation from a golden array of every voxel or every fourth."""
    array = value.detach().cpu().numpy()
    if array.shape != golden.shape:
        array = array[:, :, ::4, ::4, ::4]
    return float(np.abs(array - golden).max())


def norm(tensors: list[Tensor]) -> float:
    """Euclidean norm over all tensors, in float64."""
    return math.sqrt(sum(float(t.double().square().sum()) for t in tensors))


def relative(value: float, golden: float) -> float:
    """Deviation relative to the golden value, absolute where that is 0."""
    return abs(value - golden) / abs(golden) if golden else abs(value)


if __name__ == "__main__":
    sys.exit(main())
