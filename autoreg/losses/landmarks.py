"""The distance of corresponding landmarks as a loss."""

from torch import Tensor

from autoreg.network_plan import Triple
from autoreg.numerics.coordinates import Size
from autoreg.numerics.maps import CoordinateMap

# Below it the distance bends into a parabola, so that it has a gradient at 0.
_ROUNDING_MM = 0.01


def landmark_distance(
    phi: CoordinateMap, start_vox: Tensor, end_vox: Tensor, spacing_mm: Triple, shape: Size
) -> Tensor:
    """The mean distance between where a map takes landmarks and where they belong.

        loss = mean_i sqrt(|phi(start_i) - end_i|^2 + r^2) - r, r = 0.01 mm

    Args:
        phi: One map (a batch of 1), in unit coordinates.
        start_vox: (N, 3) landmarks, (d, h, w) indices of the grid on which the map lives.
        end_vox: (N, 3) their counterparts on the other grid, row by row.
        spacing_mm: Of the other grid, along (d, h, w).
        shape: Nodes of either grid along (d, h, w).

    Returns:
        Scalar, millimetres. Correspondences of which an end lies outside its grid are left out;
        0 if none is left.
    """
    last = start_vox.new_tensor([n - 1 for n in shape])
    inside = _inside(start_vox, last) & _inside(end_vox, last)
    start, end = start_vox[inside], end_vox[inside]
    if len(start) == 0:
        return start_vox.new_zeros(())
    # An axis of one node has the unit coordinate 0.
    points_unit = (start / last.clamp(min=1)).T[None, :, :, None, None]
    reached = phi(points_unit)[0, :, :, 0, 0].T * last
    gap_mm = (reached - end) * start_vox.new_tensor(list(spacing_mm))
    distances = (gap_mm.square().sum(1) + _ROUNDING_MM**2).sqrt() - _ROUNDING_MM
    return distances.mean()


def _inside(points_vox: Tensor, last: Tensor) -> Tensor:
    return ((points_vox >= 0) & (points_vox <= last)).all(1)
