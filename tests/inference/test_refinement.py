"""Predictions that are refined: when, how, and what is said of it."""

import dataclasses

import numpy as np
import pytest
import SimpleITK as sitk
from pair_phantom import displacement_mm, empty_image, filled, intensity, points_of
from refinable import WHERE_IT_HELPS
from tiny_models import save_model, tiny_plan

from autoreg.errors import DataError
from autoreg.evaluation.fields import ndv
from autoreg.inference import predictor as predictor_module
from autoreg.inference.cli import main_predict
from autoreg.inference.predictor import Predictor
from autoreg.inference.refinement import chosen_refinement, obeyed_plan, refinement_of_pair
from autoreg.io.records import save_record
from autoreg.io.result import read_result
from autoreg.plan import AlignmentPlan, GridPlan
from autoreg.registration.field_presets import preset_plan
from autoreg.training.refinement_record import (
    REFINEMENT_FILE,
    REFINEMENT_METHOD,
    Decision,
    RefinementRecord,
    Scores,
)

FIELD = WHERE_IT_HELPS.field


def plan_with(refine):
    grid = GridPlan((18, 20, 16), (4.5, 4.5, 5.0), False)
    plan = tiny_plan(alignment=AlignmentPlan("world", (0.0, 0.0, 0.0)), grid=grid)
    io = dataclasses.replace(plan.instance_optimisation, mode="none", refine=refine)
    return dataclasses.replace(plan, instance_optimisation=io)


def decide(model, *, helps):
    scores = Scores(0.5, None, 0.0)
    measured = (1, helps, "measured", "dice", True, "w", scores, scores, FIELD, ())
    record = RefinementRecord(*measured, method=REFINEMENT_METHOD)
    save_record(record, model / "fold_all" / REFINEMENT_FILE)


@pytest.fixture
def model(tmp_path):
    """Which displaces by some millimetres at random."""
    return save_model(tmp_path / "model", plan_with(WHERE_IT_HELPS), strength=0.3)


MOVING = empty_image((30, 29, 28), (2.9, 3.0, 3.1), "oblique")


@pytest.fixture(scope="module")
def images():
    fixed = empty_image((28, 26, 27), (3.0, 3.0, 3.0))
    points = points_of(fixed)
    shown = intensity(points + displacement_mm(points))
    return (
        filled(fixed, shown.astype(np.float32)),
        filled(MOVING, intensity(points_of(MOVING)).astype(np.float32)),
    )


@pytest.fixture
def source(tmp_path, images):
    (tmp_path / "in").mkdir()
    for role, image in zip(("fixed", "moving"), images, strict=True):
        sitk.WriteImage(image, str(tmp_path / "in" / f"x_{role}.nii.gz"))
    return tmp_path / "in"


def predict(source, out, model, *flags):
    arguments = ["-i", source, "-o", out, "-m", model, "--device", "cpu", *flags]
    assert main_predict([str(a) for a in arguments]) == 0
    return read_result(out / "x")


def displacement(path):
    field = sitk.ReadImage(str(path), sitk.sitkVectorFloat64)
    return sitk.DisplacementFieldTransform(field)


def test_a_refined_prediction_is_one_transform_with_its_inverse(source, tmp_path, model, images):
    decide(model, helps=True)
    result = predict(source, tmp_path / "out", model)
    done = result.field_optimisation
    assert done.correlation_registered > done.correlation_aligned + 0.02
    # The model answers at random, which is noticed.
    assert "the network's answer was dropped" in result.warnings[0]
    assert result.alignment.kind == "affine"
    assert (done.preset, done.similarity, done.similarity_reason) == (None, "lncc", "the plan's")
    assert done.steps > 3
    assert done.seconds > 0
    assert done.network_mm > 1
    assert done.refinement_mm > 1
    assert result.optimisation.mode == "none"
    assert result.field.ndv_percent == 0
    assert result.field.inverse_residual_mean_mm < 0.01
    fixed, moving = images
    forward, backward = (
        displacement(tmp_path / "out/x" / name)
        for name in ("displacement.nii.gz", "inverse_displacement.nii.gz")
    )
    expected = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, forward, sitk.sitkLinear, 0.0))
    warped = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out/x/warped.nii.gz")))
    assert np.abs(warped - expected).max() < 0.5  # of 1000; the file holds float32 millimetres
    points = np.random.default_rng(0).uniform(-15, 15, (200, 3))
    back = [backward.TransformPoint(forward.TransformPoint(p)) for p in points]
    assert np.linalg.norm(back - points, axis=1).mean() / 3.0 < 0.05  # voxels


