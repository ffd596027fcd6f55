import numpy as np
import pytest
import torch

from autoreg.io.cases import Pair
from autoreg.networks.base import MapPair, RegistrationNetwork
from autoreg.networks.factory import build_network
from autoreg.numerics.maps import FieldChain
from autoreg.planning.prepared import load_prepared
from autoreg.registration.objective import Objective
from autoreg.training.progress import ValidationSummary
from autoreg.training.validation import Validator, criterion, score

PAIR = Pair("case0", "case1")


class Shift(RegistrationNetwork):
    """Moves everything by a constant number of voxels."""

    def __init__(self, shift_vox):
        super().__init__()
        self.shift = torch.tensor(shift_vox, dtype=torch.float32).view(1, 3, 1, 1, 1)

    def forward(self, moving, fixed):
        field = (self.shift / 15).expand(1, 3, 16, 16, 16)
        return MapPair(FieldChain((field,)), FieldChain((-field,)))

    def one_direction(self, moving, fixed):
        return self(moving, fixed).fixed_to_moving


def make_validator(blobs, pairs=(PAIR,), labels=(1,)):
    objective = Objective.from_plan(blobs.plan)
    return Validator(blobs.folder, pairs, objective, labels, 0, torch.device("cpu"))


def test_the_identity_scores_the_initial_state(make_blobs):
    blobs = make_blobs()
    fixed, moving = (load_prepared(blobs.folder, name) for name in ("case0", "case1"))
    result = make_validator(blobs)(build_network(blobs.plan.network, 1)).pairs[0]
    gap = (
        2.0
        * np.linalg.norm(
            fixed.landmarks_vox["landmarks"] - moving.landmarks_vox["landmarks"], axis=1
        ).mean()
    )
    both = np.sum((fixed.labels == 1) & (moving.labels == 1))
    overlap = 2 * both / (fixed.labels.sum() + moving.labels.sum())
    assert result.tre_mm == pytest.approx(gap, abs=1e-4)
    assert result.dice == pytest.approx(overlap, abs=1e-6)
    assert result.ndv_percent == 0
    assert result.regularity == pytest.approx(0, abs=1e-5)
    assert result.total == pytest.approx(result.similarity + 0.5 * result.regularity)


def test_the_true_displacement_aligns_landmarks_and_labels(make_blobs):
    blobs = make_blobs()
    fixed, moving = (load_prepared(blobs.folder, name) for name in ("case0", "case1"))
    shift = moving.landmarks_vox["landmarks"][0] - fixed.landmarks_vox["landmarks"][0]
    validator = make_validator(blobs)
    before = validator(build_network(blobs.plan.network, 1)).summary
    after = validator(Shift(shift)).summary
    wrong = validator(Shift(-shift)).summary
    assert after.tre_mm == pytest.approx(0, abs=1e-4)
    assert after.dice > 0.85 > before.dice > wrong.dice
    assert after.similarity < before.similarity < wrong.similarity


def test_validation_repeats_itself_and_leaves_the_network_in_training(make_blobs):
    blobs = make_blobs()
    network = build_network(blobs.plan.network, 1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01)
    statistics = {k: v.clone() for k, v in network.named_buffers()}
    validator = make_validator(blobs, (PAIR, Pair("case1", "case0")))
    first = validator(network)
    assert first.summary.regularity > 0
    assert validator(network) == first
    assert network.training
    assert all(torch.equal(v, statistics[k]) for k, v in network.named_buffers())
    assert first.summary.dice == pytest.approx(np.mean([p.dice for p in first.pairs]))


def test_without_listed_labels_those_of_the_fixed_map_count(make_blobs):
    blobs = make_blobs()
    network = build_network(blobs.plan.network, 1)
    listed, found = (make_validator(blobs, labels=labels)(network) for labels in ((1,), ()))
    assert listed == found


@pytest.mark.parametrize(
    ("dice", "tre", "name", "expected"),
    [(0.75, 3.0, "dice", 0.25), (None, 3.0, "tre_mm", 3.0), (None, None, "total", 1.5)],
)
def test_the_best_checkpoint_goes_by_dice_else_landmarks_else_loss(dice, tre, name, expected):
    summary = ValidationSummary(1, 1.0, 0.5, 1.5, dice, tre, 0.0)
    assert criterion(summary) == name
    assert score(summary) == expected
