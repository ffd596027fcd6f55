import dataclasses
import logging

import pytest
import torch

from autoreg.errors import DataError
from autoreg.io.cases import Pair
from autoreg.io.records import load_record, save_record
from autoreg.losses.landmarks import landmark_distance
from autoreg.losses.soft_dice import soft_dice_loss
from autoreg.networks.base import MapPair
from autoreg.numerics.maps import FieldChain
from autoreg.planning.prepared import PreparedRecord, record_path
from autoreg.training.batches import LandmarkPair, PairBatch
from autoreg.training.splits import OrderedPairs
from autoreg.training.supervision import require_supervision, supervision_loss
from autoreg.training_plan import SupervisionPlan

SHAPE = (9, 8, 7)
BOTH = SupervisionPlan(dice_weight=2.0, landmark_weight=0.5)
CASES = ("case0", "case1", "case2", "case3")


def make_batch(has_labels=(True, False, True), has_landmarks=(False, True, True)):
    generator = torch.Generator().manual_seed(0)
    count = len(has_labels)

    def labels():
        blocks = torch.randint(4, (count, 1, 3, 3, 3), generator=generator)
        for axis, n in enumerate(SHAPE):
            blocks = blocks.repeat_interleave(3, 2 + axis).narrow(2 + axis, 0, n)
        return blocks.to(torch.uint8)

    def landmarks():
        points = [1 + 5 * torch.rand(6, 3, generator=generator) for _ in range(2)]
        return LandmarkPair(*points, (3.0, 1.0, 2.0), (1.0, 2.0, 3.0))

    image = torch.zeros(count, 1, *SHAPE)
    return PairBatch(
        image, image, tuple(Pair(f"f{i}", f"m{i}") for i in range(count)),
        fixed_labels=labels(), moving_labels=labels(), has_labels=has_labels,
        landmarks=tuple(landmarks() if has else None for has in has_landmarks),
    )  # fmt: skip


def make_maps(count=3):
    generator = torch.Generator().manual_seed(1)
    fields = [0.05 * torch.randn(count, 3, *SHAPE, generator=generator) for _ in range(2)]
    return MapPair(*(FieldChain((field.requires_grad_(),)) for field in fields))


def selected(maps, chosen):
    return MapPair(maps.fixed_to_moving.select(chosen), maps.moving_to_fixed.select(chosen))


def gradients(maps):
    fields = (maps.fixed_to_moving.fields[0], maps.moving_to_fixed.fields[0])
    found = [field.grad for field in fields]
    for field in fields:
        field.grad = None
    return torch.stack(found)


def test_it_is_the_weighted_mean_over_pairs_and_directions():
    batch, maps = make_batch(), make_maps()
    total = 0.0
    for i in range(3):
        forth, back = maps.fixed_to_moving.select(slice(i, i + 1)), None
        back = maps.moving_to_fixed.select(slice(i, i + 1))
        fixed, moving = batch.fixed_labels[i, 0], batch.moving_labels[i, 0]
        if batch.has_labels[i]:
            there = soft_dice_loss(moving, fixed, forth.dense(SHAPE)[0], (1, 2))
            total += 2.0 * (there + soft_dice_loss(fixed, moving, back.dense(SHAPE)[0], (1, 2))) / 2
        if batch.landmarks[i] is not None:
            f, m = batch.landmarks[i].fixed_vox, batch.landmarks[i].moving_vox
            there = landmark_distance(forth, f, m, (1.0, 2.0, 3.0), SHAPE)
            total += 0.5 * (there + landmark_distance(back, m, f, (3.0, 1.0, 2.0), SHAPE)) / 2
    loss = supervision_loss(maps, batch, BOTH, (1, 2))
    assert loss.item() == pytest.approx(total.item() / 3, rel=1e-6)


def test_it_does_not_depend_on_how_the_batch_is_cut():
    batch, maps = make_batch(), make_maps()
    whole = supervision_loss(maps, batch, BOTH, ())
    whole.backward()
    expected = gradients(maps)
    assert (expected.abs().amax((0, 2, 3, 4, 5)) > 0).all()  # every pair has a part in it
    total, start = 0.0, 0
    for part in batch.parts(2):
        chosen = slice(start, start + len(part.pairs))
        loss = supervision_loss(selected(maps, chosen), part, BOTH, ())
        (loss * len(part.pairs) / part.size).backward()
        total += loss.item() * len(part.pairs) / part.size
        start = chosen.stop
    assert total == pytest.approx(whole.item(), rel=1e-6)
    torch.testing.assert_close(gradients(maps), expected)


def test_pairs_without_anything_add_nothing():
    batch, maps = make_batch((False, False), (False, False)), make_maps(2)
    assert supervision_loss(maps, batch, BOTH, ()) == 0
    plain = PairBatch(batch.fixed, batch.moving, batch.pairs)
    assert supervision_loss(maps, plain, BOTH, ()) == 0
    assert supervision_loss(maps, make_batch(), SupervisionPlan(masks=True), ()) is None


def test_descending_brings_labels_and_landmarks_together():
    batch, maps = make_batch(), make_maps()
    fields = [maps.fixed_to_moving.fields[0], maps.moving_to_fixed.fields[0]]
    optimiser = torch.optim.Adam(fields, lr=5e-3)
    losses = []
    for _ in range(15):
        optimiser.zero_grad()
        loss = supervision_loss(maps, batch, BOTH, ())
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def change(blobs, case, **changes):
    path = record_path(blobs.folder, case)
    record = load_record(PreparedRecord, path)
    if changes.pop("labels", True) is False:
        changes["files"] = {n: s for n, s in record.files.items() if ".labels." not in n}
    save_record(dataclasses.replace(record, **changes), path)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (
            SupervisionPlan(masks=True),
            r"masks is true, but none of the \w+ training pairs has a mask",
        ),
        (SupervisionPlan(dice_weight=0.5), r"dice_weight is 0.5, but .* has two label maps"),
        (SupervisionPlan(landmark_weight=1), r"landmark_weight is 1, .* corresponding landmarks"),
    ],
)
@pytest.mark.parametrize("listed", [False, True])
def test_what_no_pair_has_is_refused(make_blobs, plan, message, listed):
    blobs = make_blobs()
    for number, case in enumerate(CASES):
        # One case with labels makes no pair; neither do landmarks of different kinds.
        kinds = {f"kind{number}": ((1.0, 1.0, 1.0),)}
        change(blobs, case, labels=number == 0, landmarks_vox=kinds)
    pairs = OrderedPairs(CASES)
    with pytest.raises(DataError, match=message):
        require_supervision(plan, blobs.folder, list(pairs) if listed else pairs)
    require_supervision(SupervisionPlan(), blobs.folder, pairs)


@pytest.mark.parametrize("listed", [False, True])
def test_what_some_pairs_have_is_counted(make_blobs, caplog, listed):
    caplog.set_level(logging.INFO)
    blobs = make_blobs()
    blobs.add_mask("case1", 3)
    change(blobs, "case2", labels=False)
    pairs = OrderedPairs(CASES)
    plan = SupervisionPlan(masks=True, dice_weight=1, landmark_weight=1)
    require_supervision(plan, blobs.folder, list(pairs) if listed else pairs)
    assert [record.getMessage() for record in caplog.records] == [
        "supervision: 6 of 12 training pairs have a mask",
        "supervision: 6 of 12 training pairs have two label maps",
    ]