def test_what_training_found_is_obeyed_and_its_change_noticed(
    source, tmp_path, model, capsys, caplog
):
    caplog.set_level("INFO")
    out = tmp_path / "out"
    assert predict(source, out, model).field_optimisation is None
    assert f"refinement: off: {model / 'fold_all' / REFINEMENT_FILE} is missing" in caplog.text
    decide(model, helps=False)
    assert predict(source, out, model, "--continue").field_optimisation is None
    assert "1 complete already" in capsys.readouterr().out
    decide(model, helps=True)
    assert predict(source, out, model, "--continue").field_optimisation is not None
    assert "1 predicted" in capsys.readouterr().out
    assert predict(source, out, model, "--continue", "--refine", "off").field_optimisation is None
    found = predict(source, out, model, "--continue", "--refine", "balanced").field_optimisation
    assert found.preset == "balanced"


@pytest.mark.parametrize(
    ("choice", "decided", "expected"),
    [
        ("auto", Decision(FIELD, "x"), FIELD),
        ("auto", Decision(None, "x", is_open=True), None),
        ("off", Decision(FIELD, "x"), None),
        ("accurate", Decision(None, "x"), preset_plan("accurate")),
    ],
)
def test_a_flag_counts_more_than_what_was_decided(choice, decided, expected):
    plan = plan_with(WHERE_IT_HELPS)
    obeyed = obeyed_plan(
        plan, chosen_refinement(choice, plan, lambda: decided)
    ).instance_optimisation
    assert obeyed.mode == "none"
    assert (None if obeyed.refine is None else obeyed.refine.field) == expected
    assert obeyed.refine is None or obeyed.refine.when == "always"


def test_a_damaged_measurement_stops_only_what_asks_for_it(source, tmp_path, model, capsys):
    (model / "fold_all" / REFINEMENT_FILE).write_text("{")
    out = tmp_path / "out"
    assert predict(source, out, model, "--refine", "off").field_optimisation is None
    flags = ["-i", source, "-o", out, "-m", model, "--device", "cpu"]
    assert main_predict([str(a) for a in flags]) == 2
    assert REFINEMENT_FILE in capsys.readouterr().err
    predictor = Predictor.from_model(model, device="cpu")
    with pytest.raises(DataError, match="refinement"):
        _ = predictor.refinement


def test_different_modalities_are_compared_by_descriptors():
    plan = plan_with(dataclasses.replace(WHERE_IT_HELPS, when="always"))
    assert refinement_of_pair(plan, None, ("MR",)) == FIELD
    assert refinement_of_pair(plan, ("CT",), None).similarity == "mind"
    mixed = dataclasses.replace(plan, fixed_modalities=("CT",))
    chosen = chosen_refinement("fast", mixed, lambda: Decision(None, "x"))
    assert chosen.field.similarity == "mind"
    assert refinement_of_pair(plan_with(None), None, None) is None


def test_from_python_it_is_an_argument(model, images, monkeypatch):
    decide(model, helps=True)
    predictor = Predictor.from_model(model, device="cpu")
    assert predictor.refinement.field == FIELD
    fixed, moving = images
    plain = predictor.predict_pair(fixed, moving)
    assert plain.refinement is None  # whatever was decided: the caller decides
    looked_at = []
    original = predictor_module.register_from

    def register_from(network, pair, plan, device):
        masks = (pair.fixed_mask, pair.moving_mask)
        looked_at.append([None if m is None else int(m.array.sum()) for m in masks])
        return original(network, pair, plan, device)

    monkeypatch.setattr(predictor_module, "register_from", register_from)
    near = np.linalg.norm(points_of(MOVING), axis=1) < 30
    mask = filled(MOVING, near.astype(np.uint8))
    refined = predictor.predict_pair(fixed, moving, moving_mask=mask, refine=FIELD)
    assert looked_at == [[None, int(near.sum())]]
    assert refined.transform is not refined.registration.transform
    assert refined.pair.inverse is not None
    assert ndv(refined.refinement.field.forward.u_vox).volume_vox == 0
    points = np.random.default_rng(0).uniform(-15, 15, (200, 3))
    there_and_back = refined.pair.inverse.map_points(refined.transform.map_points(points))
    assert np.linalg.norm(there_and_back - points, axis=1).mean() / 3.0 < 0.05
