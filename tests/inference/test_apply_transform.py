"""autoreg_apply_transform: images, labels, masks, points, Jacobians; SimpleITK is the judge."""

import numpy as np
import pytest
import SimpleITK as sitk
from known_transforms import itk_field, itk_points, points_in, sampled_mm, smooth_field, turned
from spaces import DIRECTIONS, make_geometry, smooth_image

from autoreg.geometry.transforms import Affine, Composite, DisplacementField
from autoreg.geometry.volume import Volume
from autoreg.inference.cli_transforms import main_apply
from autoreg.io.images import read_geometry, read_image, write_image
from autoreg.io.itk_transforms import write_itk_transform
from autoreg.io.landmarks import (
    read_landmarks,
    read_named_landmarks,
    read_voxel_landmarks,
    write_landmarks,
)
from autoreg.io.planar import lifted_geometry
from autoreg.io.transforms import write_displacement


@pytest.fixture(params=DIRECTIONS)
def fixed(request):
    return make_geometry(request.param, (17, 13, 11), (1.0, 1.5, 2.0), (7, -20, 30))


@pytest.fixture
def folder(tmp_path, fixed):
    """A fixed and a moving image, labels, a warp on the fixed grid and an affine map."""
    moving = make_geometry("PSR", (16, 14, 12), (1.2, 1.1, 1.4), (8, -21, 31))
    image = smooth_image(moving)
    write_image(tmp_path / "fixed.nii.gz", Volume.intensity(smooth_image(fixed), fixed))
    write_image(tmp_path / "moving.nii.gz", Volume.intensity(image, moving))
    labels = (np.abs(image) * 4).astype(np.int32)[None]
    write_image(tmp_path / "labels.nii.gz", Volume(labels, moving, "label"), np.uint16)
    scan = Volume.intensity(image * 1000, moving)
    write_image(tmp_path / "scan.nii.gz", scan, np.int16)
    u_mm = sampled_mm(smooth_field(fixed), fixed)
    write_displacement(tmp_path / "warp.nii.gz", u_mm, fixed)
    write_itk_transform(tmp_path / "affine.mat", [turned(fixed.centre_mm, (0.5, -1, 1))], 3)
    return tmp_path


@pytest.fixture
def chain(folder):
    """SimpleITK's composite of the same files."""
    affine = sitk.ReadTransform(str(folder / "affine.mat"))
    return sitk.CompositeTransform([affine, itk_field(folder / "warp.nii.gz")])


def _apply(folder, *arguments):
    """Run the command; words that name files of the folder become paths."""
    words = []
    for word in arguments:
        name = word.removeprefix("inverse:")
        prefix = "inverse:" if name != word else ""
        is_file = "." in name and not name.replace(".", "").lstrip("-").isdecimal()
        words.append(f"{prefix}{folder / name}" if is_file else word)
    return main_apply(words)


CHAIN = ("-t", "warp.nii.gz", "-t", "affine.mat")


def _resampled(folder, name, transform, interpolator, outside=0):
    moving, fixed = (sitk.ReadImage(str(folder / n)) for n in (name, "fixed.nii.gz"))
    image = sitk.Resample(moving, fixed, transform, interpolator, outside)
    return image, sitk.GetArrayFromImage(image)


@pytest.mark.parametrize(
    ("arguments", "source", "interpolator", "tolerance"),
    [
        ((), "moving.nii.gz", sitk.sitkLinear, 3e-4),
        (("--interpolation", "cubic"), "moving.nii.gz", sitk.sitkBSpline, 3e-4),
        (("--interpolation", "nearest"), "moving.nii.gz", sitk.sitkNearestNeighbor, 0),
        ((), "scan.nii.gz", sitk.sitkLinear, 1),
        (("--kind", "labels"), "labels.nii.gz", sitk.sitkNearestNeighbor, 0),
    ],
)
def test_the_result_is_simpleitks(folder, chain, arguments, source, interpolator, tolerance):
    """Chains are composed and interpolated once, on any grid; the file keeps its number type."""
    status = _apply(folder, "-i", source, *CHAIN, "-o", "out.nii.gz", "--outside", "3", *arguments)
    assert status == 0
    expected, array = _resampled(folder, source, chain, interpolator, 3)
    ours = sitk.ReadImage(str(folder / "out.nii.gz"))
    assert ours.GetPixelID() == expected.GetPixelID()
    assert (
        read_geometry(folder / "out.nii.gz").difference(read_geometry(folder / "fixed.nii.gz"))
        is None
    )
    ours = sitk.GetArrayFromImage(ours).astype(np.float64)
    assert 0.2 < (array != 3).mean() < 1
    different = np.abs(ours - array) > tolerance
    assert different.mean() < (1e-3 if tolerance == 0 else 1e-9)


