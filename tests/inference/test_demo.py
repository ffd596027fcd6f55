"""The demo, on a small made-up anatomy in place of nilearn's: its truth is true, and it runs."""

import json

import numpy as np
import pytest

from autoreg.geometry.grid import Geometry
from autoreg.geometry.volume import Volume
from autoreg.inference import demo_data
from autoreg.inference.cli import main_demo
from autoreg.io.dataset import landmarks_mm, read_dataset
from autoreg.io.images import read_image
from autoreg.planning.verification import verify


@pytest.fixture
def small_anatomy(monkeypatch):
    shape = (20, 24, 22)
    matrix = np.array([[0, 0, -6.0, 60], [0, -6.0, 0, 70], [6.0, 0, 0, -55], [0, 0, 0, 1]])
    geometry = Geometry(shape, matrix)
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    radius = np.sqrt(x**2 + y**2 + z**2)
    image = np.clip(1.1 - radius, 0, 1) * (1 + 0.3 * np.sin(6 * x) * np.cos(5 * y))
    image = np.where(radius < 0.8, image, 0)
    labels = np.where(radius < 0.8, 1 + (radius < 0.5) * 2 + (x < 0), 0).astype(np.int16)
    inside = np.argwhere(radius < 0.6)
    points = geometry.to_world(inside[:: len(inside) // 30])
    template = demo_data.Template(
        Volume.intensity(image / image.max(), geometry),
        Volume(labels[None], geometry, "label"),
        points,
    )
    monkeypatch.setattr(demo_data, "load_template", lambda rng: template)
    monkeypatch.setattr(demo_data, "TRAINING_SUBJECTS", 3)
    return template


def test_labels_and_landmarks_follow_the_known_deformations(small_anatomy, tmp_path):
    folder = demo_data.build_demo_dataset(tmp_path)
    assert verify(folder, workers=1) == ()
    dataset = read_dataset(folder)
    expected = small_anatomy.labels.single[
        tuple(
            np.rint(small_anatomy.labels.geometry.to_index(small_anatomy.points_mm)).astype(int).T
        )
    ]
    moved = []
    for case in (*dataset.training, *dataset.test):
        labels = read_image([case.labels], "label")
        points_mm = landmarks_mm(case, case.landmarks)
        moved.append(np.linalg.norm(points_mm - small_anatomy.points_mm, axis=1).mean())
        index = np.rint(labels.geometry.to_index(points_mm)).astype(int)
        assert np.mean(labels.single[tuple(index.T)] == expected) > 0.9
    assert min(moved) > 1  # every subject is deformed
    assert len({read_image([c.labels], "label").geometry.spacing_mm for c in dataset.test}) > 1


def test_the_demo_goes_the_whole_way(small_anatomy, tmp_path, capsys):
    folder = tmp_path / "my demo"
    flags = ["--epochs", "2", "--pairs-per-epoch", "1", "--io-steps", "1", "--device", "cpu"]
    assert main_demo(["-o", str(folder), *flags]) == 0
    shown = capsys.readouterr().out
    assert "Where to look" in shown
    summary = json.loads((folder / "evaluation" / "summary.json").read_text())
    assert len(summary["cases"]) == len(demo_data.TEST_PAIRS)
    assert len(list((folder / "evaluation" / "figures").glob("*.png"))) == len(demo_data.TEST_PAIRS)


def test_an_earlier_demo_is_left_alone(tmp_path, capsys):
    (tmp_path / "kept.txt").write_text("mine")
    assert main_demo(["-o", str(tmp_path)]) == 2
    assert "holds files already" in capsys.readouterr().err
    assert (tmp_path / "kept.txt").read_text() == "mine"
