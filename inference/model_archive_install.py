"""A model archive as a model folder among the results, once all of it is known to be sound."""

import itertools
import shlex
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from autoreg import __version__
from autoreg.errors import AutoregError, DataError, UsageError
from autoreg.failures import FAILURES
from autoreg.inference.model_archive import Manifest
from autoreg.inference.model_archive_read import checked_manifest, extract, opened
from autoreg.inference.model_archive_weights import try_weights
from autoreg.io.atomic import PARTIAL, locked_folder, require_writable
from autoreg.io.names import folder_name_problem
from autoreg.io.records import load_json, load_record, save_record
from autoreg.plan import Plan
from autoreg.planning.plans_file import require_configuration_name
from autoreg.training.claim import DatasetRecord
from autoreg.training.model_folder import PLAN_FILE, trained_folds
from autoreg.training.refinement_record import REFINEMENT_FILE, RefinementRecord

_DATASET_FILE = "dataset.json"
# What reading a record or a checkpoint raises that somebody has made up.
_MALFORMED = (
    *FAILURES, LookupError, TypeError, AttributeError, EOFError, struct.error, zipfile.BadZipFile,
)  # fmt: skip


@dataclass(frozen=True)
class InstallRequest:
    """What to install.

    Attributes:
        archive: The zip file.
        results: Folder of trained models.
        dataset: Name of the data set to install it under; None: the archive's.
        configuration: Likewise of the configuration.
        overwrite: Whether an existing model may be replaced; it is kept inside the new one.
    """

    archive: Path
    results: Path
    dataset: str | None = None
    configuration: str | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class Installed:
    """What was installed.

    Attributes:
        model: The model folder.
        manifest: Of the archive.
        replaced: Where the earlier model is kept; None if there was none.
    """

    model: Path
    manifest: Manifest
    replaced: Path | None


def install_model(request: InstallRequest) -> Installed:
    """Unpack an archive beside its place, check it there, and move it into its place.

    Args:
        request: What to install.

    Returns:
        What was installed.

    Raises:
        AutoregError: if anything about the archive is not as it should be, or there is a model
            already that may not be replaced, or is being trained; then nothing has changed.
    """
    with opened(request.archive) as archive:
        manifest = checked_manifest(archive, request.archive)
        model = _destination(request, manifest)
        _require_free(model, overwrite=request.overwrite)
        _require_room(request.results, manifest, request.archive)
        with _parent(model.parent), locked_folder(model.parent), _staging(model.parent) as staging:
            # One level deeper than models lie, so that no command takes it for one.
            unpacked = staging / "model"
            unpacked.mkdir()
            with _folds_at_rest(model):  # known before the work, and again when it is done
                pass
            _unpack(archive, manifest, request.archive, unpacked)
            _rename(unpacked, manifest, model)
            with _folds_at_rest(model):
                replaced = _move(unpacked, model, overwrite=request.overwrite)
    return Installed(model, manifest, replaced)


def _destination(request: InstallRequest, manifest: Manifest) -> Path:
    dataset = manifest.dataset if request.dataset is None else request.dataset
    name = manifest.configuration if request.configuration is None else request.configuration
    if problem := folder_name_problem(dataset, "a data set"):
        raise UsageError(f'--dataset "{dataset}": {problem}')
    require_configuration_name(name)
    return request.results / dataset / name


def _require_free(model: Path, *, overwrite: bool) -> None:
    if (model.exists() or model.is_symlink()) and not overwrite:
        raise UsageError(
            f"{model}: exists already; choose another name with --config, or replace it with "
            "--overwrite (it is kept inside the new one)"
        )


@contextmanager
def _folds_at_rest(model: Path) -> Iterator[None]:
    """Keep trainings out of the folds of a model that is replaced, which hold the same locks.

    Raises:
        UsageError: if a fold is being trained.
    """
    with ExitStack() as locks:
        for fold in sorted(path for path in model.glob("fold_*") if path.is_dir()):
            try:
                locks.enter_context(locked_folder(fold, wait=False))
            except UsageError as error:
                raise UsageError(
                    f"{model}: cannot be replaced while a fold is being trained; wait, or choose "
                    f"another name with --config ({error})"
                ) from error
        yield