def test_order_and_direction_matter(folder, chain):
    _, right = _resampled(folder, "moving.nii.gz", chain, sitk.sitkLinear)
    for wrong in (
        ("-t", "affine.mat", "-t", "warp.nii.gz"),
        ("-t", "inverse:affine.mat", "-t", "inverse:warp.nii.gz"),
    ):
        _apply(folder, "-i", "moving.nii.gz", *wrong, "-r", "fixed.nii.gz", "-o", "out.mha")
        ours = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "out.mha")))
        assert np.abs(ours - right).mean() > 0.02


def test_points_go_from_fixed_to_moving_and_images_come_back(folder, chain):
    """A bright voxel of the moving image appears at the fixed point that maps to it."""
    fixed, moving = (read_geometry(folder / f"{n}.nii.gz") for n in ("fixed", "moving"))
    points = points_in(fixed)
    write_landmarks(folder / "points.csv", points)
    assert _apply(folder, "-i", "points.csv", *CHAIN, "-o", "moved.csv") == 0
    moved = read_landmarks(folder / "moved.csv")
    np.testing.assert_allclose(moved, itk_points(chain, points), atol=1e-4)
    # The same with an image whose value at each moving point is the point's x.
    index = np.moveaxis(np.indices(moving.shape), 0, -1)
    ramp = Volume.intensity(moving.to_world(index)[..., 0], moving)
    write_image(folder / "ramp.nii.gz", ramp)
    _apply(folder, "-i", "ramp.nii.gz", *CHAIN, "-o", "pulled.nii.gz", "--outside", "-999")
    pulled = read_image([folder / "pulled.nii.gz"], "intensity").single
    nodes = np.argwhere(pulled != -999)[::7]
    write_landmarks(folder / "nodes.csv", fixed.to_world(nodes))
    _apply(folder, "-i", "nodes.csv", *CHAIN, "-o", "nodes_moved.csv")
    expected = read_landmarks(folder / "nodes_moved.csv")
    inner = moving.contains(expected, -0.6)
    assert inner.sum() > 50
    np.testing.assert_allclose(pulled[tuple(nodes.T)][inner], expected[inner, 0], atol=1e-3)


def test_points_of_the_moving_image_want_the_inverse(folder, fixed):
    points = points_in(fixed)
    write_landmarks(folder / "points.csv", points)
    _apply(folder, "-i", "points.csv", *CHAIN, "-o", "moved.csv")
    back = ("-t", "inverse:affine.mat", "-t", "inverse:warp.nii.gz")
    assert _apply(folder, "-i", "moved.csv", *back, "-o", "back.csv") == 0
    np.testing.assert_allclose(read_landmarks(folder / "back.csv"), points, atol=3e-3)


def test_points_in_voxels(folder, chain, fixed):
    moving = read_geometry(folder / "moving.nii.gz")
    (folder / "voxels.csv").write_text("3,4,5\n6.5,7,2\n")
    points = fixed.to_world([[5, 4, 3], [2, 7, 6.5]])  # the array's order is the file's reversed
    grids = ("--voxels", "--moving", "moving.nii.gz", "-r", "fixed.nii.gz")
    assert _apply(folder, "-i", "voxels.csv", *CHAIN, "-o", "out.csv", *grids) == 0
    moved = read_voxel_landmarks(folder / "out.csv", moving)
    np.testing.assert_allclose(moved, itk_points(chain, points), atol=1e-4)
    image = sitk.ReadImage(str(folder / "moving.nii.gz"))
    index = image.TransformPhysicalPointToContinuousIndex(itk_points(chain, points)[0].tolist())
    first = (folder / "out.csv").read_text().splitlines()[0]
    np.testing.assert_allclose([float(v) for v in first.split(",")], index, atol=1e-4)


