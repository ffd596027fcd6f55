"""Published weights to a model folder, with a plan that does what the published code does."""

from collections.abc import Callable
from pathlib import Path

from autoreg.errors import UsageError, did_you_mean
from autoreg.inference.import_sitreg import import_sitreg
from autoreg.inference.import_transmorph import import_transmorph
from autoreg.inference.import_unigradicon import import_unigradicon
from autoreg.inference.imported import Imported, ImportOptions
from autoreg.io.records import save_record
from autoreg.training.checkpoint import Checkpoint, save_checkpoint
from autoreg.training.model_folder import PLAN_FILE, checkpoint_path

_IMPORTERS: dict[str, Callable[[Path, ImportOptions], Imported]] = {
    "unigradicon": import_unigradicon,
    "sitreg": import_sitreg,
    "transmorph": import_transmorph,
}
_USED = {
    "unigradicon": ("grid", "modality"),
    "sitreg": ("grid", "window", "settings"),
    "transmorph": ("grid", "window"),
}


def import_weights(origin: str, file: Path, model: Path, options: ImportOptions) -> Imported:
    """Make a model folder from published weights.

    Args:
        origin: Who published them: "unigradicon", "sitreg" or "transmorph".
        file: Written by torch.save; nothing in it is executed.
        model: Folder to write plan.json and fold_all/checkpoint_final.pt into.
        options: What the file cannot tell.

    Returns:
        What was written.

    Raises:
        CheckpointError: if the file holds no such weights, saying what differs.
        PlanError: if the authors' configuration is not one that can be followed.
        UsageError: if the model is there already, or an option would do nothing.
    """
    if origin not in _IMPORTERS:
        raise UsageError(f"--from {origin}: unknown; {did_you_mean(origin, _IMPORTERS)}")
    if (model / PLAN_FILE).exists() and not options.overwrite:
        raise UsageError(f"{model}: holds a model already; choose another folder or --overwrite")
    for name in ("grid", "modality", "window", "settings"):
        if getattr(options, name) is not None and name not in _USED[origin]:
            raise UsageError(f"--{name}: does nothing with --from {origin}; drop it")
    imported = _IMPORTERS[origin](file, options)
    plan = imported.plan
    save_checkpoint(
        checkpoint_path(model, "all", "final"),
        Checkpoint(plan, "all", levels=plan.network.levels, epoch=0, network=imported.state),
    )
    save_record(plan, model / PLAN_FILE)
    return imported


def import_text(imported: Imported, file: Path, model: Path) -> str:
    """What was imported, in sentences for people."""
    values = sum(t.numel() for t in imported.state.values() if t.is_floating_point())
    lines = [f"{file}: {imported.description}, {values:,} values -> {model}"]
    lines += [f"note: {note}" for note in imported.notes]
    return "\n".join([*lines, f"predict with: autoreg_predict -m {model} -i IN -o OUT"])
