import dataclasses
import multiprocessing
import pickle
from collections import Counter

import numpy as np
import pytest
import torch

from autoreg.errors import DataError
from autoreg.io.cases import Pair
from autoreg.io.records import load_record, save_record
from autoreg.planning.prepared import PreparedRecord, record_path
from autoreg.training.augmentation import PairAugmentation
from autoreg.training.batches import Guarded, LandmarkPair, PairBatch, open_batches
from autoreg.training.draws import Draws
from autoreg.training.loading import Content, PairLoader
from autoreg.training.processes import Processes
from autoreg.training.splits import OrderedPairs

CASES = ("case0", "case1", "case2", "case3")
EVERYTHING = Content(masks=True, labels=True, landmarks=True)


def failing(batch):
    raise ZeroDivisionError("what is wrong")


def augmentation_of(blobs, **changes):
    plan = dataclasses.replace(blobs.plan.training.augmentation, **changes)
    return PairAugmentation(blobs.plan.grid, plan)


def fetch(blobs, draws, workers, epochs, transform=None, **options):
    transform = transform or augmentation_of(blobs)
    with open_batches(blobs.folder, draws, transform, epochs, workers, **options) as batches:
        return list(batches)


def assert_same(batch, expected, atol=0.0):
    assert (batch.pairs, batch.keys, batch.epoch) == (expected.pairs, expected.keys, expected.epoch)
    assert (batch.size, batch.has_labels) == (expected.size, expected.has_labels)
    assert batch.tensors().keys() == expected.tensors().keys()
    for name, tensor in expected.tensors().items():
        torch.testing.assert_close(batch.tensors()[name], tensor, atol=atol, rtol=0)
    assert len(batch.landmarks) == len(expected.landmarks)
    for one, other in zip(batch.landmarks, expected.landmarks, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one.fixed_vox, other.fixed_vox, atol=atol, rtol=0)
            torch.testing.assert_close(one.moving_vox, other.moving_vox, atol=atol, rtol=0)
            assert one.moving_spacing_mm == other.moving_spacing_mm


def without(blobs, case, *, labels=False, landmarks=False):
    """Take a case's labels or landmarks away."""
    path = record_path(blobs.folder, case)
    record = load_record(PreparedRecord, path)
    files = {n: s for n, s in record.files.items() if not (labels and ".labels." in n)}
    kept = {} if landmarks else record.landmarks_vox
    save_record(dataclasses.replace(record, files=files, landmarks_vox=kept), path)


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
    alone = fetch(blobs, draws, 0, range(1, 4), content=EVERYTHING)
    assert len(alone) == 9
    for workers in (1, 3):
        together = fetch(blobs, draws, workers, range(1, 4), content=EVERYTHING)
        for batch, expected in zip(together, alone, strict=True):
            assert_same(batch, expected)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cycles", [(), CASES])
def test_augmenting_in_the_training_gives_what_workers_give(make_blobs, workers, cycles):
    blobs = make_blobs()
    blobs.add_mask("case1", 3)
    draws = Draws(OrderedPairs(CASES), 6, 2, 0, cycles)
    augmentation = augmentation_of(blobs, affine_probability=0.8, gamma_probability=0.5)
    there = fetch(blobs, draws, workers, range(1, 3), augmentation, content=EVERYTHING)
    with open_batches(
        blobs.folder, draws, None, range(1, 3), workers, content=EVERYTHING
    ) as batches:
        here = [augmentation(batch) for batch in batches]
    for batch, expected in zip(there, here, strict=True):
        assert_same(batch, expected, atol=1e-6)
    with open_batches(blobs.folder, draws, None, range(1, 3), 0) as batches:
        assert not torch.equal(list(batches)[-1].fixed, here[-1].fixed)


@pytest.mark.parametrize("workers", [0, 3])
def test_starting_at_a_later_batch_gives_what_follows(make_blobs, workers):
    blobs = make_blobs()
    draws = Draws(OrderedPairs(CASES), 5, 2, seed=0)
    whole = fetch(blobs, draws, 0, range(4))
    for first in (0, 1, 2, 3):
        rest = fetch(blobs, draws, workers, range(2, 4), first=first)
        for batch, expected in zip(rest, whole[6 + first :], strict=True):
            assert_same(batch, expected)


