"""Two-dimensional images, held as one layer of voxels: grids (1, H, W) in the plane z = 0.

Inside the package such a grid has spacing 1 along z, its first voxel at z = 0 and its layer
perpendicular to z; in files it is truly two-dimensional.
"""

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

from autoreg.errors import GeometryError
from autoreg.geometry.grid import Geometry

_TOLERANCE = 1e-6


def lifted_geometry(
    size: Sequence[int],
    spacing: Sequence[float],
    origin: Sequence[float],
    direction: Sequence[float],
) -> Geometry:
    """The grid (1, H, W) of ITK's description of a two-dimensional image.

    Args:
        size: Voxels along ITK's (i, j).
        spacing: Millimetres along the same axes.
        origin: World point (x, y) of the first voxel's centre.
        direction: The 4 cosines, row by row.
    """
    cosines = np.eye(3)
    cosines[:2, :2] = np.reshape(direction, (2, 2))
    return Geometry.from_itk(
        (*size, 1), (*spacing, 1.0), (*origin, 0.0), [float(c) for c in cosines.ravel()]
    )


def require_planar(geometry: Geometry, name: str) -> None:
    """Refuse a grid that is not that of a two-dimensional image.

    Raises:
        GeometryError: saying what it is.
    """
    matrix = geometry.index_to_world
    # Column d is the layer's axis, row z the world's.
    across = np.concatenate([matrix[:3, 0] - (0, 0, 1), matrix[2, 1:]])
    if geometry.shape[0] != 1 or np.abs(across).max() > _TOLERANCE:
        raise GeometryError(
            f"{name}: a grid of {geometry.shape} (d, h, w) with the matrix "
            f"{np.round(matrix, 4).tolist()} is not that of a two-dimensional image"
        )


def set_planar_geometry(image: sitk.Image, geometry: Geometry, name: str) -> None:
    """Give a two-dimensional SimpleITK image its spacing, origin and direction.

    Args:
        image: Is changed.
        geometry: Of shape (1, H, W), in the plane z = 0.
        name: Of what it is for, in messages.

    Raises:
        GeometryError: if the geometry is not that of a two-dimensional image.
    """
    require_planar(geometry, name)
    _, spacing, origin, direction = geometry.to_itk()
    image.SetSpacing(spacing[:2])
    image.SetOrigin(origin[:2])
    image.SetDirection([direction[0], direction[1], direction[3], direction[4]])
