"""One predicted pair with known truth, scored through its files."""

from pathlib import Path

import numpy as np
import pytest
import torch

from autoreg.errors import DataError
from autoreg.evaluation.case import evaluate_case, load_images
from autoreg.evaluation.predictions import read_prediction
from autoreg.evaluation.surface import hd95
from autoreg.geometry.grid import Geometry
from autoreg.geometry.resampling import resample_volume
from autoreg.geometry.volume import Volume
from autoreg.io.images import read_image, write_image
from autoreg.io.landmarks import read_landmarks, write_landmarks
from autoreg.io.transforms import read_displacement, write_displacement

CPU = torch.device("cpu")


def evaluate(pair):
    prediction = read_prediction(pair.folder)
    return evaluate_case(prediction, load_images(prediction), CPU)


def relabel(path, change):
    volume = read_image([path], "label")
    write_image(path, Volume(change(volume.array.copy()), volume.geometry, "label"))


def test_the_true_transform_scores_perfectly_and_better_than_before(pair):
    found = evaluate(pair)
    assert found.registered.dice == 1
    assert found.registered.hd95_mm == 0
    assert found.registered.tre_mean_mm < 1e-3
    assert found.registered.lncc > 0.99
    assert found.initial.dice < 0.9
    assert found.initial.hd95_mm > 1
    assert found.initial.tre_mean_mm > 1
    assert found.initial.tre_p95_mm >= found.initial.tre_mean_mm
    assert found.initial.lncc < found.registered.lncc
    assert len(found.landmarks) == 7
    distances = [landmark.initial_tre_mm for landmark in found.landmarks]
    assert np.mean(distances) == pytest.approx(found.initial.tre_mean_mm)
    assert max(landmark.tre_mm for landmark in found.landmarks) < 1e-3
    assert found.prediction_seconds == 3.5
    assert found.notes == ()


def test_half_the_displacement_lies_between_nothing_and_the_truth(add_pair):
    found = evaluate(add_pair("half", perfect=False))
    assert found.initial.tre_mean_mm > found.registered.tre_mean_mm > 0.5
    assert found.initial.dice < found.registered.dice < 1
    assert found.initial.lncc < found.registered.lncc < 1


def test_the_displacement_is_judged_with_its_inverse(pair):
    field = evaluate(pair).field
    assert field.ndv_fraction == field.folded_fraction == 0
    assert 0 < field.jacobian_minimum < 1
    assert field.sdlogj_foreground > field.sdlogj_plus3 > 0
    assert field.inverse_error_mean_mm < 0.05
    assert 0.7 < field.inverse_overlap_fraction <= 1
    path = pair.folder / "inverse_displacement.nii.gz"
    inverse_mm, geometry = read_displacement(path)
    write_displacement(path, inverse_mm + np.float32([0, 2.0, 0]), geometry)
    assert evaluate(pair).field.inverse_error_mean_mm == pytest.approx(2, abs=0.05)


def test_a_missing_inverse_is_named(pair):
    (pair.folder / "inverse_displacement.nii.gz").unlink()
    found = evaluate(pair)
    assert found.field.inverse_error_mean_mm is None
    assert "inverse_displacement.nii.gz is missing" in found.notes[0]


def test_labels_are_named_and_missing_or_lost_ones_told_apart(pair):
    relabel(pair.folder / "warped_labels.nii.gz", lambda a: np.where(a == 3, 0, a))
    relabel(pair.inputs_path("fixed_labels"), lambda a: np.where(a == 2, 8, a))
    pair.record["label_names"]["never"] = 11
    pair.save_record()
    found = evaluate(pair)
    states = {score.label: score.state for score in found.labels}
    assert states == {
        1: "ok", 2: "missing in fixed", 3: "lost", 8: "missing in moving", 11: "missing in fixed",
    }  # fmt: skip
    lost = next(score for score in found.labels if score.label == 3)
    assert (lost.name, lost.dice, lost.hd95_mm) == ("core", 0, np.inf)
    assert found.registered.dice == pytest.approx(0.5)  # labels 1 (perfect) and 3 (lost)
    assert found.registered.hd95_mm == 0
    assert found.registered.hd95_infinite == 1
    notes = " | ".join(found.notes)
    assert "missing in the fixed image, not scored: 2, 11 never" in notes
    assert "missing in the moving image, not scored: 8" in notes
    assert "lost by the warp, Dice 0 and HD95 infinite: 3 core" in notes


def test_labels_of_one_image_alone_are_named_and_not_scored(pair):
    pair.inputs["moving_labels"] = None
    pair.save_record()
    found = evaluate(pair)
    assert found.registered.dice is None
    assert found.labels == ()
    assert found.notes == ("labels not scored: the moving image has none",)


def test_without_labels_and_landmarks_the_rest_is_scored(pair):
    for role in ("fixed", "moving"):
        pair.inputs[f"{role}_labels"] = pair.inputs[f"{role}_landmarks"] = None
    pair.save_record()
    found = evaluate(pair)
    assert found.registered.dice is found.registered.tre_mean_mm is None
    assert found.registered.lncc > 0.99
    assert found.notes == ()


