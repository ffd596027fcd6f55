"""What does not fit on the disk is told, and nothing of it stays; what is written is ITK's file.

A limit on the size of files (`ulimit -f`) stands for a full disk: libraries ignore both alike.
"""

import gzip
import sys

import numpy as np
import pytest
import SimpleITK as sitk
from small_files import no_file_larger_than

from autoreg.errors import UsageError
from autoreg.geometry.grid import Geometry
from autoreg.geometry.transforms import Affine, DisplacementField
from autoreg.geometry.volume import Volume
from autoreg.io.fsl_transforms import write_fsl_warp
from autoreg.io.images import save_itk, write_image
from autoreg.io.itk_transforms import write_itk_transform
from autoreg.io.landmarks import write_landmarks
from autoreg.io.learn2reg_transforms import write_learn2reg
from autoreg.io.transforms import write_displacement

SHAPE = (20, 24, 28)
GRID = Geometry(SHAPE, np.eye(4))
BYTES = 20_000

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")


def noise(*shape):
    return np.random.default_rng(0).random(shape).astype(np.float32)


def field():
    return DisplacementField(noise(3, *SHAPE), GRID)


WRITERS = {
    **{
        f"displacement{ending}": lambda path: write_displacement(path, noise(*SHAPE, 3), GRID)
        for ending in (".nii.gz", ".nii", ".nrrd", ".mha")
    },
    **{
        f"image{ending}": lambda path: write_image(path, Volume.intensity(noise(*SHAPE), GRID))
        for ending in (".nii.gz", ".nii", ".nrrd", ".mha")
    },
    **{
        f"transform{ending}": lambda path: write_itk_transform(path, [field()], 3)
        for ending in (".tfm", ".txt", ".h5", ".hdf5", ".mat")
    },
    "chain.h5": lambda path: write_itk_transform(path, [Affine(np.eye(4)), field()], 3),
    "points.csv": lambda path: write_landmarks(path, noise(2000, 3)),
    "points.fcsv": lambda path: write_landmarks(path, noise(2000, 3)),
    "points.mrk.json": lambda path: write_landmarks(path, noise(2000, 3)),
    "disp.npz": lambda path: write_learn2reg(path, noise(3, *SHAPE)),
    "disp.nii.gz": lambda path: write_learn2reg(path, noise(3, *SHAPE)),
    "fsl.nii.gz": lambda path: write_fsl_warp(
        path, noise(*SHAPE, 3).astype(np.float64), GRID, GRID, absolute=False
    ),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("limit", [BYTES, 100])
def test_a_file_that_does_not_fit_is_refused_and_the_old_one_stays(name, limit, tmp_path, capfd):
    path = tmp_path / name
    path.write_text("old")
    expected = rf"{name}: cannot be written: .*; [\d.]+ MB are free in .*; make room"
    with no_file_larger_than(limit), pytest.raises(UsageError, match=expected):
        WRITERS[name](path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert capfd.readouterr().err == ""
    WRITERS[name](path)
    assert path.stat().st_size > BYTES


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "int64", "float32", "float64"])
@pytest.mark.parametrize(
    ("shape", "vector"),
    [
        ((5, 6, 7), False),
        ((6, 7), False),
        ((1, 6, 7), False),
        ((5, 6, 7, 3), True),
        ((6, 7, 2), True),
    ],
)
def test_nifti_is_written_byte_by_byte_as_itk_does(shape, vector, dtype, tmp_path):
    image = sitk.GetImageFromArray((100 * noise(*shape)).astype(dtype), isVector=vector)
    axes = image.GetDimension()
    turned = np.eye(axes)
    turned[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    image.SetSpacing([1.5, 0.7, 2.2][:axes])
    image.SetOrigin([-3.0, 17.0, 9.5][:axes])
    image.SetDirection(turned.ravel().tolist())
    sitk.WriteImage(image, str(tmp_path / "itk.nii"))
    save_itk(tmp_path / "ours.nii", image)
    save_itk(tmp_path / "ours.nii.gz", image)
    save_itk(tmp_path / "noisy.nii.gz", image, noisy=True)
    expected = (tmp_path / "itk.nii").read_bytes()
    assert (tmp_path / "ours.nii").read_bytes() == expected
    for name in ("ours.nii.gz", "noisy.nii.gz"):
        assert gzip.decompress((tmp_path / name).read_bytes()) == expected


def test_an_axis_too_long_for_nifti_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"at most 32767 voxels along an axis"):
        save_itk(tmp_path / "long.nii.gz", sitk.Image([40_000, 1, 1], sitk.sitkUInt8))
    assert not list(tmp_path.iterdir())
