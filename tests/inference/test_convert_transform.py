"""autoreg_convert_transform: round trips through every form, judged by SimpleITK."""

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from known_transforms import itk_field, itk_points, points_in, sampled_mm, smooth_field, turned
from spaces import DIRECTIONS, make_geometry

from autoreg.geometry.transforms import Affine, Composite
from autoreg.geometry.volume import Volume
from autoreg.inference.cli_transforms import main_convert
from autoreg.io.images import write_image
from autoreg.io.itk_transforms import write_itk_transform
from autoreg.io.planar import lifted_geometry
from autoreg.io.transform_files import read_chain
from autoreg.io.transforms import write_displacement


@pytest.fixture(params=DIRECTIONS)
def fixed(request):
    return make_geometry(request.param, (12, 10, 8), (1.0, 1.5, 3.0), (7, -20, 30))


@pytest.fixture
def folder(tmp_path, fixed):
    moving = make_geometry("LAS", (11, 13, 9), (1.7, 1.2, 1.9), (9, -21, 33))
    write_image(tmp_path / "fixed.nii.gz", Volume.intensity(np.zeros(fixed.shape), fixed))
    write_image(tmp_path / "moving.nii.gz", Volume.intensity(np.zeros(moving.shape), moving))
    u_mm = sampled_mm(smooth_field(fixed), fixed)
    write_displacement(tmp_path / "warp.nii.gz", u_mm, fixed)
    write_itk_transform(tmp_path / "affine.mat", [turned(fixed.centre_mm)], 3)
    return tmp_path


@pytest.fixture
def judge(folder):
    affine = sitk.ReadTransform(str(folder / "affine.mat"))
    return sitk.CompositeTransform([affine, itk_field(folder / "warp.nii.gz")])


BOTH = ("--reference", "fixed.nii.gz", "--moving", "moving.nii.gz")


def _convert(folder, *arguments):
    """Run the command; words that name files of the folder become paths."""
    words = []
    for word in arguments:
        name = word.removeprefix("inverse:")
        words.append(
            f"{'inverse:' if name != word else ''}{folder / name}" if "." in name else word
        )
    return main_convert(words)


def _nodes(geometry):
    index = np.random.default_rng(0).integers(0, geometry.shape, (40, 3))
    return geometry.to_world(index)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_a_chain_as_one_displacement(folder, fixed, judge, ending):
    out = f"whole{ending}"
    assert _convert(folder, "warp.nii.gz", "affine.mat", "-o", out) == 0
    theirs = itk_field(folder / out)
    points = _nodes(fixed)
    np.testing.assert_allclose(itk_points(theirs, points), itk_points(judge, points), atol=2e-5)


@pytest.mark.parametrize("ending", [".h5", ".hdf5", ".tfm", ".txt"])
def test_a_chain_as_itk_composite_loses_nothing(folder, fixed, judge, ending):
    out = f"whole{ending}"
    assert _convert(folder, "warp.nii.gz", "affine.mat", "-o", out) == 0
    theirs = sitk.ReadTransform(str(folder / out))
    assert theirs.GetName() == "CompositeTransform"
    points = points_in(fixed)
    np.testing.assert_allclose(itk_points(theirs, points), itk_points(judge, points), atol=2e-5)
    assert _convert(folder, out, "-o", "back.nii.gz") == 0
    nodes = _nodes(fixed)
    again = itk_points(itk_field(folder / "back.nii.gz"), nodes)
    np.testing.assert_allclose(again, itk_points(judge, nodes), atol=2e-5)


