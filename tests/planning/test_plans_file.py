import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from fingerprints import small_plan

from autoreg.errors import PlanError
from autoreg.network_plan import GradICONPlan
from autoreg.plan import AlignmentPlan
from autoreg.planning.plans_file import load_plan, write_plans


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "plans.json"
    write_plans(path, small_plan(), "digest")
    return path


def edit(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data, indent=1))


def names(path):
    return tuple(json.loads(path.read_text())["configurations"])


def add(path, name, content):
    edit(path, lambda data: data["configurations"].update({name: content}))


def test_a_plan_comes_back_as_it_was_written(path):
    assert load_plan(path) == small_plan()


def test_facts_of_the_data_set_stand_once(path):
    data = json.loads(path.read_text())
    assert data["labels"] == {"brain": 1}
    assert "labels" not in data["configurations"]["default"]


def test_nested_overrides_leave_their_neighbours_alone(path):
    add(path, "long", {"inherits_from": "default", "training": {"epochs": 200}})
    plan = load_plan(path, "long")
    assert plan.configuration == "long"
    assert plan.training.epochs == 200
    assert plan.training.augmentation == small_plan().training.augmentation
    assert plan.reasons["training.epochs"] == 'overridden in configuration "long"'
    assert plan.reasons["grid.shape"] == "rule grid_shape"


def test_inheritance_goes_through_several_hands(path):
    add(path, "a", {"inherits_from": "default", "training": {"epochs": 10}})
    add(path, "b", {"inherits_from": "a", "training": {"seed": 7}})
    plan = load_plan(path, "b")
    assert (plan.training.epochs, plan.training.seed) == (10, 7)


def test_another_similarity_does_not_inherit_foreign_parameters(path):
    add(path, "mind", {"inherits_from": "default", "loss": {"similarity": "mind"}})
    add(path, "wide", {"inherits_from": "default", "loss": {"similarity_parameters": {"sigma": 5}}})
    assert load_plan(path, "mind").loss.similarity_parameters == {}
    assert load_plan(path, "wide").loss.similarity_parameters == {"sigma": 5.0}


def test_another_alignment_does_not_inherit_the_centre(path):
    add(path, "apart", {"inherits_from": "default", "alignment": {"kind": "centres"}})
    assert load_plan(path, "apart").alignment == AlignmentPlan("centres")


SITREG = {
    "architecture": "sitreg",
    "features": [4, 8],
    "feature_convolutions": [2, 2],
    "deformation_features": [4, None],
    "deformation_convolutions": 2,
    "groups": 2,
    "normalise_deformations": False,
    "bound_share": 0.9,
}
# What goes with an architecture.
RECIPE = {
    "loss": {"similarity": "windowed_ncc", "regularity": "diffusion", "regularity_weight": 2.0},
    "training": {
        "shallow_epochs": 0, "learning_rate": 1e-4, "optimiser": "amsgrad", "schedule": "constant",
    },
    "instance_optimisation": {"learning_rate": 1e-4},
}  # fmt: skip


def test_another_architecture_replaces_the_network_as_a_whole(path):
    edit(path, lambda data: data["configurations"]["default"]["reasons"].update(
        {"network.width": "rule width"}))  # fmt: skip
    add(path, "other", {"inherits_from": "default", "network": SITREG, **RECIPE})
    add(path, "third", {"inherits_from": "other", "network": {"bound_share": 0.5}})
    plan = load_plan(path, "other")
    assert plan.network.features == (4, 8)
    assert "network.width" not in plan.reasons
    assert plan.reasons["network.features"] == 'overridden in configuration "other"'
    assert load_plan(path, "third").network == dataclasses.replace(plan.network, bound_share=0.5)


def test_another_architecture_does_not_inherit_what_the_parents_is_trained_with(path):
    keys = [f"{part}.{key}" for part, values in RECIPE.items() for key in values]
    add(path, "bare", {"inherits_from": "default", "network": SITREG})
    message = f"bare: inherits_from: .*: {', '.join(keys)}; .*autoreg_plan --architecture sitreg"
    with pytest.raises(PlanError, match=message):
        load_plan(path, "bare")
    for key in keys:
        part, name = key.split(".")
        recipe = {**RECIPE, part: {k: v for k, v in RECIPE[part].items() if k != name}}
        add(path, "other", {"inherits_from": "default", "network": SITREG, **recipe})
        with pytest.raises(PlanError, match=f"chosen for it: {key}; "):
            load_plan(path, "other")


