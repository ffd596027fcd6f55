"""Compare the three variants of TransMorph with golden data of the published code.

    python benchmarks/golden_transmorph.py GOLDEN_FOLDER [--cases main_pad ...] [--double]

GOLDEN_FOLDER holds fixtures.py, which makes weights and images, golden.json and golden.npz. Prints
one line per quantity: the largest deviation (stored voxels; "probe": of the whole tensor), the
tolerance, and whether it holds; exits with 1 if one doesn't.
"""

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from golden_table import Table
from torch import Tensor

from autoreg.network_plan import TransMorphPlan
from autoreg.networks.factory import build_network
from autoreg.networks.transmorph import TimeVaryingTransMorph, TransMorph
from autoreg.networks.transmorph_attention import WindowGroups, window_groups
from autoreg.numerics.warp import sample_at_unit

Variant = Literal["full", "half", "time_varying"]
VARIANTS: dict[str, Variant] = {"main": "full", "oasis": "half", "tvf": "time_varying"}
OFFICIAL: dict[str, Variant] = {"ixi": "full", "oasis": "half", "lumir": "time_varying"}
# Voxels; features are of the order of 1; gradients: relative.
TOLERANCE = {"features": 1e-4, "flow": 1e-4, "warped": 1e-4, "gradient": 1e-3, "exact": 0.0}


@dataclass(frozen=True)
class Case:
    """One network and one pair of images, halved already where the variant works on halves."""

    name: str
    plan: TransMorphPlan
    moving: Tensor
    fixed: Tensor
    golden: Mapping[str, Any]
    arrays: Mapping[str, Any]
    fixtures: ModuleType

    def network(self, **changes: Any) -> TransMorph:  # noqa: ANN401 - values of a plan
        """The network with the golden weights, in eval mode."""
        network = build_network(replace(self.plan, **changes), 1)
        network.load_state_dict(self.fixtures.fill(network.state_dict()))
        if not isinstance(network, TransMorph):
            raise TypeError(f"not a TransMorph: {type(network)}")
        return network.to(self.moving.dtype).eval()

    def flow(self, network: TransMorph) -> Tensor:
        """What the published model returns as its displacement."""
        images = torch.cat([self.moving, self.fixed], 1)
        if isinstance(network, TimeVaryingTransMorph):
            return network.half_displacement(images)
        return network.displacement(images)

    def deviation(self, name: str, value: Tensor, digests: Mapping[str, Any]) -> float:
        """Largest one over the stored voxels and the mean of the whole tensor's probe."""
        step = digests["stride"]
        stored = self.arrays[f"{self.name}/{name}"]
        found = value.detach()[:, :, ::step, ::step, ::step].double().numpy()
        probe = float(self.fixtures.digest(f"{self.name}/{name}", value)["probe"])
        return max(float(np.abs(found - stored).max()), abs(probe - float(digests["probe"])))


def main(argv: list[str] | None = None) -> int:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of golden.json")
    parser.add_argument("--cases", nargs="*", help="e.g. main_pad; default: all in golden.json")
    parser.add_argument("--double", action="store_true", help="compute in float64")
    arguments = parser.parse_args(argv)
    golden = json.loads((arguments.folder / "golden.json").read_text("utf-8"))
    arrays = np.load(arguments.folder / "golden.npz")
    fixtures = load_fixtures(arguments.folder)
    table = Table(TOLERANCE, width=36)
    compare_official(golden["official"], table)
    for name in arguments.cases or golden["cases"]:
        dtype = torch.float64 if arguments.double else torch.float32
        case = make_case(name, golden["cases"][name], arrays, fixtures, dtype)
        compare_features(case, table)
        compare_masks(case, table)
        compare_flows(case, table)
        compare_gradients(case, table)
    return table.close()


