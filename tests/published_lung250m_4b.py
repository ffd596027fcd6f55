"""Lung250M-4B as published, small: NIfTI pairs with masks, landmarks written by torch.save."""

import nibabel as nib
import numpy as np
import torch

SHAPE = (6, 7, 8)
AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])
TEST = range(104, 114)
VALIDATION = (2, 8, 54, 55, 56, 94, 97, *range(114, 124))


def write_volume(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


def write_case(root, number, seed=0, prefix="case_", affine=AFFINE, phases=(1, 2)):
    """Image and mask of both phases in the published folder."""
    random = np.random.default_rng(seed + number)
    split = "Ts" if number in (*TEST, *VALIDATION) else "Tr"
    for phase in phases:
        name = f"{prefix}{number:03d}_{phase}.nii.gz"
        image = random.integers(-1000, 100, SHAPE).astype(np.int16)
        mask = np.zeros(SHAPE, np.uint8)
        mask[1:-1, 1:-1, 1:-1] = 1
        write_volume(root / f"images{split}" / name, image, affine)
        write_volume(root / f"masks{split}" / name, mask, affine)


def landmark_tables(numbers, rows=5):
    """Corner-origin coordinates that lie well inside."""
    random = np.random.default_rng(3)
    return {
        str(number): torch.from_numpy(random.uniform(1, 5, (rows, 6)).astype(np.float32))
        for number in numbers
    }


def write_landmarks(root, tables):
    path = root / "evaluation" / "lms_validation.pth"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(tables, path)
    return path