def test_points_of_slicer_obey_their_frame_and_keep_their_names(folder, chain, fixed):
    points = points_in(fixed, 3)
    header = "# Markups fiducial file version = 4.11\n# CoordinateSystem = RAS\n"
    lines = [f"{n},{-x},{-y},{z},0,0,0,1,1,1,0,P{n},," for n, (x, y, z) in enumerate(points)]
    (folder / "points.fcsv").write_text(header + "\n".join(lines))
    expected = itk_points(chain, points)
    for source, out in (("points.fcsv", "moved.mrk.json"), ("points.fcsv", "moved.fcsv")):
        assert _apply(folder, "-i", source, *CHAIN, "-o", out) == 0
        found = read_named_landmarks(folder / out)
        np.testing.assert_allclose(found.points_mm, expected, atol=1e-4)
        assert found.names == ("P0", "P1", "P2")
    assert _apply(folder, "-i", "points.fcsv", *CHAIN, "-o", "moved.csv") == 0
    np.testing.assert_allclose(read_landmarks(folder / "moved.csv"), expected, atol=1e-4)


@pytest.mark.parametrize("ending", [".tfm", ".h5"])
def test_a_b_spline_is_simpleitks(folder, ending):
    reference = sitk.ReadImage(str(folder / "fixed.nii.gz"))
    spline = sitk.BSplineTransformInitializer(reference, (3, 4, 2))
    rng = np.random.default_rng(0)
    spline.SetParameters(rng.uniform(-2, 2, len(spline.GetParameters())))
    sitk.WriteTransform(spline, str(folder / f"spline{ending}"))
    on_grid = ("-t", f"spline{ending}", "-r", "fixed.nii.gz")
    assert _apply(folder, "-i", "moving.nii.gz", *on_grid, "-o", "out.nii.gz") == 0
    _, expected = _resampled(folder, "moving.nii.gz", spline, sitk.sitkLinear)
    ours = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "out.nii.gz")))
    assert (np.abs(ours - expected) > 3e-4).mean() < 1e-3
    assert (expected != 0).mean() > 0.2


def test_the_jacobian_is_that_of_the_whole_chain_in_millimetres(folder, chain, fixed):
    assert _apply(folder, "--jacobian", "determinant", *CHAIN, "-o", "jacobian.nii.gz") == 0
    determinant = read_image([folder / "jacobian.nii.gz"], "intensity").single
    nodes = np.random.default_rng(0).integers(1, np.array(fixed.shape) - 1, (20, 3))
    for node in nodes:
        steps = [
            itk_points(chain, fixed.to_world([node + axis, node - axis]))
            for axis in np.eye(3, dtype=int)
        ]
        slopes = np.stack([(ahead - behind) / 2 for ahead, behind in steps], axis=1)
        expected = np.linalg.det(slopes) / np.linalg.det(fixed.index_to_world[:3, :3])
        assert determinant[tuple(node)] == pytest.approx(expected, abs=2e-4)
    alone = ("--jacobian", "log", "-t", "affine.mat", "-r", "fixed.nii.gz", "-o", "log.mha")
    assert _apply(folder, *alone) == 0
    logarithm = read_image([folder / "log.mha"], "intensity").single
    np.testing.assert_allclose(logarithm, np.log(1.05 * 0.95 * 1.1), atol=1e-4)


def test_masks_become_zeros_and_ones(folder, chain):
    labels = read_image([folder / "labels.nii.gz"], "label")
    write_image(folder / "mask.nii.gz", Volume((labels.array > 2) * 255, labels.geometry, "label"))
    for mode in ("nearest", "linear"):
        flags = ("--kind", "mask", "--interpolation", mode)
        assert _apply(folder, "-i", "mask.nii.gz", *CHAIN, "-o", "out.nii.gz", *flags) == 0
        out = sitk.ReadImage(str(folder / "out.nii.gz"))
        assert out.GetPixelID() == sitk.sitkUInt8
        share = _resampled(folder, "mask.nii.gz", chain, sitk.sitkNearestNeighbor)[1] == 255
        ours = sitk.GetArrayFromImage(out) == 1
        assert (ours != share).mean() < (1e-3 if mode == "nearest" else 0.05)
        assert ours.any()


