"""Smooth deformations, and SimpleITK as the judge of what they do."""

import numpy as np
import SimpleITK as sitk
import torch
from spaces import DIRECTIONS
from torch.nn import functional

from autoreg.geometry.resampling import sample_displacement_known
from autoreg.geometry.transforms import Affine, DisplacementField


def smooth_field(geometry, amplitude_vox=0.4, seed=0):
    """A smooth displacement without folds; in the plane where the grid is one layer."""
    coarse = torch.randn(1, 3, 4, 4, 4, generator=torch.Generator().manual_seed(seed))
    u_vox = functional.interpolate(
        coarse * amplitude_vox, size=geometry.shape, mode="trilinear", align_corners=True
    )[0].numpy()
    if geometry.shape[0] == 1:
        u_vox[0] = 0
    return DisplacementField(u_vox, geometry)


def sampled_mm(transform, geometry):
    """A transform that is known everywhere as a displacement on a grid, (D, H, W, 3) LPS mm."""
    u_mm, known = sample_displacement_known(transform, geometry)
    assert known.all()
    return u_mm


def turned(centre_mm, shift_mm=(2.0, -3.0, 4.0)):
    """A turn, a stretch and a shift about a point."""
    matrix = np.eye(4)
    matrix[:3, :3] = DIRECTIONS["oblique"] @ np.diag([-1.05, 0.95, 1.1])
    matrix[:3, 3] = centre_mm - matrix[:3, :3] @ centre_mm + shift_mm
    return Affine(matrix)


def points_in(geometry, count=40, seed=1):
    """Random points (count, 3) between the outermost voxel centres."""
    rng = np.random.default_rng(seed)
    return geometry.to_world(rng.uniform(0, np.array(geometry.shape) - 1, size=(count, 3)))


def itk_points(transform, points_mm):
    """Where a SimpleITK transform takes points (N, 3); of 2-D ones z stays."""
    n = transform.GetDimension()
    moved = [transform.TransformPoint(point[:n].tolist()) for point in np.asarray(points_mm)]
    return np.concatenate([np.array(moved), np.asarray(points_mm)[:, n:]], axis=1)


def itk_field(path):
    """A displacement file as SimpleITK's transform."""
    image = sitk.ReadImage(str(path))
    n = image.GetDimension()
    kind = sitk.sitkVectorFloat64
    assert image.GetNumberOfComponentsPerPixel() == n
    return sitk.DisplacementFieldTransform(sitk.Cast(image, kind))
