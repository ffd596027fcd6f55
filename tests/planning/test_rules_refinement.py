"""Rule `refine`, and what plans.json says of it."""

import dataclasses
import json

import pytest
from fingerprints import case, fingerprint, small_plan

from autoreg.errors import PlanError
from autoreg.io.records import from_plain, load_record, save_record, to_plain
from autoreg.plan import Plan
from autoreg.planning.budget import get_budget
from autoreg.planning.plans_file import load_plan, write_plans
from autoreg.planning.rules_refinement import choose_refinement
from autoreg.registration.field_presets import preset_plan

BUDGET = get_budget("8gb")


@pytest.fixture
def plan():
    plan = small_plan()
    refine = choose_refinement(fingerprint(), BUDGET).value
    return dataclasses.replace(
        plan, instance_optimisation=dataclasses.replace(plan.instance_optimisation, refine=refine)
    )


@pytest.mark.parametrize(("moving", "similarity"), [("MR", "lncc"), ("T2", "mind"), ("CT", "mind")])
def test_the_modalities_decide_the_similarity(moving, similarity):
    chosen = choose_refinement(fingerprint(fixed=("MR",), moving=(moving,)), BUDGET)
    expected = dataclasses.replace(preset_plan("balanced"), similarity=similarity)
    assert chosen.value.field == expected
    assert chosen.value.when == "where_it_helps"
    assert similarity in chosen.reason


def test_images_that_are_too_large_for_it_are_left_alone():
    large = [case(str(i), (700, 700, 700), (0.5, 0.5, 0.5)) for i in range(3)]
    chosen = choose_refinement(fingerprint(large), BUDGET)
    assert chosen.value is None
    assert "3.43e+08 voxels would take 52.1 GiB" in chosen.reason


def test_it_survives_the_file(plan, tmp_path):
    refine = plan.instance_optimisation.refine
    save_record(plan, tmp_path / "plan.json")
    assert load_record(Plan, tmp_path / "plan.json") == plan
    write_plans(tmp_path / "plans.json", plan, "digest")
    assert load_plan(tmp_path / "plans.json").instance_optimisation.refine == refine


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (
            {"refine": {"when": "always"}},
            lambda r: (r.when, r.field.similarity) == ("always", "lncc"),
        ),
        ({"refine": None}, lambda r: r is None),
    ],
)
def test_people_change_one_value_of_it_or_switch_it_off(plan, tmp_path, change, found):
    path = tmp_path / "plans.json"
    write_plans(path, plan, "digest")
    data = json.loads(path.read_text())
    mine = {"inherits_from": "default", "instance_optimisation": change}
    data["configurations"]["mine"] = mine
    path.write_text(json.dumps(data))
    assert found(load_plan(path, "mine").instance_optimisation.refine)


def test_plans_from_before_have_none(plan):
    plain = to_plain(plan)
    del plain["instance_optimisation"]["refine"]
    assert from_plain(Plan, plain, "file").instance_optimisation.refine is None


def test_impossible_values_are_told_with_all_others(plan):
    plain = to_plain(plan)
    io = plain["instance_optimisation"]
    io["refine"]["when"] = "sometimes"
    io["refine"]["field"]["spline"]["control_mm"] = 0
    io["refine"]["field"]["flat_tolerance"] = -1
    plain["training"]["batch_size"] = 0
    with pytest.raises(PlanError) as told:
        from_plain(Plan, plain, "file")
    for text in (
        "refine: when: expected one of where_it_helps, always",
        "spline.control_mm must be positive, found 0",
        "training.batch_size must be at least 1, found 0",
    ):
        assert text in str(told.value)
    io["refine"]["field"]["step"] = 1
    with pytest.raises(PlanError, match='field: unknown key "step"'):
        from_plain(Plan, plain, "file")
