"""What the plan says of the optimisation of a displacement field, in records for every room."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from autoreg.plan_checks import negative, not_positive, refuse

FieldSimilarity = Literal["lncc", "squared_lncc", "mind"]
StageName = Literal["spline", "dense"]


@dataclass(frozen=True)
class SplinePlan:
    """Gauss-Newton on a velocity of cubic B-splines, coarse to fine.

    Attributes:
        control_mm: Distance of the control points, millimetres. Around objects smaller than 100 mm
            it shrinks in proportion, and `bending` with its square.
        control_vox: The same in the smallest edge of the fixed image's voxels; the larger of both
            counts.
        bending: Weight of half the integral of the velocity's squared Laplacian over the volume of
            the image, against an eighth of the integral of the squared local correlation; mm^2, at
            the finest resolution.
        coarser: Factors of that weight at resolutions 2, 4, 8, ... times coarser; the last one
            holds for all that are coarser still.
        iterations: Most steps at each resolution, from the finest to the coarsest; the last one
            holds for all that are coarser still. 0: left out.
        fine_from_mm: Where voxels are at least so large, at the two finest resolutions, the moving
            image is sampled twice as densely by cubic splines before it is interpolated linearly.
    """

    control_mm: float
    control_vox: float
    bending: float
    coarser: tuple[float, ...]
    iterations: tuple[int, ...]
    fine_from_mm: float

    def __post_init__(self) -> None:
        refuse(self._problems())

    def _problems(self) -> Iterator[str]:
        yield from not_positive(self, "spline", "control_mm", "control_vox", "bending", "coarser")
        yield from negative(self, "spline", "fine_from_mm")
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
    """

    similarity: FieldSimilarity
    spline: SplinePlan
    dense: DensePlan | None
    flat_tolerance: float

    def __post_init__(self) -> None:
        refuse(negative(self, "plan", "flat_tolerance"))
