"""Control points that bring a cubic B-spline to the verge of folding."""

import itertools

import torch

from autoreg.numerics.bspline import control_point_bound, spline_field

CONTROLS = 5


def slopes_at_corners(u_control, factors):
    """Du (B, C, 3, cells) at each of the 8 corners of all cells; u in voxels of the controls."""
    for corner in itertools.product((0, 1), repeat=3):
        columns = []
        for axis in range(3):
            column = u_control.diff(dim=2 + axis) * factors[axis]
            for other in {0, 1, 2} - {axis}:
                cells = u_control.shape[2 + other] - 1
                column = column.narrow(2 + other, corner[other], cells)
            columns.append(column.flatten(2))
        yield torch.stack(columns, dim=2)


def whole_field(control_points, factors):
    """The spline at all samples of its control points, without scaling."""
    shape = [n * f for n, f in zip(control_points.shape[2:], factors, strict=True)]
    return spline_field(control_points, factors, shape)


def worst_signs(factors):
    """Signs of control points (1, 3, 5, 5, 5) that compress most, at some corner of a cell.

    Also the compression that they bring about: the reciprocal of the bound.
    """
    count = CONTROLS**3
    impulses = torch.eye(count, dtype=torch.float64).view(count, 1, *[CONTROLS] * 3)
    worst = torch.zeros(count, dtype=torch.float64)
    for slopes in slopes_at_corners(whole_field(impulses, factors), factors):
        stretches = slopes.sum(2)[:, 0]
        steepest = stretches[:, stretches.abs().sum(0).argmax()]
        if steepest.abs().sum() > worst.abs().sum() + 1e-12:
            worst = steepest
    signs = -worst.sign().view(1, 1, *[CONTROLS] * 3).expand(1, 3, *[CONTROLS] * 3)
    return signs, float(worst.abs().sum())


def random_signs(batch, controls, seed=0):
    """Signs of control points (batch, 3, *controls)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (batch, 3, *controls), generator=generator).double() * 2 - 1


def steep_field(signs, samples, share=0.99):
    """A displacement with control points at the bound, in voxels of its own grid."""
    factors = (samples,) * 3
    return whole_field(signs * control_point_bound(factors) * share, factors) * samples
