"""One predicted pair as a challenge has it: voxels of 1 mm, numbered names, own ground truth."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from autoreg.geometry.grid import Geometry
from autoreg.geometry.volume import Volume
from autoreg.io.images import write_image
from autoreg.io.records import save_record
from autoreg.io.result import (
    RESULT_FORMAT,
    FieldRecord,
    InputsRecord,
    Result,
    SecondsRecord,
)
from autoreg.io.transforms import write_displacement

SHAPE = (14, 16, 18)
LABELS = (0, 4, 11, 23, 30)


@dataclass
class RefereePair:
    """What lies in the files of a pair, and where.

    Attributes:
        root: Holds `imagesVal`, `truth` and `predictions`.
        folder: Of the prediction.
        u_vox: (3, D, H, W) from indices to indices.
        images: Fixed and moving; likewise the others, by role.
        labels: Label maps.
        blobs: Landmarks as blobs.
        points: (N, 3) landmarks in voxels.
    """

    root: Path
    folder: Path
    u_vox: np.ndarray
    images: dict
    labels: dict
    blobs: dict
    points: dict

    def truth(self, kind, role):
        """A file of the ground truth."""
        ending = ".csv" if kind == "keypoints" else ".nii.gz"
        name = image_name(self.root, role).name.removesuffix(".nii.gz")
        return self.root / "truth" / f"{kind}Val" / f"{name}{ending}"


def unit_grid(shape=SHAPE):
    """Voxels of 1 mm, as NIfTI's identity matrix has them."""
    matrix = np.eye(4)[[2, 1, 0, 3]]
    matrix[:2] *= -1
    return Geometry(shape, matrix)


def image_name(root, role):
    """Where an image lies."""
    number = {"fixed": 3455, "moving": 3454}[role]
    return root / "imagesVal" / f"LUMIRMRI_{number}_0000.nii.gz"


def rough_field(seed=0, strength=6.0):
    """A displacement of a voxel or two that folds here and there."""
    noise = np.random.default_rng(seed).standard_normal((3, *SHAPE))
    return (strength * ndimage.gaussian_filter(noise, (0, 1.5, 1.5, 1.5))).astype(np.float32)


def make_pair(root, seed=0, case="LUMIRMRI_3455_0000__LUMIRMRI_3454_0000"):
    """Write a pair, its prediction and its ground truth."""
    random = np.random.default_rng(seed)
    grid = unit_grid()
    noise = ndimage.gaussian_filter(random.standard_normal((2, *SHAPE)), (0, 2, 2, 2))
    order = np.argsort(np.argsort(noise.reshape(2, -1), axis=1), axis=1).reshape(2, *SHAPE)
    values = np.array(LABELS)[order * len(LABELS) // order[0].size]
    pair = RefereePair(root, root / "predictions" / case, rough_field(seed), {}, {}, {}, {})
    for role, label_map in zip(("fixed", "moving"), values, strict=True):
        pair.images[role] = np.where(label_map > 0, 1 + noise[0], 0).astype(np.float32)
        pair.labels[role] = label_map
        pair.blobs[role] = blobs(random)
        pair.points[role] = random.uniform(2, np.array(SHAPE) - 3, (9, 3))
        write_image(image_name(root, role), Volume(pair.images[role][None], grid, "intensity"))
        write_truth(pair, "labels", role, label_map)
        write_truth(pair, "landmarks", role, pair.blobs[role])
        path = pair.truth("keypoints", role)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savetxt(path, pair.points[role][:, ::-1], "%.17g", ",")
    write_u(pair, pair.u_vox)
    save_record(result_of(case, root), pair.folder / "result.json")
    return pair


def write_u(pair, u_vox):
    """Write a displacement in voxels as a prediction does."""
    grid = unit_grid()
    linear = grid.index_to_world[:3, :3]
    u_mm = np.einsum("xa,adhw->dhwx", linear, u_vox.astype(np.float64)).astype(np.float32)
    pair.u_vox = u_vox.astype(np.float32)
    write_displacement(pair.folder / "displacement.nii.gz", u_mm, grid)


def write_truth(pair, kind, role, array):
    """Write a map of the ground truth."""
    kinds = {"labels": "label", "landmarks": "label", "masks": "mask"}
    array = array if kind == "masks" else array.astype(np.int32)
    write_image(pair.truth(kind, role), Volume(array[None], unit_grid(), kinds[kind]))


def blobs(random):
    """Four cubes of landmarks, 1 to 4, well inside."""
    volume = np.zeros(SHAPE, int)
    for number, corner in enumerate(((2, 2, 2), (3, 9, 10), (8, 4, 11), (8, 10, 3)), 1):
        d, h, w = np.array(corner) + random.integers(0, 2, 3)
        volume[d : d + 4, h : h + 4, w : w + 4] = number
    return volume


def result_of(case, root):
    """The record of a pair without labels and landmarks."""
    images = [(str(image_name(root, role)),) for role in ("fixed", "moving")]
    return Result(
        format=RESULT_FORMAT,
        case=case,
        request="",
        inputs=InputsRecord(*images, None, None, None, None, None, None, "lps_mm"),
        model=None,
        device="cpu",
        versions={},
        seconds=1.0,
        stages=SecondsRecord(0.5, 0.25, 0.25),
        loss_before=None,
        loss_after=None,
        optimisation=None,
        field=FieldRecord(1.0, 2.0, 0.5, 0.0, 0.0, 0.0, 0, 0.0, None, None, 0.0),
        outside_value=(0.0,),
        label_names={},
        files={},
        warnings=(),
    )