def test_processes_load_their_shares_of_every_batch(make_blobs):
    blobs = make_blobs()
    draws = Draws(OrderedPairs(CASES), 8, 5, 0)
    whole = fetch(blobs, draws, 0, range(1))
    shares = [
        fetch(blobs, draws, workers, range(1), processes=Processes(rank, 2))
        for rank, workers in enumerate((0, 2))
    ]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert [part.size for part in parts] == [len(batch.pairs)] * 2
        assert parts[0].pairs + parts[1].pairs == batch.pairs
        assert parts[0].keys + parts[1].keys == batch.keys
        assert torch.equal(torch.cat([part.fixed for part in parts]), batch.fixed)
    cycles = Draws(OrderedPairs(CASES), 3, 5, 0, CASES)
    (cycle,) = fetch(blobs, cycles, 0, range(1), processes=Processes(1, 2))
    assert (cycle.is_cycle, len(cycle.pairs), cycle.size) == (True, 3, 3)


@pytest.mark.parametrize(
    ("pairs", "count", "sizes"), [(5, 2, (2, 3)), (2, 4, (1, 1)), (3, 1, (3,))]
)
def test_parts_are_consecutive_and_never_empty(make_blobs, pairs, count, sizes):
    draws = Draws(OrderedPairs(CASES), pairs, pairs, 0)
    (batch,) = fetch(make_blobs(), draws, 0, range(1), content=EVERYTHING)
    parts = batch.parts(count)
    assert tuple(len(part.pairs) for part in parts) == sizes
    assert {part.size for part in parts} == {pairs}
    for name, tensor in batch.tensors().items():
        assert torch.equal(torch.cat([part.tensors()[name] for part in parts]), tensor)
    for name in ("pairs", "keys", "has_labels", "landmarks"):
        assert sum((getattr(part, name) for part in parts), ()) == getattr(batch, name)


def test_images_are_the_prepared_ones(make_blobs):
    blobs = make_blobs()
    (batch,) = fetch(blobs, Draws([Pair("case2", "case0")], 1, 1, 0), 0, range(1))
    assert batch.pairs == (Pair("case2", "case0"),)
    np.testing.assert_array_equal(batch.fixed[0], np.load(blobs.folder / "case2.image.npy"))
    np.testing.assert_array_equal(batch.moving[0], np.load(blobs.folder / "case0.image.npy"))


def test_nothing_but_images_is_loaded_unless_asked_for(make_blobs):
    blobs = make_blobs()
    blobs.add_mask("case1", 3)
    draws = Draws([Pair("case0", "case1")], 1, 1, 0)
    (batch,) = fetch(blobs, draws, 0, range(1))
    assert batch.tensors().keys() == {"fixed", "moving"}
    assert batch.landmarks == (None,)
    (batch,) = fetch(blobs, draws, 0, range(1), content=Content(labels=True))
    assert batch.tensors().keys() == {"fixed", "moving", "fixed_labels", "moving_labels"}


def test_masks_come_along_where_cases_have_them(make_blobs):
    blobs = make_blobs()
    blobs.add_mask("case1", 3)
    pairs = [Pair("case0", "case1"), Pair("case1", "case2")]
    (batch,) = fetch(blobs, Draws(pairs, 8, 8, 0), 0, range(1), content=EVERYTHING)
    assert set(batch.pairs) == set(pairs)
    mask = torch.from_numpy(np.load(blobs.folder / "case1.mask.npy"))
    for pair, fixed, moving in zip(batch.pairs, batch.fixed_mask, batch.moving_mask, strict=True):
        assert torch.equal(fixed[0], mask if pair.fixed == "case1" else torch.ones_like(mask))
        assert torch.equal(moving[0], mask if pair.moving == "case1" else torch.ones_like(mask))
    (batch,) = fetch(blobs, Draws(pairs[1:], 1, 1, 0), 0, range(1), content=EVERYTHING)
    assert batch.moving_mask is None


