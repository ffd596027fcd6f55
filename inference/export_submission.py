"""Predictions as the displacement files that LUMIR and Learn2Reg take, complete and zipped."""

import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from tqdm import tqdm

from autoreg.errors import AutoregError, DataError, GeometryError, UsageError
from autoreg.evaluation.predictions import PredictedPair, find_cases, read_prediction
from autoreg.evaluation.referee_field import index_displacement
from autoreg.evaluation.report import counted
from autoreg.inference.submission_pairs import Wanted, WantedPair, image_stem
from autoreg.io.atomic import PARTIAL, atomic_path, locked_folder, require_writable
from autoreg.io.image_headers import read_grid
from autoreg.io.images import require_grid
from autoreg.io.learn2reg_transforms import write_learn2reg
from autoreg.io.result import DISPLACEMENT_FILE
from autoreg.io.transforms import read_displacement

_SHOWN = 5
_HIDDEN = ".unfinished"


@dataclass(frozen=True)
class _Source:
    """A wanted pair and the prediction that it comes from."""

    wanted: WantedPair
    prediction: PredictedPair


def export_submission(
    predictions: Path, wanted: Wanted, output: Path, *, zipped: bool = True
) -> str:
    """Write one displacement file for each wanted pair, and all of them as a flat zip file.

    Everything that can be known is checked before anything is written, and all files afterwards.

    Args:
        predictions: Output folder of autoreg_predict.
        wanted: What the submission must hold.
        output: Folder for the files; the zip file `<output>.zip` stands beside it.
        zipped: Whether to write the zip file.

    Returns:
        What was done, in one line.

    Raises:
        AutoregError: telling every pair that is missing, too many, doubled, unfinished or does not
            fit.
    """
    sources = _match(predictions, wanted)
    _require_free(output, wanted)
    require_writable(output)
    archive = output.with_name(f"{output.name}.zip")
    with locked_folder(output, wait=False):
        _write(sources, output, wanted, archive)
        files = counted(len(sources), "displacement")
        if not zipped:
            return f"{output}: {files} by the rule of {wanted.task}"
        _zip(archive, [output / source.wanted.file for source in sources])
    return f"{output}: {files} by the rule of {wanted.task}; zipped: {archive}"


def _write(sources: Sequence[_Source], output: Path, wanted: Wanted, archive: Path) -> None:
    """Write and check all files in a hidden folder, then let them replace an earlier export.

    What goes wrong before that leaves the earlier files and their zip file as they were.
    """
    hidden = output / _HIDDEN
    shutil.rmtree(hidden, ignore_errors=True)  # of an export that was killed
    hidden.mkdir()
    try:
        for source in tqdm(sources, "exporting", unit="pair"):
            _export(source, hidden / source.wanted.file)
        _check_files(hidden, sources, wanted)
        archive.unlink(missing_ok=True)  # of the files that are replaced now
        for source in sources:
            (hidden / source.wanted.file).replace(output / source.wanted.file)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _match(predictions: Path, wanted: Wanted) -> tuple[_Source, ...]:
    """The prediction of each wanted pair.

    Raises:
        DataError: listing everything that does not fit.
    """
    by_images: dict[tuple[str, str], list[PredictedPair]] = {}
    problems: list[str] = []
    for folder in find_cases(predictions):
        try:
            pair = read_prediction(folder)
        except DataError as error:
            problems.append(str(error))
            continue
        problems += [f"{folder.name}: {note}" for note in pair.notes]
        images = (image_stem(pair.inputs.fixed[0]), image_stem(pair.inputs.moving[0]))
        by_images.setdefault(images, []).append(pair)
    sources, missing = [], []
    for target in wanted.pairs:
        found = by_images.pop((target.fixed, target.moving), [])
        if len(found) == 1:
            problems += _misfits(found[0], wanted.shape)
            sources.append(_Source(target, found[0]))
        elif found:
            names = ", ".join(pair.folder.name for pair in found)
            problems.append(f"{target.file}: several predictions ({names}); keep one of them")
        else:
            missing.append(f"{target.fixed} with {target.moving}")
    extra = [pair.folder.name for pairs in by_images.values() for pair in pairs]
    problems += _incomplete(len(wanted.pairs), missing, extra)
    if problems:
        listed = "\n  ".join(problems)
        raise DataError(f"{predictions}: no submission for {wanted.source}:\n  {listed}")
    return tuple(sources)


