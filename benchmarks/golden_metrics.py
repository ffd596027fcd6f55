"""Compare every metric with the referees' numbers.

    python benchmarks/golden_metrics.py GOLDEN_FOLDER [--device cuda]

GOLDEN_FOLDER holds `golden.json` with the numbers that the organisers' evaluators gave and
`<field>.npz` with their inputs. Prints the largest absolute deviation per quantity and fails if
one exceeds 1e-9. The protocols lumir and learn2reg are compared through files, written as a
prediction leaves them: there 1e-6 is allowed, since files hold float32.
"""

import argparse
import json
import math
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoreg.evaluation.arrays import as_tensor
from autoreg.evaluation.fields import central_determinant, ndv, sdlogj
from autoreg.evaluation.landmarks import tre_centroids, tre_learn2reg
from autoreg.evaluation.overlap import dice
from autoreg.evaluation.protocols import PROTOCOLS, Protocol
from autoreg.evaluation.referee_case import score_case
from autoreg.evaluation.referee_field import nearest_sources, pulled
from autoreg.evaluation.referee_files import LandmarkFiles, RefereeFiles
from autoreg.evaluation.referee_scores import RefereeCase
from autoreg.evaluation.surface import hd95, robust_hausdorff, surfel_areas, surfels
from autoreg.geometry.grid import Geometry
from autoreg.geometry.volume import Volume
from autoreg.io.images import write_image
from autoreg.io.transforms import write_displacement
from autoreg.numerics.tetrahedra import tetrahedron_determinants

TOLERANCE = 1e-9
FILE_TOLERANCE = 1e-6
UNIT = (1.0, 1.0, 1.0)
CORNERS = {"0x0y0z": "central", "Jstar_1": "star_1", "Jstar_2": "star_2"}

Deviations = dict[str, float]


