import dataclasses
import math

import pytest
from fingerprints import case, fingerprint

from autoreg.errors import PlanError
from autoreg.io.records import dump_json, to_plain
from autoreg.network_plan import ARCHITECTURES
from autoreg.plan import Plan
from autoreg.planning import rules
from autoreg.planning.budget import get_budget
from autoreg.planning.rules import plan_from_fingerprint
from autoreg.planning.summary import decided_text

# Facts rather than choices.
GIVEN = {
    "format", "configuration", "dataset", "budget", "fixed_modalities", "moving_modalities",
    "labels", "reasons",
}  # fmt: skip


def leaves(value, prefix=""):
    for key, item in value.items():
        if isinstance(item, dict):
            yield from leaves(item, f"{prefix}{key}.")
        else:
            yield prefix + key


@pytest.fixture(scope="module")
def brains_80gb():
    return plan_from_fingerprint(fingerprint(), get_budget("80gb"))


@pytest.fixture(scope="module")
def brains_cpu():
    return plan_from_fingerprint(fingerprint(), get_budget("cpu"))


def test_lumir_on_a_large_card_is_the_paper(brains_80gb):
    plan = brains_80gb
    assert plan.grid.shape == (175, 175, 175)
    assert plan.network.level_factors == (0.25, 0.5, 1.0, 1.0)
    assert plan.network.width == 1.0
    assert plan.loss.similarity == "lncc"
    assert plan.loss.similarity_parameters == {"sigma": 5.0}
    assert (plan.loss.regularity, plan.loss.regularity_weight) == ("gradicon", 1.5)
    assert (plan.training.batch_size, plan.training.epochs) == (4, 80)
    assert plan.instance_optimisation.steps == 50
    assert plan.instance_optimisation.refine.when == "where_it_helps"
    assert plan.reasons["instance_optimisation.refine"].startswith("rule refine: preset balanced")


@pytest.fixture(scope="module", params=ARCHITECTURES)
def any_plan(request):
    """Of each architecture, on a small grid, for speed."""
    cases = [case(str(i), (40, 48, 44), (4.0, 4.0, 4.0)) for i in range(3)]
    return plan_from_fingerprint(fingerprint(cases), get_budget("8gb"), "x", request.param)


def test_every_value_has_a_reason(any_plan):
    for name in leaves({k: v for k, v in to_plain(any_plan).items() if k not in GIVEN}):
        parts = name.split(".")
        prefixes = [".".join(parts[: i + 1]) for i in range(len(parts))]
        assert any(any_plan.reasons.get(prefix) for prefix in prefixes), name


def test_no_reason_is_about_nothing(any_plan):
    plain = to_plain(any_plan)
    for key in any_plan.reasons:
        value = plain
        for part in key.split("."):
            assert part in value, key
            value = value[part]


def test_what_was_decided_is_told_with_reasons(any_plan):
    text = " ".join(decided_text(any_plan).split())
    network = any_plan.network
    told = {
        "gradicon": lambda: f"width {network.width:g}",
        "sitreg": lambda: f"features {', '.join(map(str, network.features))}",
        "transmorph": lambda: f"window {' x '.join(map(str, network.window))}",
    }
    assert f"architecture {network.architecture} asked for with --architecture" in text
    assert told[network.architecture]() in text


def test_a_network_that_saves_memory_does_so_before_the_grid_shrinks(monkeypatch):
    def needed(plan, **facts):
        per_voxel = 500 if plan.network.checkpointing else 1000
        return per_voxel * math.prod(plan.grid.shape) * plan.training.batch_size

    monkeypatch.setattr(rules, "instance_optimisation_bytes", needed)
    monkeypatch.setattr(rules, "training_bytes", needed)
    monkeypatch.setattr(rules, "prediction_bytes", lambda plan, **facts: 0)
    whole = math.prod((156, 220, 188))
    found = {}
    for share in (1200, 700, 300):
        budget = dataclasses.replace(get_budget("24gb"), memory_bytes=share * whole)
        plan = plan_from_fingerprint(fingerprint(), budget, "x", "sitreg")
        found[share] = (plan.network.checkpointing, math.prod(plan.grid.shape) == whole)
    assert found == {1200: (False, True), 700: (True, True), 300: (True, False)}