def _incomplete(number: int, missing: Sequence[str], extra: Sequence[str]) -> list[str]:
    problems = []
    if missing:
        problems.append(
            f"missing, {len(missing)} of {number} pairs: {_some(missing)}; predict them (fixed "
            "with moving, in this order)"
        )
    if extra:
        problems.append(
            f"predicted but not listed, {counted(len(extra), 'pair')}: {_some(extra)}; move them "
            "away, or choose another --split"
        )
    return problems


def _misfits(pair: PredictedPair, shape: tuple[int, int, int] | None) -> list[str]:
    """What keeps a prediction from being exported, as far as headers tell."""
    problems = []
    files = (pair.folder / DISPLACEMENT_FILE, pair.inputs.fixed[0], pair.inputs.moving[0])
    for path in (Path(file) for file in files):
        if not path.is_file():
            problems.append(f"{path}: no such file; the export needs it")
    if problems:
        return problems
    try:
        grid, dimension = read_grid(Path(pair.inputs.fixed[0]))
    except AutoregError as error:
        return [str(error)]
    size = grid.shape[::-1]
    if dimension != 3:
        return [f"{pair.inputs.fixed[0]}: a 2-D image; the challenges' are 3-D"]
    if shape is not None and size != shape:
        return [f"{pair.inputs.fixed[0]}: {_times(size)} voxels, expected {_times(shape)}"]
    return []


def _require_free(output: Path, wanted: Wanted) -> None:
    """Refuse a folder with files that would not belong to the submission."""
    if not output.is_dir():
        return
    names = {_HIDDEN, *(pair.file for pair in wanted.pairs)}
    inside = (path.name for path in output.iterdir() if not path.name.startswith(PARTIAL))
    foreign = sorted(name for name in inside if name not in names)
    if foreign:
        raise UsageError(
            f"-o {output}: holds what is no part of this submission: {_some(foreign)}; choose "
            "another folder, or empty it"
        )


def _export(source: _Source, path: Path) -> None:
    inputs = source.prediction.inputs
    displacement = source.prediction.folder / DISPLACEMENT_FILE
    fixed, _ = read_grid(Path(inputs.fixed[0]))
    moving, _ = read_grid(Path(inputs.moving[0]))
    u_mm, geometry = read_displacement(displacement)
    require_grid(displacement, geometry, fixed, "the fixed image")
    if not np.isfinite(u_mm).all():
        raise DataError(f"{displacement}: the displacement has values that are NaN or infinite")
    write_learn2reg(path, index_displacement(u_mm, fixed, moving))


def _check_files(output: Path, sources: Sequence[_Source], wanted: Wanted) -> None:
    """Read every header back as the evaluators do."""
    for source in sources:
        path = output / source.wanted.file
        header = nibabel.load(path).header
        shape, number = tuple(header.get_data_shape()), header.get_data_dtype()
        expected = wanted.shape or shape[:3]
        if shape != (*expected, 3) or number != np.float32:
            raise GeometryError(
                f"{path}: {_times(shape)} of {number}, expected {_times((*expected, 3))} of float32"
            )


def _zip(archive: Path, files: Sequence[Path]) -> None:
    """A zip file without folders; the files are compressed already."""
    with (
        atomic_path(archive) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as target,
    ):
        for file in files:
            target.write(file, file.name)


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _times(sizes: Sequence[int]) -> str:
    return "x".join(str(n) for n in sizes)
