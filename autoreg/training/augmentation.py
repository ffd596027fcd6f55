"""Random changes of training pairs, in millimetres.

The recipe is the paper's: one gate per image for rotation, translation and scaling together, one
draw per pair for a flip of both images, and a gamma change behind a gate of its own. Masks, label
maps and landmarks go along. Nothing is drawn from a shared random state: every pair brings its own
key, so that what happens to it does not depend on where it is augmented.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoreg.network_plan import Shape, Triple
from autoreg.numerics.coordinates import slabs, transformed_index_grid
from autoreg.numerics.warp import sample_at_index
from autoreg.plan import GridPlan
from autoreg.training.batches import LandmarkPair, PairBatch
from autoreg.training_plan import AugmentationPlan

# Points of a piece: a few megabytes, which stay in a processor's cache.
_SLAB_VOXELS = 2**18


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
    volume: Tensor, matrix: NDArray[np.float64], mode: Literal["linear", "nearest"]
) -> Tensor:
    """Sample a volume at affinely moved indices; beyond its rim the edge values are held.

    Args:
        volume: (C, D, H, W), on any device.
        matrix: 4x4, takes indices of the result to indices of `volume`.
        mode: "nearest" for label maps and masks.

    Returns:
        (C, D, H, W) of the same type.
    """
    shape, result = volume.shape[1:], torch.empty_like(volume)
    index = torch.from_numpy(matrix).to(volume.device)
    for layers in slabs(shape, _SLAB_VOXELS):
        points = transformed_index_grid(index, shape, layers)
        result[:, layers] = sample_at_index(volume[None], points, "border", mode)[0]
    return result


def move_points(
    points_vox: Tensor, matrix: NDArray[np.float64] | None, shape: Shape, flip_axis: int | None
) -> Tensor:
    """Where points of an image lie after `apply_affine` and a flip.

    result(i) = image(A i), so that a point p of the image is seen at A^-1 p; a flip takes the
    index i to n - 1 - i.

    Args:
        points_vox: (N, 3) indices (d, h, w).
        matrix: A, or None.
        shape: n, along (d, h, w).
        flip_axis: 0, 1 or 2, or None.

    Returns:
        (N, 3) of the same type.
    """
    points = points_vox.to(torch.float64)
    if matrix is not None:
        inverse = torch.from_numpy(np.linalg.inv(matrix)).to(points.device)
        points = points @ inverse[:3, :3].T + inverse[:3, 3]
    if flip_axis is not None:
        points = points.clone()
        points[:, flip_axis] = shape[flip_axis] - 1 - points[:, flip_axis]
    return points.to(points_vox.dtype)


class PairAugmentation:
    """Augments batches of pairs, where these lie: in a worker, or on the training's device.

    Args:
        grid: The grid of the images.
        plan: What to draw.

    What happens to a pair follows from its key (`PairBatch.keys`) alone. In a cycle each image is
    changed once, and all are flipped or none.
    """

    def __init__(self, grid: GridPlan, plan: AugmentationPlan) -> None:
        self.grid = grid
        self.plan = plan

    def __call__(self, batch: PairBatch) -> PairBatch:
        """Augment a batch, from `plan.from_epoch` on."""
        if batch.epoch < self.plan.from_epoch:
            return batch
        draws = [draw_pair(np.random.default_rng(key), self.plan) for key in batch.keys]
        fixed = [_Change.of(draw.fixed, draw.flip, self.grid) for draw in draws]
        if batch.is_cycle:
            fixed = [replace(one, flip=draws[0].flip) for one in fixed]
            moving = [*fixed[1:], fixed[0]]
        else:
            moving = [_Change.of(draw.moving, draw.flip, self.grid) for draw in draws]
        tensors = self._changed(batch, "fixed", fixed)
        if batch.is_cycle:
            tensors |= {n.replace("fixed", "moving"): t.roll(-1, 0) for n, t in tensors.items()}
        else:
            tensors |= self._changed(batch, "moving", moving)
        landmarks = tuple(
            None if one is None else self._landmarks(one, *changes)
            for one, *changes in zip(batch.landmarks, fixed, moving, strict=False)
        )
        return batch.with_tensors(tensors, landmarks)

    def _changed(
        self, batch: PairBatch, role: str, changes: "Sequence[_Change]"
    ) -> dict[str, Tensor]:
        found = {n: t for n, t in batch.tensors().items() if n.split("_")[0] == role}
        return {
            name: self._stacked(tensor, changes, name == role) for name, tensor in found.items()
        }

    def _stacked(self, tensor: Tensor, changes: "Sequence[_Change]", is_intensity: bool) -> Tensor:
        """All samples of a batch, each with its change; what does not change is not copied."""
        if not any(change.affects(is_intensity) for change in changes):
            return tensor
        result = torch.empty_like(tensor)
        for sample, values, change in zip(result, tensor, changes, strict=True):
            if change.gamma is not None and is_intensity:
                # Below 0 a power is not defined; rounding of the resampling may lead there.
                values = values.clamp(min=0).pow_(change.gamma)
            if change.matrix is not None:
                mode: Literal["linear", "nearest"] = "linear" if is_intensity else "nearest"
                values = apply_affine(values, change.matrix, mode)
            sample.copy_(values.flip(1 + self.plan.flip_axis) if change.flip else values)
        return result

    def _landmarks(self, pair: LandmarkPair, fixed: "_Change", moving: "_Change") -> LandmarkPair:
        def moved(points: Tensor, change: _Change) -> Tensor:
            axis = self.plan.flip_axis if change.flip else None
            return move_points(points, change.matrix, self.grid.shape, axis)

        return replace(
            pair,
            fixed_vox=moved(pair.fixed_vox, fixed),
            moving_vox=moved(pair.moving_vox, moving),
        )


@dataclass(frozen=True, eq=False)
class _Change:
    """What is done to one image, on its grid."""

    matrix: NDArray[np.float64] | None
    gamma: float | None
    flip: bool

    @classmethod
    def of(cls, draw: ImageDraw, flip: bool, grid: GridPlan) -> "_Change":
        matrix = None if draw.affine is None else index_affine(draw.affine, grid)
        return cls(matrix, draw.gamma, flip)

    def affects(self, is_intensity: bool) -> bool:
        return self.matrix is not None or self.flip or (is_intensity and self.gamma is not None)