@pytest.fixture
def simple(tmp_path):
    """One orientation is enough for what follows."""
    grid = make_geometry("RAS", (9, 8, 7), (1.0, 1.5, 2.0), (7, -20, 30))
    write_image(tmp_path / "image.nii.gz", Volume.intensity(smooth_image(grid), grid))
    u_mm = sampled_mm(smooth_field(grid), grid)
    write_displacement(tmp_path / "warp.nii.gz", u_mm, grid)
    return tmp_path, grid


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-i", "absent.nii.gz", "-o", "out.nii.gz"), "absent.nii.gz: no such file"),
        (("-i", "warp.nii.gz", "-o", "out.nii.gz"), "3 components per voxel"),
        (("-i", "image.nii.gz", "-o", "image.nii.gz"), "is also read"),
        (("-i", "image.nii.gz", "-o", "warp.nii.gz"), "is also read"),
        (("-i", "image.nii.gz", "-o", "out.jpg"), "out.jpg: unknown ending"),
        (("-i", "image.nii.gz", "-o", "image.nii.gz/out.nii.gz"), "is a file"),
        (("-i", "image.nii.gz", "-o", "out.nii.gz", "--kind", "labels"), "not whole numbers"),
        (("-i", "image.nii.gz", "-o", "out.nii.gz", "--kind", "points"), ".mrk.json alone"),
        (("-i", "p.fcsv", "-o", "out.csv", "--voxels", "--moving", "image.nii.gz"), "are in mm"),
        (("-i", "image.nii.gz", "-o", "out.nii.gz", "--voxels"), "--voxels does nothing"),
        (("-i", "image.nii.gz", "-o", "out.nii.gz", "-r", "plane.nii.gz"), "a 2-D image, but"),
        (("-i", "plane.nii.gz", "-o", "out.nii.gz"), "a 2-D image, but"),
        (("-i", "text.nii.gz", "-o", "out.nii.gz"), "cannot be read"),
        (("-i", "points.csv", "-o", "out.nii.gz"), "expected .csv"),
        (("-i", "points.csv", "-o", "out.csv", "-r", "image.nii.gz"), "drop it"),
        (("-i", "points.csv", "-o", "out.csv", "--outside", "3"), "--outside does nothing"),
        (("-i", "points.csv", "-o", "out.csv", "--voxels"), "--moving"),
        (("-o", "out.nii.gz",), "nothing to do"),
        (("-i", "image.nii.gz", "--jacobian", "log", "-o", "out.nii.gz"), "--input does nothing"),
        (("-i", "byte.nii.gz", "-o", "out.nii.gz", "--outside", "-1000"), "whole numbers from 0"),
        (("-i", "byte.nii.gz", "-o", "out.nii.gz", "--kind", "labels",
          "--interpolation", "cubic"), "linear or nearest"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_clear_message(simple, capsys, arguments, message):
    folder, _ = simple
    sitk.WriteImage(sitk.Image(5, 4, sitk.sitkFloat32), str(folder / "plane.nii.gz"))
    sitk.WriteImage(sitk.Image(5, 4, 3, sitk.sitkUInt8), str(folder / "byte.nii.gz"))
    (folder / "text.nii.gz").write_text("no image")
    (folder / "points.csv").write_text("x,y,z\n7,-20,30\n")
    before = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert _apply(folder, *arguments, "-t", "warp.nii.gz") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert {p: p.stat().st_mtime_ns for p in folder.iterdir()} == before


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize(
    ("dtype", "large"),
    [(np.uint32, 3_000_000_001), (np.int64, 2**62 + 1), (np.uint64, 2**63 + 3), (np.int16, -7)],
)
def test_whole_numbers_of_an_image_stay_exact_however_large(tmp_path, dtype, large, dimension):
    array = np.zeros((6, 5, 4)[:dimension], dtype=dtype)
    array[1:3, 2] = large
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "image.nrrd"))
    write_itk_transform(tmp_path / "none.tfm", [Affine(np.eye(4))], dimension)
    flags = ("-t", "none.tfm", "-r", "image.nrrd", "-o", "out.nrrd", "--interpolation", "nearest")
    assert _apply(tmp_path, "-i", "image.nrrd", *flags) == 0
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out.nrrd")))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, array)


def test_an_affine_map_has_no_grid_of_its_own(simple, capsys):
    folder, _ = simple
    write_itk_transform(folder / "affine.tfm", [turned(np.zeros(3))], 3)
    assert _apply(folder, "-i", "image.nii.gz", "-t", "affine.tfm", "-o", "out.nii.gz") == 2
    assert "--reference" in capsys.readouterr().err


