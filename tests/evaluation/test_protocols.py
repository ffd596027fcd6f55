"""autoreg_evaluate --protocol: the numbers of the challenges' referees, from displacement files."""

import csv
import dataclasses
import json
import shutil

import numpy as np
import plain_referee
import pytest
import torch
from referee_pair import LABELS, SHAPE, make_pair, rough_field, unit_grid, write_truth, write_u
from scipy import ndimage

from autoreg.evaluation.cli import main
from autoreg.evaluation.evaluate import RefereeJob, evaluate_by_protocol
from autoreg.evaluation.protocols import PROTOCOLS
from autoreg.evaluation.referee_field import index_displacement, nearest_sources, pulled
from autoreg.evaluation.referee_summary import referee_statistic, referee_summary
from autoreg.evaluation.surface import hd95
from autoreg.geometry.grid import Geometry
from autoreg.io.records import load_json, save_record

CPU = torch.device("cpu")


@pytest.fixture
def pair(tmp_path):
    return make_pair(tmp_path)


def score(pair, protocol, labels=LABELS, masked=None):
    truth = pair.root / "truth"
    job = RefereeJob(protocol, CPU, truth if truth.is_dir() else None, labels, masked)
    summary = evaluate_by_protocol(pair.root / "predictions", job)
    assert summary.failures == ()
    return summary.cases[0]


def test_lumir_equals_a_plain_implementation(pair):
    found = score(pair, "lumir", None)
    fixed, moving = pair.labels["fixed"], pair.labels["moving"]
    warped = plain_referee.warp(moving, pair.u_vox)
    dice = plain_referee.dice(fixed, warped, moving, LABELS)
    blobs = plain_referee.tre_blobs(
        pair.blobs["fixed"], plain_referee.warp(pair.blobs["moving"], pair.u_vox)
    )
    foreground = {role: image > 0 for role, image in pair.images.items()}
    expected = {
        "dice": dice.mean(),
        "hd95_vox": hd95(fixed, warped, LABELS, moving=moving).mean(),
        "tre_vox": blobs.mean(),
        "ndv_moving_fraction": plain_referee.ndv_fraction(pair.u_vox, foreground["moving"]),
        "ndv_fixed_fraction": plain_referee.ndv_fraction(pair.u_vox, foreground["fixed"]),
        "ndv_fraction": plain_referee.ndv_fraction(pair.u_vox, np.ones(SHAPE, bool)),
        "sdlogj_plus3": plain_referee.sdlogj(pair.u_vox),
        "sdlogj_plain": plain_referee.sdlogj(pair.u_vox, plus=0),
    }
    assert expected["ndv_moving_fraction"] != expected["ndv_fixed_fraction"] > 0
    assert found.scores.keys() == expected.keys()
    for key, value in expected.items():
        assert found.scores[key] == pytest.approx(value, rel=1e-12), key
    assert len(found.labels) == 133
    assert (found.landmarks, found.sdlogj_region) == (4, "whole")


def test_learn2reg_equals_a_plain_implementation(pair):
    shutil.rmtree(pair.root / "truth" / "landmarksVal")
    mask = ndimage.binary_dilation(pair.images["fixed"] > 0)
    mask[:, :5] = False
    write_truth(pair, "masks", "fixed", mask)
    whole = score(pair, "learn2reg")
    found = score(pair, "learn2reg", masked=True)
    points = [pair.points[role] for role in ("fixed", "moving")]
    assert found.scores["tre_kp_mm"] == pytest.approx(
        plain_referee.tre_points(pair.u_vox, *points, (1, 1, 1)).mean(), rel=1e-12
    )
    assert (whole.sdlogj_region, found.sdlogj_region) == ("whole", "mask")
    for case, region in ((whole, None), (found, mask)):
        for key, plus in (("sdlogj_plus3", 3), ("sdlogj_plain", 0)):
            expected = plain_referee.sdlogj(pair.u_vox, region, plus)
            assert case.scores[key] == pytest.approx(expected, rel=1e-12)
    assert whole.scores["sdlogj_plus3"] != found.scores["sdlogj_plus3"]


def test_a_displacement_between_grids_of_different_spacing_is_in_voxels():
    fixed, spacing = unit_grid(), np.array([1.75, 1.0, 2.5])
    moving = Geometry((12, 16, 13), fixed.index_to_world * np.array([*spacing, 1]))
    u_vox = rough_field().astype(np.float64)
    index = np.moveaxis(np.indices(SHAPE), 0, -1)
    landing = index + np.moveaxis(u_vox, 0, -1)
    u_mm = (moving.to_world(landing) - fixed.to_world(index)).astype(np.float32)
    found = index_displacement(u_mm, fixed, moving)
    np.testing.assert_allclose(found, u_vox, atol=5e-6)


