"""A small raw data set with known deformations, made from a real anatomy.

nilearn ships the MNI152 T1 template with grey- and white-matter maps. Each subject of the demo is
this template seen through its own random diffeomorphism and small rigid motion, with its own bias
field, gamma, noise, spacing and orientation; because the deformation is known, so are its
labels and landmarks.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from autoreg.errors import UsageError
from autoreg.geometry.grid import Geometry
from autoreg.geometry.resampling import resample_volume
from autoreg.geometry.transforms import Affine, Composite, DisplacementField
from autoreg.geometry.volume import Volume
from autoreg.io.images import write_image
from autoreg.io.landmarks import write_landmarks
from autoreg.io.records import save_record
from autoreg.numerics.compose import compose

DATASET = "Dataset001_DemoBrains"
TRAINING_SUBJECTS = 8
TEST_PAIRS = ((9, 10), (11, 9), (10, 11))
LABELS = {
    "background": 0,
    "csf_left": 1,
    "csf_right": 2,
    "grey_left": 3,
    "grey_right": 4,
    "white_left": 5,
    "white_right": 6,
}
LANDMARKS = 40


@dataclass(frozen=True)
class Template:
    """The anatomy that all subjects share.

    Attributes:
        image: T1 intensities in [0, 1].
        labels: Values of `LABELS`.
        points_mm: (N, 3) landmarks, LPS mm.
    """

    image: Volume
    labels: Volume
    points_mm: NDArray[np.float64]


def build_demo_dataset(raw: Path, seed: int = 0) -> Path:
    """Write the demo's raw data set.

    Args:
        raw: Folder of raw data sets.
        seed: Of every random draw.

    Returns:
        The data set's folder.

    Raises:
        UsageError: if nilearn, the extra `[demo]`, is not installed.
    """
    folder = raw / DATASET
    template = load_template(np.random.default_rng(seed))
    test = sorted({subject for pair in TEST_PAIRS for subject in pair})
    for subject in range(1, TRAINING_SUBJECTS + 1):
        _write_subject(template, folder, "Tr", subject, seed)
    for subject in test:
        _write_subject(template, folder, "Ts", subject, seed)
    save_record(
        {
            "name": DATASET,
            "description": "MNI152 template under random diffeomorphisms; see autoreg_demo",
            "modality": {"0": "MR"},
            "labels": LABELS,
            "pairing": "inter_subject",
            "test_pairs": [{"fixed": _name(f), "moving": _name(m)} for f, m in TEST_PAIRS],
        },
        folder / "dataset.json",
    )
    return folder


def load_template(rng: np.random.Generator) -> Template:
    """The MNI152 template at 2 mm with tissue labels of both sides and random landmarks."""
    try:
        from nilearn import datasets
    except ImportError as error:
        raise UsageError(
            "the demo takes its anatomy from nilearn, which is not installed; "
            "install it with: pip install nilearn"
        ) from error
    t1 = datasets.load_mni152_template(resolution=2)
    grey = _array(datasets.load_mni152_gm_template(resolution=2))
    white = _array(datasets.load_mni152_wm_template(resolution=2))
    brain = _array(datasets.load_mni152_brain_mask(resolution=2)) > 0.5
    # NIfTI's (x, y, z) RAS becomes (d, h, w) = (z, y, x) in LPS.
    matrix = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(t1.affine, dtype=np.float64)
    index_to_world = matrix.copy()
    index_to_world[:, :3] = matrix[:, [2, 1, 0]]
    image = _array(t1)
    geometry = Geometry(image.shape, index_to_world)
    labels = tissue_labels(grey, white, brain, geometry)
    strong = np.argwhere(gaussian_gradient(image) * brain > 0.05)
    chosen = strong[rng.choice(len(strong), LANDMARKS, replace=False)]
    return Template(
        Volume.intensity(image / image.max(), geometry),
        Volume(labels[None], geometry, "label"),
        geometry.to_world(chosen),
    )


def gaussian_gradient(image: NDArray[np.float32]) -> NDArray[np.float64]:
    """Magnitude of the image gradient at a scale of one voxel, for choosing landmarks on edges."""
    gradient = np.gradient(gaussian_filter(image.astype(np.float64), 1.0))
    return np.asarray(np.sqrt(sum(g * g for g in gradient)))


def tissue_labels(
    grey: NDArray[np.float32],
    white: NDArray[np.float32],
    brain: NDArray[np.bool_],
    geometry: Geometry,
) -> NDArray[np.int16]:
    """The most probable tissue of each brain voxel, left and right told apart by world x."""
    tissue = np.argmax(np.stack([1 - grey - white, grey, white]), axis=0)
    columns = np.zeros((geometry.shape[2], 3))
    columns[:, 2] = np.arange(geometry.shape[2])
    right = (geometry.to_world(columns)[:, 0] < 0).astype(np.int16)
    return np.asarray(np.where(brain, 1 + 2 * tissue + right, 0), dtype=np.int16)


def random_diffeomorphism(
    geometry: Geometry, rng: np.random.Generator, maximum_mm: float
) -> DisplacementField:
    """The exponential of a smooth random velocity, largest displacement about `maximum_mm`."""
    spacing = np.array(geometry.spacing_mm)
    velocity = np.zeros((3, *geometry.shape))
    for sigma_mm, strength in ((18.0, 1.0), (9.0, 0.35)):
        for axis in range(3):
            noise = gaussian_filter(rng.standard_normal(geometry.shape), sigma_mm / spacing)
            velocity[axis] += strength * noise / noise.std() / spacing[axis]
    length_mm = np.sqrt(((velocity * spacing[:, None, None, None]) ** 2).sum(0)).max()
    steps = 6
    u_vox = torch.from_numpy(velocity * (maximum_mm / length_mm / 2**steps)).float()[None]
    for _ in range(steps):
        u_vox = compose(u_vox, u_vox)
    return DisplacementField(u_vox[0].numpy(), geometry)


def _array(image: object) -> NDArray[np.float32]:
    values = np.asarray(image.get_fdata(), dtype=np.float32)  # type: ignore[attr-defined]
    return np.ascontiguousarray(values.transpose(2, 1, 0))


def _name(subject: int) -> str:
    return f"subject{subject:02d}"


def _rigid(rng: np.random.Generator, centre_mm: NDArray[np.float64]) -> Affine:
    angles = np.deg2rad(rng.uniform(-4, 4, 3))
    rotation = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = [k for k in range(3) if k != axis]
        turn = np.eye(3)
        turn[[i, j], [i, j]] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        rotation = rotation @ turn
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = centre_mm - rotation @ centre_mm + rng.uniform(-4, 4, 3)
    return Affine(matrix)


def _scanner_grid(template: Geometry, subject: int) -> Geometry:
    """Every subject was scanned with another spacing and axis order; none of it may matter."""
    spacing = ((2.0, 2.0, 2.0), (2.5, 2.0, 2.0), (2.0, 2.2, 2.2))[subject % 3]
    signs = ((1, 1, 1), (1, 1, -1), (1, -1, 1))[(subject + subject // 3) % 3]
    shape = [int(np.ceil(e / s)) for e, s in zip(template.extent_mm, spacing, strict=True)]
    unit = template.index_to_world[:3, :3] / np.array(template.spacing_mm)
    matrix = np.eye(4)
    matrix[:3, :3] = unit * (np.array(spacing) * np.array(signs))
    matrix[:3, 3] = template.centre_mm - matrix[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Geometry((shape[0], shape[1], shape[2]), matrix)


def _write_subject(template: Template, folder: Path, split: str, subject: int, seed: int) -> None:
    rng = np.random.default_rng((seed, subject))
    space = template.image.geometry
    to_template = Composite(
        (_rigid(rng, space.centre_mm), random_diffeomorphism(space, rng, maximum_mm=10.0))
    )
    grid = _scanner_grid(space, subject)
    image = resample_volume(template.image, to_template, grid)
    labels = resample_volume(template.labels, to_template, grid)
    name = _name(subject)
    write_image(folder / f"images{split}" / f"{name}_0000.nii.gz", _scan(image, rng))
    write_image(folder / f"labels{split}" / f"{name}.nii.gz", labels)
    points_mm = to_template.inverse().map_points(template.points_mm)
    write_landmarks(folder / f"landmarks{split}" / f"{name}.csv", points_mm)


def _scan(image: Volume, rng: np.random.Generator) -> Volume:
    """The subject's intensities as a scanner might give them: bias, gamma, noise, scale."""
    shape = image.geometry.shape
    bias = gaussian_filter(rng.standard_normal(shape), [n / 4 for n in shape])
    values = image.single ** rng.uniform(0.9, 1.1) * (1 + 0.1 * bias / np.abs(bias).max())
    values = values + 0.01 * rng.standard_normal(shape) * (image.single > 0)
    scale = rng.uniform(600, 1400)
    return Volume.intensity(np.clip(values * scale, 0, None), image.geometry)
