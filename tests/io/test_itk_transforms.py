"""ITK's transform files: SimpleITK's own TransformPoint is the judge."""

import numpy as np
import pytest
import SimpleITK as sitk
from known_transforms import itk_points, points_in, smooth_field, turned
from spaces import DIRECTIONS, make_geometry

from autoreg.errors import DataError, GeometryError, UsageError
from autoreg.geometry.transforms import Affine, Composite
from autoreg.io.itk_transforms import read_itk_transform, write_itk_transform
from autoreg.io.planar import lifted_geometry

SIZE, SPACING, CENTRE = (9, 8, 7), (1.0, 1.5, 3.0), (7.0, -20.0, 30.0)
_VELOCITY = f"""#Insight Transform File V1.0
#Transform 0
Transform: GaussianExponentialDiffeomorphicTransform_double_3_3
Parameters: {"0 " * 24}
FixedParameters: 2 2 2 0 0 0 1 1 1 1 0 0 0 1 0 0 0 1
"""


@pytest.mark.parametrize("suffix", [".h5", ".hdf5", ".tfm", ".txt"])
@pytest.mark.parametrize("orientation", DIRECTIONS)
def test_simpleitk_understands_what_we_write_and_we_what_it_writes(tmp_path, suffix, orientation):
    geometry = make_geometry(orientation, SIZE, SPACING, CENTRE)
    chain = (smooth_field(geometry), turned(geometry.centre_mm))
    points = points_in(geometry)
    path = tmp_path / f"chain{suffix}"
    write_itk_transform(path, chain, 3)
    theirs = sitk.ReadTransform(str(path))
    expected = Composite(chain).map_points(points)
    np.testing.assert_allclose(itk_points(theirs, points), expected, atol=1e-4)
    other_order = Composite(chain[::-1]).map_points(points)
    assert np.abs(other_order - expected).max() > 0.5
    again = tmp_path / f"again{suffix}"
    sitk.WriteTransform(theirs, str(again))
    parts, dimension = read_itk_transform(again)
    assert (len(parts), dimension) == (2, 3)
    np.testing.assert_allclose(Composite(parts).map_points(points), expected, atol=1e-4)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([again.name, path.name])


@pytest.mark.parametrize("suffix", [".mat", ".tfm", ".h5"])
def test_affine_maps_are_exact_and_multiplied(tmp_path, suffix):
    first, second = turned(np.array([1.0, 2, 3])), turned(np.zeros(3), (9, 8, 7))
    path = tmp_path / f"affine{suffix}"
    write_itk_transform(path, [first, second], 3)
    (part,), _ = read_itk_transform(path)
    np.testing.assert_allclose(part.matrix, second.matrix @ first.matrix, atol=1e-12)
    assert sitk.ReadTransform(str(path)).GetName() == "AffineTransform"


@pytest.mark.parametrize(
    "transform",
    [
        sitk.Euler3DTransform((1, 2, 3), 0.1, -0.2, 0.3, (4, 5, 6)),
        sitk.VersorRigid3DTransform((1, 0, 0), 0.4, (4, 5, 6), (1, 2, 3)),
        sitk.Similarity3DTransform(1.2, (0, 1, 0), 0.3, (4, 5, 6), (1, 2, 3)),
        sitk.TranslationTransform(3, (1.5, -2, 3)),
        sitk.ScaleTransform(3, (1.5, 2, 3)),
        sitk.Transform(3, sitk.sitkIdentity),
    ],
    ids=lambda t: t.GetName(),
)
def test_every_linear_transform_is_read(tmp_path, transform):
    path = tmp_path / "linear.tfm"
    sitk.WriteTransform(transform, str(path))
    parts, _ = read_itk_transform(path)
    points = np.random.default_rng(0).normal(size=(9, 3)) * 50
    np.testing.assert_allclose(
        Composite(parts).map_points(points), itk_points(transform, points), atol=1e-9
    )


