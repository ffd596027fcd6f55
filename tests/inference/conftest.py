"""A tiny model with a real deformation, and pairs of images for it."""

import pytest
import SimpleITK as sitk
from tiny_models import save_model, sitk_image, tiny_plan


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"), tiny_plan())


@pytest.fixture
def pair_folder(tmp_path):
    """Two pairs as named files, the first with labels, mask and landmarks."""
    folder = tmp_path / "in"
    folder.mkdir()
    for case, seed in (("one", 1), ("two", 3)):
        fixed = sitk_image(seed, (14, 17, 12), (1.5, 1.2, 2.0), "RAS")
        moving = sitk_image(seed + 1, (16, 13, 15), (1.3, 1.6, 1.4))
        sitk.WriteImage(fixed, str(folder / f"{case}_fixed.nii.gz"))
        sitk.WriteImage(moving, str(folder / f"{case}_moving.nii.gz"))
        if case == "one":
            labels = sitk.Cast(moving > 300, sitk.sitkUInt8) + sitk.Cast(
                moving > 600, sitk.sitkUInt8
            )
            sitk.WriteImage(labels, str(folder / "one_moving_labels.nii.gz"))
            sitk.WriteImage(
                sitk.Cast(fixed > 50, sitk.sitkUInt8), str(folder / "one_fixed_mask.mha")
            )
            (folder / "one_fixed_landmarks.csv").write_text("x,y,z\n0,0,0\n3.5,-2,4\n")
    return folder