@pytest.mark.parametrize(
    ("form", "ending"),
    [
        ("learn2reg", ".nii.gz"),
        ("learn2reg", ".npz"),
        ("fsl", ".nii.gz"),
        ("fsl-absolute", ".nii.gz"),
    ],
)
def test_forms_of_two_images_come_back(folder, fixed, judge, form, ending):
    out = f"disp_0001_0002{ending}"
    sources = ("warp.nii.gz", "affine.mat")
    assert _convert(folder, *sources, "-o", out, "--to", form, *BOTH) == 0
    assert _convert(folder, out, "--from", form, "-o", "back.nii.gz", *BOTH) == 0
    nodes = _nodes(fixed)
    again = itk_points(itk_field(folder / "back.nii.gz"), nodes)
    np.testing.assert_allclose(again, itk_points(judge, nodes), atol=1e-4)


def test_learn2reg_voxels_are_simpleitks_indices(folder, fixed, judge):
    sources = ("warp.nii.gz", "affine.mat")
    _convert(folder, *sources, "-o", "disp.nii.gz", "--to", "learn2reg", *BOTH)
    stored = nibabel.load(folder / "disp.nii.gz").get_fdata()
    images = [sitk.ReadImage(str(folder / f"{n}.nii.gz")) for n in ("fixed", "moving")]
    for voxel in [(0, 0, 0), (3, 4, 5), (11, 9, 7)]:
        point = judge.TransformPoint(images[0].TransformIndexToPhysicalPoint(voxel))
        expected = np.array(images[1].TransformPhysicalPointToContinuousIndex(point)) - voxel
        np.testing.assert_allclose(stored[voxel], expected, atol=1e-4)


def test_affine_maps(folder, fixed, judge):
    """Affine to displacement needs a grid; flirt's matrices come back; inverses are exact."""
    points = _nodes(fixed)
    affine = sitk.ReadTransform(str(folder / "affine.mat"))
    out = ("-o", "field.nii.gz", "--reference", "fixed.nii.gz")
    assert _convert(folder, "affine.mat", *out) == 0
    moved = itk_points(itk_field(folder / "field.nii.gz"), points)
    np.testing.assert_allclose(moved, itk_points(affine, points), atol=2e-5)
    assert _convert(folder, "affine.mat", "-o", "flirt.mat", "--to", "fsl", *BOTH) == 0
    assert _convert(folder, "flirt.mat", "-o", "back.tfm", "--from", "fsl", *BOTH) == 0
    (back,) = read_chain([str(folder / "back.tfm")]).parts
    np.testing.assert_allclose(itk_points(affine, points), back.map_points(points), atol=1e-6)
    assert _convert(folder, "inverse:affine.mat", "-o", "inverse.tfm") == 0
    inverse = sitk.ReadTransform(str(folder / "inverse.tfm"))
    np.testing.assert_allclose(itk_points(inverse, itk_points(affine, points)), points, atol=1e-9)


# RAS axes of the file's voxels: right-handed ones are counted from the other end along x by FSL.
NEUROLOGICAL, RADIOLOGICAL = np.diag([-1.0, -1.0, 1.0]), np.diag([1.0, -1.0, 1.0])


