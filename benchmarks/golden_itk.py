"""Imported weights against the published uniGradICON, from file to file, in millimetres.

    python benchmarks/golden_itk.py GOLDEN_FOLDER [--device cpu]

GOLDEN_FOLDER holds golden_itk.npz: two images of oblique and anisotropic geometry, points in the
fixed one, and where the published code (icon_registration 1.1.7, ITK's composite transform) takes
them with a 66^3 network whose weights `tests/golden_inputs.py` draws from their names.

The script goes the user's way: it writes NIfTI files, runs autoreg_import_weights and
autoreg_predict, and prints how far the results are from the published ones.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from golden_inputs import keyed_state_dict

from autoreg.geometry.grid import Geometry
from autoreg.inference.cli import main_import_weights, main_predict
from autoreg.inference.import_unigradicon import FULL_CASCADE
from autoreg.inference.predictor import Prediction, Predictor
from autoreg.io.images import from_sitk
from autoreg.network_plan import GradICONPlan
from autoreg.networks.factory import build_network

GRID = ("66", "66", "66")
NODE_LIMIT_MM = 0.05
POINT_LIMIT_MM = 0.01

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Files:
    """Where the comparison's files lie."""

    source: Path
    model: Path
    output: Path
    displacement: Path
    weights: Path

    @classmethod
    def below(cls, folder: Path) -> "Files":
        """All of them in one folder."""
        out = folder / "out"
        return cls(
            folder / "in", folder / "model", out, out / "golden" / "displacement.nii.gz",
            folder / "weights.trch",
        )  # fmt: skip


def main() -> int:
    """Print the deviations; 1 if one is above its limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("golden", type=Path, metavar="GOLDEN_FOLDER")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    golden = dict(np.load(arguments.golden / "golden_itk.npz"))
    with tempfile.TemporaryDirectory() as folder:
        files = Files.below(Path(folder))
        prediction = predict(golden, files, arguments.device)
        return report(golden, files, prediction)


def predict(golden: dict[str, Any], files: Files, device: str) -> Prediction:
    """Write the inputs, run both commands, and register once more in memory."""
    files.source.mkdir()
    fixed, moving = files.source / "golden_fixed.nii.gz", files.source / "golden_moving.nii.gz"
    sitk.WriteImage(golden_image(golden, "B"), str(fixed))
    sitk.WriteImage(golden_image(golden, "A"), str(moving))
    with torch.device("meta"):
        template = build_network(GradICONPlan(FULL_CASCADE, 1.0), 1).state_dict()
    torch.save(keyed_state_dict(template), files.weights)
    model = str(files.model)
    run(
        main_import_weights,
        [str(files.weights), "--from", "unigradicon", "-o", model, "--grid", *GRID],
    )
    run(
        main_predict,
        ["-i", str(files.source), "-o", str(files.output), "-m", model, "--io", "none",
         "--device", device],
    )  # fmt: skip
    predictor = Predictor.from_model(model, device=device)
    return predictor.predict_pair(
        sitk.ReadImage(str(fixed)),
        sitk.ReadImage(str(moving)),
        io=replace(predictor.plan.instance_optimisation, mode="none"),
    )


def report(golden: dict[str, Any], files: Files, prediction: Prediction) -> int:
    """Print every deviation; 1 if one is above its limit."""
    fixed = prediction.fixed.geometry
    inside = fixed.contains(golden["points_B"])
    points, published = golden["points_B"][inside], golden["mapped_AB"][inside]
    print(f"{len(points)} of {len(inside)} golden points lie inside the fixed image")
    in_memory = distance(prediction.transform.map_points(points), published)
    formula = distance(published_composite(prediction, points), published)
    image = sitk.ReadImage(str(files.displacement))
    nodes = fixed.to_world(np.argwhere(np.ones(fixed.shape)))
    exported = nodes + sitk.GetArrayFromImage(image).reshape(-1, 3)
    at_nodes = distance(exported, published_composite(prediction, nodes))
    show("in-memory transform at these points", in_memory, POINT_LIMIT_MM)
    show("published formula on our field at these points", formula, POINT_LIMIT_MM)
    show("displacement.nii.gz at the fixed grid's nodes", at_nodes, NODE_LIMIT_MM)
    field = sitk.DisplacementFieldTransform(sitk.Cast(image, sitk.sitkVectorFloat64))
    between = distance(np.array([field.TransformPoint(p) for p in points.tolist()]), published)
    show("displacement.nii.gz interpolated at these points", between, None)
    preprocessed = from_sitk(golden_image(golden, "A", "pre_mri"), "intensity")
    difference = np.abs(prediction.warp(preprocessed).single - golden["warped_A_on_B"])
    print(f"warped image in [0, 1]: max {difference.max():.2e}, mean {difference.mean():.2e}")
    return int(
        max(in_memory.max(), formula.max()) >= POINT_LIMIT_MM or at_nodes.max() >= NODE_LIMIT_MM
    )


def published_composite(prediction: Prediction, points_mm: Array) -> Array:
    """The published composite transform, written down independently of `autoreg.geometry`.

    Each image of size N, spacing s, origin o and direction R seen as n network nodes has
    phys(i) = R diag(s N / n) (i - (n - 1) / 2) + o + R (s (N - 1) / 2), all in (x, y, z). A point p
    goes to phys_moving(i + d(i)), i = phys_fixed^-1(p), with d trilinear and held in the rim.
    """
    u_vox = prediction.registration.u_vox
    nodes = np.array(u_vox.shape[:0:-1])
    matrix, centre = network_frame(prediction.fixed.geometry, nodes)
    index = np.linalg.solve(matrix, (points_mm - centre).T).T + (nodes - 1) / 2
    moved = np.stack(
        [map_coordinates(u, index.T[::-1], order=1, mode="nearest") for u in u_vox[::-1]], axis=1
    )
    matrix, centre = network_frame(prediction.moving.geometry, nodes)
    return (index + moved - (nodes - 1) / 2) @ matrix.T + centre


def network_frame(geometry: Geometry, nodes: Array) -> tuple[Array, Array]:
    """M and c of the published code for one image."""
    size, spacing, origin, direction = (np.array(value) for value in geometry.to_itk())
    rotation = direction.reshape(3, 3)
    return (
        rotation @ np.diag(spacing * size / nodes),
        origin + rotation @ (spacing * (size - 1) / 2),
    )


def golden_image(golden: dict[str, Any], name: str, kind: str = "raw") -> sitk.Image:
    """Image A or B with its geometry."""
    image = sitk.GetImageFromArray(golden[f"{name}_{kind}"])
    image.SetSpacing(golden[f"meta_{name}_spacing"].tolist())
    image.SetOrigin(golden[f"meta_{name}_origin"].tolist())
    image.SetDirection(golden[f"meta_{name}_direction"].ravel().tolist())
    return image


def distance(a: Array, b: Array) -> Array:
    """Lengths of a - b, (N, 3) -> (N,)."""
    return np.linalg.norm(a - b, axis=1)


def show(name: str, deviation_mm: Array, limit_mm: float | None) -> None:
    """One line of the report."""
    limit = "" if limit_mm is None else f" (limit {limit_mm} mm)"
    print(f"{name}: max {deviation_mm.max():.2e} mm, mean {deviation_mm.mean():.2e} mm{limit}")


def run(command: Callable[[list[str]], int], arguments: list[str]) -> None:
    """Run a command of autoreg; stop if it fails."""
    if command(arguments) != 0:
        sys.exit("a command failed; its message stands above")


if __name__ == "__main__":
    sys.exit(main())
