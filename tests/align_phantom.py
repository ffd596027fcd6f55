"""A brain-like object whose value at every world point is known, for the tests of the alignment."""

import numpy as np

from autoreg.geometry.grid import Geometry, apply_affine
from autoreg.geometry.volume import Volume


class Phantom:
    """An ellipsoid with some twenty smaller ones inside; dark outside."""

    def __init__(self, seed=0, radii_mm=(65.0, 80.0, 60.0)):
        random = np.random.default_rng(seed)
        self.radii = np.array(radii_mm)
        self.parts = [
            (
                random.uniform(-0.6, 0.6, 3) * self.radii,
                random.uniform(8, 28, 3),
                random.uniform(-0.4, 0.5),
            )
            for _ in range(20)
        ]

    def __call__(self, points_mm):
        """Values from 0 (outside) to about 1, (...,)."""
        value = 0.5 * edge(points_mm / self.radii, self.radii.min())
        for centre, radii, contrast in self.parts:
            value += contrast * edge((points_mm - centre) / radii, radii.min()) * (value > 0.25)
        return np.clip(value, 0, 1)


def edge(scaled, radius_mm):
    """1 inside of the unit sphere, 0 outside, over some millimetres."""
    return 1 / (
        1 + np.exp(np.clip((np.linalg.norm(scaled, axis=-1) - 1) * radius_mm / 1.5, -50, 50))
    )


def image(phantom, geometry, matrix=None, *, contrast=None, noise=0.0, seed=0):
    """The image of a phantom on a grid; `matrix` takes points of the phantom to the image."""
    points = geometry.to_world(np.moveaxis(np.indices(geometry.shape), 0, -1))
    if matrix is not None:
        points = apply_affine(np.linalg.inv(matrix), points)
    array = phantom(points)
    if contrast is not None:
        array = contrast(array)
    array = array + noise * np.random.default_rng(seed).normal(size=array.shape)
    return Volume.intensity(array, geometry)


def rotation(angle_deg, axis=(0.0, 0.0, 1.0)):
    """3x3, about an axis."""
    x, y, z = np.array(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(angle_deg)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def affine(linear, shift_mm=(0.0, 0.0, 0.0)):
    """4x4."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = linear, shift_mm
    return matrix


def error_mm(transform, truth, radii_mm=(65.0, 80.0, 60.0), count=500):
    """Mean distance of mapped points inside the phantom from the truth."""
    random = np.random.default_rng(0)
    points = random.uniform(-0.7, 0.7, (count, 3)) * np.array(radii_mm)
    apart = transform.map_points(points) - apply_affine(truth, points)
    return float(np.linalg.norm(apart, axis=1).mean())


def flat_grid(size, spacing_mm, centre_mm=(0.0, 0.0, 0.0)):
    """A grid of one layer, (1, H, W), whose layers follow z."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]]) * spacing_mm
    geometry = Geometry((1, *size), matrix)
    matrix[:3, 3] = np.array(centre_mm) - geometry.centre_mm
    return Geometry((1, *size), matrix)
