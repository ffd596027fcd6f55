"""How well two images explain each other under an affine map, and in which direction it improves.

The correlation ratio: the share of one image's variance that the intensity classes of the other
one explain. No relation of the intensities is assumed, so that inverted contrast and other
modalities work, and it is a sum of squares, hence made for Gauss-Newton: the residuals of the best
function of the classes are differences from class means (variable projection).

It is taken in both directions, each over the foreground of the explaining image. Neither image can
then be shrunk into a flat part of the other one. Of images with several channels it is the mean
over the channels, each of which explains its counterpart.

References:
    Roche, Malandain, Pennec, Ayache, The correlation ratio as a new similarity measure for
    multimodal image registration, MICCAI 1998.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoreg.geometry.grid import FloatArray, apply_affine
from autoreg.numerics.warp import sample_at_index
from autoreg.registration.align_levels import Level, mean_centre

# A direction in which fewer samples than this share find the other image says nothing.
LEAST_SHARE = 0.15
# Relative to the explained image's own variance: noise that no alignment can explain.
_FLOOR = 1e-3


@dataclass(frozen=True, eq=False)
class PairLevel:
    """The two images at one resolution.

    Attributes:
        channels: The fixed and the moving image, for each channel.
        centre_mm: (3,) world point about which the fixed image is turned and scaled.
        radius_mm: Size of the fixed foreground; lengths divided by it make angles and shifts alike.
        generators: (P, 12) the directions of an affine map that are free: rows of the 3x4 matrix
            of a small change, in coordinates (x - centre) / radius.
    """

    channels: tuple[tuple[Level, Level], ...]
    centre_mm: FloatArray
    radius_mm: float
    generators: FloatArray

    @property
    def spacing_mm(self) -> float:
        """Smallest voxel spacing of the fixed image."""
        return min(self.channels[0][0].geometry.spacing_mm)

    @property
    def centres_mm(self) -> tuple[FloatArray, FloatArray]:
        """Centres of the fixed and of the moving foreground, world points."""
        fixed, moving = zip(*self.channels, strict=True)
        return mean_centre(fixed), mean_centre(moving)


@dataclass(frozen=True)
class Similarity:
    """How well two images explain each other.

    Attributes:
        information: Mean over channels and both directions of -share/2 log(1 - correlation ratio),
            nats for each sample. This is what is maximised: with the share a good match of much
            beats a perfect match of little.
        ratio: Mean correlation ratio, 0 to 1.
        share: Smallest share, of channels and directions, of the samples that lie in the other
            image's field of view (and mask).
    """

    information: float
    ratio: float
    share: float


@dataclass(frozen=True, eq=False)
class Slope:
    """The similarity with what Gauss-Newton needs.

    Attributes:
        similarity: At the map in question.
        shares: (2C,) the share of either direction of each channel.
        logs: (2C,) -1/2 log(1 - correlation ratio) there, nats.
        gradient: (P,) of minus the information with the shares held, by the generators.
        hessian: (P, P) its Gauss-Newton approximation.
    """

    similarity: Similarity
    shares: FloatArray
    logs: FloatArray
    gradient: FloatArray
    hessian: FloatArray


def similarities(pair: PairLevel, matrices: FloatArray) -> FloatArray:
    """The information and share of many maps at once.

    Args:
        pair: The images.
        matrices: (B, 4, 4), points of the fixed image -> points of the moving image.

    Returns:
        (B, 3): information, ratio and share.
    """
    back_matrices = _inverse(matrices)
    found = np.stack(
        [
            ratios
            for fixed, moving in pair.channels
            for ratios in (_ratios(fixed, moving, matrices), _ratios(moving, fixed, back_matrices))
        ]
    )
    return np.stack([found[:, 0].mean(0), found[:, 1].mean(0), found[:, 2].min(0)], axis=1)


def similarity(pair: PairLevel, matrix: FloatArray) -> Similarity:
    """The similarity under one map, 4x4."""
    information, ratio, share = similarities(pair, matrix[None])[0]
    return Similarity(float(information), float(ratio), float(share))


def slope(pair: PairLevel, matrix: FloatArray) -> Slope:
    """The similarity under one map with gradient and Gauss-Newton matrix.

    The change D, 3x4 in normalised coordinates, follows as matrix @ exp(D): it moves the points of
    the fixed image, before the map.
    """
    inverse, parts = _inverse(matrix), []
    for fixed, moving in pair.channels:
        parts.append(_direction(pair, fixed, moving, matrix, matrix[:3, :3], None))
        parts.append(_direction(pair, moving, fixed, inverse, -np.eye(3), inverse))
    found, gradients, hessians = zip(*parts, strict=True)
    return Slope(
        Similarity(
            float(np.mean([one.information for one in found])),
            float(np.mean([one.ratio for one in found])),
            min(one.share for one in found),
        ),
        np.array([one.share for one in found]),
        np.array([one.information / max(one.share, 1e-9) for one in found]),
        np.mean(gradients, axis=0),
        np.mean(hessians, axis=0),
    )


def _inverse(matrices: FloatArray) -> FloatArray:
    return np.asarray(np.linalg.inv(matrices), dtype=np.float64)


def _ratios(explaining: Level, explained: Level, matrices: FloatArray) -> FloatArray:
    """(3, B): information, ratio, share of one direction."""
    to_index = explained.geometry.world_to_index @ matrices
    sampled, inside = _sample(explained, explaining.points_mm, to_index, channels=1)
    weights = inside.double()
    values = sampled[0].double() * weights  # (B, N)
    edges = _starts(explaining.classes)
    counts, sums = _class_sums(weights, edges), _class_sums(values, edges)
    squares = (values * values).sum(1).numpy()
    return _gains(
        counts.sum(1),
        squares - sums.sum(1) ** 2 / np.maximum(counts.sum(1), 1),
        squares - (sums**2 / np.maximum(counts, 1)).sum(1),
        len(explaining.values),
        (counts > 0).sum(1),
        float(explained.values.var()),
    )


def _gains(
    counted: FloatArray,
    total: FloatArray,
    rest: FloatArray,
    samples: int,
    classes: NDArray[np.int64],
    variance: float,
) -> FloatArray:
    """Information, ratio and share from sums of squares."""
    share = counted / samples
    floor = _FLOOR * variance * counted + 1e-30
    freedom = np.maximum(counted - classes, 1) / np.maximum(counted - 1, 1)
    unexplained = np.clip((rest + floor) / ((total + floor) * freedom), 1e-6, 1.0)
    usable = (share >= LEAST_SHARE) & (counted > 4 * classes)
    information = np.where(usable, -0.5 * share * np.log(unexplained), 0.0)
    return np.stack([information, np.where(usable, 1 - unexplained, 0.0), share])


def _starts(classes: NDArray[np.int64]) -> list[int]:
    return [*np.searchsorted(classes, np.arange(classes[-1] + 1)), len(classes)]


def _class_sums(rows: Tensor, edges: list[int]) -> FloatArray:
    """(B, K) sums of (B, N) over the classes, which follow each other."""
    return np.add.reduceat(rows.numpy(), edges[:-1], axis=1)


def _sample(
    level: Level, points_mm: FloatArray, to_index: FloatArray, channels: int
) -> tuple[Tensor, Tensor]:
    """Channels (C, B, N) of an image at mapped points, and whether (B, N) they lie inside."""
    middle = points_mm.mean(axis=0)
    offsets = to_index[:, :3, :3] @ middle + to_index[:, :3, 3]
    relative = torch.from_numpy((points_mm - middle).T.astype(np.float32))  # (3, N)
    index = torch.from_numpy(to_index[:, :3, :3].astype(np.float32)) @ relative
    index += torch.from_numpy(offsets.astype(np.float32))[:, :, None]  # (B, 3, N)
    last = torch.from_numpy(level.last_vox.astype(np.float32))[None, :, None]
    inside = ((index >= -0.5) & (index <= last)).all(dim=1)
    if level.geometry.shape[0] == 1:
        inside = ((index >= -0.5) & (index <= last))[:, 1:].all(dim=1)
    grid = index.permute(1, 0, 2)[None, :, None]  # (1, 3, 1, B, N)
    if level.mask is not None:
        where = level.mask.float()[None, None]
        inside &= sample_at_index(where, grid, "zeros")[0, 0, 0] > 0.5
    return sample_at_index(level.sampled[:, :channels], grid, "border")[0, :, 0], inside


def _direction(
    pair: PairLevel,
    explaining: Level,
    explained: Level,
    matrix: FloatArray,
    slope_map: FloatArray,
    to_fixed: FloatArray | None,
) -> tuple[Similarity, FloatArray, FloatArray]:
    """Similarity, gradient and Gauss-Newton matrix of one direction.

    Args:
        pair: For centre, radius and generators.
        explaining: Its samples are visited.
        explained: Is sampled at the mapped points.
        matrix: Takes the samples' points to the explained image.
        slope_map: 3x3; a small displacement v of the fixed image's point displaces the sampled
            one by slope_map @ v.
        to_fixed: Takes the samples' points to the fixed image; None: they lie there.
    """
    to_index = (explained.geometry.world_to_index @ matrix)[None]
    sampled, inside = _sample(explained, explaining.points_mm, to_index, channels=4)
    kept = inside[0].numpy()
    points = explaining.points_mm[kept]
    if to_fixed is not None:
        points = apply_affine(to_fixed, points)
    rows = _rows(pair, points, slope_map, sampled[:, 0].double()[:, inside[0]])
    classes = explaining.classes[kept]
    rest, total, present = _products(rows, classes)
    gains = _gains(
        np.array([float(len(classes))]),
        np.array([total[-1, -1]]),
        np.array([rest[-1, -1]]),
        len(explaining.values),
        np.array([present]),
        float(explained.values.var()),
    )[:, 0]
    found = Similarity(float(gains[0]), float(gains[1]), float(gains[2]))
    # No gradient where the information is held at 0.
    weight = found.share if found.share >= LEAST_SHARE else 0.0
    floor = _FLOOR * float(explained.values.var()) * len(classes) + 1e-30
    rest_square, total_square = rest[-1, -1] + floor, total[-1, -1] + floor
    gradient = weight * (rest[:-1, -1] / rest_square - total[:-1, -1] / total_square)
    return found, gradient, weight * rest[:-1, :-1] / rest_square


def _products(rows: Tensor, classes: NDArray[np.int64]) -> tuple[FloatArray, FloatArray, int]:
    """Products of all pairs of rows (R, N) about their class means, and about their means.

    Returns:
        (R, R) within classes, (R, R) in total, and the number of classes present.
    """
    counts = np.bincount(classes)
    counts = counts[counts > 0]
    gram = (rows @ rows.T).numpy()
    sums = np.zeros((len(rows), 0))
    if len(counts):
        sums = np.add.reduceat(rows.numpy(), np.cumsum([0, *counts[:-1]]), axis=1)
    mean = sums.sum(axis=1)
    within = gram - (sums / counts) @ sums.T
    return within, gram - np.outer(mean, mean) / max(len(classes), 1), len(counts)


def _rows(pair: PairLevel, points_mm: FloatArray, slope_map: FloatArray, sampled: Tensor) -> Tensor:
    """(P + 1, N): derivatives of the sampled values by the generators, and the values.

    By torch, whose threads the commands keep from spinning; numpy's BLAS has its own.

    Args:
        pair: For centre, radius and generators.
        points_mm: (N, 3) in the fixed image.
        slope_map: See `_direction`.
        sampled: (4, N) values and their derivatives by the sampled points, per mm.
    """
    ones = torch.ones(4, len(points_mm), dtype=torch.float64)
    ones[:3] = torch.from_numpy(((points_mm - pair.centre_mm) / pair.radius_mm).T)
    slopes = torch.from_numpy(slope_map.T * pair.radius_mm) @ sampled[1:]
    # A 3x4 change D moves a point by D @ (xi, 1): entry (i, j) weighs slope_i * (xi, 1)_j.
    by_entry = (slopes[:, None] * ones).reshape(12, -1)
    return torch.cat([torch.from_numpy(pair.generators) @ by_entry, sampled[:1]])