def test_all_impossible_values_are_named_at_once(path):
    training = {"epochs": 0, "learning_rate": -1.0}
    content = {"inherits_from": "default", "training": training, "grid": {"shape": [8, 0, 8]}}
    add(path, "wrong", content)
    with pytest.raises(PlanError) as caught:
        load_plan(path, "wrong")
    for name in ("training.epochs", "training.learning_rate", "grid.shape"):
        assert name in str(caught.value)


def test_an_affine_stage_measures_by_the_grid(path):
    plan = small_plan()
    grid = dataclasses.replace(plan.grid, spacing_mm=(2.0, 1.0, 1.5))
    write_plans(path, dataclasses.replace(plan, grid=grid, configuration="aniso"), "digest")

    def load(grid=None, **network):
        child = {"inherits_from": "aniso", "network": {**SITREG, **network}, **RECIPE}
        add(path, "other", child if grid is None else {**child, "grid": grid})
        return load_plan(path, "other")

    assert load().network.affine is False
    assert load(affine=True, voxel_size=[4.0, 2.0, 3.0]).network.affine is True
    with pytest.raises(PlanError, match=r"voxel_size, \[1.0, 1.0, 1.0\].*\[2.0, 1.0, 1.5\]"):
        load(affine=True)
    with pytest.raises(PlanError, match="two voxels along each axis"):
        load({"shape": [8, 1, 8]}, affine=True, voxel_size=[2.0, 1.0, 1.5])


def test_naming_the_same_architecture_replaces_nothing(path):
    network = {"architecture": "gradicon", "width": 0.25}
    add(path, "thin", {"inherits_from": "default", "network": network})
    assert load_plan(path, "thin").network == GradICONPlan((0.5, 1.0), 0.25)


def test_the_keys_that_another_architecture_lacks_are_all_named(path):
    network = {"architecture": "transmorph", "variant": "half", "window": [2, 2, 2]}
    add(path, "other", {"inherits_from": "default", "network": network, **RECIPE})
    missing = 'the keys "embedding", "depths", "heads", "drop_path" are missing'
    with pytest.raises(PlanError, match=f"other: network: {missing}"):
        load_plan(path, "other")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"inherits_from": "defualt"}, 'no configuration "defualt".*did you mean "default"'),
        ({"inherits_from": 3}, "expected the name of a configuration, found 3"),
        ({"inherits_from": "mine"}, "inherit in a circle: mine -> mine"),
        ({"inherits_from": "default", "trianing": {}}, '"trianing"; did you mean "training"'),
        ({"inherits_from": "default", "training": {"epcohs": 3}}, 'did you mean "epochs"'),
        ({"inherits_from": "default", "training": {"epochs": "3"}}, "epochs: expected a whole"),
        ({"inherits_from": "default", "training": {"epochs": 0}}, "epochs must be at least 1"),
        ({"inherits_from": "default", "training": 3}, "training: expected an object, found 3"),
        ({"inherits_from": "default", "labels": {"x": 1}}, '"labels" does not stand here'),
        ({"training": {"epochs": 3}}, 'the keys "budget", "grid", .* are missing; found: '),
        (
            {"inherits_from": "default", "network": {"architecture": "sitregg"}},
            'network: architecture: "sitregg" is unknown; did you mean "sitreg"',
        ),
        ({"inherits_from": "default", "network": {"features": [8]}}, 'unknown key "features"'),
        ([], r"mine: expected an object, found \[\]"),
    ],
)
def test_mistakes_are_named_with_file_and_place(path, content, message):
    add(path, "mine", content)
    with pytest.raises(PlanError, match=message) as caught:
        load_plan(path, "mine")
    assert str(path) in str(caught.value)


def test_one_broken_configuration_does_not_spoil_the_others(path):
    add(path, "mine", {"inherits_from": "default", "training": {"epcohs": 3}})
    assert load_plan(path).training.epochs == 80


