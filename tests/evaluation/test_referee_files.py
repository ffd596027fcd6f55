"""Where a referee's ground truth lies, which landmarks there are, and where SDlogJ is taken."""

import json
import shutil

import numpy as np
import plain_referee
import pytest
import torch
from referee_pair import SHAPE, image_name, make_pair, rough_field, unit_grid, write_truth
from scipy import ndimage
from spaced_pair import spaced, write_case

from autoreg.evaluation.cli import main
from autoreg.evaluation.evaluate import RefereeJob, evaluate_by_protocol
from autoreg.evaluation.protocols import PROTOCOLS
from autoreg.evaluation.referee_case import score_case
from autoreg.geometry.grid import Geometry
from autoreg.io.records import load_json, save_record

CPU = torch.device("cpu")


@pytest.fixture
def pair(tmp_path):
    return make_pair(tmp_path)


def score(pair, protocol="learn2reg", masked=None):
    job = RefereeJob(protocol, CPU, pair.root / "truth", None, masked)
    summary = evaluate_by_protocol(pair.root / "predictions", job)
    assert summary.failures == ()
    return summary.cases[0]


def rename_images(pair, rename):
    """Move both images and let the record say so."""
    path = pair.folder / "result.json"
    record = load_json(path)
    for role in ("fixed", "moving"):
        old = image_name(pair.root, role)
        new = rename(old)
        new.parent.mkdir(exist_ok=True)
        old.rename(new)
        record["inputs"][role] = [str(new)]
    save_record(record, path)


def converted(path):
    """Where a conversion puts a validation image."""
    return path.parent.with_name("imagesTr") / path.name


class TestGroundTruth:
    def test_images_of_another_split_find_the_referees_layout(self, pair):
        expected = score(pair, "lumir")
        rename_images(pair, converted)
        found = score(pair, "lumir")
        assert found.scores == expected.scores
        assert all(found.scores[key] is not None for key in ("dice", "hd95_vox", "tre_vox"))
        assert found.notes == expected.notes

    def test_the_folder_of_the_images_split_goes_before_the_others(self, pair):
        expected = score(pair, "lumir").scores["dice"]
        shutil.copytree(pair.root / "truth" / "labelsVal", pair.root / "truth" / "labelsTr")
        write_truth(pair, "labels", "moving", pair.labels["fixed"])
        assert score(pair, "lumir").scores["dice"] != expected
        rename_images(pair, converted)
        assert score(pair, "lumir").scores["dice"] == expected

    def test_two_files_for_one_image_are_refused(self, pair):
        shutil.copytree(pair.root / "truth" / "labelsVal", pair.root / "truth" / "labelsTs")
        rename_images(pair, converted)
        job = RefereeJob("lumir", CPU, pair.root / "truth")
        (failure,) = evaluate_by_protocol(pair.root / "predictions", job).failures
        assert "the ground truth has 2 files for it" in failure.reason
        assert "labelsTs" in failure.reason

    def test_one_of_no_pair_is_refused(self, pair, capsys):
        rename_images(pair, lambda path: path.with_name(path.name.replace("_34", "_99")))
        flags = ["--protocol", "lumir", "--ground-truth", str(pair.root / "truth")]
        assert main(["-i", str(pair.folder), *flags]) == 2
        error = capsys.readouterr().err
        assert "holds no file of any predicted pair" in error
        assert "such as LUMIRMRI_9955_0000.nii.gz" in error
        assert not list(pair.folder.glob("lumir*"))

    def test_a_pair_without_any_is_named(self, pair):
        other = make_pair(pair.root / "elsewhere", seed=1)
        moved = pair.folder.with_name("other")
        shutil.move(other.folder, moved)
        path = moved / "result.json"
        record = load_json(path) | {"case": "other"}
        for role in ("fixed", "moving"):
            old = image_name(other.root, role)
            new = old.with_name(old.name.replace("_34", "_99"))
            old.rename(new)
            record["inputs"][role] = [str(new)]
        save_record(record, path)
        job = RefereeJob("lumir", CPU, pair.root / "truth")
        first, second = evaluate_by_protocol(pair.root / "predictions", job).cases
        assert first.scores["dice"] is not None
        assert not any("has no file" in note for note in first.notes)
        assert second.scores["dice"] is None
        assert "has no file for LUMIRMRI_9955_0000.nii.gz" in " ".join(second.notes)


