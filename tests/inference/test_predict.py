"""autoreg_predict through its real command, on tiny images and a tiny random-weight model."""

import dataclasses
import json

import numpy as np
import pytest
import SimpleITK as sitk
from tiny_models import GRID, save_model, sitk_image, tiny_plan

from autoreg.errors import DataError
from autoreg.inference import batch_pair
from autoreg.inference.cli import main_predict
from autoreg.plan import AlignmentPlan, GridPlan

FILES = ["displacement.nii.gz", "inverse_displacement.nii.gz", "warped.nii.gz"]


def run(source, out, model, *flags):
    return main_predict(
        ["-i", str(source), "-o", str(out), "-m", str(model), "--device", "cpu", *flags]
    )


def write_pair(folder, fixed, moving):
    folder.mkdir(exist_ok=True)
    sitk.WriteImage(fixed, str(folder / "x_fixed.nii.gz"))
    sitk.WriteImage(moving, str(folder / "x_moving.nii.gz"))
    return folder


def array(image):
    return sitk.GetArrayFromImage(image).astype(float)


def itk_transform(path):
    return sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))


def result(out, case):
    return json.loads((out / case / "result.json").read_text())


def model_with(tmp_path, kind):
    if kind == "boxes":
        alignment = AlignmentPlan("boxes")
    else:
        alignment = AlignmentPlan(kind, (0.0, 0.0, 0.0) if kind == "world" else None)
    plan = tiny_plan(alignment=alignment, grid=GridPlan(GRID, (1.7, 1.5, 1.6), True))
    return save_model(tmp_path / "model", plan)


@pytest.mark.parametrize(
    ("fixed", "moving", "kind"),
    [
        ("RAS", "LPS", "centres"),
        ("LAS", "oblique", "world"),
        ("LPS", "LAS", "boxes"),
        ("oblique", "RAS", "centres"),
        ("PIR", "oblique", "boxes"),
    ],
)
def test_simpleitk_with_the_displacement_file_alone_gives_the_warped_image(
    tmp_path, fixed, moving, kind
):
    fixed_image = sitk_image(1, (15, 18, 12), (1.6, 1.3, 2.4), fixed)
    moving_image = sitk_image(2, (17, 14, 16), (1.4, 2.1, 1.2), moving)
    source = write_pair(tmp_path / "in", fixed_image, moving_image)
    assert run(source, tmp_path / "out", model_with(tmp_path, kind), "--io", "none") == 0
    folder = tmp_path / "out" / "x"
    read = sitk.ReadImage(str(source / "x_fixed.nii.gz"))
    expected = sitk.Resample(
        sitk.ReadImage(str(source / "x_moving.nii.gz")),
        read,
        itk_transform(folder / "displacement.nii.gz"),
        sitk.sitkLinear,
        0.0,
    )
    warped = sitk.ReadImage(str(folder / "warped.nii.gz"))
    assert np.allclose(warped.GetDirection(), read.GetDirection(), atol=1e-6)
    assert array(warped).std() > 50
    np.testing.assert_allclose(array(warped), array(expected), atol=0.02)  # of about 1000


def test_labels_landmarks_and_inverse_belong_to_the_same_transform(tmp_path, pair_folder, model):
    out = tmp_path / "out"
    assert run(pair_folder, out, model, "--io", "none") == 0
    transform = itk_transform(out / "one" / "displacement.nii.gz")
    fixed = sitk.ReadImage(str(pair_folder / "one_fixed.nii.gz"))
    labels = sitk.ReadImage(str(pair_folder / "one_moving_labels.nii.gz"))
    expected = sitk.Resample(labels, fixed, transform, sitk.sitkNearestNeighbor, 0)
    warped = sitk.ReadImage(str(out / "one" / "warped_labels.nii.gz"))
    assert warped.GetPixelID() == sitk.sitkUInt8
    assert set(np.unique(array(warped))) == {0, 1, 2}
    assert (array(warped) != array(expected)).mean() < 1e-3  # ties and float32 at voxel faces
    rows = (out / "one" / "warped_landmarks.csv").read_text().splitlines()
    assert rows[0] == "x,y,z"
    points = np.array([row.split(",") for row in rows[1:]], dtype=float)
    through_file = [transform.TransformPoint(p) for p in ((0.0, 0.0, 0.0), (3.5, -2.0, 4.0))]
    # The file is interpolated between the fixed image's voxels, the transform is not.
    np.testing.assert_allclose(points, through_file, atol=0.3)
    inverse = itk_transform(out / "one" / "inverse_displacement.nii.gz")
    back = [inverse.TransformPoint(tuple(p)) for p in points]
    np.testing.assert_allclose(back, [(0, 0, 0), (3.5, -2, 4)], atol=0.3)
    field = result(out, "one")["field"]
    assert 0 <= field["inverse_residual_maximum_mm"] < 5e-3


