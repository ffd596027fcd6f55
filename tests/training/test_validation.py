import dataclasses
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from autoreg.errors import AutoregError, DataError
from autoreg.evaluation.appearance import local_correlation
from autoreg.geometry.foreground import foreground_mask
from autoreg.io.cases import Pair
from autoreg.io.records import dump_json
from autoreg.networks.base import MapPair, RegistrationNetwork
from autoreg.networks.factory import build_network
from autoreg.numerics.maps import FieldChain
from autoreg.plan import LossPlan
from autoreg.planning.prepared import array_names, load_prepared
from autoreg.registration.objective import Objective
from autoreg.training.progress import ValidationSummary
from autoreg.training.validation import PairValidation, Validator, criterion, score, summarise

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


def make_validator(blobs, pairs=(PAIR,), labels=(1,), **values):
    objective = Objective.from_plan(blobs.plan)
    values = {"masks": True, **values}
    return Validator(blobs.folder, pairs, objective, labels, 0, torch.device("cpu"), **values)


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
    assert after.lncc > before.lncc > wrong.lncc


@pytest.mark.parametrize("masked", [False, True])
def test_the_local_correlation_is_that_of_the_evaluation(make_blobs, masked):
    blobs = make_blobs()
    if masked:
        blobs.add_mask("case0", 6)
    fixed, moving = (load_prepared(blobs.folder, name) for name in ("case0", "case1"))
    mask = fixed.mask if masked else foreground_mask(fixed.image[0])
    (expected,) = local_correlation(fixed.image, [moving.image], mask)
    (everywhere,) = local_correlation(fixed.image, [moving.image])
    result = make_validator(blobs)(build_network(blobs.plan.network, 1)).pairs[0]
    assert result.lncc == pytest.approx(expected, abs=1e-5)
    assert abs(expected - everywhere) > 1e-3


def test_the_local_correlation_does_not_depend_on_the_similarity_that_is_trained(make_blobs):
    blobs = make_blobs()
    network = build_network(blobs.plan.network, 1)
    loss = LossPlan("mse", {}, "gradicon", 0.5)
    other = Objective.from_plan(dataclasses.replace(blobs.plan, loss=loss))
    validator = Validator(blobs.folder, (PAIR,), other, (1,), 0, torch.device("cpu"), masks=True)
    mine, theirs = make_validator(blobs)(network).summary, validator(network).summary
    assert mine.lncc == theirs.lncc
    assert mine.similarity != theirs.similarity


def test_masks_count_in_the_loss_only_where_they_do_in_training(make_blobs):
    blobs = make_blobs()
    network = build_network(blobs.plan.network, 1)
    without = make_validator(blobs)(network).summary
    blobs.add_mask("case0", 6)
    ignored, counted = (make_validator(blobs, masks=m)(network).summary for m in (False, True))
    assert ignored.similarity == without.similarity != counted.similarity
    assert ignored.lncc == counted.lncc != without.lncc


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
    summary = ValidationSummary(1.0, 0.5, 1.5, dice, tre, 0.0, pairs=1)
    assert criterion(summary) == name
    assert score(summary) == expected


def test_means_are_taken_over_the_pairs_that_have_the_measure():
    def pair(name, **values):
        known = {"dice": None, "tre_mm": None, "lncc": None, **values}
        return PairValidation(1.0, 0.5, 1.5, ndv_percent=0.1, fixed=name, moving="m", **known)

    pairs = [pair("a", dice=0.5, lncc=0.8), pair("b", dice=0.7), pair("c", lncc=0.4)]
    summary = summarise(pairs)
    assert summary.pairs == 3
    assert (summary.dice, summary.lncc) == (pytest.approx(0.6), pytest.approx(0.6))
    assert summary.tre_mm is None
    nothing = summarise([])
    assert (nothing.pairs, nothing.dice) == (0, None)
    assert math.isnan(nothing.total)


def test_a_stop_is_heard_after_each_pair(make_blobs):
    blobs = make_blobs()
    network = build_network(blobs.plan.network, 1)
    calls = []

    def on_pair():
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    pairs = (PAIR, Pair("case1", "case2"), Pair("case2", "case3"))
    with pytest.raises(KeyboardInterrupt):
        make_validator(blobs, pairs, on_pair=on_pair)(network)
    assert len(calls) == 2
    assert network.training


def test_an_error_keeps_its_kind_in_a_single_process(make_blobs):
    blobs = make_blobs()
    network = build_network(blobs.plan.network, 1)
    (blobs.folder / array_names("case1")["image"]).unlink()
    with pytest.raises(DataError, match="case1"):
        make_validator(blobs)(network)


PROCESS = """
import sys, torch
from datetime import timedelta
from pathlib import Path
from autoreg.errors import AutoregError
from autoreg.io.cases import Pair
from autoreg.io.records import dump_json
from autoreg.networks.factory import build_network
from autoreg.planning.plans_file import load_plan, plans_path
from autoreg.planning.prepared import prepared_folder
from autoreg.registration.objective import Objective
from autoreg.training.processes import Processes
from autoreg.training.validation import Validator
root, rank = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{root}/meeting", rank=rank, world_size=2,
    timeout=timedelta(seconds=60))
plan = load_plan(plans_path(root / "preprocessed", "Dataset001_Blobs"), "default")
folder = prepared_folder(root / "preprocessed", plan)
for number, names in enumerate((("01", "12", "20"), ("01",), ("01", "13"))):
    pairs = [Pair(f"case{a}", f"case{b}") for a, b in names]
    torch.manual_seed(0)
    network = build_network(plan.network, 1)
    objective, device = Objective.from_plan(plan), torch.device("cpu")
    validator = Validator(
        folder, pairs, objective, (1,), 0, device, masks=True, processes=Processes(rank, 2)
    )
    try:
        text = dump_json(validator(network))
    except AutoregError as error:
        text = f"{type(error).__name__}: {error}"
    (root / f"{number}_{rank}.txt").write_text(text)
torch.distributed.destroy_process_group()
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_several_processes_find_what_one_does_and_fail_together(make_blobs):
    blobs = make_blobs()
    torch.manual_seed(0)
    network = build_network(blobs.plan.network, 1)
    three = [Pair(f"case{a}", f"case{b}") for a, b in ("01", "12", "20")]
    alone = [json.loads(dump_json(make_validator(blobs, p)(network))) for p in (three, three[:1])]
    (blobs.folder / array_names("case3")["image"]).unlink()  # of a pair of the second process
    started = [
        subprocess.Popen([sys.executable, "-c", PROCESS, blobs.root, str(rank)]) for rank in (0, 1)
    ]
    assert [process.wait(timeout=120) for process in started] == [0, 0]
    for number, expected in enumerate(alone):
        texts = [(blobs.root / f"{number}_{rank}.txt").read_text() for rank in (0, 1)]
        assert texts[0] == texts[1]
        assert json.loads(texts[0]) == expected
    first, second = ((blobs.root / f"2_{rank}.txt").read_text() for rank in (0, 1))
    assert second.startswith("DataError")
    assert "case3" in second
    assert first == f"AutoregError: process 1: {second.removeprefix('DataError: ')}"


def test_an_error_without_words_is_still_told(make_blobs):
    class Two:
        def share(self, count):
            return slice(0, 0)

        def gather(self, value):
            return [value, ([], "MemoryError")]

    blobs = make_blobs()
    with pytest.raises(AutoregError, match="process 1: MemoryError"):
        make_validator(blobs, processes=Two())(build_network(blobs.plan.network, 1))
