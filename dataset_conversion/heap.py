"""Sort a heap of files: images, label maps, masks and points, and what belongs to which case.

Words in folder and file names decide, never contents: the rules are in documentation/datasets.md.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Literal

from autoreg.dataset_conversion.conversion import Split
from autoreg.errors import DataError
from autoreg.io.dataset_files import IMAGE_NAME, is_companion, split_ending
from autoreg.io.names import LANDMARK_SUFFIXES
from autoreg.io.problems import Problem

Kind = Literal["image", "labels", "mask", "landmarks"]

IMAGE_ENDINGS = (
    ".nii.gz", ".nii", ".nii.bz2", ".mha", ".mhd", ".nrrd", ".nhdr", ".hdr", ".img", ".mgz",
    ".mgh", ".mnc", ".mnc.gz", ".gipl", ".gipl.gz",
)  # fmt: skip
_LABEL_WORDS = {
    "label",
    "labels",
    "labelmap",
    "seg",
    "segs",
    "dseg",
    "segmentation",
    "segmentations",
}
_MASK_WORDS = {"mask", "masks", "brainmask", "lungmask", "bodymask"}
_POINT_WORDS = {"landmark", "landmarks", "keypoint", "keypoints", "points", "fiducials"}
_IMAGE_WORDS = {"image", "images", "img", "imgs", "scan", "scans"}
_TEST_WORDS = {"test", "testing", "ts"}
_TRAINING_WORDS = {"train", "training", "tr"}
_WORD_BREAK = re.compile(r"[_\-.\s]+|(?<=[a-z])(?=T[rs]$)")


@dataclass(frozen=True)
class Found:
    """One file of the heap.

    Attributes:
        path: The file.
        kind: By its words and ending.
        split: "test" below a folder of that name.
        folders: The folders above it, without those that only name a kind or a split.
        stem: Its name without ending and without words that only name a kind.
    """

    path: Path
    kind: Kind
    split: Split
    folders: tuple[str, ...]
    stem: str


@dataclass
class HeapCase:
    """One case: its channels in order and what belongs to it."""

    name: str
    images: list[Found]
    others: dict[Kind, Path] = field(default_factory=dict)


def sort_heap(
    source: Path, problems: list[Problem], notes: list[str] | None = None
) -> list[HeapCase]:
    """The cases of a heap.

    Args:
        source: Is searched with all its folders, linked ones included; hidden ones are passed over.
        problems: Is added to: files of no case or of several.
        notes: Is added to: tables that are taken for something else than points.
    """
    found = [one for path in files_of(source) if (one := _sorted_in(path, source)) is not None]
    cases = _named(_cases(tuple(f for f in found if f.kind == "image")))
    for one in found:
        if one.kind == "image":
            continue
        if _is_other_table(one, source, cases):
            (notes if notes is not None else []).append(f"passed over, no points: {one.path}")
        else:
            _give(one, cases, problems)
    return cases


def files_of(source: Path) -> list[Path]:
    """All files but hidden ones, each folder once: by its own place if it has one, else by a link.

    Raises:
        DataError: if a folder cannot be read.
    """
    seen: set[Path] = set()
    links = [source]
    files: list[Path] = []
    while links:  # links may lead to folders with links, and in circles
        later: list[Path] = []
        for link in links:
            files += _files_below(link, seen, later)
        links = later
    return sorted(files)


def _files_below(folder: Path, seen: set[Path], links: list[Path]) -> list[Path]:
    """The files of a folder that was not seen before, and of those in it; links are put off."""
    place = folder.resolve()
    if place in seen:
        return []
    seen.add(place)
    files: list[Path] = []
    try:
        inside = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be read ({error.strerror}); make it readable, or move it away"
        ) from error
    for path in inside:
        if path.name.startswith((".", "__MACOSX")):
            continue
        if path.is_symlink() and not path.exists() and _is_wanted(path.name):
            raise DataError(
                f"{path}: is a link to {path.readlink()}, which is not there (a disk that is not "
                "mounted?); mend it, or remove it"
            )
        if path.is_file():
            files.append(path)
        elif path.is_dir():
            if path.is_symlink():
                links.append(path)
            else:
                files += _files_below(path, seen, links)
    return files


def _is_wanted(name: str) -> bool:
    """Whether a name is that of an image or of points, or of a folder, which may hold some."""
    return "." not in name or name.lower().endswith((*LANDMARK_SUFFIXES, *IMAGE_ENDINGS))


def _sorted_in(path: Path, source: Path) -> Found | None:
    """A file by its words; None for a file that is neither an image nor a list of points."""
    name = path.name.lower()
    points = next((end for end in LANDMARK_SUFFIXES if name.endswith(end)), "")
    if not points and not name.endswith(IMAGE_ENDINGS):
        return None
    if not points and is_companion(path.name, {p.name for p in path.parent.iterdir()}):
        return None
    stem = path.name[: -len(points)] if points else split_ending(path.name)[0]
    folders = path.relative_to(source).parts[:-1]
    folder_words = {word for folder in folders for word in _words(folder)}
    kept = [word for word in _split(stem) if word.lower() not in _ALL_KIND_WORDS]
    own = set(_words(stem))
    kind: Kind = "landmarks" if points else _image_kind(own, folder_words)
    return Found(
        path=path,
        kind=kind,
        split="test" if folder_words & _TEST_WORDS else "training",
        folders=tuple(folder for folder in folders if not _only_names_kind(folder)),
        stem=stem if kind == "image" else "_".join(kept),
    )


_ALL_KIND_WORDS = _LABEL_WORDS | _MASK_WORDS | _POINT_WORDS | _IMAGE_WORDS


def _image_kind(own: set[str], of_folders: set[str]) -> Kind:
    """The file's own words come before those of its folders."""
    for words in (own, of_folders):
        if words & _LABEL_WORDS:
            return "labels"
        if words & _MASK_WORDS:
            return "mask"
    return "image"


