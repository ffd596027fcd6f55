"""Compare SITReg in its `upstream` form with golden data of the authors' code.

    python benchmarks/golden_sitreg.py GOLDEN_FOLDER [--cases a_cube32_init ...]

GOLDEN_FOLDER holds <case>.json, <case>.npz and <case>_state_dict.pt, computed with the authors'
code, bounds.json and misc_golden.npz. Prints one line per quantity: the largest deviation, the
tolerance, and whether it holds; exits with 1 if one doesn't.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from golden_table import Table
from torch import Tensor

from autoreg.network_plan import SITRegPlan
from autoreg.networks.sitreg import SITReg
from autoreg.networks.sitreg_affine import affine_parts
from autoreg.networks.sitreg_upstream import upstream_levels, whole_maps
from autoreg.numerics.bspline import control_point_bound, spline_field
from autoreg.numerics.inverse_layer import InverseSettings, invert_field

TOLERANCE = {
    "features": 1e-5,
    "control points": 1e-3,
    "deformation": 1e-3,
    "inverse": 1e-2,
    "map": 2e-2,
    "exact": 1e-5,
    "swapped": 0.0,
}


def main(argv: list[str] | None = None) -> int:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of the golden files")
    parser.add_argument("--cases", nargs="*", help="default: all that have a state dict")
    arguments = parser.parse_args(argv)
    found = sorted(p.name.removesuffix("_state_dict.pt") for p in arguments.folder.glob("*.pt"))
    table = Table(TOLERANCE, width=40)
    with torch.no_grad():
        for name in arguments.cases or found:
            compare_case(name, arguments.folder, table)
        compare_formulas(arguments.folder, table)
    return table.close()


def plan_of(settings: Mapping[str, Any]) -> SITRegPlan:
    """The plan of a golden case's settings, which bear the authors' names."""
    convolutions = settings["n_transformation_convolutions_per_resolution"]
    return SITRegPlan(
        features=tuple(settings["n_features_per_resolution"]),
        feature_convolutions=tuple(settings["n_feature_convolutions_per_resolution"]),
        deformation_features=tuple(settings["n_transformation_features_per_resolution"]),
        deformation_convolutions=next(c for c in convolutions if c is not None),
        groups=settings["n_groups"],
        normalise_deformations=settings["use_normalization_in_deformation_extraction"],
        bound_share=settings["max_control_point_multiplier"],
        affine=settings["predict_affine"],
        voxel_size=tuple(settings["voxel_size"]),
        compatibility="upstream",
    )


def compare_case(name: str, folder: Path, table: Table) -> None:
    """One network on one pair, quantity by quantity."""
    network = SITReg(plan_of(json.loads((folder / f"{name}.json").read_text("utf-8"))), 1).eval()
    state = torch.load(folder / f"{name}_state_dict.pt", weights_only=True)
    network.load_state_dict({k: v for k, v in state.items() if not k.endswith("._indicator")})
    with np.load(folder / f"{name}.npz") as golden:
        first, second = (torch.from_numpy(golden[f"image_{i}"]) for i in (1, 2))
        compare_levels(name, network, torch.cat([first, second]), golden, table)
        shape = tuple(first.shape[2:])
        one, other = network(first, second), network(second, first)
        forward = one.fixed_to_moving.displacement_vox(shape)
        inverse = one.moving_to_fixed.displacement_vox(shape)
        table.add(name, "f12", "map", largest(forward, golden["forward_level0"]))
        table.add(name, "f21", "map", largest(inverse, golden["inverse_level0"]))
    for title, here, there in (
        ("f12 of the swapped pair", inverse, other.fixed_to_moving),
        ("f21 of the swapped pair", forward, other.moving_to_fixed),
    ):
        deviation = float((here - there.displacement_vox(shape)).abs().max())
        table.add(name, title, "swapped", deviation)


def compare_levels(
    name: str, network: SITReg, images: Tensor, golden: Mapping[str, Any], table: Table
) -> None:
    """Features and everything that the resolutions computed."""
    parts = network.parts()
    features = parts.extractor(images)
    for index, feature in enumerate(features):
        deviation = largest(feature, golden[f"features_{index}"])
        table.add(name, f"features {index}", "features", deviation)
    affine = parts.half_affine(features[-1], images.shape[2:])
    levels = list(upstream_levels(parts, features, affine))
    for index, level in enumerate(levels):
        prefix = f"dense{index}_coarse_first_"
        bound = parts.bound_share * level.resolution.bound
        table.add(name, f"{prefix}bound", "exact", abs(bound - float(golden[f"{prefix}bound"])))
        for kind, short, batch in (
            ("control points", "cp", level.control_points),
            ("deformation", "atomic", level.field),
            ("inverse", "inv", level.inverse),
        ):
            for direction, value in zip(("fwd", "rev"), batch.chunk(2), strict=True):
                key = f"{prefix}{short}_{direction}"
                table.add(name, key, kind, largest(value, golden[key]))
        maps = whole_maps(level, affine).chunk(2)
        for direction, value in zip(("forward", "inverse"), maps, strict=True):
            key = f"{direction}_level{len(levels) - 1 - index}"
            table.add(name, key, "map", largest(value, golden[key]))


def compare_formulas(folder: Path, table: Table) -> None:
    """Affine maps, splines, the inverse, and the bounds on control points."""
    for key, values in json.loads((folder / "bounds.json").read_text("utf-8")).items():
        factors = tuple(int(n) for n in key.strip("()").split(","))
        if len(factors) == 3:
            found = control_point_bound((factors[0], factors[1], factors[2]))
            table.add("bounds", key, "exact", abs(found - values[0]))
    with np.load(folder / "misc_golden.npz") as golden:
        linear, inverse, shift = affine_parts(torch.from_numpy(golden["affine_params"]))
        matrices = torch.cat([linear, linear @ shift[:, :, None]], dim=2)
        table.add("affine", "maps", "exact", largest(matrices, golden["affine_matrices"][:, :3]))
        table.add("affine", "inverses", "exact", largest(linear @ inverse, np.eye(3)[None]))
        coefficients = torch.from_numpy(golden["spline_coeffs"])
        shape = golden["spline_up2"].shape[2:]
        upsampled = spline_field(coefficients, (2, 2, 2), shape)
        table.add("spline", "factor 2", "exact", largest(upsampled, golden["spline_up2"]))
        settings = InverseSettings(tolerance_vox=1e-9, max_evaluations=100)
        inverted = invert_field(torch.from_numpy(golden["inv_u"]), (1, 1, 1), settings)
        table.add("inverse", "float64", "exact", largest(inverted, golden["inv_v"]))


def largest(value: Tensor, golden: np.ndarray[Any, Any]) -> float:
    """Largest deviation from a golden array."""
    return float(np.abs(value.numpy() - golden).max())


if __name__ == "__main__":
    sys.exit(main())