def load_fixtures(folder: Path) -> ModuleType:
    """fixtures.py of the golden data."""
    spec = importlib.util.spec_from_file_location("fixtures", folder / "fixtures.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError(folder / "fixtures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plan_of(variant: Variant, config: Mapping[str, Any], time_steps: int) -> TransMorphPlan:
    """The plan of a published configuration."""
    d, h, w = config["window_size"][:3]
    return TransMorphPlan(
        variant=variant,
        embedding=config["embed_dim"],
        depths=tuple(config["depths"]),
        heads=tuple(config["num_heads"]),
        window=(d, h, w),
        drop_path=config["drop_path_rate"],
        time_steps=time_steps,
        compatibility="own" if variant == "full" else "upstream",
    )


def make_case(
    name: str,
    golden: Mapping[str, Any],
    arrays: Mapping[str, Any],
    fixtures: ModuleType,
    dtype: torch.dtype,
) -> Case:
    """Draw the inputs of a case."""
    plan = plan_of(VARIANTS[name.split("_")[0]], golden["config"], golden.get("time_steps", 7))
    moving, fixed = fixtures.blobs(tuple(golden["config"]["img_size"]))
    return Case(name, plan, moving.to(dtype), fixed.to(dtype), golden, arrays, fixtures)


def compare_official(official: Mapping[str, Any], table: Table) -> None:
    """Parameter counts and state-dict entries of the published configurations."""
    for name, golden in official.items():
        config = golden["config"]
        if config["ape"] or not config["rpe"]:
            continue  # switches of the published code that no published weights use
        with torch.device("meta"):
            network = build_network(plan_of(OFFICIAL[name.split("_")[0]], config, 7), 1)
        count = sum(p.numel() for p in network.parameters())
        table.add(name, "parameters", "exact", abs(count - golden["parameters"]))
        if "state_dict" in golden:
            table.add(name, "state dict", "exact", differing(network, golden["state_dict"]))


def differing(network: torch.nn.Module, golden: Mapping[str, Any]) -> int:
    """Number of entries whose name, shape or type differ, sampling grids apart."""
    found = {
        key: [list(value.shape), str(value.dtype).removeprefix("torch.")]
        for key, value in network.state_dict().items()
    }
    expected = {k: v for k, v in golden.items() if not k.endswith(".grid")}
    keys = found.keys() | expected.keys()
    return sum(found.get(key) != expected.get(key) for key in keys)


@torch.no_grad()
def compare_features(case: Case, table: Table) -> None:
    """Outputs of the patches, the stages, the decoder blocks and the time steps."""
    network, found = case.network(), dict[str, Tensor]()

    def keep(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: found.__setitem__(name, output.clone())

    for module_name, module in network.named_modules():
        parts = module_name.split(".")
        if parts[0] in ("cs", "up3s", "reg_heads") and len(parts) == 2:
            name = {"reg_heads": "increment"}.get(parts[0], parts[0]) + parts[1]
            module.register_forward_hook(keep(name))
        elif module_name == "transformer.patch_embed":
            module.register_forward_hook(
                lambda _module, _inputs, output: found.update(patch_embed=output.movedim(-1, 1))
            )
        elif len(parts) == 1 and f"{case.name}/{module_name}" in case.arrays:
            module.register_forward_hook(keep(module_name))
    features = network.transformer(torch.cat([case.moving, case.fixed], 1))
    case.flow(network)
    for i, feature in enumerate(features):
        found[f"stage{i}"] = feature
    digests = case.golden["tensors"]
    for name, value in found.items():
        if name in digests:
            table.add(case.name, name, "features", case.deviation(name, value, digests[name]))


def compare_masks(case: Case, table: Table) -> None:
    """Where the mask of each stage's shifted windows is not 0."""
    window = case.plan.window
    shift = (window[0] // 2, window[1] // 2, window[2] // 2)
    for i, (name, golden) in enumerate(case.golden["masks"].items()):
        grid = [
            -(-n // (4 * 2**i) // w) * w for n, w in zip(case.moving.shape[2:], window, strict=True)
        ]
        groups = window_groups((grid[0], grid[1], grid[2]), window, shift, case.moving)
        packed = case.arrays[f"{case.name}/{name}_packed"]
        stored = np.unpackbits(packed)[: np.prod(golden["shape"])].reshape(golden["shape"])
        differ = (unrolled(groups) != 0).numpy() != stored.astype(bool)
        table.add(case.name, name, "exact", float(differ.sum()))


def unrolled(groups: WindowGroups) -> Tensor:
    """(n, N, N): the mask of each window."""
    masks = [m.expand(len(w), *m.shape) for w, m in zip(groups.windows, groups.masks, strict=True)]
    return torch.cat(masks)[groups.order]


@torch.no_grad()
def compare_flows(case: Case, table: Table) -> None:
    """Displacement and warped image, with the published sampling and with the correct one."""
    tensors = case.golden["tensors"]
    corrected = case.golden.get("corrected_warp", {})
    for compatibility, prefix, digests in (
        ("upstream", "", tensors),
        ("own", "corrected_", corrected),
    ):
        network = case.network(compatibility=compatibility)
        flow = case.flow(network)
        if "flow" in digests:
            name = f"{prefix}flow"
            table.add(case.name, name, "flow", case.deviation(name, flow, digests["flow"]))
        if "warped" in digests:
            points = network.one_direction(case.moving, case.fixed).dense(case.moving.shape[2:])
            warped = sample_at_unit(case.moving, points, "zeros")
            name = f"{prefix}warped"
            deviation = case.deviation(name, warped, digests["warped"])
            table.add(case.name, f"{name} by the map", "warped", deviation)


def compare_gradients(case: Case, table: Table) -> None:
    """Loss in train mode without dropped paths, gradient norms, running statistics."""
    network = case.network(drop_path=0.0).train()
    flow = case.flow(network)
    warped = None
    if case.plan.variant != "time_varying":
        points = network.one_direction(case.moving, case.fixed).dense(case.moving.shape[2:])
        warped = sample_at_unit(case.moving, points, "zeros")
    loss = case.fixtures.train_loss(flow, case.moving, case.fixed, warped)
    golden = case.golden["train"]
    table.add(case.name, "train: loss", "flow", abs(loss.item() - golden["loss"]))
    loss.backward()
    norms = {k: p.grad for k, p in network.named_parameters()}
    worst = 0.0
    for key, expected in golden["grad_norms"].items():
        gradient = norms[key]
        if expected is None or gradient is None:
            worst = max(worst, 0.0 if expected is gradient else float("inf"))
            continue
        worst = max(worst, abs(float(gradient.double().norm()) - expected) / expected)
    table.add(case.name, "train: gradient norms (worst)", "gradient", worst)


if __name__ == "__main__":
    sys.exit(main())
