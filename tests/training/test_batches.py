import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from batchgenerators.transforms.abstract_transforms import AbstractTransform
from processes import is_running

from autoreg.errors import DataError
from autoreg.io.cases import Pair
from autoreg.training.augmentation import PairAugmentation
from autoreg.training.batches import PairLoader, open_batches
from autoreg.training.draws import Draws
from autoreg.training.splits import OrderedPairs

CASES = ("case0", "case1", "case2", "case3")


class Unchanged(AbstractTransform):
    def __call__(self, **batch):
        return batch


class Failing(AbstractTransform):
    def __call__(self, **batch):
        raise ZeroDivisionError("what is wrong")


class Deadly(AbstractTransform):
    def __call__(self, **batch):
        os.kill(os.getpid(), signal.SIGKILL)


def fetch(blobs, draws, workers, epochs, transform=None):
    transform = transform or PairAugmentation(blobs.plan.grid, blobs.plan.training.augmentation)
    with open_batches(blobs.folder, draws, transform, epochs, workers) as batches:
        return [(batch.pairs, batch.fixed.numpy(), batch.moving.numpy()) for batch in batches]


def test_an_epoch_is_drawn_with_replacement_from_all_pairs():
    draws = Draws(OrderedPairs(CASES), pairs_per_epoch=2400, batch_size=7, seed=3)
    batches = [draws.batch(0, i) for i in range(draws.batches_in(0))]
    assert [len(batch) for batch in batches] == [7] * 342 + [6]
    counts = Counter(pair for batch in batches for _, pair in batch)
    assert len(counts) == 12
    assert min(counts.values()) > 140
    assert max(counts.values()) < 260
    keys = {key for batch in batches for key, _ in batch}
    # Neither do two pairs share random numbers, nor does one with the choice of the pairs.
    assert len({np.random.default_rng(key).random() for key in [(3, 0), *keys]}) == 2401


def test_draws_follow_seed_and_epoch():
    draws = Draws(OrderedPairs(CASES), 20, 20, seed=3)
    assert draws.batch(1, 0) == draws.batch(1, 0)
    assert not {key for key, _ in draws.batch(0, 0)} & {key for key, _ in draws.batch(1, 0)}
    pairs = {epoch: [pair for _, pair in draws.batch(epoch, 0)] for epoch in (0, 1)}
    assert pairs[0] != pairs[1]
    assert pairs[0] != [p for _, p in Draws(OrderedPairs(CASES), 20, 20, 4).batch(0, 0)]


def test_batches_do_not_depend_on_the_number_of_workers(make_blobs):
    blobs = make_blobs()
    draws = Draws(OrderedPairs(CASES), pairs_per_epoch=5, batch_size=2, seed=0)
    alone = fetch(blobs, draws, 0, range(1, 4))
    assert len(alone) == 9
    for workers in (1, 3):
        together = fetch(blobs, draws, workers, range(1, 4))
        assert [pairs for pairs, _, _ in together] == [pairs for pairs, _, _ in alone]
        for (_, fixed, moving), (_, expected_fixed, expected_moving) in zip(
            together, alone, strict=True
        ):
            np.testing.assert_array_equal(fixed, expected_fixed)
            np.testing.assert_array_equal(moving, expected_moving)


def test_starting_at_a_later_epoch_gives_its_batches(make_blobs):
    blobs = make_blobs()
    draws = Draws(OrderedPairs(CASES), 4, 2, seed=0)
    whole, rest = (fetch(blobs, draws, 0, epochs) for epochs in (range(4), range(2, 4)))
    for (pairs, fixed, _), (expected_pairs, expected, _) in zip(rest, whole[4:], strict=True):
        assert pairs == expected_pairs
        np.testing.assert_array_equal(fixed, expected)


def test_images_are_the_prepared_ones(make_blobs):
    blobs = make_blobs()
    pairs, fixed, moving = fetch(blobs, Draws([Pair("case2", "case0")], 1, 1, 0), 0, range(1))[0]
    assert pairs == (Pair("case2", "case0"),)
    np.testing.assert_array_equal(fixed[0], np.load(blobs.folder / "case2.image.npy"))
    np.testing.assert_array_equal(moving[0], np.load(blobs.folder / "case0.image.npy"))


