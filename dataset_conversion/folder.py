"""Any heap of images, with label maps, masks and landmarks by name, as a raw data set."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from autoreg.dataset_conversion.checks import (
    archive_problems,
    file_problems,
    grid_problems,
    off_grid_problems,
)
from autoreg.dataset_conversion.conversion import (
    Content,
    Conversion,
    ConvertedCase,
    Made,
    Options,
)
from autoreg.dataset_conversion.heap import HeapCase, files_of, sort_heap
from autoreg.dataset_conversion.points import has_frame, points_to_csv
from autoreg.dataset_conversion.rewriting import rewrite_image
from autoreg.io.dataset import is_dataset, scan_dataset
from autoreg.io.dataset_files import split_ending
from autoreg.io.names import LANDMARK_SUFFIXES, folder_name_problem
from autoreg.io.problems import Problem

# Headers that name or imply a second file, which a link of another name would not find.
_TWO_FILES = (".hdr", ".img", ".mhd", ".nhdr")
_DICOM_ENDINGS = (".dcm", ".dicom", ".ima")
_DICOM_MARK = b"DICM"
_DICOM_PREAMBLE_BYTES = 128


def plan_conversion(source: Path, options: Options) -> Conversion:
    """Plan a raw data set of a heap of images.

    Args:
        source: A folder; all folders in it are searched.
        options: `modality`, `pairing`, `atlas` and `landmark_frame`.
    """
    name = source.absolute().name
    if is_dataset(source):
        return _plan_raw_dataset(source, name)
    problems: list[Problem] = []
    passed_over: list[str] = []
    cases = sort_heap(source, problems, passed_over)
    problems += _problems(source, cases, options)
    channels = len(cases[0].images) if cases else 1
    default = ("image",) if channels == 1 else tuple(f"channel{n}" for n in range(channels))
    if options.modality and len(options.modality) != channels:
        found = f"--modality with {len(options.modality)} names"
        expected = f"{channels}, one for each channel of a case"
        problems.append(Problem(str(source), found, expected, "correct --modality"))
    return Conversion(
        name=name,
        source=source,
        cases=tuple(_case(case, options) for case in cases),
        modality=options.modality or default,
        pairing=options.pairing,
        atlas=options.atlas,
        problems=tuple(problems),
        notes=(*_notes(cases), *passed_over),
    )


def _plan_raw_dataset(source: Path, name: str) -> Conversion:
    """A folder that autoreg reads as it is."""
    dataset, problems = scan_dataset(source)
    layout = "Learn2Reg's" if dataset.layout == "learn2reg" else "autoreg's own"
    note = f"the files lie in {layout} layout, which needs no conversion"
    return Conversion(name, source, problems=problems, notes=(note,), in_place=source)


def _case(case: HeapCase, options: Options) -> ConvertedCase:
    points = case.others.get("landmarks")
    image = case.images[0].path
    return ConvertedCase(
        name=case.name,
        images=tuple(_image(found.path) for found in case.images),
        split=case.images[0].split,
        labels=_image(case.others["labels"]) if "labels" in case.others else None,
        mask=_image(case.others["mask"]) if "mask" in case.others else None,
        landmarks=_points(points, image, options) if points else None,
    )


def _image(path: Path) -> Content:
    """The file itself; images of two files are written anew as one."""
    if path.name.lower().endswith(_TWO_FILES):
        stem = split_ending(path.name)[0]
        parts = [p for p in sorted(path.parent.glob(f"{stem}.*")) if p != path]
        return Made(rewrite_image, (path, *parts), ".nii.gz")
    return path


def _points(path: Path, image: Path, options: Options) -> Content:
    settings = {"frame": options.landmark_frame}
    return Made(points_to_csv, (path, image), ".csv", settings)


def _problems(source: Path, cases: Sequence[HeapCase], options: Options) -> Iterable[Problem]:
    if not cases:
        expected = "images as .nii.gz, .nii, .mha, .nrrd, .mgz, ..."
        yield Problem(str(source), "no image", expected, "name the folder that holds the images")
    yield from archive_problems(source)
    yield from _dicom_problems(source)
    paths = [f.path for case in cases for f in case.images]
    others = [path for case in cases for path in case.others.values()]
    damaged = file_problems([*paths, *others])
    bad = {problem.file for problem in damaged}
    yield from damaged
    yield from grid_problems([p for p in paths if str(p) not in bad], None, "")
    yield from off_grid_problems(_maps(cases, bad))
    for case in cases:
        what = folder_name_problem(case.name, "a case")
        if what:
            found, remedy = f'the case name "{case.name}"', "rename the file or its folder"
            yield Problem(str(case.images[0].path), found, what, remedy)
        points = case.others.get("landmarks")
        if points and options.landmark_frame is None and not has_frame(points):
            expected = "the header x,y,z (LPS mm), or --landmark-frame lps_mm, ras_mm or voxels"
            remedy = "say with --landmark-frame what the numbers are"
            yield Problem(str(points), "points without a header", expected, remedy)


def _maps(cases: Sequence[HeapCase], bad: set[str]) -> Iterable[tuple[Path, Path]]:
    """(image, label map or mask), complete files."""
    for case in cases:
        image = case.images[0].path
        for path in case.others.values():
            whole = not {str(image), str(path)} & bad
            if whole and not path.name.lower().endswith(LANDMARK_SUFFIXES):
                yield image, path


def _dicom_problems(source: Path) -> Iterable[Problem]:
    folders = {path.parent for path in files_of(source) if _is_dicom(path)}
    for folder in sorted(folders):
        expected, remedy = "one file for each image", "convert the slices first, as with dcm2niix"
        yield Problem(str(folder), "DICOM slices", expected, remedy)


def _is_dicom(path: Path) -> bool:
    """By the ending, or by the mark after the preamble where there is no ending."""
    if not path.is_file():
        return False
    if path.suffix:
        return path.suffix.lower() in _DICOM_ENDINGS
    with path.open("rb") as file:
        return file.read(_DICOM_PREAMBLE_BYTES + 4)[_DICOM_PREAMBLE_BYTES:] == _DICOM_MARK


def _notes(cases: Sequence[HeapCase]) -> Iterable[str]:
    tests = sum(case.images[0].split == "test" for case in cases)
    yield f"{len(cases) - tests} training and {tests} test cases"
    for kind, what in (("labels", "label map"), ("mask", "mask"), ("landmarks", "landmarks")):
        without = [case.name for case in cases if kind not in case.others]
        if 0 < len(without) < len(cases):
            shown = ", ".join(without[:10]) + (", ..." if len(without) > 10 else "")
            yield f"{len(without)} of {len(cases)} cases have no {what}: {shown}"
