"""Planning rules for the grid: shape, spacing and the levels of the cascade.

Axes of the grid are (d, h, w) = world (z, y, x) = (S, P, L) unless images are stretched.
"""

import math
from collections.abc import Callable
from typing import cast

import numpy as np
from numpy.typing import NDArray

from autoreg.errors import PlanError
from autoreg.network_plan import Shape, Triple
from autoreg.planning.choice import Choice
from autoreg.planning.recipes import PUBLISHED_NODES, GridWishes
from autoreg.planning.rules_view import FieldOfView

# The published cube is at most so much finer than the images.
LARGEST_UPSAMPLING = 1.25
# The published cube is taken while its axes differ in spacing by no more than this.
LARGEST_ANISOTROPY = 2.0
SMALLEST_SIZE = 8
SMALLEST_VOXELS = 16**3
# Below this ratio of grid to image spacing, sampling without a blur loses little.
ANTIALIAS_RATIO = 1.5

# What one level captures, in voxels of its own resolution: the published cascade's 1/4 level then
# reaches 16 voxels of the full grid.
LEVEL_REACH_VOX = 4.0
# Unseen pairs may move further than the sampled ones.
DISPLACEMENT_SAFETY = 1.5
COARSEST_SIZE = 8


def choose_shape(
    view: FieldOfView, wishes: GridWishes, needed_bytes: Callable[[Shape], int], limit_bytes: int
) -> Choice[Shape]:
    """Rule `grid_shape`: 175^3 as published where it fits, else equal spacing within the limits.

    The cube, which only GradICON wants, is taken if no axis would be sampled more than 1.25 times
    finer than the images are, and its spacings differ by no more than 2. Otherwise the grid is the
    largest of equal spacing, but nowhere finer than the images: thick slices stay thick, small
    images small. A network that pads to coarse multiples gets a grid of such sizes instead, the
    nearest ones.

    Args:
        view: What to cover.
        wishes: Of the architecture and the time budget.
        needed_bytes: Estimated peak memory at a shape.
        limit_bytes: What it must not exceed.

    Raises:
        PlanError: if even the smallest grid does not fit.
    """
    extent, native = np.array(view.extent_mm), np.array(view.spacing_mm)
    covered = " x ".join(f"{value:.0f}" for value in view.extent_mm)
    limit = f"memory limit {limit_bytes / 2**30:.1f} GiB"
    if wishes.cube and _suits_cube(extent, native):
        cube: Shape = (PUBLISHED_NODES, PUBLISHED_NODES, PUBLISHED_NODES)
        if needed_bytes(cube) <= limit_bytes:
            return Choice(
                cube,
                f"rule grid_shape: the published 175^3 over {covered} mm: spacings differ by less "
                f"than a factor {LARGEST_ANISOTROPY:g}, no axis is {LARGEST_UPSAMPLING:g} times "
                f"finer than the images; {limit}",
            )
    shape = _largest_shape(extent, native, wishes, needed_bytes, limit_bytes)
    sizes = f"sizes are multiples of {wishes.multiple}, "
    return Choice(
        shape,
        f"rule grid_shape: {covered} mm with equal spacing on all axes but nowhere finer than the "
        f"images ({_numbers(native)} mm), {sizes}at most {wishes.most_voxels:.3g} voxels; {limit}",
    )


def _largest_shape(
    extent: NDArray[np.float64],
    native: NDArray[np.float64],
    wishes: GridWishes,
    needed_bytes: Callable[[Shape], int],
    limit_bytes: int,
) -> Shape:
    """The finest shape within the limits, from above."""
    voxels = float(wishes.most_voxels)
    while True:
        shape = _even_shape(extent, native, voxels, wishes.multiple)
        count = math.prod(shape)
        excess = count / wishes.most_voxels
        if excess <= 1:
            needed = needed_bytes(shape)
            excess = needed / limit_bytes
            if excess <= 1:
                return shape
        # Memory is affine in the voxels, so this comes down on the limit from above.
        voxels = 0.95 * min(voxels, count) / excess
        if voxels < SMALLEST_VOXELS:
            raise _too_little_memory(shape, needed_bytes(shape), limit_bytes)