def test_masks_come_along_where_cases_have_them(make_blobs):
    blobs = make_blobs()
    blobs.add_mask("case1", 3)
    pairs = [Pair("case0", "case1"), Pair("case1", "case2")]
    draws = Draws(pairs, 8, 8, 0)
    with open_batches(blobs.folder, draws, Unchanged(), range(1), 0) as batches:
        batch = next(batches)
    assert set(batch.pairs) == set(pairs)
    mask = torch.from_numpy(np.load(blobs.folder / "case1.mask.npy"))
    for pair, fixed, moving in zip(batch.pairs, batch.fixed_mask, batch.moving_mask, strict=True):
        assert torch.equal(fixed[0], mask if pair.fixed == "case1" else torch.ones_like(mask))
        assert torch.equal(moving[0], mask if pair.moving == "case1" else torch.ones_like(mask))
    with open_batches(blobs.folder, Draws(pairs[1:], 1, 1, 0), Unchanged(), range(1), 0) as batches:
        assert next(batches).moving_mask is None


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loading_error_names_case_and_cause(make_blobs, workers):
    blobs = make_blobs()
    (blobs.folder / "case1.image.npy").write_bytes(b"short")
    draws = Draws([Pair("case0", "case1")], 4, 1, 0)
    with pytest.raises(DataError, match=r'moving case "case1".*case1\.image\.npy: 5 bytes found'):
        fetch(blobs, draws, workers, range(1))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_augmentation_error_names_pairs_and_cause(make_blobs, workers, caplog):
    draws = Draws([Pair("case0", "case1")], 4, 1, 0)
    with pytest.raises(DataError, match="case1 to case0: ZeroDivisionError: what is wrong"):
        fetch(make_blobs(), draws, workers, range(1), Failing())
    assert "Traceback" in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_killed_worker_is_noticed(make_blobs):
    draws = Draws([Pair("case0", "case1")], 4, 1, 0)
    with pytest.raises(DataError, match=r"process was killed.*fewer --workers"):
        fetch(make_blobs(), draws, 2, range(1), Deadly())
    assert not multiprocessing.active_children()


def test_leaving_early_ends_the_workers(make_blobs):
    blobs = make_blobs()
    draws = Draws(OrderedPairs(CASES), 100, 1, 0)
    with open_batches(blobs.folder, draws, Unchanged(), range(9), 2) as batches:
        next(batches)
        assert len(multiprocessing.active_children()) == 2
    assert not multiprocessing.active_children()


def test_workers_can_be_spawned(make_blobs):
    blobs = make_blobs()
    loader = PairLoader(blobs.folder, Draws(OrderedPairs(CASES), 4, 2, 0), range(1), 2)
    transform = PairAugmentation(blobs.plan.grid, blobs.plan.training.augmentation)
    loader, transform = pickle.loads(pickle.dumps((loader, transform)))
    assert transform(**next(loader))["fixed"].shape == (2, 1, 16, 16, 16)


KILLED = """
import multiprocessing, os, signal, sys
from pathlib import Path
from batchgenerators.transforms.abstract_transforms import Compose
from autoreg.io.cases import Pair
from autoreg.training.batches import open_batches
from autoreg.training.draws import Draws
draws = Draws([Pair("case0", "case1")], 100, 1, 0)
with open_batches(Path(sys.argv[1]), draws, Compose([]), range(9), 2) as batches:
    next(batches)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
def test_workers_end_when_the_training_is_killed(make_blobs):
    command = [sys.executable, "-c", KILLED, str(make_blobs().folder)]
    # Not through a pipe: the workers hold its other end.
    with tempfile.TemporaryFile("w+") as output:
        subprocess.run(command, stdout=output, stderr=subprocess.DEVNULL, check=False)
        output.seek(0)
        workers = [int(pid) for pid in output.read().split()]
    assert len(workers) == 2
    deadline = time.monotonic() + 20
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(is_running, workers))