def note(deviations: Deviations, what: str, found: Any, expected: Any) -> None:  # noqa: ANN401
    """Keep the largest deviation of a quantity; NaN equals NaN and inf equals inf."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        gap = np.where(same, 0.0, np.abs(found - expected))
    worst = float(np.nan_to_num(gap, nan=math.inf).max()) if found.size else 0.0
    deviations[what] = max(deviations[what], worst)


def check_determinants(u: torch.Tensor, expected: dict[str, Any], out: Deviations) -> None:
    """The eleven determinant maps."""
    maps = {
        "central": central_determinant(u),
        **dict(tetrahedron_determinants(u.to(torch.float64))),
    }
    for name, numbers in expected.items():
        own = maps[CORNERS.get(name, name.translate(str.maketrans("", "", "xyz")))]
        what = "star determinants" if "star" in name else "corner and central determinants"
        note(out, f"{what}: min, max", [own.min().item(), own.max().item()],
             [numbers["min"], numbers["max"]])  # fmt: skip
        note(out, f"{what}: mean", own.mean().item(), numbers["sum"] / own.numel())
        note(out, f"{what}: count <= 0", (own <= 0).sum().item(), numbers["n_le0"])


def check_field(z: Any, expected: dict[str, Any], device: str, out: Deviations) -> None:  # noqa: ANN401
    """Folds and volume change."""
    u = torch.from_numpy(z["disp"]).to(device)
    mask = torch.from_numpy(z["mask"]).to(device)
    check_determinants(u, expected["jac_det_stats_crop1"], out)
    for key, region in (("ndv_all_voxels", None), ("ndv_masked", mask)):
        own, numbers = ndv(u, region), expected[key]
        note(out, "NDV fraction", own.fraction, numbers["NDV_fraction"])
        note(out, "NDV volume per voxel", own.volume_vox / own.voxels,
             numbers["non_diff_volume"] / own.voxels)  # fmt: skip
        note(out, "NDV folded voxels", own.folded_voxels, numbers["non_diff_voxels"])
        note(out, "NDV folded tetrahedra", own.folded_tetrahedra, numbers["non_diff_tetrahedra"])
    numbers = expected["l2r_jacobian_crop2"]
    determinant = central_determinant(u, crop=2)
    note(out, "central determinant: mean, std, min, max",
         [determinant.mean().item(), determinant.std(correction=0).item(),
          determinant.min().item(), determinant.max().item()],
         [numbers[k] for k in ("mean", "std", "min", "max")])  # fmt: skip
    note(out, "SDlogJ +3", sdlogj(u), numbers["SDlogJ_plus3"])
    note(out, "SDlogJ +3, masked", sdlogj(u, mask), numbers["SDlogJ_plus3_masked"])
    note(out, "SDlogJ plain", sdlogj(u, plus3=False), expected["own_std_logJ_clip1e-9_crop2"])


def check_labels(z: Any, expected: dict[str, Any], device: str, out: Deviations) -> None:  # noqa: ANN401
    """Overlap, surfaces and landmarks."""
    fixed, moving, warped = (
        as_tensor(z[f"seg_{name}"], torch.int64).to(device)
        for name in ("fixed", "moving", "warped")
    )
    seg = expected["seg"]
    note(out, "Dice", dice(fixed, warped, seg["labels"], moving=moving), seg["dice"])
    note(out, "HD95", hd95(fixed, warped, seg["labels"], moving=moving), seg["hd95"])
    u = torch.from_numpy(z["disp"]).to(device)
    points = tre_learn2reg(u, z["lms_fixed"], z["lms_moving"], z["spacing"])
    note(out, "TRE, csv landmarks", points, expected["tre_l2r_points"]["detailed"])
    initial = tre_learn2reg(u * 0, z["lms_fixed"], z["lms_moving"], z["spacing"])
    note(out, "TRE, csv landmarks", initial.mean(), expected["tre_l2r_points"]["initial_mean"])
    sources = nearest_sources(u, z["seg_moving"].shape)
    own = pulled(z["seg_moving"], sources)
    note(out, "nearest warp: other voxels", (own.cpu().numpy() != z["seg_warped"]).sum(), 0)
    _, blobs = tre_centroids(z["lmvol_fixed"], pulled(z["lmvol_moving"], sources))
    note(out, "TRE, centroids", blobs.mean(), expected["tre_lumir_volumes"]["mean"])
    _, blobs = tre_centroids(z["lmvol_fixed"], z["lmvol_moving"])
    note(out, "TRE, centroids", blobs.mean(), expected["tre_lumir_volumes"]["initial_mean"])


def check_protocols(z: Any, expected: dict[str, Any], device: str, out: Deviations) -> None:  # noqa: ANN401
    """The numbers of autoreg_evaluate --protocol, from files."""
    labels, field = expected["seg"]["labels"], expected["field"]
    found = score_files(z, PROTOCOLS["lumir"], labels, device)
    for key, number in (
        ("dice", expected["seg"]["dice_mean"]),
        ("hd95_vox", expected["seg"]["hd95_mean"]),
        ("tre_vox", expected["tre_lumir_volumes"]["mean"]),
        ("ndv_moving_fraction", field["ndv_masked"]["NDV_fraction"]),
        ("ndv_fraction", field["ndv_all_voxels"]["NDV_fraction"]),
        ("sdlogj_plus3", field["l2r_jacobian_crop2"]["SDlogJ_plus3"]),
        ("sdlogj_plain", field["own_std_logJ_clip1e-9_crop2"]),
    ):
        note(out, f"protocol lumir: {key}", found.scores[key], number)
    found = score_files(z, PROTOCOLS["learn2reg"], labels, device)
    for key, number in (
        ("dice", expected["seg"]["dice_mean"]),
        ("hd95_vox", expected["seg"]["hd95_mean"]),
        ("tre_lm_mm", expected["tre_l2r_points"]["mean"]),
        ("sdlogj_plus3", field["l2r_jacobian_crop2"]["SDlogJ_plus3_masked"]),
    ):
        note(out, f"protocol learn2reg: {key}", found.scores[key], number)


def score_files(z: Any, protocol: Protocol, labels: list[int], device: str) -> RefereeCase:  # noqa: ANN401
    """One golden field through the files of a prediction.

    The moving image is the mask, and so is the fixed image's mask. For LUMIR voxels are 1 mm wide.
    For Learn2Reg the moving image has its own spacing, and the displacement file holds the
    difference of the two grids, rounded to float32.
    """
    blobs = protocol.landmarks == "blobs"
    unit = Geometry(z["mask"].shape, np.eye(4)[[2, 1, 0, 3]])
    spaced = Geometry(unit.shape, unit.index_to_world * np.array([*z["spacing"], 1]))
    moving = unit if blobs else spaced
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        points = ("fixed_blobs.nii.gz", "moving_blobs.nii.gz") if blobs else ("f.csv", "m.csv")
        for file, array, kind, grid in (
            ("fixed.nrrd", z["mask"].astype(np.float32), "intensity", unit),
            ("moving.nrrd", z["mask"].astype(np.float32), "intensity", moving),
            ("fixed_labels.nrrd", z["seg_fixed"].astype(np.int32), "label", unit),
            ("moving_labels.nrrd", z["seg_moving"].astype(np.int32), "label", moving),
            ("mask.nrrd", z["mask"], "mask", unit),
            ("fixed_blobs.nii.gz", z["lmvol_fixed"].astype(np.int32), "label", unit),
            ("moving_blobs.nii.gz", z["lmvol_moving"].astype(np.int32), "label", moving),
        ):
            write_image(folder / file, Volume(array[None], grid, kind))
        for file, rows in (("f.csv", z["lms_fixed"]), ("m.csv", z["lms_moving"])):
            np.savetxt(folder / file, rows[:, ::-1], "%.17g", ",")
        index = np.moveaxis(np.indices(unit.shape), 0, -1)
        u_vox = np.moveaxis(z["disp"], 0, -1).astype(np.float64)
        u_mm = moving.to_world(index + u_vox) - unit.to_world(index)
        write_displacement(folder / "u.nii.gz", u_mm.astype(np.float32), unit)
        names = ["u.nii.gz", "fixed.nrrd", "moving.nrrd", "fixed_labels.nrrd"]
        names += ["moving_labels.nrrd", "mask.nrrd"]
        landmarks = LandmarkFiles("landmarks", *(folder / n for n in points), "voxels")
        files = RefereeFiles("golden", *(folder / n for n in names), (landmarks,), {})
        return score_case(files, protocol, labels, torch.device(device), masked=not blobs)


def check_surfaces(folder: Path, expected: dict[str, Any], out: Deviations) -> None:
    """Hand-made pairs of boxes, and the table of surfel areas."""
    z = np.load(folder / "surface_boxes.npz")
    table = np.load(folder / "surfel_area_table_unit_spacing.npy")
    note(out, "surfel areas", surfel_areas(), table)
    for name, numbers in expected.items():
        if name == "label_lost_by_warp":
            box = np.zeros((8, 8, 8), np.int16)
            box[2:5, 2:5, 2:5] = 1
            note(out, "HD95", hd95(box, box * 0, [1], moving=box), [numbers["hd95"]])
            note(out, "Dice", dice(box, box * 0, [1], moving=box), [numbers["dice"]])
            continue
        a, b = z[f"{name}_a"], z[f"{name}_b"]
        note(out, "Dice", dice(a, b, [1]), [numbers["dice"]])
        note(out, "HD95", hd95(a, b, [1]), [numbers["hd95"]])
        note(out, "HD100", hd95(a, b, [1], percent=100), [numbers["hd100"]])
        first, second = surfels(a, 1), surfels(b, 1)
        note(out, "HD95", robust_hausdorff(first, second, UNIT, 95), numbers["hd95"])
        note(out, "surfel count", [len(s.corners) for s in (first, second)], numbers["n_surfels"])
        note(out, "surface area", [s.areas_mm2.sum() for s in (first, second)],
             [numbers["area_gt"], numbers["area_pred"]])  # fmt: skip


def main() -> int:
    """Run all comparisons and print the deviations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, metavar="GOLDEN_FOLDER")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    arguments = parser.parse_args()
    golden = json.loads((arguments.folder / "golden.json").read_text("utf-8"))
    deviations: Deviations = defaultdict(float)
    for name, expected in golden["fields"].items():
        z = np.load(arguments.folder / f"{name}.npz")
        check_field(z, expected["field"], arguments.device, deviations)
        check_labels(z, expected, arguments.device, deviations)
        check_protocols(z, expected, arguments.device, deviations)
    check_surfaces(arguments.folder, golden["surface"], deviations)
    print(
        f"{len(golden['fields'])} fields, {len(golden['surface'])} surfaces, on", arguments.device
    )
    failures = 0
    for what, worst in sorted(deviations.items()):
        within = worst <= (FILE_TOLERANCE if what.startswith("protocol") else TOLERANCE)
        failures += not within
        print(f"{what:45s} {worst:.2e}{'' if within else '   DEVIATES'}")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
