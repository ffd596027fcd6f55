"""A pair of images on two different grids with landmarks in voxels, as files that referees read."""

import numpy as np

from autoreg.evaluation.referee_files import LandmarkFiles, RefereeFiles
from autoreg.geometry.grid import Geometry
from autoreg.geometry.volume import Volume
from autoreg.io.images import write_image
from autoreg.io.transforms import write_displacement


def spaced(geometry, spacing, origin=(0.0, 0.0, 0.0)):
    """The grid with other spacings along its array axes, moved to another origin (xyz)."""
    matrix = geometry.index_to_world * np.array([*spacing, 1])
    matrix[:3, 3] = origin
    return Geometry(geometry.shape, matrix)


def write_case(folder, u_vox, fixed, moving, points, *, foreground=None, mask=None):
    """Write a pair whose displacement takes indices of `fixed` to those of `moving`.

    `points` are (N, 3) indices of both images, `foreground` where both are above 0, and `mask` the
    values of the fixed image's mask.
    """
    index = np.moveaxis(np.indices(fixed.shape), 0, -1)
    landing = index + np.moveaxis(u_vox, 0, -1).astype(np.float64)
    u_mm = moving.to_world(landing) - fixed.to_world(index)
    write_displacement(folder / "u.nii.gz", u_mm.astype(np.float32), fixed)
    images, rows = [], []
    for role, grid, places in zip(("fixed", "moving"), (fixed, moving), points, strict=True):
        images.append(folder / f"{role}.nrrd")
        values = np.ones(grid.shape) if foreground is None else foreground
        write_image(images[-1], Volume(values[None].astype(np.float32), grid, "intensity"))
        rows.append(folder / f"{role}.csv")
        np.savetxt(rows[-1], places[:, ::-1], "%.17g", ",")
    mask_file = None
    if mask is not None:
        mask_file = folder / "mask.nii.gz"
        write_image(mask_file, Volume(mask[None].astype(np.int32), fixed, "label"))
    landmarks = (LandmarkFiles("landmarks", *rows, "voxels"),)
    return RefereeFiles(
        "pair", folder / "u.nii.gz", *images, None, None, mask_file, landmarks, label_names={}
    )