def test_a_pair_leaves_complete_files_and_a_readable_record(tmp_path, pair_folder, model):
    out = tmp_path / "out"
    assert run(pair_folder, out, model) == 0
    record = result(out, "one")
    extra = ["warped_labels.nii.gz", "warped_landmarks.csv", "trace.csv"]
    names = sorted([*FILES, *extra, "result.json"])
    assert sorted(path.name for path in (out / "one").iterdir()) == names
    assert set(record["files"]) == {*FILES, *extra}
    assert record["inputs"]["fixed"] == [str(pair_folder / "one_fixed.nii.gz")]
    assert record["inputs"]["fixed_mask"] == str(pair_folder / "one_fixed_mask.mha")
    assert record["inputs"]["moving_landmarks"] is None
    assert record["device"] == "cpu"
    assert record["optimisation"]["steps"] == 2
    assert record["loss_after"]["total"] < record["loss_before"]["total"]
    trace = (out / "one" / "trace.csv").read_text().splitlines()
    assert trace[0] == "step,similarity,regularity,total,cosine,conflict,seconds"
    assert len(trace) == 3
    plan = json.loads((out / "plan.json").read_text())
    assert plan["instance_optimisation"]["steps"] == 2
    arguments = json.loads((out / "arguments.json").read_text())
    assert arguments["input"] == str(pair_folder)
    assert arguments["device"] == "cpu"
    assert set(arguments["versions"]) >= {"autoreg", "torch", "SimpleITK"}


def test_the_mask_changes_what_instance_optimisation_looks_at(tmp_path, pair_folder, model):
    run(pair_folder, tmp_path / "with", model)
    (pair_folder / "one_fixed_mask.mha").unlink()
    run(pair_folder, tmp_path / "without", model)
    losses = [result(tmp_path / o, "one")["loss_before"]["similarity"] for o in ("with", "without")]
    assert abs(losses[0] - losses[1]) > 1e-3


def test_weights_are_restored_before_the_next_pair(tmp_path, pair_folder, model):
    run(pair_folder, tmp_path / "both", model)
    run(pair_folder, tmp_path / "alone", model, "--num-parts", "2", "--part-id", "1")
    assert not (tmp_path / "alone" / "one").exists()
    fields = [
        array(sitk.ReadImage(str(tmp_path / out / "two" / "displacement.nii.gz")))
        for out in ("both", "alone")
    ]
    np.testing.assert_array_equal(*fields)


def test_io_flags_replace_the_plans_values(tmp_path, pair_folder, model):
    flags = ("--io", "vanilla", "--io-steps", "1", "--seed", "5")
    assert run(pair_folder, tmp_path / "out", model, *flags) == 0
    record = result(tmp_path / "out", "two")["optimisation"]
    assert (record["mode"], record["steps"], record["mean_cosine"]) == ("vanilla", 1, None)
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert plan["instance_optimisation"]["seed"] == 5


def test_a_field_on_top_of_the_networks_maps_is_optimised_instead(tmp_path, pair_folder, model):
    flags = ("--io", "vanilla", "--io-steps", "2")
    run(pair_folder, tmp_path / "none", model, "--io", "none")
    run(pair_folder, tmp_path / "weights", model, *flags)
    run(pair_folder, tmp_path / "field", model, *flags, "--io-optimised", "displacements")
    results = [result(tmp_path / out, "two") for out in ("none", "weights", "field")]
    assert [r["optimisation"]["optimised"] for r in results] == [None, "network", "displacements"]
    assert results[2]["optimisation"]["steps"] == 2
    assert results[2]["loss_after"]["total"] < results[2]["loss_before"]["total"]
    assert len({r["request"] for r in results}) == 3
    fields = [
        array(sitk.ReadImage(str(tmp_path / out / "two" / "displacement.nii.gz")))
        for out in ("none", "weights", "field")
    ]
    assert np.abs(fields[2] - fields[0]).max() > 0.1
    assert np.abs(fields[2] - fields[1]).max() > 0.1


