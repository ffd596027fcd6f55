"""Raw images with known deformations, for what follows a network."""

import numpy as np
import SimpleITK as sitk
from pair_phantom import RADII_MM, displacement_mm, empty_image, filled, intensity, points_of
from raw_datasets import write_json

from autoreg.field_plan import RefinementPlan
from autoreg.registration.field_presets import preset_plan

WHERE_IT_HELPS = RefinementPlan("where_it_helps", preset_plan("fast"))
SIZE, SPACING = (28, 26, 27), (3.0, 3.0, 3.0)
# By so much of the phantom's displacement each case is deformed.
AMOUNTS = {"case0": -0.8, "case1": 0.8, "case2": -0.4, "case3": 0.4}
LANDMARKS = np.random.default_rng(3).uniform(-0.5, 0.5, (12, 3)) * RADII_MM


def structures(points):
    """Label values of two balls, at points (N, 3) in mm."""
    values = np.zeros(len(points), dtype=np.uint8)
    for label, centre in ((1, (-8.0, 4.0, 0.0)), (2, (10.0, -5.0, 3.0))):
        values[np.linalg.norm(points - centre, axis=1) < 10] = label
    return values


def write_raw(folder, *, labels="true", landmarks=False):
    """A native data set: case c shows at p what the phantom shows at p + amount * u(p).

    Args:
        folder: Of the data set.
        labels: "true"; "unmoved": the same map for all cases, which only the identity respects;
            or None.
        landmarks: Whether to write the points of each case that show the same.
    """
    for case, amount in AMOUNTS.items():
        blank = empty_image(SIZE, SPACING)
        points = points_of(blank)
        shown = points + amount * displacement_mm(points)
        _write(folder / "imagesTr" / f"{case}_0000.nii.gz", filled(blank, intensity(shown)))
        if labels is not None:
            values = structures(shown if labels == "true" else points)
            _write(folder / "labelsTr" / f"{case}.nii.gz", filled(blank, values))
        if landmarks:
            file = folder / "landmarksTr" / f"{case}.csv"
            file.parent.mkdir(parents=True, exist_ok=True)
            rows = [",".join(f"{v:.5f}" for v in p) for p in _where_shown(amount)]
            file.write_text("\n".join(["x,y,z", *rows]) + "\n")
    description = {"modality": {"0": "MR"}, "labels": {"1": "one", "2": "two"}}
    if labels is None:
        del description["labels"]
    write_json(folder / "dataset.json", description)
    return folder


def _where_shown(amount):
    """Points p of a case with p + amount * u(p) = LANDMARKS."""
    points = LANDMARKS.copy()
    for _ in range(40):
        points = LANDMARKS - amount * displacement_mm(points)
    return points


def _write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    is_image = image.GetPixelID() == sitk.sitkFloat64
    sitk.WriteImage(sitk.Cast(image, sitk.sitkFloat32) if is_image else image, str(path))