def test_labels_and_landmarks_are_marked_where_pairs_lack_them(make_blobs):
    blobs = make_blobs()
    without(blobs, "case1", labels=True)
    without(blobs, "case2", landmarks=True)
    pairs = [Pair("case0", "case1"), Pair("case0", "case2"), Pair("case3", "case0")]
    (batch,) = fetch(blobs, Draws(pairs, 12, 12, 0), 0, range(1), content=EVERYTHING)
    assert set(batch.pairs) == set(pairs)
    for number, pair in enumerate(batch.pairs):
        assert batch.has_labels[number] == (pair.moving != "case1")
        assert (batch.landmarks[number] is None) == (pair.moving == "case2")
        expected = np.load(blobs.folder / f"{pair.fixed}.labels.npy")
        np.testing.assert_array_equal(batch.fixed_labels[number, 0], expected)
        if batch.landmarks[number] is not None:
            record = load_record(PreparedRecord, record_path(blobs.folder, pair.moving))
            np.testing.assert_allclose(
                batch.landmarks[number].moving_vox, record.landmarks_vox["landmarks"], rtol=1e-6
            )
            assert batch.landmarks[number].moving_spacing_mm == (2.0, 2.0, 2.0)


def test_in_a_cycle_everything_goes_around(make_blobs):
    blobs = make_blobs()
    without(blobs, "case1", labels=True, landmarks=True)
    draws = Draws(OrderedPairs(CASES), 9, 2, 0, CASES)
    augmentation = augmentation_of(blobs, affine_probability=1.0)
    for batch in fetch(blobs, draws, 0, range(1, 5), augmentation, content=EVERYTHING):
        assert torch.equal(batch.moving_labels, batch.fixed_labels.roll(-1, 0))
        has = ["case1" not in (pair.fixed, pair.moving) for pair in batch.pairs]
        assert list(batch.has_labels) == [one is not None for one in batch.landmarks] == has
        around = zip(batch.landmarks, [*batch.landmarks[1:], batch.landmarks[0]], strict=True)
        for one, following in around:
            if one is not None and following is not None:
                assert torch.equal(one.moving_vox, following.fixed_vox)


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
        fetch(make_blobs(), draws, workers, range(1), failing)
    assert "Traceback" in caplog.text


def test_workers_can_be_spawned(make_blobs):
    blobs = make_blobs()
    loader = PairLoader(blobs.folder, Draws(OrderedPairs(CASES), 4, 2, 0), range(2, 3), 2)
    loader, guarded = pickle.loads(pickle.dumps((loader, Guarded(augmentation_of(blobs)))))
    assert guarded(**next(loader))["batch"].arrays["fixed"].shape == (2, 1, 16, 16, 16)


def test_a_batch_goes_to_the_device_whole():
    # "meta" stands for a device that this machine may not have.
    device, points = torch.device("meta"), torch.zeros(4, 3)
    image, labels = torch.zeros(2, 1, 3, 3, 3), torch.zeros(2, 1, 3, 3, 3, dtype=torch.uint8)
    landmarks = LandmarkPair(points, points, (1.0, 1.0, 1.0), (2.0, 2.0, 2.0))
    batch = PairBatch(
        image, image, (Pair("a", "b"),) * 2, labels > 0, None, False, labels, labels,
        (True, False), (landmarks, None), ((0,), (1,)), 7, 5,
    )  # fmt: skip
    moved = batch.to(device)
    assert {tensor.device for tensor in moved.tensors().values()} == {device}
    assert moved.landmarks[0].fixed_vox.device == moved.landmarks[0].moving_vox.device == device
    assert moved.tensors().keys() == batch.tensors().keys()
    assert (moved.keys, moved.epoch, moved.size, moved.has_labels) == (
        batch.keys, 7, 5, (True, False),
    )  # fmt: skip
