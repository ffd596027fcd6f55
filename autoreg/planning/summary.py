"""What the planning commands tell on the terminal: found, decided and why, where, what next."""

import shlex
import shutil
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from autoreg.fingerprint import Fingerprint
from autoreg.io.dataset import RawDataset
from autoreg.network_plan import GradICONPlan, NetworkPlan, SITRegPlan
from autoreg.plan import Plan
from autoreg.planning.preprocess import PreprocessReport

_VALUE_WIDTH = 30
_NAME_WIDTH = 22


def found_text(dataset: RawDataset, fingerprint: Fingerprint) -> str:
    """What is in a data set."""
    cases = fingerprint.cases
    extras = {
        "labels": sum(case.has_labels for case in cases),
        "masks": sum(case.has_mask for case in cases),
        "landmarks": sum(case.has_landmarks for case in cases),
    }
    have = ", ".join(f"{count} with {name}" for name, count in extras.items() if count)
    modalities = ", ".join(fingerprint.fixed_modalities)
    if fingerprint.moving_modalities != fingerprint.fixed_modalities:
        modalities = f"fixed {modalities}, moving {', '.join(fingerprint.moving_modalities)}"
    pairs = f"{fingerprint.training_pairs} ordered ({fingerprint.pairing})"
    rows = [
        ("cases", f"{len(cases)} for training" + (f" ({have})" if have else "")),
        ("pairs", f"{pairs}; {len(dataset.test_pairs)} to predict"),
        ("modality", modalities),
        ("shape (d, h, w)", _most_common(_by(case.shape, 0) for case in cases)),
        ("spacing, mm", _most_common(_by(case.spacing_mm, 2) for case in cases)),
        ("orientation", _most_common(case.orientation for case in cases)),
    ]
    if fingerprint.labels:
        rows.append(("structures", f"{len(fingerprint.labels)}"))
    if fingerprint.pairs:
        values = [pair.displacement_mm for pair in fingerprint.pairs]
        span = f"{min(values):.1f} to {max(values):.1f} mm"
        rows.append(("displacement", f"{span} (95 % of each of {len(values)} sampled pairs)"))
    body = "\n".join(f"  {name:<{_NAME_WIDTH}}{value}" for name, value in rows)
    return f"{dataset.name} ({dataset.folder})\n{body}"


def decided_text(plan: Plan) -> str:
    """What was decided, and why."""
    loss, training, optimisation = plan.loss, plan.training, plan.instance_optimisation
    parameters = ", ".join(f"{k} {v:g}" for k, v in loss.similarity_parameters.items())
    rows = [
        ("alignment", plan.alignment.kind, "alignment"),
        ("grid", _by(plan.grid.shape, 0), "grid.shape"),
        ("grid spacing, mm", _by(plan.grid.spacing_mm, 2), "grid.spacing_mm"),
        *(
            (f"intensity {name}", f"{scheme.kind} {scheme.lower:g} to {scheme.upper:g}",
             f"intensity.{name}")
            for name, scheme in plan.intensity.items()
        ),
        ("architecture", plan.network.architecture, "network.architecture"),
        *_network_rows(plan.network),
        ("similarity", loss.similarity, "loss.similarity"),
        ("its parameters", parameters or "-", "loss.similarity_parameters"),
        ("lambda", f"{loss.regularity_weight:g}", "loss.regularity_weight"),
        ("epochs", f"{training.epochs}", "training.epochs"),
        ("pairs per epoch", f"{training.pairs_per_epoch}", "training.pairs_per_epoch"),
        ("batch size", f"{training.batch_size}", "training.batch_size"),
        ("learning rate", f"{training.learning_rate:g}", "training.learning_rate"),
        ("its schedule", training.schedule, "training.schedule"),
        ("IO steps", f"{optimisation.steps}", "instance_optimisation.steps"),
        ("IO learning rate", f"{optimisation.learning_rate:g}",
         "instance_optimisation.learning_rate"),
        ("refinement", "-" if optimisation.refine is None else optimisation.refine.when,
         "instance_optimisation.refine"),
    ]  # fmt: skip
    lines = [f'Decided for configuration "{plan.configuration}", budget {plan.budget}:']
    for name, value, key in rows:
        lines += _row(name, value, plan.reasons.get(key, ""))
    memory = plan.memory
    lines += _row(
        "memory",
        f"{_gib(max(memory.training, memory.instance_optimisation, memory.prediction))} GiB",
        f"training {_gib(memory.training)}, IO {_gib(memory.instance_optimisation)}, prediction "
        f"{_gib(memory.prediction)} of {_gib(memory.limit)} GiB",
    )
    return "\n".join(lines)


def _network_rows(network: NetworkPlan) -> list[tuple[str, str, str]]:
    """Name, value and key of what the planner chose of a network."""
    if isinstance(network, GradICONPlan):
        factors = ", ".join(f"{f:g}" for f in network.level_factors)
        return [
            ("levels", factors, "network.level_factors"),
            ("width", f"{network.width:g}", "network.width"),
        ]
    if isinstance(network, SITRegPlan):
        heads = ", ".join("-" if n is None else f"{n}" for n in network.deformation_features)
        kept = "computed twice" if network.checkpointing else "kept"
        return [
            ("features", ", ".join(map(str, network.features)), "network.features"),
            ("of deformations", heads, "network.deformation_features"),
            ("finest activations", kept, "network.checkpointing"),
        ]
    return [
        ("variant", network.variant, "network.variant"),
        ("embedding", f"{network.embedding}", "network.embedding"),
        ("window", _by(network.window, 0), "network.window"),
    ]


def prepared_text(report: PreprocessReport) -> str:
    """What preprocessing did."""
    parts = [f"{len(report.prepared)} cases prepared", f"{len(report.kept)} up to date"]
    if report.removed:
        parts.append(f"{len(report.removed)} removed that the data set no longer has")
    return f"Preprocessed: {', '.join(parts)}, in {report.folder}"


def next_text(command: str, *arguments: str, flags: Sequence[tuple[str, Path | None]] = ()) -> str:
    """The command to type next, with the folders that were given by flag."""
    given = [part for flag, value in flags if value is not None for part in (flag, str(value))]
    return "Next:  " + shlex.join([command, *arguments, *given])


def _row(name: str, value: str, reason: str) -> list[str]:
    width = max(40, shutil.get_terminal_size((120, 24)).columns - _NAME_WIDTH - _VALUE_WIDTH - 3)
    lines = textwrap.wrap(reason, width) or [""]
    if len(value) >= _VALUE_WIDTH:
        lines.insert(0, "")
    first = f"  {name:<{_NAME_WIDTH}}{value:<{_VALUE_WIDTH}} {lines[0]}".rstrip()
    indent = " " * (_NAME_WIDTH + _VALUE_WIDTH + 3)
    return [first, *(indent + line for line in lines[1:])]


def _most_common(values: Iterable[str]) -> str:
    counts = Counter(values).most_common()
    others = len(counts) - 1
    return counts[0][0] + (f" and {others} others" if others else "")


def _by(values: Iterable[float], digits: int) -> str:
    return " x ".join(f"{round(value, digits):g}" for value in values)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f}"