def test_an_empty_overlap_is_a_warning_with_figures(simple, caplog):
    folder, _ = simple
    far = turned(np.zeros(3), (500, 0, 0))
    write_itk_transform(folder / "far.tfm", [far], 3)
    arguments = ("-i", "image.nii.gz", "-t", "far.tfm", "-r", "image.nii.gz", "-o", "out.nii.gz")
    assert _apply(folder, *arguments) == 0
    (warning,) = [r.getMessage() for r in caplog.records]
    assert "nothing of" in warning
    assert "order and direction" in warning
    caplog.clear()
    assert _apply(folder, "-i", "image.nii.gz", "-t", "warp.nii.gz", "-o", "out.nii.gz") == 0
    assert not caplog.records


def test_points_outside_the_field_are_named(simple, caplog):
    folder, grid = simple
    write_landmarks(folder / "points.csv", [grid.centre_mm, grid.centre_mm + 300])
    assert _apply(folder, "-i", "points.csv", "-t", "warp.nii.gz", "-o", "out.csv") == 0
    (warning,) = [r.getMessage() for r in caplog.records]
    assert "1 of 2 points lie outside" in warning
    assert "(point 2)" in warning


def test_folds_are_counted(simple, caplog):
    folder, grid = simple
    u_vox = np.zeros((3, *grid.shape), np.float32)
    u_vox[2, 2:5, 2:6, 3], u_vox[2, 2:5, 2:6, 5] = 4, -4
    u_mm = sampled_mm(DisplacementField(u_vox, grid), grid)
    write_displacement(folder / "folded.nii.gz", u_mm, grid)
    inverse = ("-t", "inverse:folded.nii.gz", "-r", "image.nii.gz")
    assert _apply(folder, "-i", "image.nii.gz", *inverse, "-o", "out.nii.gz") == 0
    assert "the displacement folds, so that its inverse is unknown at" in caplog.text
    assert " mm; they hold the outside value" in caplog.text
    caplog.clear()
    write_landmarks(folder / "points.csv", grid.to_world([[3, 3, 4], [0, 0, 0]]))
    points = ("-i", "points.csv", "-t", "inverse:folded.nii.gz", "-o", "out.csv")
    assert _apply(folder, *points) == 0
    assert "unknown at 1 of 2 points (point 1)" in caplog.text
    caplog.clear()
    arguments = ("--jacobian", "log", "-t", "folded.nii.gz", "-o", "log.nii.gz")
    assert _apply(folder, *arguments) == 0
    logarithm = read_image([folder / "log.nii.gz"], "intensity").single
    count = int(np.isnan(logarithm).sum())
    assert count > 0
    assert f"NaN at the {count} voxels" in caplog.text


def test_the_edge_of_a_b_spline_is_not_called_a_fold(simple, caplog):
    """Inside the domain all goes 2 mm along x, outside ITK moves nothing: a gap at one face."""
    folder, grid = simple
    spline = sitk.BSplineTransformInitializer(sitk.ReadImage(str(folder / "image.nii.gz")), [3] * 3)
    count = len(spline.GetParameters()) // 3
    spline.SetParameters([2.0] * count + [0.0] * (2 * count))
    sitk.WriteTransform(spline, str(folder / "spline.tfm"))
    inverse = ("-t", "inverse:spline.tfm", "-r", "image.nii.gz")
    assert _apply(folder, "-i", "image.nii.gz", *inverse, "-o", "out.nii.gz") == 0
    (warning,) = [r.getMessage() for r in caplog.records]
    assert "from the edge of its control points, beyond which ITK moves nothing" in warning
    out = read_image([folder / "out.nii.gz"], "intensity").single
    x_mm = grid.to_world(np.moveaxis(np.indices(grid.shape), 0, -1).reshape(-1, 3))[:, 0]
    # Only within 2 mm of the face that everything leaves: the map folds nowhere.
    edge = x_mm.min() - grid.spacing_mm[2] / 2 + 2.0
    assert (out.ravel() != 0)[x_mm > edge + 0.5].all()


@pytest.mark.parametrize(("interpolation", "least"), [("linear", 1), ("nearest", 1)])
def test_voxels_that_are_no_numbers_are_told(simple, caplog, interpolation, least):
    folder, _ = simple
    image = sitk.ReadImage(str(folder / "image.nii.gz"))
    image[2, 2, 2] = float("nan")
    sitk.WriteImage(image, str(folder / "hole.nii.gz"))
    flags = ("-i", "hole.nii.gz", "-t", "warp.nii.gz", "-o", "out.nii.gz", "--interpolation")
    assert _apply(folder, *flags, interpolation) == 0
    assert "hole.nii.gz: 1 of " in caplog.text
    number = np.isnan(read_image([folder / "out.nii.gz"], "intensity").single).sum()
    assert least <= number <= 30