def test_headers_that_agree_leave_no_trace_in_the_displacement():
    cosine, sine = np.cos(0.3), np.sin(0.3)
    turned = unit_grid().index_to_world.copy()
    turned[:3, :3] = [[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1.1]] @ turned[:3, :3]
    turned[:3, 3] = (-91.3, 127.7, -70.1)
    grid = Geometry(SHAPE, turned)
    assert (grid.world_to_index @ grid.index_to_world != np.eye(4)).any()
    # a trace of -1e-14 would put the first layer outside
    assert (index_displacement(np.zeros((*SHAPE, 3), np.float32), grid, grid) == 0).all()


def test_the_nearest_warp_is_scipys_at_ties_and_borders():
    label_map = np.arange(1, 6 * 5 * 7 + 1).reshape(6, 5, 7)
    random = np.random.default_rng(0)
    u = random.integers(-6, 7, (3, 4, 6, 5)) / 2  # halves: ties
    u[:, 0] += random.choice([0, 1e-9, -1e-9], u[:, 0].shape)
    found = pulled(label_map, nearest_sources(u, label_map.shape)).numpy()
    expected = plain_referee.warp(label_map, u)
    assert (expected == 0).any()
    np.testing.assert_array_equal(found, expected)


def test_lost_and_missing_labels_and_landmarks_are_named_and_not_hidden(pair):
    u = pair.u_vox.copy()
    u[:, pair.blobs["fixed"] >= 0] = 0
    u[0] = 100  # everything lands outside
    write_u(pair, u)
    write_truth(
        pair, "labels", "moving", np.where(pair.labels["moving"] == 11, 4, pair.labels["moving"])
    )
    found = score(pair, "lumir")
    states = {s.label: s.state for s in found.labels}
    assert states == {0: "ok", 4: "lost", 11: "missing in moving", 23: "lost", 30: "lost"}
    by_label = {s.label: (s.dice, s.hd95_vox) for s in found.labels}
    assert by_label[4] == (0, np.inf)
    assert np.isnan(by_label[11]).all()
    assert found.scores["hd95_vox"] == np.inf
    assert np.isnan(found.scores["tre_vox"])
    notes = " | ".join(found.notes)
    assert "missing in the moving image, not scored: 11" in notes
    assert "lost by the warp, Dice 0 and HD95 infinite: 4, 23, 30" in notes
    assert "landmarks lost by the warp, so that TRE is NaN: 1, 2, 3, 4" in notes


def test_aggregates_are_the_referees():
    metric = PROTOCOLS["lumir"].metrics["hd95_vox"]
    values = [3.0, 1.0, 2.0, 7.0]
    found = referee_statistic(metric, [*values, None])
    assert (found.mean, found.std) == (np.mean(values), np.std(values))
    assert (found.quantile, found.pairs) == (np.quantile(values, 0.3), 4)
    lost = referee_statistic(metric, [1.0, np.inf, 2.0])
    assert lost.mean == np.inf
    assert np.isnan(lost.std)
    assert (lost.infinite, lost.finite_mean) == (1, 1.5)
    undefined = referee_statistic(metric, [1.0, np.nan])
    assert np.isnan([undefined.mean, undefined.std, undefined.quantile]).all()
    assert undefined.nan == 1
    assert referee_statistic(metric, [None]) is None


def rewrite_names(pair, names):
    """Let the data set name structures."""
    path = pair.folder / "result.json"
    save_record(load_json(path) | {"label_names": names}, path)