def _split(text: str) -> list[str]:
    return [word for word in _WORD_BREAK.split(text) if word]


def _words(text: str) -> list[str]:
    return [word.lower() for word in _split(text)]


def _only_names_kind(folder: str) -> bool:
    return set(_words(folder)) <= _ALL_KIND_WORDS | _TEST_WORDS | _TRAINING_WORDS


def _cases(images: Sequence[Found]) -> list[list[Found]]:
    """Images by case: channels where all names end alike in 0000, 0001, ..., else one each."""
    numbered: dict[tuple[tuple[str, ...], str], dict[int, Found]] = {}
    for one in images:
        match = IMAGE_NAME.fullmatch(one.stem)
        if match is None:
            return [[image] for image in images]
        channels = numbered.setdefault((one.folders, match["case"]), {})
        channels[int(match["channel"])] = one
    sets = {tuple(sorted(channels)) for channels in numbered.values()}
    whole = sum(map(len, numbered.values())) == len(images)
    # Names such as case_0000, case_0001, ... have one beginning alone: these are not channels.
    if not whole or len(numbered) < 2 or len(sets) != 1 or sets != {tuple(range(len(*sets)))}:
        return [[image] for image in images]
    return [[channels[n] for n in sorted(channels)] for channels in numbered.values()]


def _named(cases: list[list[Found]]) -> list[HeapCase]:
    """Names by file; by folder and file where files in several folders are called the same."""
    stems = [_case_stem(images) for images in cases]
    if _all_different(stems):
        return [HeapCase(stem, images) for stem, images in zip(stems, cases, strict=True)]
    common = len(_common_beginning([images[0].folders for images in cases]))
    folders = ["_".join(images[0].folders[common:]) for images in cases]
    if _all_different(folders) and all(folders):
        return [HeapCase(name, images) for name, images in zip(folders, cases, strict=True)]
    both = ["_".join(filter(None, pair)) for pair in zip(folders, stems, strict=True)]
    return [HeapCase(name, images) for name, images in zip(both, cases, strict=True)]


def _case_stem(images: Sequence[Found]) -> str:
    match = IMAGE_NAME.fullmatch(images[0].stem)
    return match["case"] if len(images) > 1 and match else images[0].stem


def _all_different(names: Sequence[str]) -> bool:
    return len({name.lower() for name in names}) == len(names)


def _common_beginning(paths: Iterable[tuple[str, ...]]) -> list[str]:
    levels = zip(*paths, strict=False)
    return [level[0] for level in takewhile(lambda level: len(set(level)) == 1, levels)]


def _give(one: Found, cases: list[HeapCase], problems: list[Problem]) -> None:
    """Find the case that a label map, mask or list of points belongs to."""
    owners = _owners(one, cases)
    what = {"labels": "label map", "mask": "mask"}.get(one.kind, "list of points")
    if len(owners) == 1 and one.kind not in owners[0].others:
        owners[0].others[one.kind] = one.path
        return
    remedy = "name it like its image, with a word such as seg or mask, or move it away"
    if len(owners) == 1:
        other = owners[0].others[one.kind].name
        found = f"a second {what} of {owners[0].name}, beside {other}"
        problems.append(Problem(str(one.path), found, f"one {what} for each image", remedy))
    elif owners:
        names = ", ".join(case.name for case in owners[:5])
        found = f"a {what} that fits {len(owners)} images: {names}"
        problems.append(Problem(str(one.path), found, "one image", remedy))
    else:
        found = f"a {what} without an image of that name"
        problems.append(Problem(str(one.path), found, "its image", remedy))


def _is_other_table(one: Found, source: Path, cases: list[HeapCase]) -> bool:
    """Whether a csv file neither is called like an image nor has a word for points."""
    words = {word for part in one.path.relative_to(source).parts for word in _words(part)}
    if one.path.suffix.lower() != ".csv" or words & _POINT_WORDS:
        return False
    return not one.stem or not _owners(one, cases)


def _owners(one: Found, cases: list[HeapCase]) -> list[HeapCase]:
    near = [case for case in cases if case.images[0].folders == one.folders]
    stems = {id(case): {_case_stem(case.images), case.images[0].stem} for case in near}
    exact = [case for case in near if one.stem in stems[id(case)]]
    if exact or not one.stem:
        return exact or near
    return [case for case in near if any(_begins_alike(one.stem, s) for s in stems[id(case)])]


def _begins_alike(one: str, other: str) -> bool:
    """Whether all words of the shorter name begin the longer one."""
    shorter, longer = sorted((_words(one), _words(other)), key=len)
    return longer[: len(shorter)] == shorter