def test_cubic_interpolation_refuses_what_is_no_number(simple, capsys):
    folder, _ = simple
    image = sitk.ReadImage(str(folder / "image.nii.gz"))
    image[2, 2, 2] = float("inf")
    sitk.WriteImage(image, str(folder / "hole.nii.gz"))
    flags = ("-i", "hole.nii.gz", "-t", "warp.nii.gz", "-o", "out.nii.gz")
    assert _apply(folder, *flags, "--interpolation", "cubic") == 2
    assert "would spread over the whole image" in capsys.readouterr().err
    assert not (folder / "out.nii.gz").exists()


def test_only_real_numbers_may_be_nan_beyond_the_image(simple, capsys):
    folder, _ = simple
    write_itk_transform(folder / "far.tfm", [turned(np.zeros(3), (500, 0, 0))], 3)
    flags = ("-t", "far.tfm", "-r", "image.nii.gz", "--outside", "nan")
    assert _apply(folder, "-i", "image.nii.gz", *flags, "-o", "out.nii.gz") == 0
    assert np.isnan(read_image([folder / "out.nii.gz"], "intensity").single).all()
    sitk.WriteImage(sitk.Image(5, 4, 3, sitk.sitkUInt8), str(folder / "byte.nii.gz"))
    for kind in ("image", "labels", "mask"):
        assert _apply(folder, "-i", "byte.nii.gz", *flags, "--kind", kind, "-o", "o.nii.gz") == 2
        assert "--outside nan: " in capsys.readouterr().err


def test_a_transform_without_a_name_is_refused(simple, capsys):
    folder, _ = simple
    for name in ("", "inverse:"):
        out = str(folder / "out.nii.gz")
        assert main_apply(["-i", str(folder / "image.nii.gz"), "-t", name, "-o", out]) == 2
        assert f'the transform "{name}" names no file' in capsys.readouterr().err


def test_two_dimensional_images(tmp_path):
    plane = lifted_geometry((16, 14), (1.5, 1.0), (3.0, -4.0), (0.6, -0.8, 0.8, 0.6))
    field = smooth_field(plane, 1.0)
    u_mm = sampled_mm(field, plane)
    write_displacement(tmp_path / "warp.nii.gz", u_mm, plane, 2)
    moving = sitk.GetImageFromArray(smooth_image(plane)[0])
    moving.SetSpacing((1.5, 1.0))
    moving.SetOrigin((3.0, -4.0))
    moving.SetDirection((0.6, -0.8, 0.8, 0.6))
    itk = itk_field(tmp_path / "warp.nii.gz")
    for name in ("moving.nii.gz", "moving.mha"):
        sitk.WriteImage(moving, str(tmp_path / name))
        arguments = ("-i", name, "-t", "warp.nii.gz", "-o", f"out_{name}", "--outside", "-9")
        assert _apply(tmp_path, *arguments) == 0
        ours = sitk.ReadImage(str(tmp_path / f"out_{name}"))
        assert ours.GetDimension() == 2
        theirs = sitk.Resample(moving, moving, itk, sitk.sitkLinear, -9)
        np.testing.assert_allclose(
            sitk.GetArrayFromImage(ours), sitk.GetArrayFromImage(theirs), atol=2e-4
        )
    points = points_in(plane)
    write_landmarks(tmp_path / "points.csv", points)
    assert _apply(tmp_path, "-i", "points.csv", "-t", "warp.nii.gz", "-o", "moved.csv") == 0
    moved = read_landmarks(tmp_path / "moved.csv")
    np.testing.assert_allclose(moved, itk_points(itk, points), atol=1e-4)
    np.testing.assert_allclose(moved, Composite((field,)).map_points(points), atol=1e-4)
    arguments = ("--jacobian", "determinant", "-t", "warp.nii.gz", "-o", "jacobian.nii.gz")
    assert _apply(tmp_path, *arguments) == 0
    assert sitk.ReadImage(str(tmp_path / "jacobian.nii.gz")).GetDimension() == 2
