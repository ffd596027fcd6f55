import dataclasses
import math

import pytest
from fingerprints import case, fingerprint

from autoreg.errors import PlanError
from autoreg.io.records import dump_json, to_plain
from autoreg.plan import Plan
from autoreg.planning import rules
from autoreg.planning.budget import get_budget
from autoreg.planning.rules import plan_from_fingerprint

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


def test_every_value_has_a_reason(brains_80gb):
    for name in leaves({k: v for k, v in to_plain(brains_80gb).items() if k not in GIVEN}):
        parts = name.split(".")
        prefixes = [".".join(parts[: i + 1]) for i in range(len(parts))]
        assert any(brains_80gb.reasons.get(prefix) for prefix in prefixes), name


def test_no_reason_is_about_nothing(brains_80gb):
    plain = to_plain(brains_80gb)
    for key in brains_80gb.reasons:
        value = plain
        for part in key.split("."):
            assert part in value, key
            value = value[part]


def test_the_cpu_plan_is_small_and_fits(brains_cpu):
    plan = brains_cpu
    depth, height, width = plan.grid.shape
    assert depth * height * width <= 64**3
    assert plan.network.width == 0.5
    assert plan.training.batch_size == 1
    memory = plan.memory
    assert 0 < max(memory.training, memory.instance_optimisation) <= memory.limit


@pytest.mark.parametrize(("optimising", "training"), [(3000, 1000), (1000, 3000)])
def test_neither_training_nor_optimisation_exceeds_the_limit(monkeypatch, optimising, training):
    def optimisation_bytes(plan, *, cuda, native_voxels=0):
        return optimising * math.prod(plan.grid.shape)

    def training_bytes(plan, *, cuda):
        return training * math.prod(plan.grid.shape) * plan.training.batch_size

    monkeypatch.setattr(rules, "instance_optimisation_bytes", optimisation_bytes)
    monkeypatch.setattr(rules, "training_bytes", training_bytes)
    monkeypatch.setattr(rules, "estimate_memory", lambda plan, **facts: plan.memory)
    limit = 8 * 10**9
    budget = dataclasses.replace(get_budget("80gb"), memory_bytes=limit)
    plan = plan_from_fingerprint(fingerprint(), budget)
    needed = max(optimisation_bytes(plan, cuda=True), training_bytes(plan, cuda=True))
    assert 0.7 * limit < needed <= limit
    assert plan.training.batch_size == (2 if training < optimising else 1)


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
