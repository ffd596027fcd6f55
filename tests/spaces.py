"""Grids in all the ways that scanners lay them: for the tests of geometry and files."""

import numpy as np

from autoreg.geometry.grid import Geometry


def _rotation(angles_deg):
    a, b, c = np.deg2rad(angles_deg)
    rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    ry = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    rz = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return rx @ ry @ rz


# Columns: the LPS direction of ITK's index axes i, j, k.
DIRECTIONS = {
    "LPS": np.eye(3),
    "RAS": np.diag([-1.0, -1.0, 1.0]),
    "LAS": np.diag([1.0, -1.0, 1.0]),
    "PSR": np.array([[0.0, 0, -1], [1, 0, 0], [0, 1, 0]]),
    "oblique": _rotation((20, -15, 30)) @ np.diag([-1.0, 1.0, 1.0]),
}


def make_geometry(orientation, size, spacing_mm, centre_mm=(0.0, 0.0, 0.0)):
    """A grid of `size` (ITK i, j, k) whose middle is the world point `centre_mm`."""
    direction = DIRECTIONS[orientation]
    middle = direction @ (np.array(spacing_mm) * (np.array(size) - 1) / 2)
    return Geometry.from_itk(size, spacing_mm, np.array(centre_mm) - middle, direction.ravel())


def smooth_image(geometry, shift_mm=(0.0, 0.0, 0.0)):
    """A smooth function of the world point, sampled on a grid: (D, H, W) float32."""
    index = np.moveaxis(np.indices(geometry.shape), 0, -1)
    x, y, z = np.moveaxis(geometry.to_world(index) + np.array(shift_mm), -1, 0)
    values = np.sin(x / 9) * np.cos(y / 7) + np.cos(z / 8) + 0.02 * x
    return values.astype(np.float32)