class TestPoints:
    def write_points(self, pair, folder, places):
        for role in ("fixed", "moving"):
            name = image_name(pair.root, role).name.replace(".nii.gz", ".csv")
            path = pair.root / "truth" / folder / name
            path.parent.mkdir(exist_ok=True)
            np.savetxt(path, places[role][:, ::-1], "%.17g", ",")

    def expected(self, pair, places):
        both = places["fixed"], places["moving"]
        return plain_referee.tre_points(pair.u_vox, *both, (1, 1, 1)).mean()

    def test_landmarks_and_key_points_are_scored_both(self, pair):
        shutil.rmtree(pair.root / "truth" / "landmarksVal")
        landmarks = {role: places[:4] + 0.5 for role, places in pair.points.items()}
        self.write_points(pair, "landmarksVal", landmarks)
        found = score(pair)
        assert found.scores["tre_lm_mm"] == pytest.approx(self.expected(pair, landmarks), rel=1e-9)
        assert found.scores["tre_kp_mm"] == pytest.approx(
            self.expected(pair, pair.points), rel=1e-9
        )
        assert found.scores["tre_lm_mm"] != found.scores["tre_kp_mm"]
        assert found.landmarks == 4 + 9

    def test_numbered_key_points_are_those_that_both_images_have(self, pair):
        shutil.rmtree(pair.root / "truth" / "landmarksVal")
        shutil.rmtree(pair.root / "truth" / "keypointsVal")
        self.write_points(pair, "keypoints01Val", pair.points)
        first = image_name(pair.root, "fixed").name.replace(".nii.gz", ".csv")
        (pair.root / "truth" / "keypoints01Val" / first).unlink()
        found = score(pair)
        assert "key points not scored: the fixed image has none" in found.notes
        second = {role: places + 1 for role, places in pair.points.items()}
        self.write_points(pair, "keypoints02Val", second)
        found = score(pair)
        assert found.scores["tre_kp_mm"] == pytest.approx(self.expected(pair, second), rel=1e-9)
        assert found.scores["tre_lm_mm"] is None
        assert found.notes == ()

    def test_files_of_the_prediction_are_kinds_by_their_folder(self, pair):
        path = pair.folder / "result.json"
        record = load_json(path)
        for role in ("fixed", "moving"):
            record["inputs"][f"{role}_landmarks"] = str(pair.truth("keypoints", role))
        record["inputs"]["landmark_frame"] = "voxels"
        save_record(record, path)
        (case,) = evaluate_by_protocol(pair.folder, RefereeJob("learn2reg", CPU)).cases
        assert case.scores["tre_kp_mm"] == pytest.approx(self.expected(pair, pair.points))
        assert case.scores["tre_lm_mm"] is None

    def test_the_error_is_in_the_millimetres_of_the_moving_image(self, tmp_path):
        fixed, spacing = spaced(unit_grid(), (1.2, 0.8, 1.5)), (1.75, 1.0, 2.5)
        moving = spaced(unit_grid(), spacing, (30, -20, 10))
        u_vox, random = rough_field(), np.random.default_rng(1)
        places = tuple(random.uniform(2, np.array(SHAPE) - 3, (9, 3)) for _ in range(2))
        files = write_case(tmp_path, u_vox, fixed, moving, places)
        found = score_case(files, PROTOCOLS["learn2reg"], None, CPU).scores["tre_lm_mm"]
        expected = plain_referee.tre_points(u_vox, *places, spacing).mean()
        assert found == pytest.approx(expected, rel=1e-5)  # the file holds float32 millimetres

    def test_points_on_the_border_are_inside(self, tmp_path):
        cosine, sine = np.cos(0.3), np.sin(0.3)
        turned = spaced(unit_grid(), (1.1, 0.7, 1.3), (-91.3, 127.7, -70.1)).index_to_world.copy()
        turned[:3, :3] = [[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]] @ turned[:3, :3]
        fixed = Geometry(SHAPE, turned)
        moving = spaced(unit_grid(), (1.7, 0.9, 1.3), (3, 4, 5))
        places = np.random.default_rng(0).uniform(0, np.array(SHAPE) - 1, (600, 3))
        for axis in range(3):
            places[axis::6, axis] = 0
            places[axis + 3 :: 6, axis] = SHAPE[axis] - 1
        there = fixed.to_index(fixed.to_world(places))
        assert ((there < 0) | (there > np.array(SHAPE) - 1)).any(axis=1).sum() > 50
        u_vox = 2 + rough_field()
        files = write_case(tmp_path, u_vox, fixed, moving, (places, places))
        found = score_case(files, PROTOCOLS["learn2reg"], None, CPU)
        expected = plain_referee.tre_points(u_vox, places, places, moving.spacing_mm[:3]).mean()
        assert found.scores["tre_lm_mm"] == pytest.approx(expected, rel=1e-5)
        assert found.notes == ()

    def test_points_beyond_it_are_named(self, tmp_path):
        grid = unit_grid()
        places = np.array([[3.0, 3, 3], [-0.001, 3, 3], [3, SHAPE[1] - 1 + 1e-6, 3]])
        files = write_case(tmp_path, rough_field(), grid, grid, (places, places))
        (note,) = score_case(files, PROTOCOLS["learn2reg"], None, CPU).notes
        assert note == "landmarks outside the fixed image, where u counts as 0: rows 2, 3"


