"""A trained model as one zip file, without what says where and on whom it was trained."""

import re
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from autoreg import __version__
from autoreg.errors import CheckpointError, DataError, UsageError
from autoreg.inference.model_archive import (
    ARCHIVE_FORMAT,
    MANIFEST_FILE,
    WEIGHTS,
    Manifest,
    described,
    fold_of,
)
from autoreg.io.atomic import PARTIAL, atomic_path, require_writable
from autoreg.io.records import load_record, save_record
from autoreg.plan import Plan
from autoreg.training.checkpoint import load_checkpoint, save_checkpoint
from autoreg.training.claim import DatasetRecord
from autoreg.training.model_folder import PLAN_FILE, WHICH, load_network, trained_folds
from autoreg.training.refinement_record import REFINEMENT_FILE, RefinementRecord

Exported = Literal["final", "best"]

_DATASET_FILE = "dataset.json"
_VALIDATION_FILE = "validation.json"
_COPIED = ("progress.json", "progress.png")
_STORED = (WEIGHTS, ".png")  # would not become smaller
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
# What a path cannot do without: a separator that touches a name. Fractions have spaces around
# theirs in the planner's reasons, which name nothing but pages of the documentation.
_SEPARATOR = re.compile(r"\\|/\S|\S/")
_PAGE = re.compile(r"(?<![\w./\\-])documentation/\w+\.md\b(?![/\\])")
LEFT_OUT = "left out by autoreg_export_model: a path may stand in it"


@dataclass(frozen=True)
class ExportRequest:
    """What to export.

    Attributes:
        model: Model folder.
        output: The zip file to write.
        folds: Names of folds; empty: all that are trained.
        checkpoint: Which weights; None: of each fold the final ones, else the best.
        with_cases: Whether to add the records that name the cases of the validation pairs.
        overwrite: Whether an existing file may be replaced.
    """

    model: Path
    output: Path
    folds: tuple[str, ...] = ()
    checkpoint: Exported | None = None
    with_cases: bool = False
    overwrite: bool = False


def export_model(request: ExportRequest) -> Manifest:
    """Write a model to a zip file, completely or not at all.

    Args:
        request: What to export.

    Returns:
        What was written.

    Raises:
        AutoregError: if the model is not complete or not what its plan says, or the file exists or
            cannot be written.
    """
    output = request.output
    _require_free(output, overwrite=request.overwrite)
    checkpoints = _chosen(request)
    require_writable(output.parent)
    with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=output.parent) as staging:
        folder = Path(staging)
        _stage_model(request.model, folder)
        for fold, checkpoint in checkpoints.items():
            _stage_fold(checkpoint, folder / f"fold_{fold}", with_cases=request.with_cases)
        manifest = _manifest(folder)
        save_record(manifest, folder / MANIFEST_FILE)
        with atomic_path(output) as temporary:
            _zip(folder, (MANIFEST_FILE, *manifest.files), temporary)
    return manifest


def _require_free(output: Path, *, overwrite: bool) -> None:
    if output.suffix.lower() != ".zip":
        raise UsageError(f"-o {output}: an archive is a zip file; give a name that ends in .zip")
    if output.is_dir():
        raise UsageError(f"-o {output}: is a folder; name a file")
    if output.exists() and not overwrite:
        raise UsageError(f"-o {output}: exists already; choose another name, or --overwrite")


def _chosen(request: ExportRequest) -> dict[str, Path]:
    """The checkpoint of each fold that is asked for, known to fit its plan."""
    model, wanted = request.model, request.checkpoint
    trained = trained_folds(model)
    folds = tuple(dict.fromkeys(request.folds or trained))
    if not folds:
        raise CheckpointError(f"{model}: no trained fold; expected fold_<k>/checkpoint_final.pt")
    checkpoints = {}
    for fold in folds:
        if fold not in trained:
            known = ", ".join(trained) or "none"
            raise CheckpointError(f"{model}: fold {fold} is not trained; these are: {known}")
        which = wanted or ("best" if trained_folds(model, "final").get(fold) is None else "final")
        path = trained_folds(model, which).get(fold)
        if path is None:
            raise CheckpointError(
                f"{model}: fold {fold} has no checkpoint_{which}.pt (has its training ended?); "
                f"choose the folds (--folds) or the weights (--checkpoint {' or '.join(WHICH[:2])})"
            )
        load_network(model, fold, which)  # what does not fit its plan is not for sharing
        checkpoints[fold] = path
    return checkpoints


