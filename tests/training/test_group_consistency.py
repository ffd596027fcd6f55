"""Trainings on cycles of three cases, from the draws to the checkpoints."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
from training_runs import error_of, interrupt_in_epoch, losses_of, progress_of, run, weights_of

from autoreg.errors import PlanError, UsageError
from autoreg.io.cases import Pair
from autoreg.training.augmentation import PairAugmentation, apply_affine, draw_pair, index_affine
from autoreg.training.batches import open_batches
from autoreg.training.checkpoint import load_checkpoint
from autoreg.training.draws import Draws, make_draws
from autoreg.training.loading import Content
from autoreg.training.model_folder import checkpoint_path
from autoreg.training.overrides import Overrides, override
from autoreg.training.splits import FoldPairs, OrderedPairs
from autoreg.training_plan import GroupConsistencyPlan

CASES = ("case0", "case1", "case2", "case3")
GROUP = GroupConsistencyPlan(weight=5.0, from_epoch=2, ramp_epochs=1)


def draws(pairs_per_epoch=6, seed=0, cycles_from=1):
    return Draws(OrderedPairs(CASES), pairs_per_epoch, 2, seed, CASES, cycles_from)


def fetch(blobs, drawn, epochs, workers=0):
    transform = PairAugmentation(blobs.plan.grid, blobs.plan.training.augmentation)
    with open_batches(blobs.folder, drawn, transform, epochs, workers) as batches:
        return list(batches)


def test_cycles_are_three_different_cases_with_replacement():
    drawn = draws(pairs_per_epoch=3600)
    assert (drawn.batches_in(0), drawn.batches_in(1)) == (1800, 1200)
    assert draws(pairs_per_epoch=7).batches_in(1) == 3
    batches = [drawn.batch(1, i) for i in range(1200)]
    for batch in batches:
        a, b, c = (pair.fixed for _, pair in batch)
        assert len({a, b, c}) == 3
        assert [pair for _, pair in batch] == [Pair(a, b), Pair(b, c), Pair(c, a)]
    counts = Counter(tuple(pair.fixed for _, pair in batch) for batch in batches)
    assert len(counts) == 24
    assert 25 < min(counts.values())
    assert max(counts.values()) < 85
    assert len({key for batch in batches for key, _ in batch}) == 3600
    assert drawn.batch(2, 0) != drawn.batch(1, 0)
    assert drawn.batch(1, 5) == drawn.batch(1, 5)


def test_each_image_of_a_cycle_is_augmented_once(make_blobs):
    blobs = make_blobs()
    blobs.add_mask("case1", 3)
    augmentation = dataclasses.replace(
        blobs.plan.training.augmentation, from_epoch=0, affine_probability=1.0, gamma_probability=0
    )
    grid, drawn = blobs.plan.grid, draws(pairs_per_epoch=12)
    transform, flips = PairAugmentation(grid, augmentation), set()
    content = Content(masks=True)
    with open_batches(blobs.folder, drawn, transform, range(1, 2), 0, content=content) as batches:
        for index, batch in enumerate(batches):
            assert batch.is_cycle
            assert torch.equal(batch.moving, batch.fixed.roll(-1, 0))
            names = [pair.fixed for pair in batch.pairs]
            assert [pair.moving for pair in batch.pairs] == [*names[1:], names[0]]
            assert (batch.fixed_mask is not None) == ("case1" in names)
            if batch.fixed_mask is not None:
                assert torch.equal(batch.moving_mask, batch.fixed_mask.roll(-1, 0))
            keys = [key for key, _ in drawn.batch(1, index)]
            own = [draw_pair(np.random.default_rng(key), augmentation) for key in keys]
            flips.add(own[0].flip)
            for name, draw, image in zip(names, own, batch.fixed, strict=True):
                raw = np.load(blobs.folder / f"{name}.image.npy")
                matrix = index_affine(draw.fixed.affine, grid)
                expected = apply_affine(torch.from_numpy(raw), matrix, "linear")
                # Flipped all three or none.
                assert torch.equal(image, expected.flip(1) if own[0].flip else expected)
    assert flips == {False, True}


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_do_not_show_where_pairs_give_way_to_cycles(make_blobs, workers):
    blobs = make_blobs()
    drawn = draws(pairs_per_epoch=5, cycles_from=2)
    alone, together = (fetch(blobs, drawn, range(1, 4), w) for w in (0, workers))
    assert [batch.is_cycle for batch in alone] == [False] * 3 + [True] * 4
    for one, other in zip(alone, together, strict=True):
        assert (one.pairs, one.is_cycle) == (other.pairs, other.is_cycle)
        assert torch.equal(one.fixed, other.fixed)
        assert torch.equal(one.moving, other.moving)


def test_a_training_turns_to_cycles_and_continues_as_if_nothing_had_happened(
    make_blobs, monkeypatch
):
    blobs = make_blobs(
        epochs=4, shallow_epochs=3, pairs_per_epoch=3, validation_every=1,
        group_consistency=dataclasses.replace(GROUP, from_epoch=1), optimiser="amsgrad",
        schedule="polynomial",
    )  # fmt: skip
    flags = ("--fold", "all")
    assert run(blobs, *flags) == 0
    epochs = progress_of(blobs, "all")["epochs"]
    assert [epoch["cycle"] is None for epoch in epochs] == [True, False, False, False]
    for epoch, weight in zip(epochs, (0, 0, 5, 5), strict=True):  # on the ramp, 0 at first
        pairs = epoch["similarity"] + 0.5 * epoch["regularity"]
        assert epoch["total"] == pytest.approx(pairs + weight * (epoch["cycle"] or 0), rel=1e-6)
    assert epochs[2]["cycle"] > 0
    assert "cycle error" in (blobs.model / "fold_all" / "training.log").read_text()
    latest = load_checkpoint(checkpoint_path(blobs.model, "all", "latest"))
    (group,) = latest.resume.optimiser["param_groups"]
    assert group["lr"] == pytest.approx(1e-3 * (1 / 4) ** 0.9)  # the last of four epochs
    losses, weights = losses_of(blobs, "all"), weights_of(blobs, fold="all")
    with monkeypatch.context() as patch:
        interrupt_in_epoch(patch, 2)
        assert run(blobs, "--overwrite", *flags) == 130
    assert run(blobs, "--continue", *flags) == 0
    assert losses_of(blobs, "all") == losses
    again = weights_of(blobs, fold="all")
    assert all(torch.equal(weights[key], again[key]) for key in weights)


def test_cycles_are_refused_where_not_every_pair_may_be_drawn(make_plan, make_blobs, capsys):
    training = make_plan(group_consistency=GROUP).training
    listed = FoldPairs("0", (Pair("a", "b"), Pair("b", "a")), (), True)
    with pytest.raises(PlanError, match=r"fold 0 trains with listed pairs; set the weight to 0"):
        make_draws(training, listed)
    two = FoldPairs("all", OrderedPairs(("a", "b")), (), False)
    with pytest.raises(PlanError, match=r"weight is 5: .*fold all trains with 2 cases"):
        make_draws(training, two)
    assert make_draws(make_plan().training, two).cycles == ()
    blobs = make_blobs(cases=3, group_consistency=GROUP)
    assert run(blobs) == 2
    assert "trains with 2 cases" in error_of(capsys)
    assert not blobs.model.exists()


def test_beginning_and_ramp_move_with_the_epochs(make_plan):
    group = GroupConsistencyPlan(weight=40, from_epoch=30, ramp_epochs=15)
    plan = make_plan(epochs=45, group_consistency=group)
    shorter = override(plan, Overrides(epochs=3), pretrained=False)
    expected = dataclasses.replace(group, from_epoch=2, ramp_epochs=1)
    assert shorter.training.group_consistency == expected
    for key in ("from_epoch", "ramp_epochs"):
        assert "moved" in shorter.reasons[f"training.group_consistency.{key}"]
    late = make_plan(epochs=4, group_consistency=dataclasses.replace(group, from_epoch=4))
    with pytest.raises(UsageError, match="never begin"):
        override(late, Overrides(), pretrained=False)
