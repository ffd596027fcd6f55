"""What is said of two registered images: in result.json, and to people."""

from pathlib import Path

from autoreg.inference.pair_checks import agreement_of
from autoreg.inference.pairwise import PairOptions, PairRegistration
from autoreg.io.result import AlignmentRecord, FieldOptimisationRecord, FieldRecord, Result
from autoreg.registration.align import Alignment
from autoreg.registration.align_settings import AlignmentKind


def alignment_record(
    found: Alignment | None, kind: AlignmentKind, seconds: float
) -> AlignmentRecord | None:
    """The initial alignment as it stands in result.json."""
    if found is None:
        return None
    return AlignmentRecord(
        kind,
        found.kept,
        found.similarity_before,
        found.similarity_after,
        found.overlap_before,
        found.overlap_after,
        found.starts,
        seconds,
    )


def field_optimisation_record(
    found: PairRegistration, options: PairOptions
) -> FieldOptimisationRecord:
    """The optimisation of the field as it stands in result.json."""
    similarity, refinement = found.plan.similarity, found.refinement
    return FieldOptimisationRecord(
        preset=options.preset if options.plan is None else None,
        similarity=similarity,
        similarity_reason=found.similarity_reason,
        correlation_aligned=agreement_of(found.aligned, similarity),
        correlation_registered=agreement_of(found.registered, similarity),
        steps=len(found.field.steps),
        refined=found.field.refined,
        seconds=found.field.seconds if refinement is None else refinement.seconds,
        network_mm=None if refinement is None else refinement.network_mm,
        refinement_mm=None if refinement is None else refinement.refinement_mm,
        cpu_seconds=found.field.cpu_seconds,
    )


def summary_text(result: Result, output: Path) -> str:
    """What was done, in a few lines for people."""
    lines = []
    alignment, optimisation, field = result.alignment, result.field_optimisation, result.field
    if result.model is not None:
        lines.append(f"network       {result.model.folder}")
    if alignment is not None:
        lines.append(f"alignment     {_alignment_text(alignment)}")
    if optimisation is not None:
        lines += _optimisation_lines(optimisation)
    stages = ", ".join(f"{name} {value:.1f}" for name, value in vars(result.stages).items())
    lines += [
        f"displacement  mean {field.mean_mm:.2f} mm, largest {field.maximum_mm:.2f} mm",
        f"folds         NDV {field.ndv_percent:.3g} %, Jacobian >= {field.jacobian_minimum:.3g}",
        f"inverse       {_inverse_text(field)}",
        f"seconds       {result.seconds:.1f} ({stages})",
        *(f"warning: {text}" for text in result.warnings),
        f"results       {output}",
    ]
    return "\n".join(lines)


def _optimisation_lines(found: FieldOptimisationRecord) -> list[str]:
    before, after = (
        "unknown" if value is None else f"{value:.3f}"
        for value in (found.correlation_aligned, found.correlation_registered)
    )
    stages = "spline and blocks" if found.refined else "spline"
    return [
        f"similarity    {found.similarity} ({found.similarity_reason})",
        f"optimisation  {stages}, {found.steps} steps: local correlation {before} -> {after}",
    ]


def _alignment_text(found: AlignmentRecord) -> str:
    starts = "one start" if found.starts == 1 else f"{found.starts} starts"
    how = f", {starts}" if found.starts else ""
    if found.kept == "headers":
        how = ", the headers' placement kept"
    return (
        f"{found.kind}{how}: correlation ratio {found.similarity_before:.3f} -> "
        f"{found.similarity_after:.3f}, overlap {found.overlap_before:.0%} -> "
        f"{found.overlap_after:.0%}"
    )


def _inverse_text(field: FieldRecord) -> str:
    mean, most = field.inverse_residual_mean_mm, field.inverse_residual_maximum_mm
    if mean is None or most is None:
        return "none found"
    return f"undoes the displacement to {mean:.2g} mm on average, {most:.2g} mm at most"