def test_a_model_folder_or_others_files_are_not_overwritten(tmp_path, pair_folder, model, capsys):
    before = (model / "plan.json").read_text("utf-8")
    assert run(pair_folder, model, model, "--io", "none") == 2
    assert "holds a trained model" in capsys.readouterr().err
    assert (model / "plan.json").read_text("utf-8") == before
    theirs = tmp_path / "out" / "one" / "warped.nii.gz"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine")
    assert run(pair_folder, tmp_path / "out", model, "--io", "none") == 2
    assert [path.name for path in theirs.parent.iterdir()] == ["warped.nii.gz"]
    assert theirs.read_text() == "mine"
    assert result(tmp_path / "out", "two")["case"] == "two"


@pytest.mark.parametrize("with_model", [True, False])
def test_an_input_among_the_results_is_not_lost(tmp_path, pair_folder, model, caplog, with_model):
    out, pairs = tmp_path / "out", tmp_path / "pairs.csv"
    assert run(pair_folder, out, model, "--io", "none") == 0
    theirs = out / "one" / "warped.nii.gz"
    before = theirs.read_bytes()
    pairs.write_text(f"case,fixed,moving\none,{pair_folder / 'one_fixed.nii.gz'},{theirs}\n")
    more = ["-m", str(model), "--io", "none"] if with_model else ["--results", str(tmp_path)]
    assert main_predict(["-i", str(pairs), "-o", str(out), "--device", "cpu", *more]) == 2
    assert "one/warped.nii.gz: would be overwritten by the result" in caplog.text
    assert theirs.read_bytes() == before


def test_results_stay_if_what_is_said_of_the_new_ones_fails(
    tmp_path, pair_folder, model, monkeypatch
):
    out = tmp_path / "out"
    run(pair_folder, out, model, "--io", "none")
    before = stamps(out)

    def failing(*_):
        raise DataError("nothing of the two is left to compare")

    monkeypatch.setattr(batch_pair, "refinement_record", failing)
    assert run(pair_folder, out, model, "--io", "none") == 2
    assert stamps(out) == before
    assert result(out, "one")["case"] == "one"


def stamps(out):
    return {p: p.stat().st_mtime_ns for p in out.glob("*/*.nii.gz")}


def test_continue_skips_what_is_complete_and_only_that(tmp_path, pair_folder, model):
    out = tmp_path / "out"
    flags = ("--io", "none")
    run(pair_folder, out, model, *flags)
    first = stamps(out)
    assert run(pair_folder, out, model, *flags, "--continue") == 0
    assert stamps(out) == first
    (out / "one" / "warped.nii.gz").write_bytes(b"cut")
    damaged = stamps(out)
    run(pair_folder, out, model, *flags, "--continue")
    redone = {path.parent.name for path, stamp in stamps(out).items() if damaged[path] != stamp}
    assert redone == {"one"}
    (out / "two" / "displacement.nii.gz").unlink()
    run(pair_folder, out, model, *flags, "--continue")
    assert (out / "two" / "displacement.nii.gz").exists()


@pytest.mark.parametrize("change", ["result", "input", "io", "modality", "weights"])
def test_continue_redoes_what_another_request_left(tmp_path, pair_folder, change):
    model = save_model(tmp_path / "model", tiny_plan())
    out = tmp_path / "out"
    run(pair_folder, out, model, "--io", "none")
    first, flags = stamps(out), ["--io", "none"]
    if change == "result":
        (out / "two" / "result.json").write_text("{")
    elif change == "input":
        image = sitk.ReadImage(str(pair_folder / "two_fixed.nii.gz"))
        sitk.WriteImage(image * 2, str(pair_folder / "two_fixed.nii.gz"))
    elif change == "io":
        flags = ["--io", "vanilla", "--io-steps", "1"]
    elif change == "modality":
        flags += ["--fixed-modality", "CT"]
    else:
        save_model(tmp_path / "model", tiny_plan())
    run(pair_folder, out, model, *flags, "--continue")
    redone = {path.parent.name for path, stamp in stamps(out).items() if first[path] != stamp}
    assert redone == ({"two"} if change in ("result", "input") else {"one", "two"})


def test_predicting_again_removes_what_would_be_stale_but_no_foreign_file(
    tmp_path, pair_folder, model
):
    out = tmp_path / "out"
    run(pair_folder, out, model)
    (out / "one" / "note.txt").write_text("mine")
    (pair_folder / "one_moving_labels.nii.gz").unlink()
    run(pair_folder, out, model, "--io", "none")
    names = {path.name for path in (out / "one").iterdir()}
    assert names == {*FILES, "warped_landmarks.csv", "result.json", "note.txt"}


