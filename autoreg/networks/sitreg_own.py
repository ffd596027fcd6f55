"""The maps of SITReg, improved: coarse where that is enough, and exact to the last.

Each resolution predicts control points phi_f, and phi_r for the swapped pair. Their half difference
changes its sign with the order of the images; of it a field a is sampled, and with

    delta = (id + a) o (id - a)^-1,   A half the affine map,   delta_K the coarsest,

    f12 = A o delta_K o ... o delta_1 o delta_1 o ... o delta_K o A

and f21 the same with -a and A^-1: delta^-1 = (id - a) o (id + a)^-1, so that f12 and f21 are
inverse to each other. Beyond the authors' code, where delta = gamma_f o gamma_r^-1 consists of two
fields:

- one field serves both directions. To first order in the displacements delta is theirs (they have
  phi_f - phi_r = 2 a); what phi_f and phi_r have in common only moves the point at which the
  difference is read. It learnt as well and cost a fifth less (documentation/benchmarks.md);
- a field is two samples per control point, linear in between, and its control points obey the
  bound of just that field: what is sampled is what cannot fold, at any resolution;
- the maps are chains of these fields and of exact inverses, computed at the points asked for; no
  composition is resampled, no inverse interpolated;
- the running half-way maps, which warp features only, live on the grid of their resolution.

References:
    Honkamaa and Marttinen, SITReg, MELBA 2024:026, sections 3.2 to 3.5.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from autoreg.networks.sitreg_parts import Parts, Resolution
from autoreg.numerics.index_maps import AffineStep, Displacement, MidpointStep, Step
from autoreg.numerics.inverse_layer import InverseSettings, invert_field

# Per control point and axis; twice the control points is the grid of the next finer resolution.
SAMPLES = 2
# Measured: maps that move voxels by 3 or, saturated, by 5 are inverse to 0.0013 voxel.
_EXACT = InverseSettings(tolerance_vox=1e-3, max_evaluations=50)
# Stored inverses warp features and are first guesses of the exact ones.
_STORED = InverseSettings(tolerance_vox=1e-2, max_evaluations=50)


@dataclass(frozen=True, eq=False)
class _Deformation:
    """delta and its inverse of a resolution.

    Attributes:
        resolution: Which one.
        field: -a, a (2B, 3, *field_shape), voxels: delta is the midpoint step of -a.
        middle: About where the midpoints lie, as a displacement of the nodes; None at the finest
            resolution, where nothing needs it.
    """

    resolution: Resolution
    field: Tensor
    middle: Tensor | None


def own_steps(parts: Parts, images: Tensor) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """The steps of f12 and of f21, first applied first.

    Args:
        parts: The network.
        images: (2B, C, D, H, W), the moving ones first.

    Returns:
        Two chains on index coordinates of the images' grid, for batches of B.
    """
    grid = tuple(images.shape[2:])
    features = parts.extractor(images)
    affine = parts.half_affine(features[-1], grid)
    half = images.new_zeros(images.shape[0], 3, *features[-1].shape[2:])
    deformations: list[_Deformation] = []
    for index in reversed(range(parts.finest_head, len(features))):
        resolution = Resolution(index, grid, min(SAMPLES, 2**index))
        at_resolution = features.pop()  # so that they go as soon as they are used
        if parts.heads[index] is None:
            half = _doubled(half, resolution.field_shape)
            continue
        points = resolution.centres(half) + half
        if affine is not None:
            points = affine(points)
        field = _half_difference(parts.control_points(resolution, at_resolution, points))
        del at_resolution, points
        field = resolution.field(field)
        field = torch.cat([-field, field])
        middle = None
        if index > parts.finest_head:
            middle = invert_field(field, resolution.field_factors, _STORED)
            half = _advanced(half, resolution, middle)
        deformations.append(_Deformation(resolution, field, middle))
    batch = images.shape[0] // 2
    return (
        _chain(deformations, affine, slice(0, batch)),
        _chain(deformations, affine, slice(batch, None)),
    )


def _half_difference(control_points: Tensor) -> Tensor:
    """From control points (2B, ...), forward first, to half their difference (B, ...)."""
    forward, reverse = control_points.chunk(2)
    return (forward - reverse) / 2


def _advanced(half: Tensor, resolution: Resolution, middle: Tensor) -> Tensor:
    """The half-way maps L o delta, R o delta^-1 as fields on the nodes of the deformation.

    Args:
        half: L, R as displacements (2B, 3, *resolution.shape), voxels.
        resolution: Of the deformation.
        middle: Half the displacement of delta, delta^-1 (2B, 3, *field_shape), voxels.

    Returns:
        (2B, 3, *field_shape), which is the shape of the next finer resolution.
    """
    nodes = resolution.field_nodes(middle)
    return Displacement(half, (resolution.spacing,) * 3)(nodes + 2 * middle) - nodes


def _doubled(half: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A field at twice the resolution, linear in between, aligned at the edges."""
    finer = functional.interpolate(half, scale_factor=2, mode="trilinear", align_corners=False)
    return finer[:, :, : shape[0], : shape[1], : shape[2]]


def _chain(
    deformations: Sequence[_Deformation], affine: AffineStep | None, direction: slice
) -> tuple[Step, ...]:
    """One direction's steps: delta of all resolutions, coarse to fine and back to coarse."""
    deltas = [
        MidpointStep(
            d.field[direction],
            d.resolution.field_factors,
            None if d.middle is None else d.middle[direction],
            _EXACT,
        )
        for d in deformations
    ]
    ends: list[Step] = [] if affine is None else [affine.select(direction)]
    return (*ends, *deltas, *reversed(deltas), *ends)
