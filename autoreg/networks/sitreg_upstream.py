"""The maps of SITReg just as the authors' code computes them, for weights trained with it.

Every deformation, inverse and composition is a field on the full grid, interpolated linearly; so
the two maps are inverse to each other only up to interpolation, and a composition may fold. The
authors count resolutions without a head, too, when they decide after which one the map is done:
with heads missing at the coarsest resolutions, the finest ones are left out.

References:
    Honkamaa and Marttinen, SITReg, MELBA 2024:026; their code, tree of July 2025.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from autoreg.networks.precision import widened
from autoreg.networks.sitreg_parts import Parts, Resolution, swapped
from autoreg.numerics.coordinates import index_grid
from autoreg.numerics.index_maps import AffineStep, Displacement, Step
from autoreg.numerics.inverse_layer import InverseSettings, invert_field

_SETTINGS = InverseSettings(tolerance_vox=1e-2, max_evaluations=50)
_FULL = (1, 1, 1)


@dataclass(frozen=True, eq=False)
class UpstreamLevel:
    """What one resolution computed; fields are displacements on the full grid, voxels.

    Attributes:
        resolution: Which one.
        control_points: (2B, 3, d, h, w), voxels of the resolution, forward first.
        field: gamma_f, gamma_r (2B, 3, D, H, W).
        inverse: Theirs.
        half: The half-way maps L, R after this resolution.
        half_inverse: Theirs.
    """

    resolution: Resolution
    control_points: Tensor
    field: Tensor
    inverse: Tensor
    half: Tensor
    half_inverse: Tensor


def upstream_steps(parts: Parts, images: Tensor) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """The one step of f12 and that of f21.

    Args:
        parts: The network.
        images: (2B, C, D, H, W), the moving ones first.

    Returns:
        Two chains on index coordinates of the images' grid, for batches of B.
    """
    features = [widened(each) for each in parts.extractor(images)]
    affine = parts.half_affine(features[-1], images.shape[2:])
    *_, last = upstream_levels(parts, features, affine)
    first, second = whole_maps(last, affine).chunk(2)
    return (Displacement(first, _FULL),), (Displacement(second, _FULL),)


def upstream_levels(
    parts: Parts, features: list[Tensor], affine: AffineStep | None
) -> Iterator[UpstreamLevel]:
    """Compute one resolution after the other, coarse to fine.

    Args:
        parts: The network.
        features: Per resolution, finest first.
        affine: The half affine maps.

    Yields:
        What each resolution with a head computed, as far as the authors go.
    """
    grid = tuple(features[0].shape[2:])
    nodes = index_grid(grid, device=features[0].device, dtype=features[0].dtype)
    half = half_inverse = features[0].new_zeros(features[0].shape[0], 3, *grid)
    heads = sum(head is not None for head in parts.heads)
    for index in list(reversed(range(len(features))))[:heads]:
        if parts.heads[index] is None:
            continue
        resolution = Resolution(index, grid, 2**index)
        points = Displacement(half, _FULL)(resolution.centres(half))
        warping = points if affine is None else affine(points)
        control_points = parts.control_points(resolution, features[index], warping)
        field = resolution.field(control_points)
        inverse = invert_field(field, _FULL, _SETTINGS)
        delta = Displacement(field, _FULL)(nodes + swapped(inverse))
        half = Displacement(half, _FULL)(delta) - nodes
        onward = Displacement(inverse, _FULL)(nodes + half_inverse)
        half_inverse = Displacement(swapped(field), _FULL)(onward) - nodes
        yield UpstreamLevel(resolution, control_points, field, inverse, half, half_inverse)


def whole_maps(level: UpstreamLevel, affine: AffineStep | None) -> Tensor:
    """f12 and f21 after a resolution: A o L o R^-1 o A, and A^-1 o R o L^-1 o A^-1.

    Args:
        level: The resolution.
        affine: A, A^-1.

    Returns:
        Displacements (2B, 3, D, H, W), voxels.
    """
    nodes = index_grid(level.half.shape[2:], device=level.half.device, dtype=level.half.dtype)
    points = nodes if affine is None else affine(nodes)
    points = Displacement(swapped(level.half_inverse), _FULL)(points)
    points = Displacement(level.half, _FULL)(points)
    if affine is not None:
        points = affine(points)
    return points - nodes
