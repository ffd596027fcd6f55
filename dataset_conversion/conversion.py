"""What a converter plans: the cases of a data set, where their files come from, and what is wrong.

A converter's `plan_conversion(source, options) -> Conversion` only looks; `writer.write_conversion`
links, copies or computes the files. Nothing is written while `problems` are left, and while
something is `missing` only if the user asks for a part of the data set.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

from autoreg.errors import did_you_mean
from autoreg.io.cases import Pair, Pairing
from autoreg.io.dataset_files import split_ending
from autoreg.io.problems import Problem

Split = Literal["training", "test"]
PointFrame = Literal["lps_mm", "ras_mm", "voxels"]
RECORD_NAME = "conversion.json"
_PUBLISHED_FOLDER = re.compile(r"(images|labels|masks|landmarks|keypoints)\d*(Tr|Ts|Val)")
_ENDING_OF_SPLIT: dict[Split, str] = {"training": "Tr", "test": "Ts"}


@dataclass(frozen=True)
class Options:
    """What a user may choose; each converter takes what concerns it.

    Attributes:
        variant: One of the data set's variants in the catalogue; empty: the first.
        labels: Folder of label maps that were published apart from the images.
        modality: `folder`: name of each channel.
        pairing: `folder`: how pairs arise.
        atlas: `folder`: the case that is the atlas.
        landmark_frame: `folder`: of point files without a header; None: such files are refused.
    """

    variant: str = ""
    labels: Path | None = None
    modality: tuple[str, ...] = ()
    pairing: Pairing = "inter_subject"
    atlas: str = ""
    landmark_frame: PointFrame | None = None


@dataclass(frozen=True)
class Made:
    """A file that is computed from published ones.

    Attributes:
        function: At the top level of a module (workers are spawned); called as
            `function(target, inputs, **settings)`, it writes `target` completely or not at all.
        inputs: Published files; the file is made anew when one of them has changed.
        ending: Of the file's name, as ".nii.gz" or ".csv".
        settings: Further arguments, plain values; a change makes the file anew, too.
        version: Is counted up when the function's results change.
    """

    function: Callable[..., None]
    inputs: tuple[Path, ...]
    ending: str
    settings: Mapping[str, object] = field(default_factory=dict)
    version: int = 1


# A published file as it is, or one that is computed.
Content = Path | Made


@dataclass(frozen=True)
class ConvertedCase:
    """One case of the converted data set.

    Attributes:
        name: Unique.
        images: One for each channel.
        split: "training" cases are also those to validate with; "test" cases are predicted only.
        labels: Label map.
        mask: Mask.
        landmarks: Csv file with the header x,y,z, LPS mm.
    """

    name: str
    images: tuple[Content, ...]
    split: Split = "training"
    labels: Content | None = None
    mask: Content | None = None
    landmarks: Content | None = None


@dataclass(frozen=True)
class Item:
    """One file of the converted data set: its path in the folder, and what it holds."""

    target: str
    content: Content


@dataclass(frozen=True)
class Conversion:
    """A data set as it will be; see `documentation/dataset_format.md` for its keys.

    Attributes:
        name: Of the data set, without a number: "LUMIR".
        source: Folder of the published files.
        cases: In order.
        modality: Of each channel.
        labels: Structure to value.
        pairing: How pairs arise where none are listed.
        atlas: With pairing "atlas".
        training_pairs: None: by pairing; likewise the other two.
        validation_pairs: Of training cases.
        test_pairs: Of any cases.
        description: For people; likewise `reference`.
        problems: What forbids the conversion.
        missing: What was published and is not there: forbids it unless a part is wanted.
        notes: What the user should know, one line each.
        in_place: Folder of a data set that autoreg reads as published; it has no `cases` here.
    """

    name: str
    source: Path
    cases: tuple[ConvertedCase, ...] = ()
    modality: tuple[str, ...] = ("image",)
    labels: Mapping[str, int] = field(default_factory=dict)
    pairing: Pairing = "inter_subject"
    atlas: str = ""
    training_pairs: tuple[Pair, ...] | None = None
    validation_pairs: tuple[Pair, ...] | None = None
    test_pairs: tuple[Pair, ...] | None = None
    description: str = ""
    reference: str = ""
    problems: tuple[Problem, ...] = ()
    missing: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    in_place: Path | None = None

    def items(self) -> tuple[Item, ...]:
        """Every file but dataset.json, which only a native data set gets."""
        if self.in_place is not None:
            root = self.in_place
            return tuple(Item(p.relative_to(root).as_posix(), p) for p in _published_files(root))
        return tuple(item for case in self.cases for item in _case_items(case))

    def json_content(self) -> dict[str, object]:
        """The content of dataset.json."""
        counts = {split: sum(c.split == split for c in self.cases) for split in _ENDING_OF_SPLIT}
        content: dict[str, object] = {
            key: text
            for key in ("name", "description", "reference")
            if (text := getattr(self, key))
        }
        content["modality"] = {str(number): name for number, name in enumerate(self.modality)}
        if self.labels:
            content["labels"] = dict(self.labels)
        content["pairing"] = self.pairing
        if self.pairing == "atlas":
            content["atlas"] = self.atlas
        content |= {"numTraining": counts["training"], "numTest": counts["test"]}
        for key in ("training_pairs", "validation_pairs", "test_pairs"):
            pairs: tuple[Pair, ...] | None = getattr(self, key)
            if pairs is not None:
                content[key] = [{"fixed": p.fixed, "moving": p.moving} for p in pairs]
        return content


def checked(conversion: Conversion) -> Conversion:
    """The conversion with the problems that any data set may have added to its own.

    Pairs that name a case which is missing are left out, since its absence has been told.
    """
    names = [case.name for case in conversion.cases]
    problems = [*conversion.problems, *_colliding(conversion)]
    known = set(names)

    def present(pairs: tuple[Pair, ...] | None) -> tuple[Pair, ...] | None:
        return pairs and tuple(pair for pair in pairs if {pair.fixed, pair.moving} <= known)

    if conversion.pairing == "atlas" and conversion.atlas not in known:
        expected = "the training case that is the atlas"
        remedy = did_you_mean(conversion.atlas, known)
        problems.append(Problem(str(conversion.source), conversion.atlas, expected, remedy))
    return replace(
        conversion,
        problems=tuple(dict.fromkeys(problems)),
        training_pairs=present(conversion.training_pairs),
        validation_pairs=present(conversion.validation_pairs),
        test_pairs=present(conversion.test_pairs),
    )


def ordered_pairs(names: Iterable[str]) -> tuple[Pair, ...]:
    """All ordered pairs of different cases, both ways round."""
    listed = tuple(names)
    return tuple(Pair(fixed, moving) for fixed in listed for moving in listed if fixed != moving)


def unordered_pairs(names: Iterable[str]) -> tuple[Pair, ...]:
    """Every two cases once, the earlier one fixed."""
    listed = tuple(names)
    return tuple(Pair(a, b) for n, a in enumerate(listed) for b in listed[n + 1 :])


def consecutive_pairs(
    names: Iterable[str], *, fixed: Literal["first", "second"]
) -> tuple[Pair, ...]:
    """Each case with the next one; `fixed` says which of the two is the fixed image."""
    both = pairwise(names)
    return tuple(Pair(a, b) if fixed == "first" else Pair(b, a) for a, b in both)


def _case_items(case: ConvertedCase) -> Iterable[Item]:
    end = _ENDING_OF_SPLIT[case.split]
    for channel, image in enumerate(case.images):
        yield Item(f"images{end}/{case.name}_{channel:04d}{_ending(image)}", image)
    for kind in ("labels", "mask", "landmarks"):
        content: Content | None = getattr(case, kind)
        if content is not None:
            folder = f"masks{end}" if kind == "mask" else f"{kind}{end}"
            yield Item(f"{folder}/{case.name}{_ending(content)}", content)


def _ending(content: Content) -> str:
    return content.ending if isinstance(content, Made) else split_ending(content.name)[1]


def _published_files(root: Path) -> list[Path]:
    """The description and the files of a Learn2Reg data set, without what else lies beside them."""
    folders = [p for p in sorted(root.iterdir()) if _PUBLISHED_FOLDER.fullmatch(p.name)]
    inside = [path for folder in folders for path in sorted(folder.iterdir())]
    files = [*sorted(root.glob("*.json")), *inside]
    shown = [path for path in files if path.is_file() and not path.name.startswith(".")]
    return [path for path in shown if path != root / RECORD_NAME]


def _colliding(conversion: Conversion) -> Iterable[Problem]:
    """Cases whose names are equal where upper and lower case do not count (macOS, Windows)."""
    expected = "case names that differ in more than upper and lower case"
    remedy = "rename one of the two files, or move one out of the source folder"
    seen: dict[str, ConvertedCase] = {}
    for case in conversion.cases:
        other = seen.setdefault(case.name.lower(), case)
        if other is not case:
            found = f'would be the case "{case.name}", beside {_origin(other)} ("{other.name}")'
            yield Problem(_origin(case), found, expected, remedy)


def _origin(case: ConvertedCase) -> str:
    image = case.images[0]
    return str(image.inputs[0] if isinstance(image, Made) else image)