def test_unknown_configurations_and_files_say_what_to_do(path, tmp_path):
    with pytest.raises(PlanError, match=r'no configuration "deflaut".*did you mean "default"'):
        load_plan(path, "deflaut")
    with pytest.raises(PlanError, match=r'no configuration "nope"; known: default'):
        load_plan(path, "nope")
    with pytest.raises(PlanError, match="no such file; run autoreg_plan"):
        load_plan(tmp_path / "absent.json")


@pytest.mark.parametrize("name", [".", "..", "a/b", "a\\b", "", " a", ".a", "plans.json"])
def test_a_name_that_cannot_be_a_folders_is_refused(path, name):
    """The folder of a configuration "." would be that of plans.json itself."""
    add(path, name, {"inherits_from": "default"})
    before = path.read_text()
    with pytest.raises(PlanError, match="configuration name"):
        load_plan(path, name)
    with pytest.raises(PlanError, match="configuration name"):
        write_plans(path, small_plan(name), "digest")
    assert path.read_text() == before


def test_commands_that_plan_at_the_same_time_lose_nothing(tmp_path):
    path = tmp_path / "data" / "plans.json"
    wanted = [f"c{number}" for number in range(12)]
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda name: write_plans(path, small_plan(name), "digest"), wanted))
    assert sorted(names(path)) == sorted(wanted)
    assert [file.name for file in path.parent.iterdir()] == ["plans.json"]


def test_a_syntax_error_is_named_with_its_line_and_the_file_stays(path):
    text = path.read_text().replace('"epochs": 80,', '"epochs": 80')
    path.write_text(text)
    for use in (load_plan, lambda path: write_plans(path, small_plan(), "digest")):
        with pytest.raises(PlanError, match=r"plans\.json, line \d+, column \d+"):
            use(path)
    assert path.read_text() == text


def test_a_file_of_another_format_is_refused(path):
    edit(path, lambda data: data.update(format=2))
    with pytest.raises(PlanError, match="plan format 2 is not 1"):
        load_plan(path)


# planning again


def test_configurations_that_people_added_survive(path):
    add(path, "long", {"inherits_from": "default", "training": {"epochs": 200}})
    assert write_plans(path, small_plan(epochs=90), "digest 2") == ()
    assert load_plan(path).training.epochs == 90
    assert load_plan(path, "long").training.epochs == 200
    assert names(path) == ("default", "long")


def test_another_planned_configuration_stands_beside(path):
    messages = write_plans(path, small_plan("large", epochs=5), "digest")
    assert messages == ('the configuration "large" is new, beside default',)
    assert load_plan(path).training.epochs == 80
    assert load_plan(path, "large").training.epochs == 5
    assert write_plans(path, small_plan(epochs=81), "digest") == ()


def test_an_edited_configuration_is_kept_under_another_name(path):
    edit(path, lambda d: d["configurations"]["default"]["training"].update(epochs=33))
    (message,) = write_plans(path, small_plan(epochs=90), "digest")
    assert '"default_edited_1"' in message
    assert load_plan(path).training.epochs == 90
    assert load_plan(path, "default_edited_1").training.epochs == 33


def test_every_edit_is_kept_once(path):
    for number in (33, 34):
        edit(path, lambda d, n=number: d["configurations"]["default"]["training"].update(epochs=n))
        write_plans(path, small_plan(), "digest")
    assert load_plan(path, "default_edited_2").training.epochs == 34
    edit(path, lambda d: d["configurations"]["default"]["training"].update(epochs=33))
    (message,) = write_plans(path, small_plan(), "digest")
    assert 'already kept as "default_edited_1"' in message
    assert len(names(path)) == 3


def test_other_white_space_is_no_edit(path):
    path.write_text(json.dumps(json.loads(path.read_text())))
    assert write_plans(path, small_plan(epochs=90), "digest") == ()
    assert names(path) == ("default",)


def test_the_planner_never_replaces_what_it_did_not_write(path):
    add(path, "mine", {"inherits_from": "default"})
    with pytest.raises(PlanError, match=r'"mine" was added by hand.*another name with --config'):
        write_plans(path, small_plan("mine"), "digest")


def test_the_plan_remembers_the_state_of_the_data(path):
    assert json.loads(path.read_text())["fingerprint_digest"] == "digest"