def _require_room(results: Path, manifest: Manifest, path: Path) -> None:
    needed = sum(file.size for file in manifest.files.values())
    folder = next(p for p in (results.absolute(), *results.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UsageError(
            f"{path}: needs {needed / 1e6:.1f} MB, and {free / 1e6:.1f} MB are free in {folder}; "
            "make room, or name another folder with --results"
        )


@contextmanager
def _parent(folder: Path) -> Iterator[None]:
    """The data set's folder; removed again, with those above, if it was made for nothing."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    require_writable(folder)
    try:
        yield
    except BaseException:
        for path in missing:
            if not any(path.iterdir()):
                path.rmdir()
        raise


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    staging = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=folder))
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _unpack(archive: zipfile.ZipFile, manifest: Manifest, path: Path, folder: Path) -> None:
    """Write the files and try them; messages name the archive and not the passing folder."""
    extract(archive, manifest, path, folder)
    try:
        _try_records(folder, manifest)
        for fold in manifest.folds:
            try_weights(folder, fold)
    except AutoregError as error:
        other = f" (written by autoreg {manifest.autoreg}, this is {__version__})"
        hint = "" if manifest.autoreg == __version__ else other
        raise DataError(f"{path}: {str(error).replace(f'{folder}/', '')}{hint}") from error
    except _MALFORMED as error:
        raise DataError(
            f"{path}: holds what is no model of autoreg ({type(error).__name__}: {error})"
        ) from error


def _try_records(folder: Path, manifest: Manifest) -> None:
    plan = load_record(Plan, folder / PLAN_FILE)
    if (plan.dataset, plan.configuration) != (manifest.dataset, manifest.configuration):
        raise DataError(
            f"{PLAN_FILE} is of {plan.dataset}, {plan.configuration}; the manifest says "
            f"{manifest.dataset}, {manifest.configuration}"
        )
    for path in sorted(folder.rglob("*.json")):
        if path.name == _DATASET_FILE:
            load_record(DatasetRecord, path, DataError)
        elif path.name == REFINEMENT_FILE:
            load_record(RefinementRecord, path, DataError)
        else:
            load_json(path, DataError)


def _rename(folder: Path, manifest: Manifest, model: Path) -> None:
    """Let the records say the names that the model is installed under."""
    dataset, configuration = model.parent.name, model.name
    if (dataset, configuration) == (manifest.dataset, manifest.configuration):
        return
    plan = load_record(Plan, folder / PLAN_FILE)
    renamed = replace(plan, dataset=dataset, configuration=configuration)
    save_record(renamed, folder / PLAN_FILE)
    path = folder / _DATASET_FILE
    if path.is_file():
        save_record(replace(load_record(DatasetRecord, path, DataError), name=dataset), path)


def _move(unpacked: Path, model: Path, *, overwrite: bool) -> Path | None:
    """One rename; before it, an earlier model moves into the new one, as `replaced_N`."""
    _require_free(model, overwrite=overwrite)  # another process may have been faster
    if not (model.exists() or model.is_symlink()):
        unpacked.rename(model)
        return None
    name = next(n for i in itertools.count(1) if not (model / (n := f"replaced_{i}")).exists())
    kept = unpacked / name
    model.rename(kept)
    try:
        unpacked.rename(model)
    except BaseException:
        kept.rename(model)
        raise
    return model / name


def installed_text(installed: Installed, results: Path | None) -> str:
    """What was installed and how to predict with it, in lines for people.

    Args:
        installed: From `install_model`.
        results: Value of `--results`, if it was given.
    """
    model, manifest = installed.model, installed.manifest
    weights = ", ".join(
        f"fold {fold} ({path.stem.removeprefix('checkpoint_')})"
        for fold, path in trained_folds(model).items()
    )
    lines = [f"installed: {model}: {weights}, by autoreg {manifest.autoreg}, {manifest.created}"]
    if installed.replaced is not None:
        lines.append(f"the earlier model is kept: {installed.replaced}")
    words = ["autoreg_predict", "-d", model.parent.name, "--config", model.name]
    words += ["--fold", manifest.folds[0]] if len(manifest.folds) > 1 else []
    words += [] if results is None else ["--results", str(results)]
    lines.append(f"predict with: {shlex.join(words)} -i IN -o OUT")
    return "\n".join(lines)
