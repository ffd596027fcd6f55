"""Folds of what is exported: measured against known answers, and told."""

import logging

import numpy as np
import pytest
import SimpleITK as sitk
from tiny_models import ORIENTATIONS, save_model, sitk_image, tiny_plan

from autoreg.geometry.grid import Geometry
from autoreg.geometry.transforms import Affine, Composite, DisplacementField, sample_displacement_mm
from autoreg.inference.cli import main_predict
from autoreg.inference.export import field_record
from autoreg.io.result import read_result

SHAPE = (12, 14, 16)


def geometry():
    matrix = np.eye(4)
    matrix[:3, :3] = ORIENTATIONS["oblique"] @ np.diag([1.1, 0.9, 2.0])[:, ::-1]
    matrix[:3, 3] = (5, -3, 8)
    return Geometry(SHAPE, matrix)


def alternating(amplitude):
    """u_w = +-amplitude from voxel to voxel: of +-0.8, 30 % of the volume is folded."""
    u_vox = np.zeros((3, *SHAPE), dtype=np.float32)
    u_vox[2] = amplitude * (-1.0) ** np.arange(SHAPE[2])
    return u_vox


def affine(linear):
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = (40, 0, -7)
    return Affine(matrix)


def record(u_vox, linear):
    grid = geometry()
    transform = Composite((DisplacementField(u_vox, grid), affine(linear)))
    u_mm = sample_displacement_mm(transform, grid)
    return field_record(u_mm, grid, transform, np.zeros(SHAPE, dtype=np.float32))


@pytest.mark.parametrize(
    "linear", [np.eye(3), ORIENTATIONS["oblique"], np.diag([-1.0, 1.2, 0.8]), ORIENTATIONS["PIR"]]
)
@pytest.mark.parametrize(("amplitude", "percent"), [(0.0, 0.0), (0.4, 0.0), (0.8, 30.0)])
def test_ndv_is_that_of_the_deformation_whatever_the_alignment(linear, amplitude, percent):
    found = record(alternating(amplitude), linear)
    assert found.ndv_percent == pytest.approx(percent, abs=1e-3)
    inner = np.prod([n - 2 for n in SHAPE])
    assert found.ndv_vox == pytest.approx(percent / 100 * inner, abs=0.1)
    assert found.jacobian_minimum == pytest.approx(1, abs=1e-3) or amplitude > 0


@pytest.mark.parametrize(("strength", "folds"), [(1, False), (30, True)])
def test_folds_of_a_pair_are_warned_of_by_name_and_figure(tmp_path, caplog, strength, folds):
    source, model = tmp_path / "in", tmp_path / "model"
    source.mkdir()
    for role, seed in (("fixed", 1), ("moving", 2)):
        image = sitk_image(seed, (14, 17, 12), (1.5, 1.2, 2.0))
        sitk.WriteImage(image, str(source / f"anna_{role}.nii.gz"))
    save_model(model, tiny_plan(), strength=strength)
    flags = ["-m", str(model), "--io", "none", "--device", "cpu"]
    with caplog.at_level(logging.INFO):
        assert main_predict(["-i", str(source), "-o", str(tmp_path / "out"), *flags]) == 0
    field = read_result(tmp_path / "out" / "anna").field
    assert (field.ndv_percent > 0) == folds
    told = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    expected = f"(NDV) is {field.ndv_percent:.3g} % of the fixed image"
    assert any("anna" in text and expected in text for text in told) == folds
