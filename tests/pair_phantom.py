"""Pairs of images with a known smooth deformation between them, in two and three dimensions."""

import numpy as np
import SimpleITK as sitk
from tiny_models import ORIENTATIONS

RADII_MM = np.array([34.0, 30.0, 32.0])


def displacement_mm(points):
    """The truth u (N, 3): the fixed image shows at p what the moving one shows at p + u(p)."""
    x, y, z = points.T
    fade = np.exp(-0.5 * ((points / RADII_MM) ** 2).sum(1) / 0.7**2)
    waves = np.stack([np.sin(y / 14), np.cos(x / 16) - 0.5, np.sin((x + y) / 18)], axis=1)
    flat = np.where(np.ptp(z) == 0, 0.0, 1.0)
    return 4.5 * fade[:, None] * waves * (1.0, 1.0, flat)


def intensity(points, seed=0):
    """Blobs in an ellipsoid, at points (N, 3) in mm; 100 to 900 within, 0 outside."""
    rng = np.random.default_rng(seed)
    flat = np.ptp(points[:, 2]) == 0
    value = np.full(len(points), 0.5)
    for _ in range(50):
        centre = rng.uniform(-1, 1, 3) * RADII_MM * 0.9
        squares = ((points - centre) ** 2)[:, : 2 if flat else 3].sum(1)
        value += rng.choice([-0.45, 0.45]) * np.exp(-squares / (2 * rng.uniform(3.5, 6) ** 2))
    radius = np.sqrt(((points / RADII_MM) ** 2).sum(1))
    return 1000 * np.clip(value, 0.05, 1) / (1 + np.exp((radius - 1) / 0.03))


def empty_image(size, spacing, orientation="LPS"):
    """A blank image whose middle lies at the origin; size and spacing along (x, y[, z])."""
    image = sitk.Image([int(n) for n in size], sitk.sitkFloat32)
    n = len(size)
    if n == 2:
        direction = np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
        direction = direction if orientation == "oblique" else np.eye(2)
    else:
        direction = ORIENTATIONS[orientation]
    image.SetSpacing([float(s) for s in spacing])
    image.SetDirection(direction.ravel().tolist())
    half = direction @ ((np.array(size) - 1) / 2 * np.array(spacing))
    image.SetOrigin((-half).tolist())
    return image


def points_of(image):
    """World points (N, 3) of all voxels, in the array's order; z is 0 in two dimensions."""
    n = image.GetDimension()
    index = np.stack(np.meshgrid(*(np.arange(k) for k in image.GetSize()[::-1]), indexing="ij"), -1)
    index = index.reshape(-1, n)[:, ::-1]
    direction = np.array(image.GetDirection()).reshape(n, n)
    points = index * np.array(image.GetSpacing()) @ direction.T + np.array(image.GetOrigin())
    return points if n == 3 else np.column_stack([points, np.zeros(len(points))])


def filled(image, values):
    array = values.reshape(image.GetSize()[::-1])
    result = sitk.GetImageFromArray(array)
    result.CopyInformation(image)
    return result


def pair(dimension=3, contrast=lambda v: v, moving_orientation="oblique"):
    """Fixed and moving SimpleITK images, float32, on grids of different kinds."""
    if dimension == 3:
        fixed = empty_image((42, 38, 40), (2.0, 2.0, 2.0), "RAS")
        moving = empty_image((46, 44, 42), (1.8, 1.9, 2.1), moving_orientation)
    else:
        fixed = empty_image((84, 76), (1.0, 1.0))
        moving = empty_image((90, 84), (0.9, 1.0), moving_orientation)
    points = points_of(fixed)
    one = filled(fixed, intensity(points + displacement_mm(points)).astype(np.float32))
    other = filled(moving, contrast(intensity(points_of(moving))).astype(np.float32))
    return one, other


def inner_points(count=300, dimension=3, seed=5):
    """World points (N, 3) well inside the object."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-1, 1, (count, 3)) * RADII_MM * 0.5
    if dimension == 2:
        points[:, 2] = 0
    return points
