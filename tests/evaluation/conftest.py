"""Predicted pairs on disk, with known truth, as autoreg_predict leaves them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from known_transforms import sampled_mm

from autoreg.geometry.grid import Geometry
from autoreg.geometry.resampling import resample_volume
from autoreg.geometry.transforms import DisplacementField, invert_on_grid
from autoreg.geometry.volume import Volume
from autoreg.io.images import write_image
from autoreg.io.landmarks import write_landmarks
from autoreg.io.records import save_record, to_plain
from autoreg.io.result import (
    RESULT_FORMAT,
    FieldRecord,
    InputsRecord,
    ModelRecord,
    OptimisationRecord,
    Result,
    SecondsRecord,
)
from autoreg.io.transforms import write_displacement

SHAPE = (20, 22, 24)


def oblique_geometry(shape, spacing, angle, origin):
    """A grid turned about two axes, with columns in the array's order."""
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, c, -s], [0, s, c]]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = turn[:, ::-1] * np.asarray(spacing)
    matrix[:3, 3] = origin
    return Geometry(shape, matrix)


@dataclass
class PredictedPair:
    """Paths of one pair, to be damaged by tests."""

    predictions: Path
    folder: Path
    inputs: dict
    record: dict

    def inputs_path(self, name):
        return Path(self.inputs[name])

    def save_record(self):
        save_record(self.record, self.folder / "result.json")


def bumps(geometry, seed):
    """A smooth displacement (3, D, H, W) of about a voxel that vanishes at the faces."""
    random = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(0, np.pi, n) for n in geometry.shape), indexing="ij")
    window = np.prod([np.sin(axis) for axis in axes], axis=0)
    amplitudes = random.uniform(1.5, 2.5, 3) * random.choice([-1, 1], 3)
    return np.stack([a * window for a in amplitudes]).astype(np.float32)


def write_pair(root, case="fixed__moving", seed=0, perfect=True):
    """A fixed image made from a moving one by a known displacement, and its prediction."""
    inputs, folder = root / f"inputs_{case}", root / "predictions" / case
    fixed_grid = oblique_geometry(SHAPE, (2.0, 1.0, 1.5), 0.2, (5, -7, 3))
    moving_grid = fixed_grid.resized((22, 20, 26))
    centre = fixed_grid.centre_mm
    points = moving_grid.to_world(np.moveaxis(np.indices(moving_grid.shape), 0, -1))
    distance = np.linalg.norm(points - centre, axis=-1)
    label_map = np.select([distance < 4, distance < 8, distance < 9], [3, 1, 2], 0)
    moving = Volume.intensity(np.exp(-((distance / 7) ** 2)) + 0.2 * (label_map == 3), moving_grid)
    moving_labels = Volume(label_map[None].astype(np.int32), moving_grid, "label")
    truth = DisplacementField(bumps(fixed_grid, seed), fixed_grid)
    estimate = truth if perfect else DisplacementField(0.5 * bumps(fixed_grid, seed), fixed_grid)
    fixed_points = centre + np.random.default_rng(seed).uniform(-6, 6, (7, 3))

    files = {
        "fixed": [str(inputs / "fixed.nii.gz")],
        "moving": [str(inputs / "moving.nii.gz")],
        "fixed_labels": str(inputs / "fixed_labels.nii.gz"),
        "moving_labels": str(inputs / "moving_labels.nii.gz"),
        "fixed_mask": None,
        "moving_mask": None,
        "fixed_landmarks": str(inputs / "fixed.csv"),
        "moving_landmarks": str(inputs / "moving.csv"),
        "landmark_frame": "lps_mm",
    }
    write_image(inputs / "moving.nii.gz", moving)
    write_image(inputs / "moving_labels.nii.gz", moving_labels)
    write_image(inputs / "fixed.nii.gz", resample_volume(moving, truth, fixed_grid))
    write_image(inputs / "fixed_labels.nii.gz", resample_volume(moving_labels, truth, fixed_grid))
    write_landmarks(inputs / "fixed.csv", fixed_points)
    write_landmarks(inputs / "moving.csv", truth.map_points(fixed_points))

    write_displacement(folder / "displacement.nii.gz", sampled_mm(estimate, fixed_grid), fixed_grid)
    inverse_mm, _ = invert_on_grid(estimate, moving_grid)
    write_displacement(folder / "inverse_displacement.nii.gz", inverse_mm, moving_grid)
    write_image(folder / "warped.nii.gz", resample_volume(moving, estimate, fixed_grid))
    write_image(
        folder / "warped_labels.nii.gz", resample_volume(moving_labels, estimate, fixed_grid)
    )
    write_landmarks(folder / "warped_landmarks.csv", estimate.map_points(fixed_points))
    record = to_plain(result_of(case, files))
    pair = PredictedPair(root / "predictions", folder, record["inputs"], record)
    pair.save_record()
    return pair


def result_of(case, files):
    """The record of a pair; the evaluation reads only some of it."""
    return Result(
        format=RESULT_FORMAT,
        case=case,
        request="",
        inputs=InputsRecord(**files),
        model=ModelRecord("model", "checkpoint"),
        device="cpu",
        versions={},
        seconds=3.5,
        stages=SecondsRecord(0.5, 2.0, 1.0),
        loss_before=None,
        loss_after=None,
        optimisation=OptimisationRecord("none", 0, 0, None, None),
        field=FieldRecord(1.0, 2.0, 0.5, 0.0, 0.0, 0.0, 0, 0.0, 1e-4, 1e-3, 0.0),
        outside_value=(0.0,),
        label_names={"core": 3, "shell": 1},
        files={},
        warnings=(),
    )


@pytest.fixture
def pair(tmp_path):
    return write_pair(tmp_path)


@pytest.fixture
def add_pair(tmp_path):
    def add(case, **options):
        return write_pair(tmp_path, case, **options)

    return add
