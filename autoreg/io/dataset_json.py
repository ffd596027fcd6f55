"""dataset.json: finding it, telling its two dialects apart, and reading its values leniently.

Every function adds what it does not like to a list of problems and goes on with a default, so that
one run tells everything that is wrong.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoreg.errors import DataError, did_you_mean
from autoreg.io.problems import Problem
from autoreg.io.records import load_json

Json = dict[str, Any]

# Any of these keys, or a file called <TASK>_dataset.json, means Learn2Reg's dialect.
LEARN2REG_MARKS = (
    "tensorImageShape", "training_paired_images", "registration_val", "registration_test",
)  # fmt: skip


def find_dataset_json(folder: Path, problems: list[Problem]) -> Path | None:
    """The data set's description: dataset.json, else the only <TASK>_dataset.json, else None."""
    plain = folder / "dataset.json"
    if plain.is_file():
        return plain
    found = sorted(folder.glob("*_dataset.json"))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        remedy = "keep one of them, or copy the right one to dataset.json"
        problems.append(Problem(str(folder), f"several: {names}", "one *_dataset.json", remedy))
    return found[0] if found else None


def read_dataset_json(file: Path | None, problems: list[Problem]) -> Json:
    """The JSON object in a file; an empty one if there is no file or it cannot be read."""
    if file is None:
        return {}
    try:
        data = load_json(file, DataError)
    except DataError as error:
        place, _, what = str(error).partition(": ")
        problems.append(Problem(place, what, "a JSON object", "correct the file at that place"))
        return {}
    if not isinstance(data, dict):
        problems.append(Problem(str(file), _show(data), "a JSON object {...}", "see documentation"))
        return {}
    return data


def is_learn2reg(file: Path | None, data: Json) -> bool:
    """Whether the description is written in Learn2Reg's dialect."""
    if file is not None and file.name != "dataset.json":
        return True
    validation = data.get("validation")
    paired = isinstance(validation, list) and any(
        isinstance(entry, dict) and "fixed" in entry for entry in validation
    )
    return paired or any(mark in data for mark in LEARN2REG_MARKS)


class Description:
    """Typed access to dataset.json that reports instead of raising.

    Attributes:
        data: The JSON object.
        where: The file, for messages.
        problems: Is added to.
    """

    def __init__(self, data: Json, where: str, problems: list[Problem]) -> None:
        self.data = data
        self.where = where
        self.problems = problems

    def place(self, key: str) -> str:
        """The key's place in messages."""
        return f"{self.where}: {key}"

    def complain(self, key: str, found: object, expected: str, remedy: str = "") -> None:
        """Report a value."""
        text = found if isinstance(found, str) else _show(found)
        remedy = remedy or "correct the value (documentation/dataset_format.md)"
        self.problems.append(Problem(self.place(key), text, expected, remedy))

    def check_keys(self, known: Sequence[str], foreign: Mapping[str, str]) -> None:
        """Report every unknown key; `foreign` has remedies for keys of other tools."""
        for key in self.data:
            if key not in known:
                remedy = foreign.get(key, did_you_mean(key, known))
                self.complain(key, f'the unknown key "{key}"', "a documented key", remedy)

    def check_misspelt(self, known: Sequence[str]) -> None:
        """Report only keys that look like a misspelt one; others pass (published files vary)."""
        missing = [key for key in known if key not in self.data]
        for key in self.data:
            if key in known:
                continue
            close = difflib.get_close_matches(key, missing, n=1, cutoff=0.85)
            if close:
                found = f'the unknown key "{key}"'
                self.complain(key, found, "a known key", f'did you mean "{close[0]}"?')

    def text(self, key: str, default: str) -> str:
        """A text."""
        value = self.data.get(key, default)
        if isinstance(value, str):
            return value
        self.complain(key, value, "a text")
        return default

    def items(self, key: str) -> list[Any] | None:
        """A list, None if the key is absent."""
        value = self.data.get(key)
        if value is None or isinstance(value, list):
            return value
        self.complain(key, value, "a list [...]")
        return None

    def mapping(self, key: str) -> Json:
        """An object, empty if the key is absent."""
        value = self.data.get(key, {})
        if isinstance(value, dict):
            return value
        self.complain(key, value, "an object {...}")
        return {}

    def pairs(self, key: str) -> list[tuple[str, str]] | None:
        """(fixed, moving) entries as written, None if the key is absent."""
        values = self.items(key)
        if values is None:
            return None
        good = []
        for index, value in enumerate(values):
            sides = (value.get("fixed"), value.get("moving")) if isinstance(value, dict) else ()
            if len(sides) == 2 and all(isinstance(side, str) for side in sides):
                good.append((str(sides[0]), str(sides[1])))
            else:
                self.complain(f"{key}[{index}]", value, '{"fixed": "...", "moving": "..."}')
        return good

    def names(self, key: str) -> list[str] | None:
        """Entries that are a text or {"image": text, ...}, None if the key is absent."""
        values = self.items(key)
        if values is None:
            return None
        good = []
        for index, value in enumerate(values):
            name = value.get("image") if isinstance(value, dict) else value
            if isinstance(name, str):
                good.append(name)
            else:
                self.complain(f"{key}[{index}]", value, 'a name or {"image": "path"}')
        return good

    def labels(self, nested: bool) -> dict[str, int]:
        """Name to value of the structures, without the background.

        Args:
            nested: Whether Learn2Reg's {"0": {"1": "name"}} is understood, too.
        """
        table = self.mapping("labels")
        if nested and any(isinstance(value, dict) for value in table.values()):
            merged: Json = {}
            for value in table.values():
                merged.update(value if isinstance(value, dict) else {})
            table = merged
        labels: dict[str, int] = {}
        for key, value in table.items():
            name, number = (
                (value, key) if isinstance(value, str) and key.isdigit() else (key, value)
            )
            self._add_label(labels, name, number)
        return labels

    def _add_label(self, labels: dict[str, int], name: str, number: object) -> None:
        if isinstance(number, str) and number.isdigit():
            number = int(number)
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            self.complain(f"labels: {name}", number, 'a whole number >= 0, as in {"lung": 1}')
        elif number == 0:
            return  # the background needs no name
        elif number in labels.values():
            remedy = "give every structure its own value"
            self.complain(f"labels: {name}", f"the value {number} a second time", "once", remedy)
        else:
            labels[name if name not in labels else f"{name} ({number})"] = number

    def modality(self) -> dict[int, str]:
        """Number (of the channel, or in Learn2Reg of the scan) to modality."""
        modality: dict[int, str] = {}
        for key, value in self.mapping("modality").items():
            if key.isdigit() and isinstance(value, str) and value:
                modality[int(key)] = value
            else:
                self.complain(f"modality: {key}", value, 'numbers to names, as in {"0": "MR"}')
        return modality


def _show(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