def _too_little_memory(shape: Shape, needed: int, limit_bytes: int) -> PlanError:
    return PlanError(
        f"a grid of {'x'.join(map(str, shape))} needs {needed / 2**30:.1f} GiB (memory limit "
        f"{limit_bytes / 2**30:.1f} GiB) and smaller ones make no sense; use a machine with more "
        "memory, or a larger --budget if this is not the machine that will compute"
    )


def _suits_cube(extent: NDArray[np.float64], native: NDArray[np.float64]) -> bool:
    spacing = extent / PUBLISHED_NODES
    fine = (spacing * LARGEST_UPSAMPLING < native).any()
    return not fine and bool(spacing.max() <= LARGEST_ANISOTROPY * spacing.min())


def grid_spacing(view: FieldOfView, shape: Shape) -> Choice[Triple]:
    """Rule `grid_spacing`: the field of view divided by the shape."""
    spacing = _triple(np.round(np.array(view.extent_mm) / np.array(shape), 4))
    return Choice(spacing, "rule grid_spacing: field of view / shape")


def choose_antialias(view: FieldOfView, spacing_mm: Triple) -> Choice[bool]:
    """Rule `antialias`: blur before sampling where the grid is 1.5 times coarser than the images.

    The published code never blurs; at its 175^3 there is little to lose.
    """
    ratio = float((np.array(spacing_mm) / np.array(view.spacing_mm)).max())
    return Choice(
        ratio >= ANTIALIAS_RATIO,
        f"rule antialias: grid {ratio:.2f} times as coarse as the images, blurred from "
        f"{ANTIALIAS_RATIO:g} on",
    )


def choose_levels(
    shape: Shape, spacing_mm: Triple, displacement: float
) -> Choice[tuple[float, ...]]:
    """Rule `level_factors`: two levels at full resolution and as many halvings as needed.

    The coarsest level's factor 1/2^k is the largest with 4 * 2^k voxels >= 1.5 times the
    displacement; at least k = 1, and k = 2 at 175^3, which is the published cascade. No level is
    made on which two axes would have fewer than 8 voxels.

    Args:
        shape: Of the grid.
        spacing_mm: Of the grid.
        displacement: To be captured, see `displacement_mm`.
    """
    needed_vox = DISPLACEMENT_SAFETY * displacement / min(spacing_mm)
    wanted = max(0, math.ceil(math.log2(max(needed_vox, 1.0) / LEVEL_REACH_VOX)))
    least = 2 if shape == (PUBLISHED_NODES,) * 3 else 1
    most = int(math.log2(max(1.0, sorted(shape)[1] / COARSEST_SIZE)))
    halvings = max(0, min(max(wanted, least), most))
    levels = (*(2.0**-k for k in range(halvings, 0, -1)), 1.0, 1.0)
    return Choice(
        levels,
        f"rule level_factors: displacement {displacement:.1f} mm x {DISPLACEMENT_SAFETY:g} = "
        f"{needed_vox:.1f} voxels, each level reaches {LEVEL_REACH_VOX:g} of its own"
        + ("; as published at 175^3" if levels == (0.25, 0.5, 1.0, 1.0) and least == 2 else ""),
    )


def _even_shape(
    extent: NDArray[np.float64], finest: NDArray[np.float64], voxels: float, multiple: int
) -> Shape:
    """The shape of equal spacing, bounded below per axis, with about `voxels` voxels."""
    low, high = 1e-3, float(extent.max())
    for _ in range(60):
        middle = math.sqrt(low * high)
        count = float(np.prod(extent / np.maximum(middle, finest)))
        low, high = (middle, high) if count > voxels else (low, middle)
    return cast(Shape, tuple(_size(n, multiple) for n in extent / np.maximum(high, finest)))


def _size(nodes: float, multiple: int) -> int:
    """The nearest multiple if multiples are coarse, otherwise the next lower one."""
    share = 0.5 if multiple > SMALLEST_SIZE else 1e-6
    return max(SMALLEST_SIZE, multiple, multiple * int(nodes / multiple + share))


def _numbers(values: NDArray[np.float64]) -> str:
    return " x ".join(f"{value:.3g}" for value in values)


def _triple(values: NDArray[np.float64]) -> Triple:
    a, b, c = (float(value) for value in values)
    return a, b, c
