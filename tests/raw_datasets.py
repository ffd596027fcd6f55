"""Small raw data sets for tests."""

import json

import numpy as np
import SimpleITK as sitk


def write_array(path, array, spacing=(1.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0)):
    """Write (D, H, W) numbers; spacing and origin are ITK's (x, y, z)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    sitk.WriteImage(image, str(path))


def blob(shape=(12, 10, 8), centre=None, radius=3.0, seed=0):
    """A bright ball with some texture on zero background, float32."""
    centre = (np.array(shape) - 1) / 2 if centre is None else np.array(centre)
    grid = np.indices(shape).reshape(3, -1).T
    inside = np.linalg.norm(grid - centre, axis=1).reshape(shape) <= radius
    texture = np.random.default_rng(seed).uniform(0.5, 1.0, shape)
    return (inside * texture).astype(np.float32)


def native(folder, cases=("a", "b", "c"), description=None, channels=1):
    """A native data set of blobs in `folder`."""
    for number, case in enumerate(cases):
        for channel in range(channels):
            image = blob(seed=10 * number + channel)
            write_array(folder / "imagesTr" / f"{case}_{channel:04d}.nii.gz", image)
    if description is not None:
        write_json(folder / "dataset.json", description)
    return folder


def write_json(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")


def touch(folder, *names):
    """Empty files: enough where no image is opened."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