def test_a_failing_pair_is_named_and_the_others_still_run(
    tmp_path, pair_folder, model, caplog, capsys
):
    out = tmp_path / "out"
    run(pair_folder, out, model, "--io", "none")
    before = stamps(out)
    image = sitk.ReadImage(str(pair_folder / "one_fixed.nii.gz"))
    sitk.WriteImage(image * 0, str(pair_folder / "one_fixed.nii.gz"))
    assert run(pair_folder, out, model, "--io", "none") == 2
    assert "1 failed: one" in capsys.readouterr().out
    (failure,) = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert f"one: failed: {pair_folder / 'one_fixed.nii.gz'}: the image is constant" in failure
    assert failure.endswith(f"the earlier results in {out / 'one'} are kept")
    assert "constant" in (out / "one" / "unfinished.txt").read_text()
    after = stamps(out)
    assert {p for p in before if before[p] == after[p]} == {p for p in before if "one" in p.parts}
    sitk.WriteImage(image, str(pair_folder / "one_fixed.nii.gz"))
    assert run(pair_folder, out, model, "--io", "none") == 0
    assert not (out / "one" / "unfinished.txt").exists()


def test_a_slice_is_refused(tmp_path, model, caplog):
    source = write_pair(
        tmp_path / "in",
        sitk_image(1, (14, 12, 13), (1.5, 1.5, 1.5)),
        sitk_image(2, (14, 12, 13), (1.5, 1.5, 1.5))[:, :, 5:6],
    )
    assert run(source, tmp_path / "out", model, "--io", "none") == 2
    assert "x_moving.nii.gz: the image has (1, 12, 14) voxels; expected at least 4" in caplog.text


def test_landmarks_outside_the_fixed_image_are_warned_of(tmp_path, pair_folder, model, caplog):
    path = pair_folder / "one_fixed_landmarks.csv"
    path.write_text("x,y,z\n0,0,0\n1e5,0,0\n0,-500,0\n")
    assert run(pair_folder, tmp_path / "out", model, "--io", "none") == 0
    found = f"{path}: 2 of 3 points lie outside the fixed image (point 2, 3, counted from 1)"
    assert found in result(tmp_path / "out", "one")["warnings"]


def test_an_output_that_is_a_file_is_refused_before_the_work(tmp_path, pair_folder, model, capsys):
    (tmp_path / "out").write_text("a file")
    assert run(pair_folder, tmp_path / "out", model, "--io", "none") == 2
    assert "out: is a file; expected a folder" in capsys.readouterr().err


def test_labels_on_another_grid_fail_that_pair(tmp_path, pair_folder, model, caplog):
    labels = sitk.ReadImage(str(pair_folder / "one_moving_labels.nii.gz"))
    labels.SetOrigin((9.0, 9.0, 9.0))
    sitk.WriteImage(labels, str(pair_folder / "one_moving_labels.nii.gz"))
    assert run(pair_folder, tmp_path / "out", model, "--io", "none") == 2
    assert "one_moving_labels.nii.gz: lies elsewhere than its image: origin" in caplog.text
    (left,) = (tmp_path / "out" / "one").iterdir()  # by which the evaluation notices it
    assert left.name == "unfinished.txt"
    assert "lies elsewhere than its image: origin" in left.read_text()


def test_integer_images_keep_their_type(tmp_path, model):
    fixed = sitk_image(1, (14, 12, 13), (1.5, 1.5, 1.5))
    moving = sitk_image(2, (14, 12, 13), (1.5, 1.5, 1.5), pixel=sitk.sitkInt16)
    source = write_pair(tmp_path / "in", fixed, moving)
    run(source, tmp_path / "out", model, "--io", "none")
    warped = sitk.ReadImage(str(tmp_path / "out" / "x" / "warped.nii.gz"))
    assert warped.GetPixelID() == sitk.sitkInt16
    sitk.WriteImage(sitk.Cast(moving, sitk.sitkFloat32), str(source / "x_moving.nii.gz"))
    run(source, tmp_path / "out", model, "--io", "none")
    exact = sitk.ReadImage(str(tmp_path / "out" / "x" / "warped.nii.gz"))
    np.testing.assert_array_equal(array(warped), np.rint(array(exact)))