def _stage_model(model: Path, folder: Path) -> None:
    """Records are read and written anew, so that nothing but their values is passed on."""
    if not (model / PLAN_FILE).is_file():
        raise CheckpointError(f"{model}: no {PLAN_FILE}; give a model folder")
    save_record(_impersonal(load_record(Plan, model / PLAN_FILE)), folder / PLAN_FILE)
    if (model / _DATASET_FILE).is_file():
        record = load_record(DatasetRecord, model / _DATASET_FILE, DataError)
        save_record(record, folder / _DATASET_FILE)


def _stage_fold(checkpoint: Path, folder: Path, *, with_cases: bool) -> None:
    content = load_checkpoint(checkpoint)
    weights = replace(content, plan=_impersonal(content.plan), resume=None)
    save_checkpoint(folder / checkpoint.name, weights)
    for name in (*_COPIED, *((_VALIDATION_FILE,) if with_cases else ())):
        if (checkpoint.parent / name).is_file():
            shutil.copyfile(checkpoint.parent / name, folder / name)
    refinement = checkpoint.parent / REFINEMENT_FILE
    if refinement.is_file():
        # Prediction obeys it; the pairs are there for people.
        record = load_record(RefinementRecord, refinement, DataError)
        weights_name = re.split(r"[\\/]", record.weights)[-1]  # it is the checkpoint's whole path
        pairs = record.pairs if with_cases else ()
        reason = without_paths(record.reason)
        anonymous = replace(record, weights=weights_name, pairs=pairs, reason=reason)
        save_record(anonymous, folder / REFINEMENT_FILE)


def _impersonal(plan: Plan) -> Plan:
    """The plan with reasons that name no folder; people write reasons, too."""
    return replace(plan, reasons={k: without_paths(v) for k, v in plan.reasons.items()})


def without_paths(text: str) -> str:
    """A text that names no folder: the given one, or `LEFT_OUT` where a path may stand in it.

    Where a path ends cannot be told, for folders have spaces in their names: so all goes.

    Example:
        >>> without_paths("field of view / shape")
        'field of view / shape'
        >>> without_paths("weights of /home/anna maria/best.pt")
        'left out by autoreg_export_model: a path may stand in it'
    """
    return LEFT_OUT if _SEPARATOR.search(_PAGE.sub("", text)) else text


def _manifest(folder: Path) -> Manifest:
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    plan = load_record(Plan, folder / PLAN_FILE)
    return Manifest(
        format=ARCHIVE_FORMAT,
        autoreg=__version__,
        dataset=plan.dataset,
        configuration=plan.configuration,
        folds=tuple(dict.fromkeys(fold for name in names if (fold := fold_of(name)) is not None)),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        files={name: described(folder / name) for name in names},
    )


def _zip(folder: Path, names: Sequence[str], target: Path) -> None:
    """Regular files alone; no times or owners of this machine."""
    with zipfile.ZipFile(target, "w") as archive:
        for name in names:
            entry = zipfile.ZipInfo(name, _ZIP_TIME)
            entry.external_attr = 0o100644 << 16
            stored = name.endswith(_STORED)
            entry.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
            entry.file_size = (folder / name).stat().st_size
            with (folder / name).open("rb") as source, archive.open(entry, "w") as sink:
                shutil.copyfileobj(source, sink)


def exported_text(manifest: Manifest, request: ExportRequest) -> str:
    """What an archive holds and what not, in lines for people."""
    size = request.output.stat().st_size / 1e6
    lines = [f"exported: {request.model} -> {request.output} ({size:.1f} MB)"]
    lines += [f"  {name}  {file.size} bytes" for name, file in manifest.files.items()]
    left = "training.log, the optimiser's state, reasons in which a path may stand"
    cases = "names of cases" + ("" if request.with_cases else " (--with-cases)")
    lines.append(f"left out: {left}" + ("" if request.with_cases else f", {cases}"))
    lines += [f"included on request: {cases}"] if request.with_cases else []
    names = f'"{manifest.dataset}", "{manifest.configuration}"'
    lines.append(
        f"it names the data set and the configuration ({names}), structures and modalities"
    )
    lines.append(f"install with: autoreg_install_model {request.output.name}")
    return "\n".join(lines)