def run(capsys, *arguments):
    status = main(["--device", "cpu", "--workers", "1", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_the_command_writes_the_referees_table(pair, tmp_path, capsys):
    out = tmp_path / "out"
    flags = ("-i", pair.root / "predictions", "-o", out, "--ground-truth", pair.root / "truth")
    status, text, _ = run(capsys, *flags, "--protocol", "lumir")
    assert status == 0
    official, beside = text.split("beside it")
    assert "NDV, moving foreground [%] ↓" in official
    assert "NDV, fixed foreground [%] ↓" in beside
    assert "SDlogJ (+3) ↓" in beside
    assert sorted(p.name for p in out.iterdir()) == ["lumir.csv", "lumir.json", "lumir_labels.csv"]
    summary = json.loads((out / "lumir.json").read_text("utf-8"))
    assert summary["label_list"] == list(PROTOCOLS["lumir"].labels)
    assert summary["label_list_from"] == "protocol"
    (case,) = summary["cases"]
    assert summary["metrics"]["dice"]["mean"] == case["scores"]["dice"]
    with (out / "lumir.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert float(row["tre_vox"]) == case["scores"]["tre_vox"]
    assert row["labels_not_scored"] == str(133 - len(LABELS))
    _, text, _ = run(capsys, *flags, "--protocol", "lumir", "--labels", "4,11")
    summary = json.loads((out / "lumir.json").read_text("utf-8"))
    assert (summary["label_list"], summary["label_list_from"]) == ([4, 11], "user")
    shutil.rmtree(pair.root / "truth" / "landmarksVal")
    _, text, _ = run(capsys, *flags, "--protocol", "learn2reg")
    summary = json.loads((out / "learn2reg.json").read_text("utf-8"))
    assert (summary["label_list"], summary["label_list_from"]) == (list(LABELS[1:]), "occurring")
    assert "Dice, labels that occur" in text
    rewrite_names(pair, {f"part {label}": label for label in LABELS[1:]})
    _, text, _ = run(capsys, *flags, "--protocol", "learn2reg")
    summary = json.loads((out / "learn2reg.json").read_text("utf-8"))
    assert summary["label_list_from"] == "data set"
    assert "labels that occur" not in text


def test_without_ground_truth_only_the_displacement_is_scored(pair, tmp_path, capsys):
    shutil.rmtree(pair.root / "truth")
    out = tmp_path / "out"
    status, text, _ = run(capsys, "-i", pair.folder, "-o", out, "--protocol", "learn2reg")
    assert status == 0
    assert "Dice" not in text
    summary = json.loads((out / "learn2reg.json").read_text("utf-8"))
    assert sorted(summary["metrics"]) == [
        "ndv_fixed_fraction", "ndv_fraction", "ndv_moving_fraction", "sdlogj_plain", "sdlogj_plus3",
    ]  # fmt: skip
    assert not (out / "learn2reg_labels.csv").exists()


def test_landmarks_of_the_other_kind_are_named(pair):
    assert "has blobs in a label map, the protocol learn2reg wants points" in " ".join(
        score(pair, "learn2reg").notes
    )
    shutil.rmtree(pair.root / "truth" / "landmarksVal")
    assert "has points in a csv file, the protocol lumir wants blobs" in " ".join(
        score(pair, "lumir").notes
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--labels", "1"], "--labels does nothing with --protocol plain"),
        (["--ground-truth", "x"], "--ground-truth does nothing with --protocol plain"),
        (["--protocol", "lumir", "--no-figures"], "--no-figures does nothing with --protocol"),
        (["--protocol", "lumir", "--masked"], "--masked does nothing with --protocol lumir"),
        (["--no-masked"], "--no-masked does nothing with --protocol plain"),
        (["--protocol", "lumir", "--labels", "x"], 'labels "x": found "x"'),
        (["--protocol", "lumir", "--ground-truth", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_flags_that_do_not_fit_are_refused(pair, capsys, flags, message):
    status, _, error = run(capsys, "-i", pair.folder, *flags)
    assert status == 2
    assert message in error


def test_a_ground_truth_without_any_and_a_two_dimensional_image_are_refused(pair, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    flags = ("-i", pair.folder, "--protocol", "lumir")
    status, _, error = run(capsys, *flags, "--ground-truth", tmp_path / "empty")
    assert status == 2
    assert "expected folders such as labelsVal" in error
    (pair.root / "truth" / "labelsVal" / "LUMIRMRI_3454_0000.nii.gz").write_bytes(b"broken")
    status, text, _ = run(capsys, *flags, "--ground-truth", pair.root / "truth")
    assert status == 2
    assert "1 pair NOT evaluated" in text
    assert "LUMIRMRI_3454_0000.nii.gz: cannot be read" in text


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_same_scores(pair):
    job = RefereeJob("lumir", torch.device("cuda"), pair.root / "truth")
    (on_gpu,) = evaluate_by_protocol(pair.root / "predictions", job).cases
    for key, value in score(pair, "lumir", None).scores.items():
        assert on_gpu.scores[key] == pytest.approx(value, rel=1e-9)


def test_a_pair_without_what_others_have_is_named(pair):
    case = score(pair, "lumir")
    assert case.landmarks
    bare = dataclasses.replace(case, case="bare", landmarks=0, labels=(), notes=())
    found = referee_summary("here", PROTOCOLS["lumir"], None, [case, bare], [])
    assert found.cases[0].notes == case.notes
    assert [note.split(":")[0] for note in found.cases[1].notes] == [
        "not scored by labels",
        "not scored by landmarks",
    ]
