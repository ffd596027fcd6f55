"""Folds of what is exported: measured against known answers, and told."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from known_transforms import sampled_mm
from tiny_models import ORIENTATIONS, save_model, sitk_image, tiny_plan

from autoreg.evaluation.exported_field import exported_field, field_record
from autoreg.evaluation.fields import ndv, voxel_displacement
from autoreg.geometry.grid import Geometry
from autoreg.geometry.resampling import resample_volume, sample_displacement_known
from autoreg.geometry.transforms import Affine, Composite, DisplacementField
from autoreg.inference import predictor
from autoreg.inference.cli import main_predict
from autoreg.io.images import read_image
from autoreg.io.landmarks import read_landmarks, write_landmarks
from autoreg.io.result import read_result
from autoreg.io.transforms import read_displacement
from autoreg.registration.register import register

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
    return field_record(exported_field(transform, grid), np.zeros(SHAPE, dtype=np.float32))


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


def folding_register(depth):
    """A registration whose field has one node pushed past its neighbours."""

    def run(*args, **kwargs):
        found = register(*args, **kwargs)
        field, alignment = found.transform.transforms
        u_vox = field.u_vox.copy()
        u_vox[1][tuple(n // 2 for n in field.geometry.shape)] += depth
        transform = Composite((DisplacementField(u_vox, field.geometry), alignment))
        return replace(found, transform=transform)

    return run


def predict(tmp_path, monkeypatch, depth):
    source, model, out = tmp_path / "in", tmp_path / "model", tmp_path / "out"
    source.mkdir()
    for role, seed in (("fixed", 1), ("moving", 2)):
        image = sitk_image(seed, (24, 26, 22), (1.0, 1.0, 1.0))
        sitk.WriteImage(image, str(source / f"anna_{role}.nii.gz"))
    grid = read_image([source / "anna_fixed.nii.gz"], "intensity").geometry
    middle = np.array([n // 2 for n in grid.shape])
    around = np.random.default_rng(0).integers(-4, 5, (40, 3))
    points = grid.to_world(middle + around)  # voxel centres
    write_landmarks(source / "anna.csv", points)
    (source / "pairs.csv").write_text(
        "case,fixed,moving,fixed_landmarks\nanna,anna_fixed.nii.gz,anna_moving.nii.gz,anna.csv\n"
    )
    save_model(model, tiny_plan(), strength=0.3)
    if depth:
        monkeypatch.setattr(predictor, "register", folding_register(depth))
    flags = ["-m", str(model), "--io", "none", "--device", "cpu"]
    assert main_predict(["-i", str(source), "-o", str(out), *flags]) == 0
    return source, out / "anna", points


@pytest.mark.parametrize("depth", [2.0, 6.0])
def test_the_files_of_a_folding_registration_come_from_one_transform_without_folds(
    tmp_path, monkeypatch, caplog, depth
):
    with caplog.at_level(logging.INFO):
        source, folder, points = predict(tmp_path, monkeypatch, depth)
    u_mm, grid = read_displacement(folder / "displacement.nii.gz")
    assert ndv(voxel_displacement(u_mm, grid)).folded_tetrahedra == 0
    result = read_result(folder)
    field = result.field
    assert (field.ndv_percent, field.folded_percent, field.inverse_missing_percent) == (0, 0, 0)
    assert 0 < field.repaired_voxels < 300
    assert 0 < field.repaired_maximum_mm < 2 * depth
    assert field.inverse_residual_maximum_mm < 1e-2
    texts = [text for text in result.warnings if "fold" in text]
    assert len(texts) == 1
    assert f"{field.repaired_voxels} voxels" in texts[0]
    assert any(texts[0] in record.getMessage() for record in caplog.records)

    written = DisplacementField(voxel_displacement(u_mm, grid).numpy(), grid)
    mapped = read_landmarks(folder / "warped_landmarks.csv")
    np.testing.assert_allclose(mapped, written.map_points(points), atol=1e-3)
    moving = read_image([source / "anna_moving.nii.gz"], "intensity")
    warped = read_image([folder / "warped.nii.gz"], "intensity")
    np.testing.assert_allclose(
        warped.array, resample_volume(moving, written, grid).array, atol=2e-3 * np.ptp(moving.array)
    )
    inverse_mm, moving_grid = read_displacement(folder / "inverse_displacement.nii.gz")
    inverse = DisplacementField(voxel_displacement(inverse_mm, moving_grid).numpy(), moving_grid)
    error_mm = np.linalg.norm(inverse.map_points(mapped) - points, axis=1)
    assert np.median(error_mm) < 0.1  # two linear interpolations of a rough field
    assert error_mm.max() < 0.8


def test_the_files_of_a_sound_registration_are_its_very_samples(tmp_path, monkeypatch):
    kept = []

    def keeping(*args, **kwargs):
        kept.append(register(*args, **kwargs).transform)
        return replace(register(*args, **kwargs), transform=kept[-1])

    monkeypatch.setattr(predictor, "register", keeping)
    _, folder, _ = predict(tmp_path, monkeypatch, 0)
    u_mm, grid = read_displacement(folder / "displacement.nii.gz")
    # up to the rounding of the grid in the header
    np.testing.assert_allclose(u_mm, sampled_mm(kept[0], grid), atol=1e-5)
    field = read_result(folder).field
    assert (field.repaired_voxels, field.repaired_maximum_mm) == (0, 0)


def test_a_transform_that_folds_in_many_places_is_not_repaired():
    grid = geometry()
    transform = Composite((DisplacementField(alternating(0.8), grid), affine(np.eye(3))))
    field = exported_field(transform, grid)
    assert field.transform is transform
    assert field.folds
    assert (field.repaired_voxels, field.repaired_maximum_mm) == (0, 0)


@pytest.mark.parametrize("linear", [np.eye(3), np.diag([-1.0, 2.0, 0.5]), ORIENTATIONS["PIR"]])
@pytest.mark.parametrize("first", [True, False])
def test_the_repair_is_told_in_millimetres_wherever_the_alignment_stands(linear, first):
    grid = geometry()
    u_vox = np.zeros((3, *SHAPE), dtype=np.float32)
    u_vox[2, 6, 7, 8] = 1.8
    field, alignment = DisplacementField(u_vox, grid), affine(linear)
    transform = Composite((field, alignment) if first else (alignment, field))
    # The fixed image: where the field's grid lies, seen through what comes before it.
    before = np.eye(4) if first else np.linalg.inv(alignment.matrix)
    fixed = Geometry(SHAPE, before @ grid.index_to_world)
    found = exported_field(transform, fixed)
    assert not found.folds
    given_mm = sample_displacement_known(transform, fixed)[0]
    moved_mm = np.linalg.norm(found.u_mm - given_mm, axis=-1)
    assert found.repaired_maximum_mm == pytest.approx(moved_mm.max(), rel=1e-3)
    assert found.repaired_voxels == np.count_nonzero(moved_mm > 1e-4)
    assert 0 < np.count_nonzero(moved_mm > 1e-3) < 40
    assert np.array_equal(found.u_mm, sample_displacement_known(found.transform, fixed)[0])