@pytest.mark.parametrize("ending", [".tfm", ".txt", ".h5", ".mat"])
@pytest.mark.parametrize("fixed_axes", [NEUROLOGICAL, RADIOLOGICAL])
@pytest.mark.parametrize("moving_axes", [NEUROLOGICAL, RADIOLOGICAL])
def test_a_flirt_matrix_stays_an_affine_map(tmp_path, capsys, ending, fixed_axes, moving_axes):
    sizes = {"fixed": (10, 12, 14), "moving": (9, 11, 16)}
    spacings = {"fixed": (2.0, 1.5, 1.0), "moving": (1.0, 3.0, 2.0)}
    for (name, size), axes in zip(sizes.items(), (fixed_axes, moving_axes), strict=True):
        image = sitk.Image(size, sitk.sitkUInt8)
        image.SetSpacing(spacings[name])
        image.SetDirection((np.diag([-1.0, -1.0, 1.0]) @ axes).ravel().tolist())
        image.SetOrigin((30.0, -20.0, 5.0) if name == "fixed" else (-7.0, 8.0, 9.0))
        sitk.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
    matrix = np.array([[0.9, 0.2, 0, 4], [-0.1, 1.1, 0.3, -6], [0, 0.1, 1.2, 8], [0, 0, 0, 1]])
    np.savetxt(tmp_path / "flirt.mat", matrix)
    assert _convert(tmp_path, "flirt.mat", "--from", "fsl", "-o", f"itk{ending}", *BOTH) == 0
    assert capsys.readouterr().out.endswith("ITK transform: affine\n")
    found = sitk.ReadTransform(str(tmp_path / f"itk{ending}"))
    assert found.Downcast().GetName() == "AffineTransform"
    for index in ((0, 0, 0), (3, 7, 5), (200, -90, 400)):  # the last lies far outside the images
        start = sitk.ReadImage(str(tmp_path / "fixed.nii.gz"))
        point = start.TransformContinuousIndexToPhysicalPoint([float(i) for i in index])
        fsl = np.array(index) * spacings["fixed"]
        if fixed_axes is NEUROLOGICAL:
            fsl[0] = (sizes["fixed"][0] - 1) * spacings["fixed"][0] - fsl[0]
        there = np.linalg.solve(matrix, [*fsl, 1.0])[:3]
        if moving_axes is NEUROLOGICAL:
            there[0] = (sizes["moving"][0] - 1) * spacings["moving"][0] - there[0]
        end = sitk.ReadImage(str(tmp_path / "moving.nii.gz"))
        expected = end.TransformContinuousIndexToPhysicalPoint(there / spacings["moving"])
        np.testing.assert_allclose(found.TransformPoint(point), expected, atol=1e-4)


def test_a_b_spline_stays_exact_in_itks_files_and_is_sampled_in_others(folder, fixed):
    reference = sitk.ReadImage(str(folder / "fixed.nii.gz"))
    spline = sitk.BSplineTransformInitializer(reference, (2, 3, 2))
    rng = np.random.default_rng(0)
    spline.SetParameters(rng.uniform(-1, 1, len(spline.GetParameters())))
    affine = sitk.ReadTransform(str(folder / "affine.mat"))
    judge = sitk.CompositeTransform([affine, spline])
    sitk.WriteTransform(judge, str(folder / "both.h5"))
    points = points_in(fixed)
    assert _convert(folder, "both.h5", "-o", "again.tfm") == 0
    again = sitk.ReadTransform(str(folder / "again.tfm"))
    np.testing.assert_allclose(itk_points(again, points), itk_points(judge, points), atol=1e-9)
    assert _convert(folder, "both.h5", "-o", "field.nii.gz", "--reference", "fixed.nii.gz") == 0
    nodes = _nodes(fixed)
    field = itk_field(folder / "field.nii.gz")
    np.testing.assert_allclose(itk_points(field, nodes), itk_points(judge, nodes), atol=2e-5)
    inverse = ("inverse:both.h5", "-o", "inverse.h5", "--reference", "fixed.nii.gz")
    assert _convert(folder, *inverse) == 0


