"""Records: strict reading of dataclasses from JSON."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from autoreg.errors import DataError, PlanError
from autoreg.io.records import dump_json, from_plain, load_json, load_record, save_record


@dataclass(frozen=True)
class Wheel:
    size: float
    spokes: int = 3


@dataclass(frozen=True)
class Cart:
    name: str
    wheels: tuple[Wheel, ...]
    place: tuple[float, float]
    colour: Literal["red", "blue"]
    prices: dict[str, int]
    painted: bool
    note: str | None = None

    def __post_init__(self):
        if not self.wheels:
            raise PlanError("a cart needs wheels")


@dataclass(frozen=True)
class Horse:
    name: str
    kind: Literal["horse"] = "horse"


@dataclass(frozen=True)
class Engine:
    litres: float
    cylinders: int
    kind: Literal["engine"] = "engine"


@dataclass(frozen=True)
class Coach:
    pulled_by: Horse | Engine


CART = Cart("one", (Wheel(1.5), Wheel(2.0, 5)), (1.0, -2.5), "red", {"new": 3}, True)


def _plain(**changes):
    return {**json.loads(dump_json(CART)), **changes}


def test_round_trip(tmp_path):
    save_record(CART, tmp_path / "cart.json")
    assert load_record(Cart, tmp_path / "cart.json") == CART


@pytest.mark.parametrize("coach", [Coach(Horse("Hans")), Coach(Engine(1.5, 4))])
def test_a_value_may_be_one_of_several_records(coach):
    assert from_plain(Coach, json.loads(dump_json(coach)), "coach.json") == coach


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"kind": "hors", "name": "Hans"}, 'kind: "hors" is unknown; did you mean "horse"?'),
        ({"kind": ["horse"]}, 'kind: ["horse"] is unknown'),
        ({"name": "Hans"}, 'the key "kind" is missing; found: name'),
        ("Hans", 'pulled_by: expected an object, found "Hans"'),
        ({"kind": "engine", "name": "Hans"}, 'pulled_by: unknown key "name"'),
        ({"kind": "engine"}, 'the keys "litres", "cylinders" are missing; found: kind'),
    ],
)
def test_it_must_say_which_of_them_it_is(value, message):
    with pytest.raises(PlanError) as caught:
        from_plain(Coach, {"pulled_by": value}, "coach.json")
    assert message in str(caught.value)


def test_defaults_may_be_left_out():
    plain = _plain()
    del plain["note"], plain["wheels"][0]["spokes"]
    assert from_plain(Cart, plain, "cart.json") == CART


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colur": "red"}, 'cart.json: unknown key "colur"; did you mean "colour"?'),
        (
            {"wheels": [{"size": 1, "spoke": 2}]},
            'cart.json: wheels[0]: unknown key "spoke"; did you mean "spokes"?',
        ),
        ({"wheels": [{}]}, 'wheels[0]: the key "size" is missing'),
        ({"name": 3}, "cart.json: name: expected a text, found 3"),
        ({"painted": 1}, "painted: expected true or false, found 1"),
        ({"wheels": [{"size": "2"}]}, 'wheels[0]: size: expected a number, found "2"'),
        ({"wheels": [{"size": True}]}, "size: expected a number, found true"),
        ({"wheels": [{"size": 1, "spokes": 2.5}]}, "spokes: expected a whole number, found 2.5"),
        ({"wheels": {}}, "wheels: expected a list"),
        ({"place": [1.0]}, "place: expected a list of 2 values"),
        ({"colour": "green"}, 'colour: expected one of red, blue, found "green"'),
        ({"prices": [1]}, "prices: expected an object"),
        ({"prices": {"new": "x"}}, "prices: new: expected a whole number"),
        ({"wheels": []}, "cart.json: a cart needs wheels"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(changes, message):
    with pytest.raises(PlanError) as caught:
        from_plain(Cart, _plain(**changes), "cart.json")
    assert message in str(caught.value)


def test_syntax_errors_name_file_line_and_column(tmp_path):
    path = tmp_path / "broken.json"
    path.write_text('{\n  "a": 1,\n  "b": oops\n}')
    with pytest.raises(DataError, match=r"broken\.json, line 3, column 8: not valid JSON"):
        load_json(path, DataError)


def test_a_key_that_stands_twice_is_refused(tmp_path):
    path = tmp_path / "twice.json"
    path.write_text('{"a": 1, "a": 2}')
    with pytest.raises(PlanError, match=r'twice\.json: the key "a" stands twice'):
        load_json(path)


def test_a_byte_order_mark_does_not_matter(tmp_path):
    (tmp_path / "marked.json").write_text('{"a": 1}', encoding="utf-8-sig")
    assert load_json(tmp_path / "marked.json") == {"a": 1}


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_number_of_json_is_refused(tmp_path, word):
    (tmp_path / "nan.json").write_text(f'{{"a": {word}}}')
    with pytest.raises(
        PlanError, match=rf"nan\.json: {word} is no number .* finite number or null"
    ):
        load_json(tmp_path / "nan.json")


def test_missing_and_binary_files_are_named(tmp_path):
    with pytest.raises(PlanError, match=r"absent\.json: no such file; correct the path"):
        load_json(tmp_path / "absent.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x81")
    with pytest.raises(PlanError, match=r"bytes\.json: cannot be read"):
        load_json(tmp_path / "bytes.json")


def test_text_is_json_for_any_reader_and_short_lists_stay_on_a_line():
    text = dump_json({"shape": (1, 2, 3), "bad": float("nan"), "path": Path("a/b"), "é": None})
    assert '"shape": [1, 2, 3]' in text
    assert json.loads(text) == {"shape": [1, 2, 3], "bad": None, "path": "a/b", "é": None}
