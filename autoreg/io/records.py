"""Frozen dataclasses to JSON and back, strictly.

Unknown keys are refused with a did-you-mean, missing keys and wrong types are named with their
place in the file, all wrong values of a file at once, and syntax errors carry file, line and
column.
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from autoreg.errors import AutoregError, PlanError, did_you_mean
from autoreg.io.atomic import write_text_atomic

T = TypeVar("T")


def to_plain(value: object) -> Any:  # noqa: ANN401 - JSON values have no narrower type
    """Turn dataclasses, tuples and paths into what JSON knows."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def from_plain(cls: type[T], data: object, where: str, error: type[AutoregError] = PlanError) -> T:
    """Build the dataclass `cls` from plain JSON values, strictly.

    Args:
        cls: A dataclass whose fields are annotated with primitives, `Literal`, `tuple`, `dict`,
            optional values, other dataclasses, or unions of dataclasses that a `Literal` field
            with a single value tells apart.
        data: What `json.loads` gave.
        where: The file (and place in it) that messages name.
        error: The class of the error to raise.

    Returns:
        The object.

    Raises:
        AutoregError: of class `error`, for an unknown or missing key or a value of wrong type.
    """
    return typing.cast(T, _build(cls, data, where, error))


def load_json(path: Path, error: type[AutoregError] = PlanError) -> Any:  # noqa: ANN401
    """Read a JSON file, with or without a byte order mark; errors name file, line and column."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as cause:
        raise error(
            f"{path}: no such file; correct the path, or run the command that writes it"
        ) from cause
    except (OSError, UnicodeDecodeError) as cause:
        raise error(f"{path}: cannot be read ({cause})") from cause
    return parse_json(text, str(path), error)


def parse_json(text: str, where: str, error: type[AutoregError] = PlanError) -> Any:  # noqa: ANN401
    """Parse JSON text, in which no key stands twice; errors name `where`, line and column."""
    try:
        return json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_such_number)
    except json.JSONDecodeError as cause:
        raise error(
            f"{where}, line {cause.lineno}, column {cause.colno}: not valid JSON: {cause.msg}"
        ) from cause
    except ValueError as cause:
        raise error(f"{where}: {cause}") from cause


def load_record(cls: type[T], path: Path, error: type[AutoregError] = PlanError) -> T:
    """Read a JSON file into the dataclass `cls`."""
    return from_plain(cls, load_json(path, error), str(path), error)


def dump_json(value: object) -> str:
    """JSON text of a dataclass or plain value; short lists of numbers stay on one line."""
    return _render(to_plain(value), 0) + "\n"


def save_record(value: object, path: Path) -> None:
    """Write a dataclass or plain value to a JSON file, completely or not at all."""
    write_text_atomic(path, dump_json(value))


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            raise ValueError(f'the key "{key}" stands twice in one object; remove one of them')
        seen[key] = value
    return seen


def _no_such_number(word: str) -> typing.NoReturn:
    raise ValueError(f"{word} is no number of JSON; write a finite number or null")


def _render(value: Any, depth: int) -> str:  # noqa: ANN401
    pad = "  " * (depth + 1)
    if isinstance(value, float) and not math.isfinite(value):
        return "null"  # NaN and Infinity are not JSON; readers other than Python refuse them
    if isinstance(value, dict) and value:
        rows = [f"{pad}{json.dumps(k)}: {_render(v, depth + 1)}" for k, v in value.items()]
        return "{\n" + ",\n".join(rows) + "\n" + "  " * depth + "}"
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        rows = [pad + _render(item, depth + 1) for item in value]
        return "[\n" + ",\n".join(rows) + "\n" + "  " * depth + "]"
    if isinstance(value, list):
        return "[" + ", ".join(_render(item, depth) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def _fail(where: str, expected: str, found: object, error: type[AutoregError]) -> typing.NoReturn:
    raise error(f"{where}: expected {expected}, found {json.dumps(to_plain(found), default=str)}")


def _build(kind: Any, data: Any, where: str, error: type[AutoregError]) -> Any:  # noqa: ANN401
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(typing.cast(type, kind), data, where, error)
    if origin in (Union, types.UnionType):
        if data is None and type(None) in arguments:
            return None
        rest = [a for a in arguments if a is not type(None)]
        chosen = rest[0] if len(rest) == 1 else _choose(rest, data, where, error)
        return _build(chosen, data, where, error)
    if origin is Literal:
        if data not in arguments:
            _fail(where, "one of " + ", ".join(map(str, arguments)), data, error)
        return data
    if origin is tuple:
        return _build_tuple(arguments, data, where, error)
    if origin is dict:
        if not isinstance(data, dict):
            _fail(where, "an object", data, error)
        return {k: _build(arguments[1], v, f"{where}: {k}", error) for k, v in data.items()}
    return _build_primitive(kind, data, where, error)


def _choose(kinds: Any, data: Any, where: str, error: type[AutoregError]) -> Any:  # noqa: ANN401
    """The one of several dataclasses that says of itself what `data` says.

    Each of them has a field that can have but one value, by which it is known.
    """
    if not isinstance(data, dict):
        _fail(where, "an object", data, error)
    named: dict[object, Any] = {}
    for kind in kinds:
        for name, hint in typing.get_type_hints(kind).items():
            if typing.get_origin(hint) is Literal and len(typing.get_args(hint)) == 1:
                key, value = name, typing.get_args(hint)[0]
                named[value] = kind
    if key not in data:
        raise error(f'{where}: the key "{key}" is missing; found: {", ".join(data) or "none"}')
    if not isinstance(data[key], str) or data[key] not in named:
        raise error(
            f"{where}: {key}: {json.dumps(data[key])} is unknown; "
            + did_you_mean(str(data[key]), [str(value) for value in named])
        )
    return named[data[key]]


def _build_tuple(arguments: Any, data: Any, where: str, error: type[AutoregError]) -> Any:  # noqa: ANN401
    if not isinstance(data, list | tuple):
        _fail(where, "a list", data, error)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        kinds = [arguments[0]] * len(data)
    else:
        kinds = list(arguments)
        if len(kinds) != len(data):
            _fail(where, f"a list of {len(kinds)} values", data, error)
    return tuple(
        _build(k, item, f"{where}[{i}]", error)
        for i, (k, item) in enumerate(zip(kinds, data, strict=True))
    )


def _build_primitive(kind: Any, data: Any, where: str, error: type[AutoregError]) -> Any:  # noqa: ANN401
    if kind is Any:
        return data
    if kind is float and isinstance(data, int | float) and not isinstance(data, bool):
        return float(data)
    if kind is int and isinstance(data, int) and not isinstance(data, bool):
        return data
    if kind in (str, bool) and isinstance(data, kind):
        return data
    names = {float: "a number", int: "a whole number", str: "a text", bool: "true or false"}
    _fail(where, names.get(kind, str(kind)), data, error)


def _build_values(
    cls: type, data: dict[str, Any], where: str, error: type[AutoregError]
) -> dict[str, Any]:
    """The values of all fields; what is wrong with several of them is said at once."""
    kinds = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    problems: list[AutoregError] = []
    for name, value in data.items():
        try:
            values[name] = _build(kinds[name], value, f"{where}: {name}", error)
        except AutoregError as problem:
            problems.append(problem)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise error("\n  ".join(map(str, problems)))
    return values


def _build_dataclass(cls: type, data: Any, where: str, error: type[AutoregError]) -> Any:  # noqa: ANN401
    if not isinstance(data, dict):
        _fail(where, "an object", data, error)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in data:
        if key not in fields:
            raise error(f'{where}: unknown key "{key}"; {did_you_mean(key, fields)}')
    missing = [
        f'"{name}"'
        for name, field in fields.items()
        if name not in data
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        keys = f"key {missing[0]} is" if len(missing) == 1 else f"keys {', '.join(missing)} are"
        raise error(f"{where}: the {keys} missing; found: {', '.join(data) or 'none'}")
    values = _build_values(cls, {n: data[n] for n in fields if n in data}, where, error)
    try:
        return cls(**values)
    except AutoregError as cause:
        raise error(f"{where}: {cause}") from cause
