"""What the plan says of the optimisation of a displacement field, in records for every room."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from autoreg.plan_checks import negative, not_positive, refuse

FieldSimilarity = Literal["lncc", "squared_lncc", "mind"]
StageName = Literal["spline", "dense", "exchanged"]
RefineWhen = Literal["where_it_helps", "always"]


@dataclass(frozen=True)
class SplinePlan:
    """Gauss-Newton on a velocity of cubic B-splines, coarse to fine.

    Attributes:
        control_mm: Distance of the control points, millimetres. Around objects smaller than 100 mm
            it and `detail_mm` shrink in proportion, and `bending` with the square.
        control_vox: The same in the smallest edge of the fixed image's voxels; the larger of both
            counts.
        bending: Weight of half the integral of the velocity's squared Laplacian over the volume of
            the image, against an eighth of the integral of the squared local correlation; mm^2, at
            the finest resolution.
        detail_mm: Length by which detail counts more than curvature: the square of this length
            times the gradient of the Laplacian, squared, is added to the bending energy.
        coarser: Factors of that weight at resolutions 2, 4, 8, ... times coarser; the last one
            holds for all that are coarser still.
        iterations: Most steps at each resolution, from the finest to the coarsest; the last one
            holds for all that are coarser still. 0: left out.
        inner_iterations: Conjugate-gradient iterations that solve for each step.
        fine_from_mm: Where voxels are at least so large, at the two finest resolutions, the moving
            image is sampled twice as densely by cubic splines before it is interpolated linearly.
    """

    control_mm: float
    control_vox: float
    bending: float
    detail_mm: float
    coarser: tuple[float, ...]
    iterations: tuple[int, ...]
    inner_iterations: int
    fine_from_mm: float

    def __post_init__(self) -> None:
        refuse(self._problems())

    def _problems(self) -> Iterator[str]:
        yield from not_positive(
            self, "spline", "control_mm", "control_vox", "bending", "coarser", "inner_iterations"
        )
        yield from negative(self, "spline", "fine_from_mm", "detail_mm")
        if not self.coarser:
            yield "spline.coarser needs a factor"
        if not self.iterations or min(self.iterations) < 0 or max(self.iterations) == 0:
            yield f"spline.iterations needs a positive number of steps, found {self.iterations}"


@dataclass(frozen=True)
class DensePlan:
    """Refinement block by block, after the spline.

    Attributes:
        iterations: Most steps at each resolution, from the finest to the coarsest; all 0: no
            refinement.
        neighbourhood: Standard deviation of the Gaussian over which the blocks (two voxels long)
            around a block count in its step, blocks.
        damping: How much of the typical curvature is added to a block's own one; large: where the
            images show little, little moves.
        from_residual: The refinement happens where the correlation that the spline left undone, as
            far as noise does not explain it, is at least this (mean over the foreground).
    """

    iterations: tuple[int, ...]
    neighbourhood: float
    damping: float
    from_residual: float

    def __post_init__(self) -> None:
        refuse(self._problems())

    def _problems(self) -> Iterator[str]:
        yield from not_positive(self, "dense", "neighbourhood", "damping")
        yield from negative(self, "dense", "from_residual")
        if not self.iterations or min(self.iterations) < 0:
            yield f"dense.iterations needs whole numbers of steps, found {self.iterations}"


@dataclass(frozen=True)
class FieldPlan:
    """How a displacement field is optimised on a pair.

    Attributes:
        similarity: "lncc": local correlation, for images of one contrast; "squared_lncc": its
            square, for other contrasts; "mind": squared differences of MIND-SSC descriptors, for
            other modalities.
        spline: The first stage.
        dense: The second stage; None: there is none. With "mind" it is left out.
        flat_tolerance: A resolution is finished when two steps brought less than this share of
            what all its steps brought.
        both_directions: Where there is no second stage, register with exchanged images as well,
            and take the mean: twice the time.
    """

    similarity: FieldSimilarity
    spline: SplinePlan
    dense: DensePlan | None
    flat_tolerance: float
    both_directions: bool = False

    def __post_init__(self) -> None:
        refuse(negative(self, "plan", "flat_tolerance"))


@dataclass(frozen=True)
class RefinementPlan:
    """Optimisation of a displacement field from where a network left two images.

    Attributes:
        when: "always", or "where_it_helps": where training found on its validation pairs that it
            helps (`training.refinement`).
        field: How, at the fixed image's own resolution.
    """

    when: RefineWhen
    field: FieldPlan


def similarity_of(fixed: Sequence[str], moving: Sequence[str]) -> FieldSimilarity:
    """The similarity for images of these modalities, channel by channel."""
    return "lncc" if tuple(fixed) == tuple(moving) else "mind"


def suited(field: FieldPlan, fixed: Sequence[str], moving: Sequence[str]) -> FieldPlan:
    """A plan that never compares images of different modalities by their correlation.

    Args:
        field: The plan.
        fixed: Modalities of the fixed image's channels; likewise the other.
        moving: See `fixed`.
    """
    similarity = similarity_of(fixed, moving)
    if field.similarity == "lncc" and similarity != "lncc":
        return replace(field, similarity=similarity)
    return field