def test_a_ct_is_surrounded_by_air(tmp_path):
    plan = dataclasses.replace(
        tiny_plan(alignment=AlignmentPlan("world", (0.0, 0.0, 0.0))),
        fixed_modalities=("CT",),
        moving_modalities=("CT",),
    )
    fixed = sitk_image(1, (20, 20, 20), (2.0, 2.0, 2.0)) - 500
    moving = sitk_image(2, (10, 10, 10), (2.0, 2.0, 2.0)) - 500
    source = write_pair(tmp_path / "in", fixed, moving)
    model = save_model(tmp_path / "model", plan)
    assert run(source, tmp_path / "out", model, "--io", "none") == 0
    warped = array(sitk.ReadImage(str(tmp_path / "out" / "x" / "warped.nii.gz")))
    assert warped[0] == pytest.approx(-1000)
    assert result(tmp_path / "out", "x")["outside_value"] == [-1000]


def test_each_channel_is_surrounded_by_its_own_value(tmp_path):
    plan = dataclasses.replace(
        tiny_plan(alignment=AlignmentPlan("world", (0.0, 0.0, 0.0))),
        fixed_modalities=("CT", "MR"),
        moving_modalities=("CT", "MR"),
    )
    (tmp_path / "in").mkdir()
    for role, size in (("fixed", 20), ("moving", 10)):
        for channel, shift in enumerate((-500, 0)):
            image = sitk_image(size, (size,) * 3, (2.0, 2.0, 2.0)) + shift
            sitk.WriteImage(image, str(tmp_path / "in" / f"x_{role}_{channel:04d}.nii.gz"))
    model = save_model(tmp_path / "model", plan)
    assert run(tmp_path / "in", tmp_path / "out", model, "--io", "none") == 0
    for channel, outside in enumerate((-1000, 0)):
        warped = sitk.ReadImage(str(tmp_path / "out" / "x" / f"warped_{channel:04d}.nii.gz"))
        assert array(warped)[0] == pytest.approx(outside)
    assert result(tmp_path / "out", "x")["outside_value"] == [-1000, 0]


def test_two_channels_in_numbered_files(tmp_path):
    plan = dataclasses.replace(
        tiny_plan(), fixed_modalities=("MR", "MR"), moving_modalities=("MR", "MR")
    )
    model = save_model(tmp_path / "model", plan)
    (tmp_path / "in").mkdir()
    for role, seed in (("fixed", 1), ("moving", 5)):
        for channel in (0, 1):
            image = sitk_image(seed, (14, 12, 13), (1.5, 1.5, 1.5)) * (1 + channel)
            sitk.WriteImage(image, str(tmp_path / "in" / f"x_{role}_{channel:04d}.nii.gz"))
    assert run(tmp_path / "in", tmp_path / "out", model, "--io", "none") == 0
    one, two = (
        array(sitk.ReadImage(str(tmp_path / "out" / "x" / f"warped_000{c}.nii.gz"))) for c in (0, 1)
    )
    np.testing.assert_allclose(two, 2 * one, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--io", "none", "--io-steps", "3"], "--io-steps: does nothing with --io none"),
        (["--io", "vanilla", "--io-projection", "both"], "--io-projection: does nothing"),
        (["--io", "none", "--io-optimised", "velocity"], "--io-optimised: does nothing with --io"),
        (["--io-optimised", "velocity"], 'use "displacements", or "diffusion" or "bending"'),
        (["--split", "test"], "--split test: does nothing"),
        (["--num-parts", "2", "--part-id", "2"], "--part-id 2 of --num-parts 2: expected 0 to 1"),
        (["--gpus", "0", "--num-parts", "2"], "--gpus sets --num-parts"),
        (["--gpus", "0;1", "--device", "auto"], 'expected numbers joined by commas, e.g. "0,1"'),
        (["-d", "1"], "-m names the model; drop -d"),
        (["--fold", "3"], "fold 3 has no checkpoint; these have: all"),
        (["--fixed-modality", "PET"], 'modality "PET": the plan of this model has no'),
    ],
)
def test_contradictory_flags_are_refused_in_one_message(
    tmp_path, pair_folder, model, capsys, flags, expected
):
    arguments = ["-i", str(pair_folder), "-o", str(tmp_path / "out"), "-m", str(model), *flags]
    if "--gpus" not in flags:
        arguments += ["--device", "cpu"]
    assert main_predict(arguments) == 2
    output = capsys.readouterr()
    assert expected in output.err
    assert "Traceback" not in output.err
    assert not (tmp_path / "out").exists()