def test_the_inverse_of_a_field_is_solved_on_a_grid(folder, fixed):
    reference = ("--reference", "fixed.nii.gz")
    for out in ("inverse.nii.gz", "inverse.h5"):
        assert _convert(folder, "inverse:warp.nii.gz", "-o", out, *reference) == 0
    forward = itk_field(folder / "warp.nii.gz")
    points = fixed.to_world(np.array(fixed.shape) // 2 + np.indices((3, 3, 3)).reshape(3, -1).T - 1)
    for inverse in (
        itk_field(folder / "inverse.nii.gz"),
        sitk.ReadTransform(str(folder / "inverse.h5")),
    ):
        back = itk_points(forward, itk_points(inverse, points))
        np.testing.assert_allclose(back, points, atol=2e-3)
    with_reference = ("warp.nii.gz", "affine.mat", "-o", "one.h5", *reference)
    assert _convert(folder, *with_reference) == 0
    assert sitk.ReadTransform(str(folder / "one.h5")).GetName() == "DisplacementFieldTransform"


@pytest.fixture
def simple(tmp_path):
    grid = make_geometry("RAS", (6, 5, 4), (1.0, 1.5, 2.0))
    write_image(tmp_path / "image.nii.gz", Volume.intensity(np.zeros(grid.shape), grid))
    write_displacement(tmp_path / "warp.nii.gz", np.zeros((4, 5, 6, 3), np.float32), grid)
    write_itk_transform(tmp_path / "affine.mat", [Affine(np.eye(4))], 3)
    plane = lifted_geometry((6, 5), (1.0, 2.0), (0.0, 0.0), (1, 0, 0, 1))
    write_displacement(tmp_path / "plane.nii.gz", np.zeros((1, 5, 6, 3), np.float32), plane, 2)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("affine.mat", "-o", "out.nii.gz"), "--reference"),
        (("inverse:warp.nii.gz", "-o", "out.nii.gz"), "--reference"),
        (("warp.nii.gz", "-o", "warp.nii.gz"), "is also read"),
        (("warp.nii.gz", "-o", "out.xyz"), "unknown ending"),
        (("warp.nii.gz", "-o", "disp_0001_0002.nii.gz"), "--to learn2reg"),
        (("warp.nii.gz", "-o", "out.nii.gz", "--to", "itk"), "expected .tfm"),
        (("warp.nii.gz", "-o", "out.npz"), "give --reference FIXED and --moving MOVING"),
        (("warp.nii.gz", "-o", "out.mat", "--to", "fsl", "--reference", "image.nii.gz",
          "--moving", "image.nii.gz"), "holds an affine map alone"),
        (("warp.nii.gz", "affine.mat", "-o", "out.mat"), "holds one transform"),
        (("warp.nii.gz", "-o", "out.h5", "--moving", "image.nii.gz"), "--moving is of use"),
        (("warp.nii.gz", "-o", "out.h5", "--half-resolution"), "--half-resolution is of use"),
        (("plane.nii.gz", "-o", "out.npz", "--reference", "image.nii.gz",
          "--moving", "image.nii.gz"), "of 3-D images alone"),
        (("warp.nii.gz", "plane.nii.gz", "-o", "out.h5"), "2-D images in a chain"),
        (("warp.nii.gz", "-o", "out.h5", "--from", "itk"), "--from itk ends in"),
        (("warp.nii.gz", "affine.mat", "-o", "out.h5", "--from", "fsl"), "reads one file"),
        (("absent.nii.gz", "-o", "out.h5"), "absent.nii.gz: no such file"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_clear_message(simple, capsys, arguments, message):
    before = sorted(simple.iterdir())
    assert _convert(simple, *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert sorted(simple.iterdir()) == before


def test_two_dimensional_transforms(tmp_path):
    plane = lifted_geometry((9, 8), (1.5, 2.0), (3.0, -4.0), (0.6, -0.8, 0.8, 0.6))
    field = smooth_field(plane)
    write_displacement(tmp_path / "u.nii.gz", sampled_mm(field, plane), plane, 2)
    euler = sitk.Euler2DTransform((3.0, -4.0), 0.2, (1.0, 2.0))
    sitk.WriteTransform(euler, str(tmp_path / "turn.tfm"))
    assert _convert(tmp_path, "u.nii.gz", "turn.tfm", "-o", "both.h5") == 0
    assert _convert(tmp_path, "both.h5", "-o", "one.nrrd") == 0
    points = plane.to_world([[0, 3, 4], [0, 0, 0], [0, 7, 8]])
    expected = itk_points(euler, Composite((field,)).map_points(points))
    theirs = sitk.ReadTransform(str(tmp_path / "both.h5"))
    np.testing.assert_allclose(itk_points(theirs, points), expected, atol=1e-5)
    again = itk_points(itk_field(tmp_path / "one.nrrd"), points)
    np.testing.assert_allclose(again, expected, atol=1e-5)
