"""autoreg_register: from two files to a folder."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
from pair_phantom import (
    RADII_MM,
    displacement_mm,
    empty_image,
    filled,
    inner_points,
    intensity,
    pair,
    points_of,
)
from tiny_models import save_model, tiny_plan

from autoreg.evaluation.cli import main as evaluate
from autoreg.inference.cli_register import main
from autoreg.io.images import read_image
from autoreg.io.landmarks import read_landmarks, write_landmarks
from autoreg.io.result import read_result
from autoreg.io.transforms import read_displacement

FLAGS = ("--threads", "1", "--device", "cpu")
FILES = {
    "displacement.nii.gz", "inverse_displacement.nii.gz", "warped.nii.gz", "warped_labels.nii.gz",
    "warped_landmarks.csv", "trace.csv", "plan.json", "result.json",
}  # fmt: skip


def run(capsys, *arguments):
    status = main([str(a) for a in (*arguments, *FLAGS)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def labels_of(points):
    inside = np.linalg.norm(points / RADII_MM, axis=1) < 0.7
    return inside * (1 + (points[:, 0] > 0) + 2 * (points[:, 1] > 0))


def write_inputs(folder, dimension, ending=".nii.gz"):
    """Images, labels and landmarks; the flags that name them."""
    folder.mkdir()
    fixed, moving = pair(dimension)
    paths = {}
    for name, image in (("fixed", fixed), ("moving", moving)):
        points = points_of(image)
        truth = points + displacement_mm(points) if name == "fixed" else points
        labels = filled(image, labels_of(truth).astype(np.uint8))
        landmarks = inner_points(40, dimension)
        landmarks = landmarks + (name == "moving") * displacement_mm(landmarks)
        paths[name] = folder / f"{name}{ending}"
        paths[f"{name}-labels"] = folder / f"{name}_labels.nrrd"
        paths[f"{name}-landmarks"] = folder / f"{name}_points.csv"
        sitk.WriteImage(image, str(paths[name]))
        sitk.WriteImage(labels, str(paths[f"{name}-labels"]))
        write_landmarks(paths[f"{name}-landmarks"], landmarks)
    return [part for name, path in paths.items() for part in (f"--{name}", path)]


@pytest.fixture(scope="module", params=[2, 3])
def registered(request, tmp_path_factory):
    """Dimension, the folder of the inputs, the folder of the results."""
    folder = tmp_path_factory.mktemp("register")
    flags = write_inputs(folder / "in", request.param)
    assert main([str(a) for a in (*flags, "-o", folder / "out", *FLAGS)]) == 0
    return request.param, folder / "in", folder / "out"


def read_transform(path, dimension):
    field = sitk.ReadImage(str(path), sitk.sitkVectorFloat64)
    assert field.GetDimension() == dimension
    assert field.GetNumberOfComponentsPerPixel() == dimension
    return sitk.DisplacementFieldTransform(field)


def through(transform, points, dimension):
    mapped = [transform.TransformPoint(p[:dimension].tolist()) for p in points]
    return np.column_stack([mapped, np.zeros((len(points), 3 - dimension))])


def test_all_files_are_there_and_truly_of_the_inputs_dimension(registered):
    dimension, inputs, out = registered
    assert {path.name for path in out.iterdir()} == FILES
    fixed = sitk.ReadImage(str(inputs / "fixed.nii.gz"))
    for name in ("warped.nii.gz", "warped_labels.nii.gz", "displacement.nii.gz"):
        image = sitk.ReadImage(str(out / name))
        assert image.GetDimension() == dimension
        assert image.GetSize() == fixed.GetSize()
        np.testing.assert_allclose(image.GetOrigin(), fixed.GetOrigin(), atol=1e-4)
    assert sitk.ReadImage(str(out / "warped_labels.nii.gz")).GetPixelID() == sitk.sitkUInt8


def test_the_displacement_on_disk_is_the_true_one(registered):
    dimension, _, out = registered
    transform = read_transform(out / "displacement.nii.gz", dimension)
    points = inner_points(dimension=dimension)
    error = np.linalg.norm(
        through(transform, points, dimension) - points - displacement_mm(points), axis=1
    )
    assert error.mean() < 0.3 * (2.0 if dimension == 3 else 1.0)


def test_simpleitk_warps_to_the_same_image(registered):
    dimension, inputs, out = registered
    transform = read_transform(out / "displacement.nii.gz", dimension)
    fixed, moving = (sitk.ReadImage(str(inputs / f"{n}.nii.gz")) for n in ("fixed", "moving"))
    expected = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkLinear, 0.0))
    warped = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "warped.nii.gz")))
    np.testing.assert_allclose(warped, expected, atol=0.2)  # of 1000


def test_the_two_displacements_on_disk_compose_to_the_identity(registered):
    dimension, _, out = registered
    there, back = (
        read_transform(out / f"{name}.nii.gz", dimension)
        for name in ("displacement", "inverse_displacement")
    )
    points = inner_points(dimension=dimension)
    moved = through(there, points, dimension)
    gap = np.linalg.norm(through(back, moved, dimension) - points, axis=1)
    assert gap.mean() < 0.05 * (2.0 if dimension == 3 else 1.0)


def test_the_inverse_is_exact_at_the_voxels(registered):
    dimension, _, out = registered
    field = read_result(out).field
    assert field.inverse_missing_percent == 0
    assert field.inverse_residual_maximum_mm < 0.011 * (2.0 if dimension == 3 else 1.0)
    there = read_transform(out / "displacement.nii.gz", dimension)
    inverse = sitk.ReadImage(str(out / "inverse_displacement.nii.gz"))
    nodes = points_of(inverse)
    array = sitk.GetArrayFromImage(inverse).reshape(-1, dimension)
    inner = (np.abs(nodes) < (15, 13, 14)).all(axis=1)
    origins = nodes[inner, :dimension] + array[inner]
    gap = through(there, origins, dimension)[:, :dimension] - nodes[inner, :dimension]
    assert np.linalg.norm(gap, axis=1).max() < 0.02 * (2.0 if dimension == 3 else 1.0)


def test_labels_and_landmarks_go_along(registered):
    dimension, inputs, out = registered
    found = read_landmarks(out / "warped_landmarks.csv")
    truth = read_landmarks(inputs / "moving_points.csv")
    assert np.linalg.norm(found - truth, axis=1).mean() < 0.3 * (2.0 if dimension == 3 else 1.0)
    fixed = sitk.GetArrayFromImage(sitk.ReadImage(str(inputs / "fixed_labels.nrrd")))
    warped = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "warped_labels.nii.gz")))
    image = sitk.GetArrayFromImage(sitk.ReadImage(str(inputs / "fixed.nii.gz")))
    assert (fixed == warped)[image > 100].mean() > 0.97


def test_the_result_can_be_evaluated(registered, tmp_path, capsys):
    _, _, out = registered
    arguments = ["-i", str(out), "-o", str(tmp_path), "--workers", "1", "--device", "cpu"]
    assert evaluate(arguments) == 0
    (case,) = json.loads((tmp_path / "summary.json").read_text("utf-8"))["cases"]
    assert case["registered"]["tre_mean_mm"] < 0.25 * case["initial"]["tre_mean_mm"]
    assert case["registered"]["dice"] > 0.9
    assert case["registered"]["dice"] > case["initial"]["dice"] + 0.02
    assert case["registered"]["hd95_mm"] < case["initial"]["hd95_mm"]
    assert case["field"]["ndv_fraction"] == 0
    assert 0.3 < case["field"]["jacobian_minimum"] < 1
    assert 0 < case["field"]["sdlogj_foreground"] < 0.5
    assert case["field"]["inverse_error_mean_mm"] < 0.1
    assert (tmp_path / "figures" / f"{out.name}.png").stat().st_size > 10_000


def test_the_result_says_what_was_done(registered):
    _, inputs, out = registered
    result = read_result(out)
    assert result.model is None
    assert result.inputs.fixed == (str(inputs / "fixed.nii.gz"),)
    assert result.alignment.kind == "affine"
    done = result.field_optimisation
    assert done.preset == "balanced"
    assert done.correlation_registered > done.correlation_aligned
    assert done.steps == len((out / "trace.csv").read_text().splitlines()) - 1
    assert result.field.ndv_percent == 0
    assert not result.warnings
    assert set(result.files) == FILES - {"plan.json", "result.json"}


def test_a_plan_of_an_earlier_run_is_obeyed(registered, tmp_path, capsys):
    _, inputs, out = registered
    plan = json.loads((out / "plan.json").read_text("utf-8"))
    plan["spline"]["iterations"] = [1]
    plan["dense"] = None
    (tmp_path / "mine.json").write_text(json.dumps(plan))
    status, text, _ = run(
        capsys, "-f", inputs / "fixed.nii.gz", "-m", inputs / "moving.nii.gz", "-o",
        tmp_path / "out", "--plan", tmp_path / "mine.json", "--align", "rigid",
    )  # fmt: skip
    assert status == 0
    result = read_result(tmp_path / "out")
    assert result.field_optimisation.preset is None
    assert result.field_optimisation.steps < read_result(out).field_optimisation.steps
    assert json.loads((tmp_path / "out/plan.json").read_text("utf-8")) == plan
    assert "rigid" in text
    assert str(tmp_path / "out") in text


def test_results_of_an_earlier_run_are_replaced_and_other_files_stay(registered, tmp_path, capsys):
    _, inputs, _ = registered
    out = tmp_path / "out"
    out.mkdir()
    (out / "warped_labels.nii.gz").write_text("old")
    (out / "result.json").write_text('{"format": 2, "case": "out", "inputs": {}}')
    (out / "notes.txt").write_text("mine")
    pair_flags = ("-f", inputs / "fixed.nii.gz", "-m", inputs / "moving.nii.gz", "-o", out)
    status, *_ = run(capsys, *pair_flags, "--preset", "fast")
    assert status == 0
    assert not (out / "warped_labels.nii.gz").exists()
    assert (out / "notes.txt").read_text() == "mine"
    assert not (out / "unfinished.txt").exists()


def test_a_png_is_an_image(tmp_path, capsys):
    fixed, moving = pair(2, moving_orientation="LPS")
    for name, image in (("f", fixed), ("m", moving)):
        eight = sitk.Cast(sitk.Clamp(image / 4, sitk.sitkFloat32, 0, 255), sitk.sitkUInt8)
        sitk.WriteImage(eight, str(tmp_path / f"{name}.png"))
    status, *_ = run(
        capsys, "-f", tmp_path / "f.png", "-m", tmp_path / "m.png", "-o", tmp_path / "out"
    )
    assert status == 0
    warped = sitk.ReadImage(str(tmp_path / "out/warped.nii.gz"))
    assert warped.GetDimension() == 2
    assert warped.GetPixelID() == sitk.sitkUInt8


def test_one_layer_of_three_dimensions_stays_three_dimensional(tmp_path, capsys):
    for name, image in zip(("f", "m"), pair(2, moving_orientation="LPS"), strict=True):
        sitk.WriteImage(sitk.JoinSeries([image]), str(tmp_path / f"{name}.nii.gz"))
    status, *_ = run(
        capsys, "-f", tmp_path / "f.nii.gz", "-m", tmp_path / "m.nii.gz", "-o", tmp_path / "out"
    )
    assert status == 0
    assert sitk.ReadImage(str(tmp_path / "out/warped.nii.gz")).GetDimension() == 3
    u_mm, geometry = read_displacement(tmp_path / "out/displacement.nii.gz")
    fixed = read_image([tmp_path / "f.nii.gz"], "intensity").geometry
    assert fixed.difference(geometry) is None
    assert np.abs(u_mm[..., :2]).max() > 1
    assert np.abs(u_mm[..., 2]).max() < 1e-5
    result = ["-i", str(tmp_path / "out"), "--workers", "1", "--no-figures", "--device", "cpu"]
    assert evaluate(result) == 0


def test_a_network_can_be_the_start(model, tmp_path, capsys):
    """The network's answer, a displacement by several voxels at random, does no harm."""
    fixed, moving = pair(3)
    for name, image in (("f", fixed), ("m", moving)):
        sitk.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
    flags = ("-f", tmp_path / "f.nii.gz", "-m", tmp_path / "m.nii.gz", "--model", model)
    status, *_ = run(capsys, *flags, "-o", tmp_path / "out", "--io", "none")
    assert status == 0
    result = read_result(tmp_path / "out")
    assert result.model.folder == str(model)
    assert "the network's answer was dropped" in result.warnings[0]
    assert result.alignment.kind == "affine"
    assert result.optimisation.mode == "none"
    done = result.field_optimisation
    assert done.correlation_registered > done.correlation_aligned + 0.02
    assert result.field.inverse_residual_mean_mm < 0.02
    there = read_transform(tmp_path / "out/displacement.nii.gz", 3)
    expected = sitk.Resample(moving, fixed, there, sitk.sitkLinear, 0.0)
    warped = sitk.ReadImage(str(tmp_path / "out/warped.nii.gz"))
    difference = sitk.GetArrayFromImage(warped) - sitk.GetArrayFromImage(expected)
    assert np.abs(difference).max() < 0.2


