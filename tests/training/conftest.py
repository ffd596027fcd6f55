"""A tiny prepared data set: blobs at different places, with labels and landmarks."""

import dataclasses
import logging

import numpy as np
import pytest

from autoreg.io.cases import Pair
from autoreg.io.records import load_record, save_record
from autoreg.network_plan import GradICONPlan
from autoreg.plan import (
    PLAN_FORMAT,
    AlignmentPlan,
    GridPlan,
    InstanceOptimisationPlan,
    IntensityPlan,
    LossPlan,
    MemoryPlan,
    Plan,
)
from autoreg.planning.dataset_pairs import PAIRS_FORMAT, PAIRS_NAME, DatasetPairs
from autoreg.planning.plans_file import plans_path, write_plans
from autoreg.planning.prepared import (
    PREPARED_FORMAT,
    PreparedRecord,
    array_names,
    as_matrix,
    prepared_folder,
    record_path,
)
from autoreg.planning.preprocess import settings_digest
from autoreg.training import memory, overrides
from autoreg.training.processes import ALONE
from autoreg.training_plan import AugmentationPlan, TrainingPlan

DATASET = "Dataset001_Blobs"
SIZE = 16


def build_plan(**training):
    augmentation = AugmentationPlan(
        from_epoch=2, affine_probability=0.5, rotation_deg=10, translation_mm=5, scaling=0.03,
        flip_probability=0.5, flip_axis=0, gamma_probability=0.1, gamma=0.2,
    )  # fmt: skip
    values = {
        "epochs": 4, "shallow_epochs": 2, "pairs_per_epoch": 4, "batch_size": 2,
        "learning_rate": 1e-3, "augmentation": augmentation, "validation_every": 2, "seed": 0,
    }  # fmt: skip
    return Plan(
        format=PLAN_FORMAT,
        configuration="default",
        dataset=DATASET,
        budget="cpu",
        fixed_modalities=("MR",),
        moving_modalities=("MR",),
        labels={"blob": 1},
        grid=GridPlan((SIZE, SIZE, SIZE), (2.0, 2.0, 2.0), False),
        alignment=AlignmentPlan("centres"),
        intensity={"MR": IntensityPlan("quantiles", 0.0, 0.99)},
        network=GradICONPlan((0.5, 1.0), 0.125),
        loss=LossPlan("lncc", {"sigma": 2.0}, "gradicon", 0.5),
        training=TrainingPlan(**{**values, **training}),
        instance_optimisation=InstanceOptimisationPlan(
            "gradient_projection", "random_one", 5, "amsgrad", 2e-5, 1e-3, 0, 1e-3, 0
        ),
        memory=MemoryPlan(0, 0, 0, 0),
    )


def write_case(folder, name, plan, generator):
    centre = (SIZE - 1) / 2 + generator.uniform(-1.5, 1.5, 3)
    places = np.moveaxis(np.indices((SIZE, SIZE, SIZE)), 0, -1)
    distance = np.linalg.norm(places - centre, axis=-1)
    image = np.exp(-((distance / 4) ** 2)) + 0.3 * np.exp(-((distance - 5) ** 2))
    arrays = {"image": image[None].astype(np.float32), "labels": (distance < 4).astype(np.uint8)}
    names = array_names(name)
    for role, array in arrays.items():
        np.save(folder / names[role], array)
    matrix = np.diag([2.0, 2.0, 2.0, 1.0])
    offsets = np.array([[0, 0, 0], [3, 0, 0], [0, -3, 0], [0, 0, 3]])
    record = PreparedRecord(
        format=PREPARED_FORMAT,
        case=name,
        modalities=("MR",),
        settings=settings_digest(plan, ("MR",)),
        sources=(),
        files={names[role]: (folder / names[role]).stat().st_size for role in arrays},
        grid_shape=(SIZE, SIZE, SIZE),
        grid_index_to_world=as_matrix(matrix),
        source_shape=(SIZE, SIZE, SIZE),
        source_index_to_world=as_matrix(matrix),
        landmarks_vox={"landmarks": tuple(tuple(float(v) for v in p) for p in centre + offsets)},
    )
    save_record(record, record_path(folder, name))


@dataclasses.dataclass
class Blobs:
    root: object
    plan: Plan

    @property
    def preprocessed(self):
        return self.root / "preprocessed"

    @property
    def results(self):
        return self.root / "results"

    @property
    def folder(self):
        return prepared_folder(self.preprocessed, self.plan)

    @property
    def model(self):
        return self.results / DATASET / "default"

    @property
    def flags(self):
        return [
            "1", "--preprocessed", str(self.preprocessed), "--results", str(self.results),
            "--no-progress", "--device", "cpu", "--workers", "0",
        ]  # fmt: skip

    def add_mask(self, name, low):
        """A cube from index `low` to 12 along each axis."""
        mask = np.zeros((SIZE, SIZE, SIZE), dtype=bool)
        mask[low:12, low:12, low:12] = True
        file = array_names(name)["mask"]
        np.save(self.folder / file, mask)
        path = record_path(self.folder, name)
        record = load_record(PreparedRecord, path)
        files = {**record.files, file: (self.folder / file).stat().st_size}
        save_record(dataclasses.replace(record, files=files), path)


def build_blobs(root, cases=4, validation_pairs=None, **training):
    blobs = Blobs(root, build_plan(**training))
    blobs.folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    names = tuple(f"case{i}" for i in range(cases))
    for name in names:
        write_case(blobs.folder, name, blobs.plan, generator)
    write_plans(plans_path(blobs.preprocessed, DATASET), blobs.plan, "digest")
    record = DatasetPairs(PAIRS_FORMAT, DATASET, "inter_subject", names, None, validation_pairs)
    save_record(record, blobs.preprocessed / DATASET / PAIRS_NAME)
    return blobs


@pytest.fixture(autouse=True)
def _quiet_root_logger():
    before = list(logging.getLogger().handlers)
    yield
    logging.getLogger().handlers = before


_ESTIMATES = {}


@pytest.fixture(autouse=True)
def _equal_plans_are_estimated_once(monkeypatch):
    """The estimate of a cycle's memory costs more than these trainings on it, and never changes.

    Unless a test replaces its parts, which are in the key for that reason.
    """
    estimate = overrides.most_training_bytes

    def known(plan, *, cuda, processes=ALONE):
        parts = memory.training_bytes, memory.cycle_bytes
        key = (repr(dataclasses.replace(plan, reasons={})), cuda, processes.count, *parts)
        if key not in _ESTIMATES:
            _ESTIMATES[key] = estimate(plan, cuda=cuda, processes=processes)
        return _ESTIMATES[key]

    monkeypatch.setattr(overrides, "most_training_bytes", known)


@pytest.fixture
def plan():
    return build_plan()


@pytest.fixture
def make_plan():
    return build_plan


@pytest.fixture(scope="session")
def make_blobs_in():
    return build_blobs


@pytest.fixture
def make_blobs(tmp_path):
    return lambda name="", **values: build_blobs(tmp_path / name, **values)


@pytest.fixture
def pair():
    return Pair("case0", "case1")