def itk_spline(size, order, seed=0, amplitude_mm=2.0):
    """A B-spline over an oblique box, as SimpleITK makes it."""
    n = len(size)
    image = sitk.Image(size, sitk.sitkFloat32)
    image.SetSpacing((1.0, 1.5, 3.0)[:n])
    image.SetOrigin((7.0, -20.0, 30.0)[:n])
    cosines = DIRECTIONS["oblique"] if n == 3 else np.array([[0.6, -0.8], [0.8, 0.6]])
    image.SetDirection(cosines.ravel().tolist())
    spline = sitk.BSplineTransformInitializer(image, (3, 4, 5)[:n], order)
    rng = np.random.default_rng(seed)
    spline.SetParameters(rng.uniform(-1, 1, len(spline.GetParameters())) * amplitude_mm)
    return spline, image


def in_and_around(image, margin, count=400):
    """Points (N, 3) in an image's box and around it."""
    size = np.array(image.GetSize())
    index = np.random.default_rng(1).uniform(-0.5 - margin, size - 0.5 + margin, (count, len(size)))
    points = [image.TransformContinuousIndexToPhysicalPoint(i.tolist()) for i in index]
    return np.pad(np.array(points), ((0, 0), (0, 3 - len(size))))


@pytest.mark.parametrize("suffix", [".tfm", ".h5"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("size", [(20, 18, 16), (20, 18)])
def test_splines_are_simpleitks_within_their_domain_and_beyond(tmp_path, suffix, order, size):
    spline, image = itk_spline(size, order)
    path = tmp_path / f"spline{suffix}"
    sitk.WriteTransform(spline, str(path))
    (part,), dimension = read_itk_transform(path)
    assert dimension == len(size)
    points = in_and_around(image, 3)
    expected = itk_points(spline, points)
    still = (expected == points).all(axis=1)
    assert 0.1 < still.mean() < 0.9
    np.testing.assert_allclose(part.map_points(points), expected, atol=1e-9)
    again = tmp_path / f"again{suffix}"
    write_itk_transform(again, [part], dimension)
    np.testing.assert_allclose(
        itk_points(sitk.ReadTransform(str(again)), points), expected, atol=1e-9
    )


@pytest.mark.parametrize("size", [(20, 18, 16), (20, 18)])
def test_the_inverse_of_a_spline_undoes_it(tmp_path, size):
    spline, image = itk_spline(size, 3)
    path = tmp_path / "spline.tfm"
    sitk.WriteTransform(spline, str(path))
    (part,), _ = read_itk_transform(path)
    points = in_and_around(image, -2)
    moved = itk_points(spline, points)
    found, known = part.inverse().solve(moved)
    assert known.all()
    np.testing.assert_allclose(found, points, atol=1e-3)
    far = points + 500 * np.array([1, 1, 0])
    np.testing.assert_allclose(part.inverse().map_points(far), far, atol=1e-3)


def test_a_folding_spline_says_where_it_has_no_inverse(tmp_path):
    spline, image = itk_spline((20, 18, 16), 3, amplitude_mm=25.0)
    path = tmp_path / "spline.tfm"
    sitk.WriteTransform(spline, str(path))
    (part,), _ = read_itk_transform(path)
    points = in_and_around(image, -2)
    found, known = part.inverse().solve(points)
    assert 0 < known.mean() < 1
    np.testing.assert_allclose(itk_points(spline, found[known]), points[known], atol=1e-3)


def test_composites_keep_their_order(tmp_path):
    shift, scale = sitk.TranslationTransform(3, (1, 5, 0)), sitk.ScaleTransform(3, (2, 3, 4))
    turn = sitk.Euler3DTransform((0, 0, 0), 0, 0, 1.0)
    whole = sitk.CompositeTransform([turn, scale, shift])
    path = tmp_path / "three.h5"
    sitk.WriteTransform(whole, str(path))
    points = np.random.default_rng(0).normal(size=(5, 3)) * 9
    parts, _ = read_itk_transform(path)
    np.testing.assert_allclose(
        Composite(parts).map_points(points), itk_points(whole, points), atol=1e-9
    )


def test_two_dimensional_transforms_stay_two_dimensional(tmp_path):
    geometry = lifted_geometry((9, 8), (1.5, 2.0), (3.0, -4.0), (0.6, -0.8, 0.8, 0.6))
    matrix = np.eye(4)
    matrix[:2] = [[0.9, 0.2, 0, 3], [-0.1, 1.1, 0, -2]]
    chain = (smooth_field(geometry), Affine(matrix))
    path = tmp_path / "planar.h5"
    write_itk_transform(path, chain, 2)
    theirs = sitk.ReadTransform(str(path))
    assert theirs.GetDimension() == 2
    points = points_in(geometry)
    np.testing.assert_allclose(
        itk_points(theirs, points), Composite(chain).map_points(points), atol=1e-5
    )
    parts, dimension = read_itk_transform(path)
    assert dimension == 2
    np.testing.assert_allclose(
        Composite(parts).map_points(points), itk_points(theirs, points), atol=1e-5
    )
    with pytest.raises(GeometryError, match="leaves its plane"):
        write_itk_transform(path, [turned(np.zeros(3))], 2)


def test_a_list_that_simpleitk_would_cut_short_is_refused(tmp_path):
    path = tmp_path / "list.tfm"
    sitk.WriteTransform(sitk.TranslationTransform(3, (1, 2, 3)), str(path))
    text = path.read_text()
    second = text[text.index("#Transform 0") :].replace("#Transform 0", "#Transform 1")
    path.write_text(text + second)
    with pytest.raises(DataError, match=r"list\.tfm: a list of 2 transforms"):
        read_itk_transform(path)


def test_what_cannot_be_read_is_named(tmp_path, capfd):
    with pytest.raises(DataError, match="no such file"):
        read_itk_transform(tmp_path / "absent.h5")
    path = tmp_path / "flirt.mat"
    np.savetxt(path, np.eye(4))
    with pytest.raises(DataError, match=r"flirt\.mat.*--from fsl"):
        read_itk_transform(path)
    path = tmp_path / "text.tfm"
    path.write_text("no transform")
    with pytest.raises(DataError, match=r"text\.tfm: cannot be read as an ITK transform"):
        read_itk_transform(path)
    path = tmp_path / "velocity.tfm"
    path.write_text(_VELOCITY)
    with pytest.raises(DataError, match=r"velocity\.tfm: cannot be read as an ITK transform"):
        read_itk_transform(path)
    path = tmp_path / "short.h5"
    path.write_text("no HDF5 file")
    with pytest.raises(DataError, match=r"short\.h5: cannot be read as an ITK transform: it is da"):
        read_itk_transform(path)
    path = tmp_path / "short.tfm"
    path.write_text(
        "#Insight Transform File V1.0\nTransform: AffineTransform_double_3_3\n"
        "Parameters: 1 2 3\nFixedParameters: 0 0 0\n"
    )
    with pytest.raises(DataError, match=r"ITK transform \(Error setting parameters: .*\): it is"):
        read_itk_transform(path)
    assert capfd.readouterr().err == ""
    path = tmp_path / "flat.tfm"
    sitk.WriteTransform(sitk.ScaleTransform(3, (1, 1, 0)), str(path))
    with pytest.raises(DataError, match=r"flat\.tfm: this affine map is singular"):
        read_itk_transform(path)


def test_a_mat_file_holds_no_chain(tmp_path):
    geometry = make_geometry("LPS", SIZE, SPACING, CENTRE)
    chain = (smooth_field(geometry), turned(geometry.centre_mm))
    with pytest.raises(UsageError, match=r"\.mat file holds one transform"):
        write_itk_transform(tmp_path / "chain.mat", chain, 3)
    assert not (tmp_path / "chain.mat").exists()