class TestMask:
    @pytest.fixture
    def mask(self, pair):
        shutil.rmtree(pair.root / "truth" / "landmarksVal")
        mask = ndimage.binary_dilation(pair.images["fixed"] > 0)
        mask[:, :5] = False
        write_truth(pair, "masks", "fixed", mask)
        return mask

    def as_task(self, pair, task):
        def rename(path):
            return path.with_name(path.name.replace("LUMIRMRI", task))

        rename_images(pair, rename)
        for file in (pair.root / "truth").rglob("LUMIRMRI*"):
            file.rename(rename(file))

    @pytest.mark.parametrize(
        ("task", "region"),
        [
            ("NLST", "mask"), ("LungCT", "mask"), ("AbdomenMRCT", "mask"), ("OASIS", "whole"),
            ("AbdomenCTCT", "whole"), ("ThoraxCBCT", "whole"), ("HippocampusMR", "whole"),
            ("CuRIOUS", "whole"), ("Mine", "whole"),
        ],
    )  # fmt: skip
    def test_is_used_where_the_tasks_referee_does(self, pair, mask, task, region):
        self.as_task(pair, task)
        found = score(pair)
        expected = plain_referee.sdlogj(pair.u_vox, mask if region == "mask" else None)
        assert found.sdlogj_region == region
        assert found.scores["sdlogj_plus3"] == pytest.approx(expected, rel=1e-9)
        assert expected != plain_referee.sdlogj(pair.u_vox, None if region == "mask" else mask)
        assert any("--masked takes" in note for note in found.notes) is (task == "Mine")

    def test_lumir_has_none(self, pair, mask):
        found = score(pair, "lumir")
        assert found.sdlogj_region == "whole"
        expected = plain_referee.sdlogj(pair.u_vox)
        assert found.scores["sdlogj_plus3"] == pytest.approx(expected, rel=1e-9)
        assert not any("SDlogJ" in note for note in found.notes)

    @pytest.mark.usefixtures("mask")
    def test_the_user_may_decide_and_what_the_referee_does_is_told(self, pair):
        self.as_task(pair, "OASIS")
        found = score(pair, masked=True)
        assert found.sdlogj_region == "mask"
        assert "SDlogJ of the mask as asked; the referee of OASIS takes the whole grid" in (
            found.notes
        )
        assert score(pair, masked=False).notes == ()

    def test_one_that_is_missing_is_told(self, pair):
        self.as_task(pair, "NLST")
        found = score(pair)
        assert found.sdlogj_region == "whole"
        assert "the fixed image has no mask, inside which the referee of NLST" in (
            " ".join(found.notes)
        )

    @pytest.mark.usefixtures("mask")
    def test_the_region_is_named_in_the_reports(self, pair, capsys):
        flags = ["-i", str(pair.folder), "--protocol", "learn2reg", "--ground-truth"]
        flags += [str(pair.root / "truth"), "--device", "cpu"]
        for more, region, title in (
            (["--masked"], "mask", "inside the fixed mask"),
            (["--no-masked"], "whole", "whole grid"),
        ):
            assert main([*flags, *more]) == 0
            assert f"SDlogJ (+3), {title} ↓" in capsys.readouterr().out
            summary = json.loads((pair.folder / "learn2reg.json").read_text("utf-8"))
            assert summary["sdlogj_region"] == region

    def test_only_voxels_of_value_1_are_inside(self, tmp_path):
        values = np.zeros(SHAPE, int)
        values[3:-3, 3:-3, 3:9], values[3:-3, 3:-3, 9:-3] = 1, 2
        grid, places = unit_grid(), np.full((2, 3), 5.0)
        u_vox = rough_field()
        files = write_case(tmp_path, u_vox, grid, grid, (places, places), mask=values)
        found = score_case(files, PROTOCOLS["learn2reg"], None, CPU, masked=True)
        expected = plain_referee.sdlogj(u_vox, values == 1)
        assert found.scores["sdlogj_plus3"] == pytest.approx(expected, rel=1e-5)
        assert expected != pytest.approx(plain_referee.sdlogj(u_vox, values > 0), rel=1e-3)
        assert "mask.nii.gz: holds values other than 0 and 1 (2)" in " ".join(found.notes)
