"""Which trained model a prediction uses: a folder, a data set's, or the only one there is."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoreg.errors import UsageError, did_you_mean
from autoreg.io.names import closest_name, matching_names


@dataclass(frozen=True)
class ModelRequest:
    """What the user said about the model; None where nothing was said.

    Attributes:
        folder: A model folder (plan.json with fold_*/checkpoint_*.pt).
        dataset: Id or name of a data set.
        configuration: Configuration of the data set's model.
    """

    folder: Path | None = None
    dataset: str | None = None
    configuration: str | None = None


def trained_models(results: Path) -> tuple[Path, ...]:
    """The model folders `<results>/<Dataset>/<configuration>` that hold a checkpoint."""
    return tuple(
        sorted(
            plan.parent
            for plan in results.glob("*/*/plan.json")
            if any(plan.parent.glob("fold_*/checkpoint_*.pt"))
        )
    )


def choose_model(request: ModelRequest, results: Path) -> Path:
    """Decide the model folder.

    Args:
        request: What the user said.
        results: Folder of trained models.

    Returns:
        The model folder.

    Raises:
        UsageError: if the choice is contradictory, empty or open; lists what there is.
    """
    if request.folder is not None:
        return _named_folder(request)
    models = trained_models(results)
    if not models:
        raise UsageError(
            f"{results}: no trained model; train one with autoreg_train, import one with "
            "autoreg_import_weights, or name its folder with -m"
        )
    if request.dataset is not None:
        models = _of_dataset(models, request.dataset)
    if request.configuration is not None:
        models = _of_configuration(models, request.configuration)
    if len(models) > 1:
        choices = "\n".join(f"  -d {m.parent.name} --config {m.name}" for m in models)
        raise UsageError(f"{len(models)} trained models fit; choose one of:\n{choices}")
    return models[0]


def models_of_dataset(results: Path, dataset: str) -> tuple[Path, ...]:
    """The trained model folders of one data set.

    Args:
        results: Folder of trained models.
        dataset: Its whole name, its name or its number.

    Raises:
        UsageError: if there is none, or the number fits several data sets.
    """
    found = _of_dataset(trained_models(results), dataset)
    names = sorted({model.parent.name for model in found})
    if len(names) > 1:
        raise UsageError(f"{dataset}: {len(names)} data sets fit; choose of {', '.join(names)}")
    return found


def _named_folder(request: ModelRequest) -> Path:
    if request.dataset is not None or request.configuration is not None:
        raise UsageError("-m names the model; drop -d and --config, which search among the results")
    folder = request.folder
    if folder is None or not (folder / "plan.json").is_file():
        inner = sorted(str(p.parent) for p in folder.glob("*/plan.json")) if folder else []
        remedy = f"did you mean {' or '.join(inner)}?" if inner else "give a model folder"
        raise UsageError(
            f"{folder}: no plan.json; expected plan.json and fold_*/checkpoint_*.pt; {remedy}"
        )
    return folder


def _of_dataset(models: Sequence[Path], dataset: str) -> tuple[Path, ...]:
    """By full name, by the name after "Dataset001_", or by number (1 and 001 are the same)."""
    names = {model.parent.name for model in models}
    meant = matching_names(names, dataset)
    found = tuple(model for model in models if model.parent.name in meant)
    if not found:
        meant_name = closest_name(names, dataset) or dataset
        raise UsageError(f"-d {dataset}: no trained model; {did_you_mean(meant_name, names)}")
    return found


def _of_configuration(models: Sequence[Path], configuration: str) -> tuple[Path, ...]:
    found = tuple(model for model in models if model.name == configuration)
    if not found:
        names = {model.name for model in models}
        raise UsageError(
            f"--config {configuration}: not trained; {did_you_mean(configuration, names)}"
        )
    return found