def test_lumir_with_sitreg_on_a_large_card_is_the_winner(monkeypatch):
    needed = lambda plan, **facts: 0  # noqa: E731
    monkeypatch.setattr(rules, "instance_optimisation_bytes", needed)
    monkeypatch.setattr(rules, "training_bytes", needed)
    monkeypatch.setattr(rules, "prediction_bytes", lambda plan, **facts: 0)
    plan = plan_from_fingerprint(fingerprint(), get_budget("80gb"), "x", "sitreg")
    assert plan.network.features == (12, 32, 64, 128, 128, 128)
    assert (plan.training.batch_size, plan.training.learning_rate) == (4, 4e-4)
    assert max(plan.grid.spacing_mm) < 1.03
    plan = plan_from_fingerprint(fingerprint(), get_budget("80gb"), "x", "transmorph")
    assert plan.grid.shape == (160, 224, 192)
    assert plan.network.window == (5, 7, 6)


def test_the_cpu_plan_is_small_and_fits(brains_cpu):
    plan = brains_cpu
    depth, height, width = plan.grid.shape
    assert depth * height * width <= 64**3
    assert plan.network.architecture == "sitreg"
    assert plan.network.features == (8, 20, 20, 20)
    assert plan.training.batch_size == 1
    memory = plan.memory
    assert 0 < max(memory.training, memory.instance_optimisation) <= memory.limit


@pytest.mark.parametrize(("optimising", "training"), [(3000, 1000), (1000, 3000)])
def test_neither_training_nor_optimisation_exceeds_the_limit(monkeypatch, optimising, training):
    def optimisation_bytes(plan, *, cuda, native_voxels=0):
        return optimising * math.prod(plan.grid.shape)

    def training_bytes(plan, *, cuda):
        share = plan.training.batch_size // plan.training.accumulation_steps
        return training * math.prod(plan.grid.shape) * share

    monkeypatch.setattr(rules, "instance_optimisation_bytes", optimisation_bytes)
    monkeypatch.setattr(rules, "training_bytes", training_bytes)
    monkeypatch.setattr(rules, "prediction_bytes", lambda plan, **facts: 0)
    limit = 8 * 10**9
    budget = dataclasses.replace(get_budget("80gb"), memory_bytes=limit)
    plan = plan_from_fingerprint(fingerprint(), budget)
    needed = max(optimisation_bytes(plan, cuda=True), training_bytes(plan, cuda=True))
    assert 0.7 * limit < needed <= limit
    # Checkpointing changes nothing here, so that both are at the network's disposal.
    assert plan.training.batch_size == 4
    assert plan.training.accumulation_steps == (2 if training < optimising else 4)


def test_a_batch_is_computed_twice_rather_than_in_parts_where_statistics_depend_on_it(monkeypatch):
    """Of one pair 1000 bytes per voxel, or 300 with checkpointing; 2000 are there."""

    def needed(plan, **facts):
        training = plan.training
        share = training.batch_size // training.accumulation_steps
        return (300 if plan.network.checkpointing else 1000) * math.prod(plan.grid.shape) * share

    monkeypatch.setattr(rules, "instance_optimisation_bytes", lambda plan, **facts: 0)
    monkeypatch.setattr(rules, "training_bytes", needed)
    monkeypatch.setattr(rules, "prediction_bytes", lambda plan, **facts: 0)
    budget = dataclasses.replace(get_budget("80gb"), memory_bytes=2000 * 224 * 192 * 224)
    found = {}
    for name in ("gradicon", "sitreg"):
        plan = plan_from_fingerprint(fingerprint(), budget, "x", name)
        training = plan.training
        found[name] = (plan.network.checkpointing, training.batch_size, training.accumulation_steps)
        assert plan.memory.training == needed(plan)
    assert found == {"gradicon": (True, 4, 1), "sitreg": (False, 4, 2)}


def test_a_hopeless_limit_is_an_error():
    budget = dataclasses.replace(get_budget("8gb"), memory_bytes=2**20)
    with pytest.raises(PlanError, match="use a machine with more memory"):
        plan_from_fingerprint(fingerprint(), budget)


def test_ct_against_mr():
    cases = [case(f"ct{i}", modalities=("CT",), intensities=(-1024.0, 3000.0)) for i in range(2)]
    cases += [case(f"mr{i}") for i in range(2)]
    data = fingerprint(cases, fixed=("CT",), moving=("MR",))
    plan = plan_from_fingerprint(data, get_budget("cpu"))
    assert plan.loss.similarity == "mind"
    assert plan.intensity["CT"].kind == "window"
    assert plan.intensity["MR"].kind == "quantiles"


def test_the_same_data_gives_the_same_plan(brains_cpu):
    again = plan_from_fingerprint(fingerprint(), get_budget("cpu"))
    assert dump_json(again) == dump_json(brains_cpu)


def test_the_plan_carries_the_data_set(brains_80gb):
    assert isinstance(brains_80gb, Plan)
    assert (brains_80gb.dataset, brains_80gb.configuration) == ("Dataset001_X", "default")
