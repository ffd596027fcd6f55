"""Random changes of training pairs, in millimetres.

The recipe is the paper's: one gate per image for rotation, translation and scaling together, one
draw per pair for a flip of both images, and a gamma change behind a gate of its own. It is written
for batchgenerators' workers, but draws nothing from their shared random state: every pair brings
its own key, so that what happens to it does not depend on the worker that gets it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from batchgenerators.transforms.abstract_transforms import AbstractTransform
from numpy.typing import NDArray

from autoreg.network_plan import Triple
from autoreg.numerics.coordinates import index_grid
from autoreg.numerics.warp import sample_at_index
from autoreg.plan import AugmentationPlan, GridPlan

ROLES = ("fixed", "moving")


@dataclass(frozen=True)
class AffineDraw:
    """A rotation, translation and scaling about the middle of the grid.

    Attributes:
        rotation_deg: About the grid's axes (d, h, w).
        translation_mm: Along the grid's axes.
        scaling: Factor of all distances.
    """

    rotation_deg: Triple
    translation_mm: Triple
    scaling: float


@dataclass(frozen=True)
class ImageDraw:
    """What is done to one image; None: nothing of that kind."""

    affine: AffineDraw | None
    gamma: float | None


@dataclass(frozen=True)
class PairDraw:
    """What is done to one pair."""

    flip: bool
    fixed: ImageDraw
    moving: ImageDraw


def draw_pair(generator: np.random.Generator, plan: AugmentationPlan) -> PairDraw:
    """Draw the changes of one pair.

    Args:
        generator: Of the pair alone.
        plan: Probabilities and ranges.

    Returns:
        The draw.
    """
    flip = bool(generator.random() < plan.flip_probability)
    return PairDraw(flip, _draw_image(generator, plan), _draw_image(generator, plan))


def _draw_image(generator: np.random.Generator, plan: AugmentationPlan) -> ImageDraw:
    # Everything is drawn, gates open or not: a changed probability then leaves the other draws be.
    gate, gamma_gate = generator.random(2)
    rotation = generator.uniform(-plan.rotation_deg, plan.rotation_deg, 3)
    translation = generator.uniform(-plan.translation_mm, plan.translation_mm, 3)
    scaling = generator.uniform(1 - plan.scaling, 1 + plan.scaling)
    gamma = generator.uniform(1 - plan.gamma, 1 + plan.gamma)
    affine = AffineDraw(_triple(rotation), _triple(translation), float(scaling))
    return ImageDraw(
        affine if gate < plan.affine_probability else None,
        float(gamma) if gamma_gate < plan.gamma_probability else None,
    )


def _triple(values: NDArray[np.float64]) -> Triple:
    first, second, third = (float(value) for value in values)
    return first, second, third


def index_affine(draw: AffineDraw, grid: GridPlan) -> NDArray[np.float64]:
    """The affine as a map of the grid's indices.

    Pull-back: `result(i) = image(A i)`. With S the node distances and c the middle node,
    `A i = c + S^-1 (scaling * R S (i - c) + translation)`, R = R_d R_h R_w, so that the motion is
    rigid in millimetres whatever the distances are.

    Args:
        draw: The affine, in millimetres.
        grid: Shape and node distances.

    Returns:
        4x4 float64 on homogeneous indices (d, h, w, 1).
    """
    centre = (np.array(grid.shape) - 1) / 2
    spacing = np.array(grid.spacing_mm)
    linear = draw.scaling * rotation_matrix(draw.rotation_deg) * spacing / spacing[:, None]
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = centre - linear @ centre + np.array(draw.translation_mm) / spacing
    return matrix


def rotation_matrix(angles_deg: Sequence[float]) -> NDArray[np.float64]:
    """The product R_0 R_1 R_2 of right-handed rotations about the axes 0, 1 and 2."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(angles_deg)):
        one = np.eye(3)
        a, b = (axis + 1) % 3, (axis + 2) % 3
        one[a, a] = one[b, b] = np.cos(angle)
        one[a, b], one[b, a] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ one
    return matrix


def apply_affine(
    array: NDArray[Any], matrix: NDArray[np.float64], mode: Literal["linear", "nearest"]
) -> NDArray[Any]:
    """Sample an array at affinely moved indices; beyond its rim the edge values are held.

    Args:
        array: (C, D, H, W).
        matrix: 4x4, takes indices of the result to indices of `array`.
        mode: "nearest" for label maps and masks.

    Returns:
        (C, D, H, W) of the same type.
    """
    shape = array.shape[1:]
    linear = torch.from_numpy(matrix[:3, :3].astype(np.float32))
    offset = torch.from_numpy(matrix[:3, 3].astype(np.float32))
    points = linear @ index_grid(shape).reshape(3, -1) + offset[:, None]
    volume = torch.from_numpy(np.ascontiguousarray(array))[None]
    moved = sample_at_index(volume, points.reshape(1, 3, *shape), "border", mode)
    result: NDArray[Any] = moved[0].numpy()
    return result


class PairAugmentation(AbstractTransform):  # type: ignore[misc]
    """Augments batches of pairs.

    Args:
        grid: The grid of the images.
        plan: What to draw.

    A batch is a dict with "fixed" and "moving" (B, C, D, H, W) in [0, 1], optionally label maps
    and masks under names like "fixed_mask", the number of the "epoch", and one key per pair
    under "keys": the integers that seed its generator. A batch of "fixed" alone is a cycle: its
    images are flipped together.
    """

    def __init__(self, grid: GridPlan, plan: AugmentationPlan) -> None:
        self.grid = grid
        self.plan = plan

    def __call__(self, **batch: Any) -> dict[str, Any]:  # noqa: ANN401 - batchgenerators' interface
        """Augment a batch, from `plan.from_epoch` on."""
        if batch["epoch"] < self.plan.from_epoch:
            return batch
        draws = [draw_pair(np.random.default_rng(key), self.plan) for key in batch["keys"]]
        if "moving" not in batch:
            draws = [replace(draw, flip=draws[0].flip) for draw in draws]
        changed = {
            name: np.stack([self._change(name, *one) for one in zip(array, draws, strict=True)])
            for name, array in batch.items()
            if name.split("_")[0] in ROLES
        }
        return {**batch, **changed}

    def _change(self, name: str, array: NDArray[Any], draw: PairDraw) -> NDArray[Any]:
        image = draw.fixed if name.startswith("fixed") else draw.moving
        is_intensity = name in ROLES
        if image.gamma is not None and is_intensity:
            # Below 0 a power is not defined; rounding of the resampling may lead there.
            array = np.clip(array, 0, None) ** np.float32(image.gamma)
        if image.affine is not None:
            matrix = index_affine(image.affine, self.grid)
            array = apply_affine(array, matrix, "linear" if is_intensity else "nearest")
        return np.flip(array, 1 + self.plan.flip_axis) if draw.flip else array