def test_a_network_takes_no_image_of_one_layer(model, tmp_path, capsys):
    for name, image in zip("fm", pair(2), strict=True):
        sitk.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
    flags = ("-f", tmp_path / "f.nii.gz", "-m", tmp_path / "m.nii.gz", "--model", model)
    assert main([*map(str, flags), "-o", str(tmp_path / "out"), "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert "a network registers 3-D images of several layers, and " in error
    assert not (tmp_path / "out").exists()


def test_a_network_that_is_right_is_believed(tmp_path, capsys):
    """One that leaves all in place, for images that nearly lie on each other."""
    blank = empty_image((30, 28, 29), (2.8, 2.8, 2.8))
    points = points_of(blank)
    for name, there in (("f", points + 0.25 * displacement_mm(points)), ("m", points)):
        image = filled(blank, intensity(there).astype(np.float32))
        sitk.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
    still = save_model(tmp_path / "still", tiny_plan(), strength=1e-3)
    flags = ("-f", tmp_path / "f.nii.gz", "-m", tmp_path / "m.nii.gz", "--model", still)
    status, *_ = run(capsys, *flags, "-o", tmp_path / "out", "--io", "none", "--preset", "fast")
    assert status == 0
    result = read_result(tmp_path / "out")
    assert result.alignment is None
    assert not result.warnings
    done = result.field_optimisation
    assert done.network_mm < 0.05
    assert done.correlation_registered > done.correlation_aligned
    there = read_transform(tmp_path / "out/displacement.nii.gz", 3)
    inner = inner_points()
    moved = np.array([there.TransformPoint(p) for p in inner.tolist()]) - inner
    assert np.linalg.norm(moved - 0.25 * displacement_mm(inner), axis=1).mean() < 0.15


def test_of_a_model_with_several_folds_one_is_named(tmp_path, capsys):
    for image, at in (("f", 0), ("m", 1)):
        sitk.WriteImage(pair(3)[at], str(tmp_path / f"{image}.nii.gz"))
    for fold, strength in (("0", 0.1), ("1", 0.3)):
        model = save_model(tmp_path / "model", tiny_plan(), fold=fold, strength=strength)
    flags = ("-f", tmp_path / "f.nii.gz", "-m", tmp_path / "m.nii.gz", "--model", model)
    flags = (*flags, "--preset", "fast", "-o", tmp_path / "out")
    status, _, error = run(capsys, *flags)
    assert status == 2
    assert "--fold" in error
    status, _, error = run(capsys, *flags, "--fold", "1", "--checkpoint", "best")
    assert status == 2
    assert "checkpoint_best" in error
    status, *_ = run(capsys, *flags, "--fold", "1", "--checkpoint", "final")
    assert status == 0
    result = read_result(tmp_path / "out")
    assert result.model.checkpoint == str(model / "fold_1" / "checkpoint_final.pt")
    # Of the network that was fine-tuned and of the field, the course of each.
    steps = result.optimisation.steps
    network = (tmp_path / "out/trace_network.csv").read_text().splitlines()
    assert network[0].startswith("step,similarity,regularity,total")
    assert len(network) == steps + 1 == 3
    assert (tmp_path / "out/trace.csv").read_text().startswith("step,stage,voxel_mm")
    assert "trace_network.csv" in result.files
    status, *_ = run(capsys, *flags, "--fold", "1", "--io", "none")
    assert status == 0
    assert not (tmp_path / "out/trace_network.csv").exists()


def test_flags_that_do_nothing_are_refused(model, tmp_path, capsys):
    for image in ("f", "m"):
        sitk.WriteImage(pair(2)[0], str(tmp_path / f"{image}.nii.gz"))
    flags = ("-f", tmp_path / "f.nii.gz", "-m", tmp_path / "m.nii.gz", "-o", tmp_path / "out")
    for more in (
        ("--io", "none"),
        ("--io-optimised", "network"),
        ("--fold", "0"),
        ("--checkpoint", "final"),
        ("--model", model, "--align", "rigid"),
        ("--model", model, "--io", "none", "--io-optimised", "displacements"),
    ):
        status, _, error = run(capsys, *flags, *more)
        assert status == 2
        assert "drop" in error