def test_a_fixed_mask_is_the_foreground(pair, tmp_path):
    assert evaluate(pair).foreground == "threshold"
    fixed = read_image([Path(pair.inputs["fixed"][0])], "intensity")
    mask = np.zeros(fixed.array.shape, bool)
    mask[:, 3:12, 5:15, 5:15] = True
    write_image(tmp_path / "mask.nii.gz", Volume(mask, fixed.geometry, "mask"))
    pair.inputs["fixed_mask"] = str(tmp_path / "mask.nii.gz")
    pair.save_record()
    found = evaluate(pair)
    assert found.foreground == "mask"
    write_image(tmp_path / "mask.nii.gz", Volume(mask[:, ::-1], fixed.geometry, "mask"))
    mirrored = evaluate(pair)
    assert mirrored.field.sdlogj_foreground != found.field.sdlogj_foreground
    assert mirrored.registered.lncc != found.registered.lncc
    assert mirrored.field.sdlogj_plus3 == found.field.sdlogj_plus3


def test_learn2reg_landmarks_in_voxels(pair):
    expected = evaluate(pair)
    for role in ("fixed", "moving"):
        path = pair.folder / f"{role}_voxels.csv"
        geometry = read_image([Path(pair.inputs[role][0])], "intensity").geometry
        points = geometry.to_index(read_landmarks(pair.inputs_path(f"{role}_landmarks")))
        path.write_text("\n".join(",".join(map(str, row[::-1])) for row in points))
        pair.inputs[f"{role}_landmarks"] = str(path)
    pair.inputs["landmark_frame"] = "voxels"
    pair.save_record()
    found = evaluate(pair)
    assert found.initial.tre_mean_mm == pytest.approx(expected.initial.tre_mean_mm, abs=1e-3)
    assert found.registered.tre_mean_mm == pytest.approx(0, abs=1e-3)


def test_landmark_files_of_different_length_are_refused(pair):
    path = pair.inputs_path("moving_landmarks")
    write_landmarks(path, read_landmarks(path)[:-1])
    with pytest.raises(DataError, match=r"moving\.csv 6"):
        evaluate(pair)


def test_a_displacement_on_another_grid_is_refused(pair):
    _, geometry = read_displacement(pair.folder / "inverse_displacement.nii.gz")
    u_mm = np.zeros((*geometry.shape, 3), np.float32)
    write_displacement(pair.folder / "displacement.nii.gz", u_mm, geometry)
    with pytest.raises(
        DataError, match=r"displacement\.nii\.gz: lies elsewhere than the fixed image.*shape"
    ):
        evaluate(pair)


def test_inputs_that_moved_away_are_named(pair):
    pair.inputs_path("moving_labels").unlink()
    with pytest.raises(DataError, match=r"moving_labels\.nii\.gz: no such file"):
        evaluate(pair)


def test_surface_distances_are_in_the_millimetres_of_the_fixed_grid(pair):
    fixed = read_image([pair.inputs_path("fixed_labels")], "label")
    moving = read_image([pair.inputs_path("moving_labels")], "label")
    initial = resample_volume(moving, None, fixed.geometry)
    expected = hd95(fixed.single, initial.single, [1, 2, 3], spacing_mm=(2.0, 1.0, 1.5))
    found = [score.initial_hd95_mm for score in evaluate(pair).labels]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_fold_in_the_background_is_not_one_of_the_foreground(pair):
    path = pair.folder / "displacement.nii.gz"
    u_mm, geometry = read_displacement(path)
    u_mm[2, 2, 2] = u_mm[2, 2, 4] + 30
    write_displacement(path, u_mm, geometry)
    field = evaluate(pair).field
    assert field.ndv_fraction > 0
    assert field.ndv_foreground_fraction == 0
    assert field.folded_fraction > 0
    assert field.jacobian_minimum < 0


def test_the_initial_image_continues_like_the_warped_one(pair):
    path = Path(pair.inputs["moving"][0])
    moving = read_image([path], "intensity")
    depth, height, width = moving.geometry.shape
    cut = Geometry((depth, height, width // 2), moving.geometry.index_to_world)
    write_image(path, Volume(moving.array[..., : width // 2], cut, "intensity"))
    pair.inputs["moving"].append(str(path))
    pair.record["outside_value"] = [-7.0, 3.0]
    pair.save_record()
    for channel in (0, 1):
        (pair.folder / f"warped_{channel:04d}.nii.gz").hardlink_to(pair.folder / "warped.nii.gz")
    first, second = load_images(read_prediction(pair.folder)).initial.array
    assert (first[..., -3:] == -7).all()
    assert (second[..., -3:] == 3).all()
    np.testing.assert_array_equal(first[..., :3], second[..., :3])


def test_several_channels_are_several_files(pair):
    for role in ("fixed", "moving"):
        first = Path(pair.inputs[role][0])
        volume = read_image([first], "intensity")
        second = first.with_name(f"{role}_second.nii.gz")
        write_image(second, Volume(5 - volume.array, volume.geometry, "intensity"))
        pair.inputs[role].append(str(second))
    pair.save_record()
    with pytest.raises(DataError, match=r"warped_0000\.nii\.gz: no such file"):
        evaluate(pair)
    warped = read_image([pair.folder / "warped.nii.gz"], "intensity")
    for channel, array in enumerate((warped.array, 5 - warped.array)):
        path = pair.folder / f"warped_{channel:04d}.nii.gz"
        write_image(path, Volume(array, warped.geometry, "intensity"))
    assert evaluate(pair).registered.lncc > 0.99
